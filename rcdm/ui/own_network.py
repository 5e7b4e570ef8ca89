"""A visitor's own network on the page: a checkpoint file, and a prior that is guided by it (`rcdm.guided`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from rcdm.diffusion.guided import GuidedPipeline, guided
from rcdm.networks.reading import Reading
from rcdm.networks.resolve import sources_of
from rcdm.ui.controls import Controls, caution_html, wire
from rcdm.ui.drawing import Progress, Show
from rcdm.ui.engine import Engine
from rcdm.ui.examples import default_sources
from rcdm.ui.guard import received_file
from rcdm.ui.loaded import Loaded
from rcdm.ui.sheet import status_html
from rcdm.ui.watching import Check

ENDINGS = [".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar"]
WORDS = """A checkpoint file of your network (a state dict, lightly, solo-learn, timm, DINO …; no code in it is run).
No decoder is trained: the chosen checkpoint is **guided** by your network, which takes a minute here and seconds to
minutes for each draw. What varies may be in your representation all the same: `docs/guided.md` says how far to
believe it."""


@dataclass(frozen=True)
class Brought:
    """A checkpoint guided by the network in a file -> GuidedPipeline.

    Args:
        file: the upload, checked. kind: a name of timm, where the file does not say what it is; or "".
        image_size: side of the images that it is fed; 0 where the file says so, or its kind does.
    """

    file: Path
    kind: str
    image_size: int

    def calls(self) -> int:
        return 20_000  # the prior's own draws and the trials, forwards and backwards

    def words(self, prior: str, learnt_from: int) -> tuple[str, ...]:
        """Of a command line, that do the same with the user's own copy of the file, and as many images of the prior."""
        own = f"{self.kind}={self.file.name}" if self.kind else self.file.name
        size = ("--image-size", str(self.image_size)) if self.image_size else ()
        return ("--prior", prior, "--backbone", own, *size, "--prior-images", str(learnt_from))

    def run(self, loaded: Loaded, show: Show, check: Check) -> GuidedPipeline:
        def tell(words: str) -> None:
            check()
            show(Progress(words))

        tell("reading the file")
        text = f"{self.kind}={self.file}" if self.kind else str(self.file)
        try:
            sources = sources_of(text, reading=Reading(image_size=self.image_size or None))
        except ValueError as error:  # where it lies here is nobody's business
            raise ValueError(str(error).replace(str(self.file), self.file.name)) from None
        return guided(
            loaded.name,
            sources,
            device=loaded.pipe.device,
            mixed_precision=loaded.pipe.unet.mixed_precision,
            on_progress=tell,
        )


def build(engine: Engine, controls: Controls) -> None:
    """Lay out and wire the place for a file, where this server takes any."""
    if not engine.settings.network_bytes:
        return
    with gr.Accordion("Your own network", open=False, elem_classes="more"):
        gr.Markdown(WORDS)
        file = gr.File(label="Checkpoint file", file_types=ENDINGS, type="filepath", height=90, elem_id="network")
        kind = gr.Textbox(label="Its name in timm, where the file does not say (resnet50)", max_length=60, max_lines=1)
        size = gr.Number(0, label="Pixels that it is fed; 0: as usual", minimum=0, maximum=512, precision=0)
        with gr.Row(elem_classes="actions"):
            start = gr.Button("Guide by it", size="md", min_width=120, elem_id="network-start")
            stop = gr.Button("Stop", size="md", min_width=80)
        status = gr.HTML(elem_classes="told")

    idle = [gr.skip()] * 4  # nothing new of the other outputs

    def bring(request: gr.Request, prior: str, file: str | None, kind: str, size: float | None) -> Iterator[Any]:
        yield status_html("Working …", 0), *idle
        if file is None:
            raise ValueError("Give a checkpoint file first.")
        if isinstance(engine[prior].pipe, GuidedPipeline):
            raise ValueError("This is guided already: choose the checkpoint that is to be guided.")
        place = received_file(file, engine.settings.network_bytes)
        job = Brought(place, _kind(kind), int(size or 0))
        for item in engine.work(prior, job, request):
            if isinstance(item, Progress):
                yield status_html(f"Working: {item.words} …"), *idle
            elif isinstance(item, tuple):
                learnt_from = max(reached.images for reached in item[0].guidance.values())
                words = job.words(prior, learnt_from)
                name = engine.shelf.bring(f"{place.name}, guiding {prior}", item[0], words)
                names = item[0].sources.names
                said = "; ".join(f"{source}: {reached.in_words()}" for source, reached in item[0].guidance.items())
                yield (
                    status_html(f"{said}. Now draw."), gr.update(choices=[*engine.shelf.names, name], value=name),
                    gr.update(choices=list(names), value=default_sources(names)), item[0].config.default_steps,
                    caution_html(engine[name]),
                )  # fmt: skip
            else:
                yield gr.skip()

    wire(start.click, stop, bring, [controls.checkpoint, file, kind, size],
         [status, controls.checkpoint, controls.sources, controls.steps, controls.caution], status)  # fmt: skip


def _kind(text: str) -> str:
    """A name of timm. Raises ValueError for what can be none."""
    if not all(c.isalnum() or c in "_.-" for c in text.strip()):
        raise ValueError("The name in timm has letters, digits, dots and underscores alone.")
    return text.strip()
