"""rcdm shows what a self-supervised representation keeps, by drawing the images that share it.

Names are imported when they are first used: `import rcdm` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcdm import convert, studies
    from rcdm.checkpoints import load, load_source
    from rcdm.pipeline import RCDMPipeline, RCDMPipelineOutput
    from rcdm.representation import RepresentationSource
    from rcdm.sources import Sources
    from rcdm.unet import RepresentationUNet

__version__ = "0.1.0"
__all__ = [
    "RCDMPipeline",
    "RCDMPipelineOutput",
    "RepresentationSource",
    "RepresentationUNet",
    "Sources",
    "convert",
    "load",
    "load_source",
    "studies",
]

_ROOMS = {
    "RCDMPipeline": "pipeline",
    "RCDMPipelineOutput": "pipeline",
    "RepresentationSource": "representation",
    "RepresentationUNet": "unet",
    "Sources": "sources",
    "load": "checkpoints",
    "load_source": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"rcdm.{_ROOMS[name]}"), name)
    if name in __all__:
        return import_module(f"rcdm.{name}")
    raise AttributeError(f"module 'rcdm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
