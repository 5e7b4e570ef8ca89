"""What a study returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class StudyResult:
    """Images row-major over (rows, columns), their labels, the numbers (JSON-ready), and a `summary` in words."""

    images: list[Image.Image] = field(default_factory=list)
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
