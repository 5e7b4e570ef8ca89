"""What comparisons with other libraries share: random networks, the comparison, and the table of docs/networks.md."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rcdm.networks.reading import Reading
from rcdm.networks.representation import SSLNetwork
from rcdm.networks.resolve import network_of
from rcdm.networks.source_folder import load_network, save_network

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "networks.md"
BEGIN, END = "<!-- compared -->", "<!-- /compared -->"
WRITE = "RCDM_WRITE_TABLES"
"""With this variable of the environment set, the comparisons write their rows of the table."""

CLOSE = 1e-5
"""The largest difference that is allowed, of numbers of order 1."""


class Case(NamedTuple):
    """A file that another library wrote, and that library's own forward."""

    path: Path
    backbone: Callable[[Tensor], Tensor]
    projector: Callable[[Tensor], Tensor] | None = None
    name: str = ""  # in timm, written before the file
    options: Mapping[str, Any] = {}


def random(module: nn.Module) -> nn.Module:
    """Every weight and every statistic moved away from where it begins."""
    stream = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=stream)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) and part.running_mean is not None:
            part.running_mean += 0.1 * torch.randn(part.running_mean.shape, generator=stream)
            part.running_var += torch.rand(part.running_var.shape, generator=stream)
    module.eval()
    return module


def saved(folder: Path, content: Any, name: str = "file.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def below(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@torch.no_grad()
def compare(case: Case, folder: Path) -> tuple[float, SSLNetwork, dict[str, Any]]:
    """Largest difference of backbone and projector, read from the file and from our own copy of it; network, config."""
    written = f"{case.name}={case.path}" if case.name else str(case.path)
    _, network, preprocessing, config = network_of(written, (), Reading(**case.options))
    x = torch.randn(2, 3, preprocessing.size, preprocessing.size, generator=torch.Generator().manual_seed(1))
    h = case.backbone(x).flatten(1)
    assert (network.projector is None) == (case.projector is None)
    wanted = {"backbone": h} | ({"projector": case.projector(h)} if case.projector else {})
    save_network(folder / "copy", network, config)
    copy, same = load_network(folder / "copy")
    assert same == preprocessing
    worst = 0.0
    for ours in (network, copy):
        levels = ours.all_levels(x, list(wanted))
        assert not h.std(0).eq(0).all(), "a representation that does not depend on the image compares nothing"
        worst = max(worst, *(float((levels[level] - wanted[level]).abs().max()) for level in wanted))
    return worst, network, config


def check(label: str, library: str, case: Case, folder: Path) -> dict[str, Any]:
    """Compare, refuse more than CLOSE, and put it down for the table; returns the config.json of the source."""
    difference, network, config = compare(case, folder)
    assert difference < CLOSE
    what = "backbone and projector" if network.projector is not None else "backbone"
    _put_down(label, f"{library} {version(library)}", what, difference)
    return config


def _put_down(label: str, library: str, what: str, difference: float) -> None:
    if os.environ.get(WRITE):
        text = DOCUMENT.read_text()
        row = f"| {label} | {library} | {what} | {difference:.0e} |"
        before, inside, after = _parts(text)
        rows = {line.split(" | ")[0]: line for line in inside} | {f"| {label}": row}
        DOCUMENT.write_text("\n".join([before, *(rows[key] for key in sorted(rows)), after]))


def _parts(text: str) -> tuple[str, list[str], str]:
    """The document up to the head of the table, the rows, and the rest."""
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    lines = inside.strip().splitlines()
    return "\n".join([f"{before}{BEGIN}", *lines[:2]]), lines[2:], f"{END}{after}"


def refuse_stale_rows(labels: Mapping[str, Any], library: str) -> None:
    """The table has a row for every case of a library, and no other."""
    rows = [re.split(r" \| ", row.strip("| ")) for row in _parts(DOCUMENT.read_text())[1]]
    there = {row[0] for row in rows if row[1].partition(" ")[0] == library}
    if there != set(labels):
        pytest.fail(
            f"run the tests of {library} with {WRITE}=1: the table lacks or has too many of {there ^ set(labels)}"
        )
