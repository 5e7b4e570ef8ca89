"""What the draws of a denoiser can be led by, learnt when it is finished and its checkpoint is complete."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm

from rcdm.data.dataset_protocol import Dataset
from rcdm.diffusion.checkpoints import save_guidance
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process
from rcdm.diffusion.regressor import Regressor, learn_source
from rcdm.training.config import FEWEST

log = logging.getLogger(__name__)


def learn_to_lead(pipe: RCDMPipeline, dataset: Dataset, n: int, folder: Path) -> None:
    """Learn the regression of every source on n training images and add it to the checkpoint in `folder`.

    No draw is led by it until a call or `rcdm evaluate` says so. Nothing is learnt of fewer images than it takes.
    """
    n = min(n, dataset.n_train or n)
    if n < FEWEST:
        return
    log.warning("%s is complete. What its draws can be led by is learnt on %d images.", folder, n)
    pipe.unet.float()
    images, process = dataset.batch(0, n).images, Process(pipe.scheduler)
    learnt = {
        source: learn_source(pipe.unet, pipe.sources, process, images, source)
        for source in tqdm(pipe.sources.names, desc="regressions", leave=False)
    }
    pipe.use_regressor(Regressor.of(learnt, pipe.image_size))
    save_guidance(pipe, folder)
    log.warning("`--guidance-strength 1` leads draws, and `rcdm evaluate` chooses by truth whether they should be.")
