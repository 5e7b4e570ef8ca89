"""Is the pipeline honest? Did the drawn images keep the representation that they were drawn from?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from rcdm.data import images as im
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.metrics import Number, bootstrap, cycle_error, retrieval, similarity
from rcdm.measures.processes import over_processes


def faithfulness(
    pipe: RCDMPipeline, images: Tensor, source: str, *, num_inference_steps: int | None = None
) -> dict[str, Number]:
    """One draw per image [N,3,H,W], image i from seed i: `cycle_error`, `mrr` and `recall_at_1` among the N.

    `mrr_data_to_drawn` looks the other way: from the image for its draw. `similarity_floor`: 95 % of the draws are more
    similar than this to the representation they were drawn from (null: to that of the next image).
    """
    h = encode_all(pipe, images, source)
    drawn = pipe.draw(h, source, seeds=range(len(h)), num_inference_steps=num_inference_steps)
    return faithfulness_of(pipe, h, drawn, source)


def faithfulness_of(pipe: RCDMPipeline, h: Tensor, drawn: Tensor, source: str) -> dict[str, Number]:
    """The numbers of `faithfulness` for h [N,D], raw, and one image [N,3,H,W] that was drawn from each."""
    given = pipe.unet.standardise(h, source).cpu()
    kept = pipe.unet.standardise(encode_all(pipe, drawn, source), source).cpu()
    backwards = retrieval(given, kept)["mrr"]
    own, other = similarity(kept, given), similarity(kept, given.roll(1, 0))
    floor = bootstrap(lambda i: own[i].quantile(0.05), len(own), null=float(other.quantile(0.05)), vectorised=False)
    return {
        "cycle_error": cycle_error(kept, given),
        **retrieval(kept, given),
        "mrr_data_to_drawn": backwards,
        "similarity_floor": floor,
    }


def encode_all(
    pipe: RCDMPipeline, images: Tensor | Sequence[Image.Image], source: str, *, batch_size: int = 256
) -> Tensor:
    """`pipe.encode` in pieces that fit the memory: [N,3,H,W], or N PIL images, -> [N,D]."""
    starts = range(0, len(images), batch_size)
    parts = over_processes(starts, lambda i: pipe.encode(images[i : i + batch_size], source))
    return torch.cat(list(parts)).to(pipe.device)


def comparison_grid(pipe: RCDMPipeline, images: Tensor) -> Image.Image:
    """A row per image: the image itself, then one draw from every source with the same noise, in their order."""
    columns = [im.resize(images, pipe.image_size).cpu()]
    for name in pipe.sources.names:
        columns.append(pipe.draw(pipe.encode(images, name), name, seeds=range(len(images))).cpu())
    cells = torch.stack(columns, 1).flatten(0, 1)  # [N x columns,3,S,S]
    times = max(1, -(-96 // pipe.image_size))
    return im.to_pil(
        make_grid(cells.repeat_interleave(times, 2).repeat_interleave(times, 3), nrow=len(columns), pad_value=1)[None]
    )[0]


def pixels_of(pipe: RCDMPipeline, images: Tensor | Sequence[Image.Image]) -> Tensor:
    """What attributes are read from: [N,3,S,S] at the size of the drawn images."""
    if isinstance(images, Tensor):
        return im.resize(images, pipe.image_size)
    return im.to_tensor(list(images), pipe.image_size)
