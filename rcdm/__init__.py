"""rcdm shows what a self-supervised representation keeps, by drawing the images that share it."""

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
