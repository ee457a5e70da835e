"""Central flows: what an optimizer at the edge of stability does on average :cite:`cohen2025`."""

from importlib.metadata import version

import lazy_loader

__version__ = version("cflows")

__getattr__, __dir__, __all__ = lazy_loader.attach(  # imported when asked for: xarray and SciPy take their time
    __name__,
    submodules=[
        "data",
        "differences",
        "eigen",
        "experiments",
        "flows",
        "models",
        "modules",
        "preconditioners",
        "quadratic",
        "sdcp",
        "simulation",
        "stationary",
    ],
    submod_attrs={
        "errors": ["ConvergenceError", "DivergenceError"],
        "objective": ["Objective"],
        "optimizers": ["GradientDescent", "RMSProp", "ScalarRMSProp"],
        "simulation": ["simulate"],
    },
)
