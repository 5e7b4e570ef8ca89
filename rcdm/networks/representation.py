"""A source: a frozen network cut at a level, together with its own preprocessing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from rcdm.networks.preprocessing import Preprocessing

Taken = TypeVar("Taken")

POOLINGS = ("mean", "first")
"""How tokens [B,N,D] become [B,D]: their mean without prefix tokens, or the first, which is a ViT's class token."""


class _Levels(nn.Module):
    """A network that can be read at levels: `PATH` of a submodule, or `PATH@first`, `PATH@mean` for its tokens.

    `@first` takes the first token (a ViT's class token), `@mean` the mean without prefix tokens; `_tokens` says which
    of them a bare `PATH` means. Maps are averaged over positions.
    """

    _tokens: str

    def levels(self) -> tuple[str, ...]:
        """Names of the places where the network is cut by default, in order of depth."""
        raise NotImplementedError

    def at(self, level: str) -> nn.Module:
        """The module whose output a level is. Raises AttributeError when there is none."""
        raise NotImplementedError

    def body(self) -> nn.Module:
        """The module that knows how many prefix tokens there are, and how its maps lie."""
        raise NotImplementedError

    def has(self, level: str) -> bool:
        """Whether the network can be read there."""
        try:
            return bool(_path(level)) and self.at(level) is not None
        except AttributeError:
            return False

    def all_levels(self, x: Tensor, levels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Normalised images [B,3,H,W] -> level -> [B,D] float32, in one pass."""
        places = {level: self.at(level) for level in (self.levels() if levels is None else levels)}
        return _outputs_of(places, self, x, lambda level, output: self.pool(output, level).clone())

    def pool(self, output: Tensor, level: str) -> Tensor:
        """What a level puts out, [B,D,H,W], [B,N,D] or [B,D] -> [B,D] float32."""
        output = _without_attention(output)
        body = self.body()
        embeds = _path(level).removeprefix("backbone.").startswith("patch_embed")  # comes before the prefix tokens
        tokens = level.partition("@")[2] or ("mean" if embeds else self._tokens)
        last = getattr(body, "output_fmt", "") == "NHWC" or (embeds and getattr(body, "dynamic_img_size", False))
        last = last and not isinstance(self.at(level), (nn.Conv2d, nn.BatchNorm2d))
        if isinstance(output, Tensor) and output.ndim == 4:  # maps of square images are square
            _, first, second, third = output.shape
            last = True if first == second != third else False if second == third != first else last
        return pooled(output, tokens, 0 if embeds else getattr(body, "num_prefix_tokens", 0), channels_last=last)


def _path(level: str) -> str:
    """A level without its pooling. Raises ValueError for a pooling that does not exist."""
    path, at, tokens = level.partition("@")
    if at and tokens not in POOLINGS:
        raise ValueError(f"{level!r}: after the @ stands 'mean' or 'first', not {tokens!r}.")
    return path


class SSLNetwork(_Levels):
    """A backbone and its projector, where it has one: normalised images [B,3,H,W] -> h [B,D] -> z [B,P].

    Any path in the backbone is a level (`layer3.1`, `blocks.8`), and any in the projector (`projector.0`). Tokens are
    pooled as the backbone itself pools its last ones: the class token, or the mean.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self._tokens = "first" if getattr(backbone, "global_pool", "") == "token" else "mean"

    def forward(self, x: Tensor) -> Tensor:
        h = self.backbone(x)
        return h if self.projector is None else self.projector(h)

    def levels(self) -> tuple[str, ...]:
        """Stages (`layer1` …) or blocks (`blocks.0` …), the backbone, blocks of the projector, the projector."""
        stages = [name for name, _ in self.backbone.named_children() if re.fullmatch(r"layer\d+", name)]
        blocks = getattr(self.backbone, "blocks", None)
        if isinstance(blocks, (nn.Sequential, nn.ModuleList)):
            stages += [f"blocks.{name}" for name, _ in blocks.named_children()]
        if self.projector is None:
            return (*stages, "backbone")
        hidden = [f"projector.{name}" for name, _ in list(self.projector.named_children())[:-1]]
        return (*stages, "backbone", *hidden, "projector")

    def at(self, level: str) -> nn.Module:
        path = _path(level)
        return self.get_submodule(path if path.startswith(("backbone", "projector")) else f"backbone.{path}")

    def body(self) -> nn.Module:
        return self.backbone


class OpenNetwork(_Levels):
    """Any module, read at places that are named by their paths in it; `output` is what it returns itself.

    Args:
        module: normalised images [B,3,H,W] -> anything.
        levels: paths of submodules (`layer3`, `blocks.8`, `head.mlp.2`), or `output`; `@first` or `@mean` may follow.
        pooling: of tokens [B,N,D] where a level does not say: their `mean` (without prefix tokens, where the module
            says how many it has), or the `first`, which is a ViT's class token.
    """

    def __init__(self, module: nn.Module, levels: Sequence[str], pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be 'mean' or 'first', and is {pooling!r}.")
        known = dict(module.named_modules())
        if unknown := [level for level in map(_path, levels) if level != "output" and level not in known]:
            some = ", ".join(name for name in known if name and name.count(".") < 2)
            raise ValueError(f"The module has nothing called {unknown[0]!r}; it has {some}.")
        self.module, self._tokens, self._levels = module, pooling, tuple(levels)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def levels(self) -> tuple[str, ...]:
        """The places that were asked for."""
        return self._levels

    def has(self, level: str) -> bool:
        return level in self._levels

    def at(self, level: str) -> nn.Module:
        path = _path(level)
        return self.module if path == "output" else self.module.get_submodule(path)

    def body(self) -> nn.Module:
        return self.module


class RepresentationSource(nn.Module):
    """A frozen network cut at a level: [B,3,H,W] in [-1,1] -> [B,D] float32, raw (not standardised).

    The network says how what its levels put out becomes a vector. Gradients flow to the images when autograd is on.
    Raises ValueError for a tensor that is not floating-point [B,3,H,W].
    """

    def __init__(self, name: str, network: SSLNetwork | OpenNetwork, level: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        if not network.has(level):
            raise ValueError(_no_level(name, network, level))
        self.name, self.level, self.preprocessing = name, level, preprocessing
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        levels: Sequence[str],
        preprocessing: Preprocessing,
        pooling: str = "mean",
        name: str = "mine",
    ) -> dict[str, RepresentationSource]:
        """A network of your own -> level -> source, named `NAME/LEVEL`. See `OpenNetwork`; `level_widths` lists levels.

        Raises ValueError for a level that the module does not have.
        """
        network = OpenNetwork(module, levels, pooling)
        return {level: cls(f"{name}/{level}", network, level, preprocessing) for level in network.levels()}

    def train(self, mode: bool = True) -> RepresentationSource:
        return super().train(False)  # frozen: batch statistics must never move

    @property
    def dim(self) -> int:
        """Width D of the representation."""
        parameter = next(self.network.parameters())
        size = self.preprocessing.size
        with torch.no_grad():
            return self(torch.zeros(1, 3, size, size, device=parameter.device)).shape[1]

    def forward(self, images: Tensor | Image.Image | Sequence[Image.Image]) -> Tensor:
        """PIL, list of PIL, or [B,3,H,W] in [-1,1] -> [B,D]."""
        if not isinstance(images, Tensor):
            images = self.preprocessing.to_tensor(images).to(next(self.network.parameters()).device)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"{self.name} takes PIL images or a float tensor [B,3,H,W] in [-1,1], not {images.dtype} "
                f"{list(images.shape)}; `rcdm.data.images.to_tensor` makes one."
            )
        output = _output_of(self.network.at(self.level), self.network, self.preprocessing(images))
        return self.network.pool(output, self.level)


def _no_level(name: str, network: SSLNetwork | OpenNetwork, level: str) -> str:
    choices = f"choose one of {', '.join(network.levels())}."
    if level.startswith("projector") and isinstance(network, SSLNetwork) and network.projector is None:
        return (
            f"{name}: there is no projector, none was found with these weights (--projector names that of a file); "
            f"{choices}"
        )
    return f"{name} has no level {level!r}; {choices}"


def _without_attention(output: Any) -> Any:
    """What a layer of transformers puts out, without the attention [B,heads,N,N] that some add, or None for it."""
    if isinstance(output, tuple) and output:
        first, *others = output
        if all(other is None or (isinstance(other, Tensor) and other.ndim == 4) for other in others):
            return first
    return output


def pooled(output: Tensor, tokens: str = "mean", prefix: int = 0, *, channels_last: bool = False) -> Tensor:
    """[B,D,H,W] (or [B,H,W,D]), [B,N,D] or [B,D] -> [B,D] float32. Raises ValueError for anything else."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"A level must put out vectors, tokens or maps, not {shape}: choose another one.")
    if output.ndim == 4:
        output = output.mean((1, 2) if channels_last else (2, 3))
    elif output.ndim == 3:
        output = output[:, 0] if tokens == "first" else output[:, prefix:].mean(1)
    return output.float()


@torch.no_grad()
def level_widths(module: nn.Module, preprocessing: Preprocessing) -> dict[str, int]:
    """A dry run on one image: path of every submodule that can be a level -> width of its representation.

    Paths are those of the module; of an `SSLNetwork`, the names of its levels. On the meta device nothing is computed.
    """
    device = next(module.parameters()).device
    network = module if isinstance(module, SSLNetwork) else OpenNetwork(module, ["output"])
    inside = "backbone." if isinstance(module, SSLNetwork) else "module."
    places = {name.removeprefix(inside): part for name, part in network.named_modules() if name}
    if inside == "module.":
        places["output"] = places.pop("module")
    image = preprocessing(torch.zeros(1, 3, preprocessing.size, preprocessing.size, device=device))

    def width(name: str, output: Any) -> int:
        fits = isinstance(output, Tensor) and output.ndim in (2, 3, 4) and len(output) == 1
        return network.pool(output, name).shape[1] if fits else 0

    return {name: found for name, found in _outputs_of(places, network.eval(), image, width).items() if found}


def _outputs_of(
    places: Mapping[str, nn.Module], network: nn.Module, x: Tensor, take: Callable[[str, Any], Taken]
) -> dict[str, Taken]:
    """Name -> `take(name, output)` of the module of that name when it is first called, in the order of `places`.

    As `_output_of` sees it: before a later layer writes into it in its place.
    """
    reached: dict[str, Taken] = {}
    me = threading.get_ident()

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep_own(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() == me and name not in reached:  # others may use the network at the same time
                reached[name] = take(name, output)

        return keep_own

    hooks = [module.register_forward_hook(keep(name)) for name, module in places.items()]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: reached[name] for name in places if name in reached}


class _Reached(Exception):
    """Ends a forward pass at the level that was asked for: nothing deeper is computed."""


def _output_of(module: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    reached: list[Tensor] = []
    me = threading.get_ident()

    def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if threading.get_ident() == me:  # others may use the network at the same time
            reached.append(output)
            raise _Reached

    hook = module.register_forward_hook(stop)
    try:
        network(x)
    except _Reached:
        pass
    finally:
        hook.remove()
    return reached[0]
