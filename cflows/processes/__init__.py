"""The processes that `simulate` runs side by side: the optimizer, its midpoints, and its flows."""

from .base import PROCESSES, Observation, Process, Settings, State

from .discrete import Discrete, DiscreteState, Midpoint  # isort: skip  (processes act in the order in which they are registered)
from .flow import Flow, FlowState, Stable, Trend  # isort: skip
from .central import Ablated, Central, CentralState  # isort: skip
from .stationary import AblatedStationary, Solved, Stationary, StationaryState
from .subspace import Subspace

__all__ = [
    "PROCESSES",
    "Ablated",
    "AblatedStationary",
    "Central",
    "CentralState",
    "Discrete",
    "DiscreteState",
    "Flow",
    "FlowState",
    "Midpoint",
    "Observation",
    "Process",
    "Settings",
    "Solved",
    "Stable",
    "State",
    "Stationary",
    "StationaryState",
    "Subspace",
    "Trend",
]
