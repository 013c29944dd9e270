"""Operating points of a network under random demand, infeed, costs and outages, solved and stored.

`generating` draws and solves; `models` hold what varies, `solvers` what answers, `store` the folder of Parquet files.
"""

from sdv_constrained_diffusion.power.scenarios.generating import PART_CHUNKS, Scenarios, generate, generate_to
from sdv_constrained_diffusion.power.scenarios.models.costs import CostPerturbation
from sdv_constrained_diffusion.power.scenarios.models.infeed import ProfileInfeed, UniformInfeed
from sdv_constrained_diffusion.power.scenarios.models.loads import LoadModel, NormalLoads, ProfileLoads, UniformLoads
from sdv_constrained_diffusion.power.scenarios.models.outages import Outages

__all__ = [
    'PART_CHUNKS',
    'CostPerturbation',
    'LoadModel',
    'NormalLoads',
    'Outages',
    'ProfileInfeed',
    'ProfileLoads',
    'Scenarios',
    'UniformInfeed',
    'UniformLoads',
    'generate',
    'generate_to',
]
