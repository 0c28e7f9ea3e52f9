"""Great Expectations behind one function: a suite built in code, run on a table in memory, its answers counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd


class Bounded(Protocol):
    """What a suite is made of."""

    @property
    def name(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def minimum(self) -> float | None: ...
    @property
    def maximum(self) -> float | None: ...


def num_unexpected(table_name: str, checks: Sequence[Bounded], table: pd.DataFrame, data_docs: Path | None = None) -> dict[str, int]:
    """Check → number of rows of ``table`` outside its bounds; with ``data_docs``, Great Expectations' own pages are made in that folder.

    Raises:
        RuntimeError: if fewer expectations are answered than were asked (stored suites lose custom ones), or one raised an error.
    """
    import great_expectations as gx  # 6 to 11 s: only for who judges
    from great_expectations.core.batch import Batch  # noqa: F401  (registers the pandas batch types)
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(table_name).add_dataframe_asset(table_name)
    data = asset.add_batch_definition_whole_dataframe(table_name)
    suite = context.suites.add(gx.ExpectationSuite(name=table_name, expectations=[_expectation(gx, check) for check in checks]))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=table_name, data=data, suite=suite))
    columns = list(dict.fromkeys(check.column for check in checks))
    # Only the columns asked for, and no text: Great Expectations hashes the whole table it is given.
    parameters = {"dataframe": table[columns].reset_index(drop=True)}
    if data_docs:
        found = _run_with_docs(gx, context, validation, parameters, data_docs)
    else:
        found = validation.run(batch_parameters=parameters, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    answers = {answer.expectation_config.meta["check"]: answer for answer in found.results}
    broken = [answer.exception_info for answer in found.results if _raised(answer.exception_info)]
    if len(answers) != len(checks) or broken:
        raise RuntimeError(f"Great Expectations answered {len(answers)} of {len(checks)} checks of {table_name}; errors: {broken}")
    return {name: int(answer.result.get("unexpected_count", 0)) for name, answer in answers.items()}


def _run_with_docs(gx: Any, context: Any, validation: Any, parameters: dict[str, Any], folder: Path) -> Any:
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": store, "site_index_builder": index}
    context.add_data_docs_site("flight", site)
    checkpoint = gx.Checkpoint(
        name="flight", validation_definitions=[validation], actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")]
    )
    ran = context.checkpoints.add(checkpoint).run(batch_parameters=parameters)
    return next(iter(ran.run_results.values()))


def _expectation(gx: Any, check: Bounded) -> Any:
    return gx.expectations.ExpectColumnValuesToBeBetween(
        column=check.column, min_value=check.minimum, max_value=check.maximum, severity=check.severity, meta={"check": check.name}
    )


def _raised(information: dict[str, Any]) -> bool:
    entries = [information] if "raised_exception" in information else list(information.values())
    return any(entry["raised_exception"] for entry in entries)
