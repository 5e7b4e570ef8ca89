"""A backbone of one's own, named `package.module:function`.

The function takes nothing and returns `(module, preprocessing, levels)`: a torch module with its weights, a
`Preprocessing`, and paths of the submodules to read (or `output`). Nothing is imported because a checkpoint names it:
only what a user registers here, or gives on the command line, is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import nn

from rcdm.networks.backbones import BACKBONES
from rcdm.networks.representation import OpenNetwork, Preprocessing
from rcdm.networks.sources import Sources

Build = Callable[[], tuple[nn.Module, Preprocessing, Sequence[str]]]


def register(path: str) -> Build:
    """Import `package.module:function`, so that checkpoints trained with it can be loaded. Returns the function.

    Raises ValueError when it cannot be imported.
    """
    module_name, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"Write a backbone as package.module:function, not {path!r}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        build: Build = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error
    BACKBONES[path] = lambda: build()[0]
    return build


def own_network(path: str) -> tuple[nn.Module, Preprocessing, Sequence[str]]:
    """What `package.module:function` returns. Raises ValueError for what is no backbone."""
    parts = register(path)()
    if not (isinstance(parts, tuple) and len(parts) == 3 and isinstance(parts[0], nn.Module)):
        raise ValueError(f"{path} must return (module, preprocessing, levels).")
    return parts


def own_sources(path: str, names: Sequence[str] = ()) -> Sources:
    """The sources of `package.module:function`, named `FUNCTION/LEVEL`; all of its levels where `names` are not given.

    Raises ValueError for what is no backbone, and for a name that it does not have.
    """
    module, preprocessing, levels = own_network(path)
    network = OpenNetwork(module, levels)
    config = {
        "architecture": path,
        "arguments": {},
        "levels": list(levels),
        "pooling": "mean",
        "preprocessing": asdict(preprocessing),
    }
    name = path.rpartition(":")[2]
    names = [level if level.startswith(f"{name}/") else f"{name}/{level}" for level in names or levels]
    return Sources({name: (network, preprocessing)}, names, {name: config})
