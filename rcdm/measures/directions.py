"""Directions in a representation along which an attribute changes, or images differ most; a checkpoint may ship them.

Whoever evaluates a checkpoint has its training images, whoever edits with it perhaps not: `directions.safetensors`
beside its weights holds what was found in these images, and none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcdm.data import sprites
from rcdm.data.dataset_protocol import Dataset, training_images
from rcdm.diffusion.checkpoints import folder_of
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.attributes import Attributes
from rcdm.measures.faithfulness import encode_all
from rcdm.measures.readers import attributes_of
from rcdm.networks.checked_files import read_tensors

METHODS = ("principal", "attributes")
FILE = "directions.safetensors"
COMPONENTS = 8
IMAGES = 2000


def find_directions(
    method: str, pipe: RCDMPipeline, images: Tensor, attributes: Attributes, source: str, *, components: int
) -> dict[str, Tensor]:
    """Name -> direction [D] in raw units, one deviation over the images [N,3,S,S] in [-1,1] long.

    `principal`: so many principal components of the standardised representation. `attributes`: one for each number
    that is read off an image, how h goes along with the ridge reading of it (Haufe et al. 2014).
    """
    from sklearn.linear_model import RidgeCV

    bank = encode_all(pipe, images, source)
    z = pipe.unet.standardise(bank, source)
    unit = pipe.unet.standardise(torch.ones_like(bank[:1]), source) - pipe.unet.standardise(0 * bank[:1], source)
    centred = z - z.mean(0)
    if method == "principal":
        _, deviations, axes = torch.linalg.svd(centred, full_matrices=False)
        scaled = axes[:components] * deviations[:components, None] / (len(z) - 1) ** 0.5
        return {f"component {i}": axis / unit[0] for i, axis in enumerate(scaled)}
    directions = {}
    for name, phi in attributes.read(images).items():
        for part in range(phi.shape[1]):
            model = RidgeCV(alphas=(1e-1, 1e1, 1e3)).fit(centred.cpu().numpy(), phi[:, part].numpy())
            predicted = centred @ torch.from_numpy(model.coef_).to(centred)
            if predicted.std() < 1e-8:
                continue
            pattern = centred.T @ predicted / (predicted.square().sum().sqrt() * (len(z) - 1) ** 0.5)
            directions[name if phi.shape[1] == 1 else f"{name} {part}"] = pattern / unit[0]
    return directions


def directions_in(pipe: RCDMPipeline, dataset: Dataset) -> dict[str, Tensor]:
    """What `directions.safetensors` holds: `SOURCE|METHOD|NAME` -> direction [D], from up to 2000 training images."""
    images = training_images(dataset, IMAGES).images.cpu()
    attributes = attributes_of(pipe)
    return {
        f"{source}|{method}|{name}": way.float().cpu().contiguous()
        for source in pipe.sources.names
        for method in METHODS
        for name, way in find_directions(method, pipe, images, attributes, source, components=COMPONENTS).items()
    }


def write_directions(directions: Mapping[str, Tensor], folder: Path) -> Path:
    """Into a checkpoint's folder; returns the file."""
    save_file(dict(directions), folder / FILE)
    return folder / FILE


def has_directions(pipe: RCDMPipeline) -> bool:
    """Whether the checkpoint ships directions."""
    return _file_of(pipe) is not None


def shipped_directions(pipe: RCDMPipeline, source: str, method: str) -> dict[str, Tensor]:
    """Those that the checkpoint ships, by name; empty where it ships none that fit."""
    file = _file_of(pipe)
    if file is None:
        return {}
    start, width = f"{source}|{method}|", pipe.unet.config.sources[source]
    return {
        key.removeprefix(start): way.to(pipe.device)
        for key, way in read_tensors(file).items()
        if key.startswith(start) and way.shape == (width,)
    }


def _file_of(pipe: RCDMPipeline) -> Path | None:
    folder = folder_of(pipe)
    return folder / FILE if folder is not None and (folder / FILE).is_file() else None


def spoken(direction: str) -> str:
    """A direction's name in words: `shape 4` is that of the fifth shape, `hue 0` and `hue 1` cosine and sine,
    `place 0` and `place 1` x and y."""
    name, _, part = direction.rpartition(" ")
    kind = sprites.KINDS.get(name, "")
    if kind == "class":
        return f"{name}: {sprites.SHAPES[int(part)]}"
    if kind == "angle" or name == "edges":
        return f"{name.replace('_', ' ')} ({('cosine', 'sine')[int(part)]})"
    if name == "place":
        return f"place ({'xy'[int(part)]})"
    return direction.replace("_", " ")
