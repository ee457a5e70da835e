"""Central flows: what an optimizer at the edge of stability does on average :cite:`cohen2025`."""

import lazy_loader

__version__ = "0.1.0"
#: Version of the algorithm: raised when a change to the library changes what a run, or what is solved along it, holds.
ALGORITHM = 9

# Names are imported when they are first used, because xarray and SciPy take their time. The stub lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
