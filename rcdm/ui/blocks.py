"""Gradio's Blocks, in which whatever a function is given wrongly ends as one sentence, and not as a traceback."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr

from rcdm.ui.guard import in_a_sentence, refusal

LONGEST = 60  # characters of a wrong value that its sentence repeats


class Page(gr.Blocks):
    """The page. Its functions raise ValueError with a sentence; no other module needs to know how Gradio shows it."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """What components make of the values of a request. Raises gr.Error naming the value that cannot be taken."""
        components = block_fn.inputs
        if len(inputs) < len(components):
            names = ", ".join(_name(component) for component in components)
            raise refusal(f"This takes {len(components)} values ({names}), and got {len(inputs)}.")
        values: list[Any] = []
        for component, value in zip(components, inputs, strict=False):
            alone = copy.copy(block_fn)
            alone.inputs = [component]
            try:
                values += await super().preprocess_data(alone, [value], state, explicit_call)
                if isinstance(component, gr.Dataset) and values[-1] is None:
                    raise ValueError("no example")  # Gradio's own function would fail
            except Exception as error:  # of many components, each with its own
                raise refusal(f"{_name(component)} cannot be {_short(value)}.") from error
        return values

    async def call_function(self, block_fn: Any, processed_input: list[Any], *more: Any, **options: Any) -> Any:
        """Call a function, or its next step. A ValueError reaches the client as its sentence."""
        with in_a_sentence():
            return await super().call_function(block_fn, processed_input, *more, **options)


def _name(component: Any) -> str:
    """What people, or programs, call it."""
    return str(getattr(component, "label", None) or getattr(component, "name", "a value"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
