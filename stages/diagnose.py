"""reports of all stages, params.yaml → reports/diagnose: one verdict with its evidence and the change that should mend it."""

from __future__ import annotations

from stages.flight.record import journal
from stages.shared import diagnosis, paths
from stages.shared.evidence import gather
from stages.shared.params import load
from stages.shared.rules import judge


def main(log: journal.Journal) -> None:
    evidence = gather(paths.DIAGNOSE_REPORT.parent)
    verdict = judge(evidence, load(paths.PARAMS))
    diagnosis.write(verdict, evidence, paths.DIAGNOSE_REPORT)
    log.say(f"\n{verdict.sentence}\nThe whole diagnosis: flight why, or {paths.DIAGNOSE_REPORT}/index.html\n")


if __name__ == "__main__":
    journal.run_stage("diagnose", main)
