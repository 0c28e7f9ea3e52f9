"""The table of units: every fault of the design that can be made to hurt, and healthy controls."""

from __future__ import annotations

from tests.benchmarks.diagnosis.controls import CONTROLS
from tests.benchmarks.diagnosis.faults import FAULTS
from tests.benchmarks.diagnosis.recipes import DATASETS
from tests.benchmarks.diagnosis.unit import HEAD_ONLY, HEALTHY, PLAIN

_ALL = [unit for case in (*CONTROLS, *FAULTS) for unit in case.units()]
# The data set on which thresholds are fitted before the others; in each, before faults and decoys, the twins with which all are compared.
UNITS = tuple(sorted(_ALL, key=lambda unit: (DATASETS.index(unit.dataset), unit.variant not in (PLAIN, HEAD_ONLY), unit.fault == HEALTHY)))
