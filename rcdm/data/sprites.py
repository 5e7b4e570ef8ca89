"""A drawn world whose factors are known: one coloured shape on a softly textured coloured ground.

Every image is a pure function of its `Factors`, so what a representation keeps can be compared with the truth.
Coordinates run from -1 to 1 over the image, y downwards; angles are in turns (0 … 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rcdm.data.colour import hsv_to_rgb
from rcdm.data.dataset_protocol import Batch

SHAPES = ("arrow", "crescent", "drop", "ell", "heart", "tee")
"""Each has no rotational symmetry, so that its rotation can be read."""

KINDS = {
    "shape": "class",
    "hue": "angle",
    "size": "number",
    "rotation": "angle",
    "x": "number",
    "y": "number",
    "ground_hue": "angle",
    "ground_brightness": "number",
}
"""Factor -> how it is measured: a class index, an angle in turns, or a number."""

RANGES = {"size": (0.42, 0.68), "x": (-0.3, 0.3), "y": (-0.3, 0.3), "ground_brightness": (0.35, 0.8)}

_SATURATION, _BRIGHTNESS, _GROUND_SATURATION = 0.85, 0.95, 0.5
_WAVES = 3  # soft plane waves that make up the texture of the ground
_TEXTURE = 0.06  # peak relative brightness of one wave
_DARKEST = 0.86  # times the lowest ground brightness: above 0.3, so that the hue can be read


@dataclass(frozen=True)
class Factors:
    """What is drawn, one entry per image: tensors [N] (texture: [N, 9] in [0, 1)).

    shape: index into SHAPES; hue, rotation, ground_hue: turns in [0, 1); size: radius of the shape; x, y: centre;
    ground_brightness: HSV value. `texture` is a nuisance that nobody reads. Ranges: `RANGES`.
    """

    shape: Tensor
    hue: Tensor
    size: Tensor
    rotation: Tensor
    x: Tensor
    y: Tensor
    ground_hue: Tensor
    ground_brightness: Tensor
    texture: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Tensor | slice) -> Factors:
        return Factors(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Factors:
        return Factors(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def sample_factors(n: int, seed: int) -> Factors:
    """n independent, uniform draws of every factor; the same for the same (n, seed)."""
    stream = torch.Generator().manual_seed(seed)

    def uniform(name: str) -> Tensor:
        low, high = RANGES.get(name, (0.0, 1.0))
        return low + (high - low) * torch.rand(n, generator=stream)

    shape = torch.randint(len(SHAPES), (n,), generator=stream)
    numbers = {name: uniform(name) for name in KINDS if name != "shape"}
    return Factors(shape=shape, texture=torch.rand(n, 3 * _WAVES, generator=stream), **numbers)


def make_factors(*, shape: str, texture_seed: int = 0, **values: float) -> Factors:
    """The factors of one image from plain numbers; `shape` by name. Raises ValueError for what cannot be drawn."""
    if shape not in SHAPES:
        raise ValueError(f"There is no shape {shape!r}; choose one of {', '.join(SHAPES)}.")
    expected = set(KINDS) - {"shape"}
    if set(values) != expected:
        raise ValueError(f"Give exactly these factors: {', '.join(sorted(expected))}.")
    for name, (low, high) in RANGES.items():
        if not low <= values[name] <= high:
            raise ValueError(f"{name} must lie between {low} and {high}, and is {values[name]}.")
    return Factors(
        shape=torch.tensor([SHAPES.index(shape)]),
        texture=torch.rand(1, 3 * _WAVES, generator=torch.Generator().manual_seed(texture_seed)),
        **{name: torch.tensor([float(value)]) for name, value in values.items()},
    )


def exchange_grounds(factors: Factors) -> Factors:
    """The same shapes, each on the ground of the image before it: hue, brightness and texture."""
    grounds = ("ground_hue", "ground_brightness", "texture")
    rolled = {name: getattr(factors, name).roll(1, 0) for name in grounds}
    return replace(factors, **rolled)


def render(factors: Factors, size: int = 32) -> Tensor:
    """Draw: Factors of N images -> float32 [N,3,size,size] in [-1,1], anti-aliased."""
    axis = (torch.arange(size, device=factors.x.device) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rgb = _ground(factors, x, y)
    cover = _coverage(factors, x, y)[:, None]
    n = len(factors)
    ones = torch.ones(n, device=x.device)
    colour = hsv_to_rgb(torch.stack([factors.hue, _SATURATION * ones, _BRIGHTNESS * ones], 1)[:, :, None, None])
    return torch.lerp(rgb, colour.expand_as(rgb), cover) * 2 - 1


def _ground(factors: Factors, x: Tensor, y: Tensor) -> Tensor:
    """[N,3,H,W] in [0,1]: one hue, its brightness modulated by a few slow plane waves."""
    angle, phase, pace = (2 * torch.pi * t for t in factors.texture.unflatten(1, (3, _WAVES)).unbind(1))
    frequency = 2 + pace / 2  # radians per unit of length: at most about 1.6 periods over the image
    along = (angle.cos() * frequency)[..., None, None] * x + (angle.sin() * frequency)[..., None, None] * y
    wave = 1 + _TEXTURE * (along + phase[..., None, None]).sin().sum(1)
    wave = wave.clamp(min=_DARKEST)
    saturation = torch.full_like(factors.hue, _GROUND_SATURATION)
    base = hsv_to_rgb(torch.stack([factors.ground_hue, saturation, factors.ground_brightness], 1)[:, :, None, None])
    return (base * wave[:, None]).clamp(0, 1)


def _coverage(factors: Factors, x: Tensor, y: Tensor) -> Tensor:
    """[N,H,W] in [0,1]: how much of each pixel the shape covers."""
    pixel = 2 / x.shape[-1]
    cos, sin = (2 * torch.pi * factors.rotation).cos(), (2 * torch.pi * factors.rotation).sin()
    cover = torch.empty(len(factors), *x.shape, device=x.device)
    for index, name in enumerate(SHAPES):
        rows = (factors.shape == index).nonzero()[:, 0]
        dx = x - factors.x[rows, None, None]
        dy = y - factors.y[rows, None, None]
        c, s, scale = (t[rows, None, None] for t in (cos, sin, factors.size))
        u, v = (c * dx + s * dy) / scale, (c * dy - s * dx) / scale  # the shape's own frame, unit radius
        distance = _DISTANCES[name](u, v) * scale  # negative inside
        cover[rows] = (0.5 - distance / pixel).clamp(0, 1)
    return cover


# Signed distances to the outlines in a shape's own frame (exact or a bound near the outline), about the unit disc.


def _disc(u: Tensor, v: Tensor, radius: float) -> Tensor:
    return (u.square() + v.square()).sqrt() - radius


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(u.abs() - half_width, v.abs() - half_height)


def _below_line(u: Tensor, v: Tensor, nx: float, ny: float, offset: float) -> Tensor:
    length = (nx * nx + ny * ny) ** 0.5
    return (nx * u + ny * v - offset) / length


def _arrow(u: Tensor, v: Tensor) -> Tensor:
    tip = torch.maximum(_below_line(u, v.abs(), 0.9, 1.0, 0.9), -u)  # base at u = 0, half-height 0.9
    return torch.minimum(tip, _box(u + 0.45, v, 0.5, 0.3))


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_disc(u, v, 0.95), -_disc(u - 0.45, v, 0.72))


def _drop(u: Tensor, v: Tensor) -> Tensor:
    cone = torch.maximum(_below_line(u, v.abs(), 0.52, 1.0, 0.52), -0.25 - u)
    return torch.minimum(_disc(u + 0.35, v, 0.6), cone)


def _ell(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u + 0.42, v, 0.22, 0.85), _box(u - 0.02, v - 0.63, 0.62, 0.22))


def _heart(u: Tensor, v: Tensor) -> Tensor:
    w, a = v.abs(), 0.64  # a square on its corner, half-diagonal a, with half a disc on each upper side
    square = (w + u.abs() - a) * 0.5**0.5
    return torch.minimum(square, _disc(u - a / 2, w - a / 2, a * 0.5**0.5))


def _tee(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u - 0.55, v, 0.24, 0.82), _box(u + 0.2, v, 0.72, 0.22))


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arrow": _arrow, "crescent": _crescent, "drop": _drop, "ell": _ell, "heart": _heart, "tee": _tee,
}  # fmt: skip


def phi(factors: Factors) -> dict[str, Tensor]:
    """The truth as it is compared: a number as [N,1], an angle as (cos, sin) [N,2], a class one-hot [N,C]."""
    result = {}
    for name, kind in KINDS.items():
        value = getattr(factors, name)
        if kind == "class":
            result[name] = torch.nn.functional.one_hot(value, len(SHAPES)).float()
        elif kind == "angle":
            turn = 2 * torch.pi * value
            result[name] = torch.stack([turn.cos(), turn.sin()], 1)
        else:
            result[name] = value[:, None]
    return result


HELD_OUT_SEED = 2**31
"""Sprites drawn from this seed on are never trained on: every held-out number uses them."""

_BLOCK = 256
"""Sprites of a run are sampled so many at a time; a batch is cut from these blocks."""


class Sprites:
    """The drawn world: endless fresh images; the label is the shape."""

    n_train = None

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.name, self.size, self.classes, self.seed = "sprites", size, len(SHAPES), seed
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Sprites:
        self._device = torch.device(device)
        return self

    def batch(self, step: int, batch_size: int) -> Batch:
        """Drawn images of a step [B,3,S,S] in [-1,1] and their shapes [B], always the same for a step."""
        first, stop = step * batch_size, (step + 1) * batch_size
        parts = []
        for block in range(first // _BLOCK, -(-stop // _BLOCK)):
            factors = sample_factors(_BLOCK, (self.seed * 1_000_003 + block) % HELD_OUT_SEED)
            start = block * _BLOCK
            parts.append(self._draw(factors[max(first - start, 0) : stop - start]))
        return Batch(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    def held_out(self, n: int) -> Batch:
        return self._draw(sample_factors(n, HELD_OUT_SEED))

    def held_out_on_other_grounds(self, n: int) -> Tensor:
        """The shapes of `held_out`, each on the ground of another image: [n,3,S,S]."""
        factors = sample_factors(n, HELD_OUT_SEED).to(self._device)
        return render(exchange_grounds(factors), self.size)

    def _draw(self, factors: Factors) -> Batch:
        factors = factors.to(self._device)
        return Batch(render(factors, self.size), factors.shape)
