"""Is the pipeline honest? Did the drawn images keep the representation that they were drawn from?"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from rcdm import images as im
from rcdm.metrics import Number, cycle_error, retrieval
from rcdm.pipeline import RCDMPipeline


def faithfulness(
    pipe: RCDMPipeline, images: Tensor, source: str, *, num_inference_steps: int | None = None
) -> dict[str, Number]:
    """One draw per image [N,3,H,W], image i from seed i: `cycle_error`, and `mrr` and `recall_at_1` among the N."""
    h = encode_all(pipe, images, source)
    drawn = pipe.draw(h, source, seeds=range(len(h)), num_inference_steps=num_inference_steps)
    given = pipe.unet.standardise(h, source).cpu()
    kept = pipe.unet.standardise(encode_all(pipe, drawn, source), source).cpu()
    return {"cycle_error": cycle_error(kept, given), **retrieval(kept, given)}


def encode_all(pipe: RCDMPipeline, images: Tensor, source: str, *, batch_size: int = 256) -> Tensor:
    """`pipe.encode` in pieces that fit the memory: [N,3,H,W] -> [N,D]."""
    return torch.cat([pipe.encode(chunk, source) for chunk in images.split(batch_size)])


def comparison_grid(pipe: RCDMPipeline, images: Tensor) -> Image.Image:
    """A row per image: the image itself, then one draw from every source with the same noise."""
    columns = [im.to_pil(images)]
    for name in pipe.sources.names:
        columns.append(im.to_pil(pipe.draw(pipe.encode(images, name), name, seeds=range(len(images)))))
    rows = [list(row) for row in zip(*columns, strict=True)]
    return im.grid(rows, column_labels=("image", *pipe.sources.names))
