"""Central flows: what an optimizer at the edge of stability does on average (arXiv 2410.24206)."""

from . import data, experiments, preconditioners, quadratic, sdcp, stationary
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import GradientDescent, RMSProp, ScalarRMSProp
from .simulation import simulate

__all__ = [
    "ConvergenceError",
    "DivergenceError",
    "GradientDescent",
    "Objective",
    "RMSProp",
    "ScalarRMSProp",
    "data",
    "experiments",
    "preconditioners",
    "quadratic",
    "sdcp",
    "simulate",
    "stationary",
]
