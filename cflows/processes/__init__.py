"""The processes that `simulate` runs side by side: the optimizer, its midpoints, and its flows."""

from .base import PROCESSES, Observation, Process, Settings, State

from .discrete import Discrete, Midpoint  # isort: skip  (processes act in the order in which they are registered)
from .flow import Flow, Stable  # isort: skip
from .central import Ablated, Central  # isort: skip
from .stationary import AblatedStationary, Stationary

__all__ = [
    "PROCESSES",
    "Ablated",
    "AblatedStationary",
    "Central",
    "Discrete",
    "Flow",
    "Midpoint",
    "Observation",
    "Process",
    "Settings",
    "Stable",
    "State",
    "Stationary",
]
