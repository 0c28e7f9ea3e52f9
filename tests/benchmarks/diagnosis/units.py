"""The table of units: every fault of the design that can be made to hurt, and healthy controls."""

from __future__ import annotations

from tests.benchmarks.diagnosis.controls import CONTROLS
from tests.benchmarks.diagnosis.faults import FAULTS
from tests.benchmarks.diagnosis.recipes import FASHION
from tests.benchmarks.diagnosis.unit import HEALTHY, PLAIN

_ALL = [unit for case in (*CONTROLS, *FAULTS) for unit in case.units()]
# The data set on which thresholds are fitted before the other; in each, before faults and decoys, the twins with which all are compared.
UNITS = tuple(sorted(_ALL, key=lambda unit: (unit.dataset != FASHION, unit.variant != PLAIN, unit.fault == HEALTHY)))
