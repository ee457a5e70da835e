# The public names, for type checkers and for `lazy_loader`, which reads this file when cflows is imported.
from . import averaging as averaging
from . import data as data
from . import differences as differences
from . import eigen as eigen
from . import errors as errors
from . import experiments as experiments
from . import files as files
from . import flows as flows
from . import gauge as gauge
from . import leapfrog as leapfrog
from . import metrics as metrics
from . import models as models
from . import modules as modules
from . import momentum as momentum
from . import objective as objective
from . import optimizers as optimizers
from . import preconditioners as preconditioners
from . import processes as processes
from . import quadratic as quadratic
from . import records as records
from . import regime as regime
from . import registry as registry
from . import report as report
from . import sdcp as sdcp
from . import simulation as simulation
from . import stationary as stationary
from . import store as store
from . import survey as survey
from . import tasks as tasks
from . import torch_optim as torch_optim
from .book.figures import plot as plot
from .errors import ConvergenceError as ConvergenceError
from .errors import DivergenceError as DivergenceError
from .gauge import Gauge as Gauge
from .momentum import Adam as Adam
from .momentum import AdamW as AdamW
from .momentum import HeavyBall as HeavyBall
from .momentum import NAdam as NAdam
from .momentum import Nesterov as Nesterov
from .objective import Objective as Objective
from .optimizers import GradientDescent as GradientDescent
from .optimizers import RMSProp as RMSProp
from .optimizers import ScalarRMSProp as ScalarRMSProp
from .regime import suggest_lr as suggest_lr
from .report import summary as summary
from .simulation import simulate as simulate
from .torch_optim import Start as Start
from .torch_optim import from_torch as from_torch

__all__: list[str]
__version__: str
ALGORITHM: int
