"""HTML from template files: whatever is put into them is text, unless it is markup already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

Render = Callable[..., Markup]


def templates(folder: Path, **filters: Callable[..., Any]) -> Render:
    """`render(name of a file in the folder, **values)` -> markup; `filters` are those that the templates may use."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)

    def render(name: str, /, **values: Any) -> Markup:
        return Markup(environment.get_template(name).render(values))

    return render
