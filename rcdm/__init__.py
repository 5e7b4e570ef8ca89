"""rcdm shows what a self-supervised representation keeps, by drawing the images that share it.

These names are what programs import; where they live may change. They are imported when they are first used:
`import rcdm` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcdm import studies
    from rcdm.data import sprites
    from rcdm.data.images import squash, to_tensor
    from rcdm.diffusion.checkpoints import load, load_source
    from rcdm.diffusion.guided import guided
    from rcdm.diffusion.official.convert import from_official
    from rcdm.diffusion.official.sampler import SpacedDDIMScheduler, SpacedDDPMScheduler
    from rcdm.diffusion.pipeline import RCDMPipeline, RCDMPipelineOutput
    from rcdm.diffusion.regressor import Regressor
    from rcdm.diffusion.spaced import SpacedDPMSolverScheduler
    from rcdm.diffusion.unet import RepresentationUNet
    from rcdm.measures.readers import attributes_of
    from rcdm.networks.own_backbone import register
    from rcdm.networks.preprocessing import Preprocessing
    from rcdm.networks.representation import RepresentationSource, level_widths
    from rcdm.networks.resolve import sources_of
    from rcdm.networks.sources import Sources

__version__ = "0.2.0"

_ROOMS = {
    "Preprocessing": "networks.preprocessing",
    "RCDMPipeline": "diffusion.pipeline",
    "RCDMPipelineOutput": "diffusion.pipeline",
    "Regressor": "diffusion.regressor",
    "RepresentationSource": "networks.representation",
    "RepresentationUNet": "diffusion.unet",
    "Sources": "networks.sources",
    "SpacedDDIMScheduler": "diffusion.official.sampler",
    "SpacedDDPMScheduler": "diffusion.official.sampler",
    "SpacedDPMSolverScheduler": "diffusion.spaced",
    "attributes_of": "measures.readers",
    "from_official": "diffusion.official.convert",
    "guided": "diffusion.guided",
    "level_widths": "networks.representation",
    "load": "diffusion.checkpoints",
    "load_source": "diffusion.checkpoints",
    "register": "networks.own_backbone",
    "sources_of": "networks.resolve",
    "squash": "data.images",
    "to_tensor": "data.images",
}
"""Public name -> its module. `model_index.json` of a checkpoint names classes as `rcdm` and one of these."""

_MODULES = {"sprites": "rcdm.data.sprites", "studies": "rcdm.studies"}
"""Public name -> the module that it is."""

__all__ = [
    "Preprocessing",
    "RCDMPipeline",
    "RCDMPipelineOutput",
    "Regressor",
    "RepresentationSource",
    "RepresentationUNet",
    "Sources",
    "SpacedDDIMScheduler",
    "SpacedDDPMScheduler",
    "SpacedDPMSolverScheduler",
    "attributes_of",
    "from_official",
    "guided",
    "level_widths",
    "load",
    "load_source",
    "register",
    "sources_of",
    "sprites",
    "squash",
    "studies",
    "to_tensor",
]


_BASES = ("ModelMixin", "SchedulerMixin")
"""Base classes of diffusers, which looks for them in the library that `model_index.json` names."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"rcdm.{_ROOMS[name]}"), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _BASES:
        return getattr(import_module("diffusers"), name)
    raise AttributeError(f"module 'rcdm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
