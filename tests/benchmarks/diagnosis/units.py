"""The table of units: every fault of the design that can be made to hurt, and healthy controls."""

from __future__ import annotations

from tests.benchmarks.diagnosis.controls import CONTROLS
from tests.benchmarks.diagnosis.faults import FAULTS
from tests.benchmarks.diagnosis.recipes import FASHION

# Healthy controls first, of which each fault needs its twins, and the data set on which thresholds are fitted before the other.
UNITS = tuple(sorted((unit for case in (*CONTROLS, *FAULTS) for unit in case.units()), key=lambda unit: unit.dataset != FASHION))
