"""A study with its files: NAME.json, its figures, and the finished parts that survive an interruption."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import rcdm
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.diffusion.guided import GuidedPipeline, as_json
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.figures.result import StudyResult
from rcdm.figures.style import save
from rcdm.measures.metrics import finite
from rcdm.measures.parts import Parts, digest, guidance_inputs, keeping, part, weights_digest
from rcdm.measures.processes import agreed, first, several, sharing
from rcdm.studies import STUDIES
from rcdm.training.run_folder import alone_in


@dataclass(frozen=True)
class StudyRun:
    """A study and everything that its outcome depends on besides the checkpoint.

    Args:
        study: its name in STUDIES. name: stem of its files.
        images: N PIL images or [N,3,S,S] in [-1,1]. names: of the images.
        sources, seeds, steps: as the study takes them; steps None are the checkpoint's own.
        options: settings of the study. extras: data that it asks for, such as `reference`.
        checkpoint: name of the checkpoint. command: the command line that does the same.
    """

    study: str
    images: Tensor | Sequence[Image.Image]
    names: Sequence[str]
    sources: Sequence[str]
    seeds: Sequence[int]
    checkpoint: str
    command: str
    name: str
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


Record = dict[str, Any]
"""What NAME.json holds: `study`, `command`, `settings`, `versions`, `summary`, `figures` (PNG file -> caption), and the
numbers of the study."""


def run_study(
    pipe: RCDMPipeline, run: StudyRun, out: Path, *, on_progress: Callable[[str], None] = lambda _: None
) -> Record:
    """Run a study and write OUT/NAME.json and its figures (PNG and PDF); what is there with these settings stays.

    Finished batches are kept in OUT/NAME.parts until the study is done, so that after an interruption the same call
    continues. Several processes share the work, and the first one writes. Raises ValueError for what the study refuses,
    for a study that cannot be shared, and while another run computes the same study there.
    """
    if several() and not STUDIES[run.study].shared:
        names = ", ".join(name for name, study in STUDIES.items() if study.shared)
        raise ValueError(f"{run.study} runs in one process; several can share {names}.")
    settings = _settings(pipe, run)
    with sharing(pipe):
        known = agreed(finished(out, run.name))
    if known is not None and known["settings"] == settings:
        on_progress(f"{run.name}: finished before with the same settings")
        return known
    if known is not None:
        other = [key for key in settings if settings[key] != known["settings"].get(key)]
        on_progress(f"{run.name}: replaces what was there, of other settings ({', '.join(other)})")
    parts = out / f"{run.name}.parts"
    with alone_in(parts):
        with sharing(pipe):
            result = _with_parts(pipe, run, parts, on_progress)
        before = (known or {}).get("figures", {})
        return _written(pipe, run, result, settings, out, before) if first() else dict(result.numbers)


def _written(
    pipe: RCDMPipeline,
    run: StudyRun,
    result: StudyResult,
    settings: dict[str, Any],
    out: Path,
    before: Collection[str],
) -> Record:
    """Write OUT/NAME.json and the figures, in place of those of `before`; the parts are not needed any more."""
    drawn = STUDIES[run.study].figures_of(result, pipe.sources)
    plain = result.numbers.get("unguided", ())  # networks that this study has drawn without guidance
    guided = {
        name: words for name, words in settings.get("guidance", {}).items() if name.rpartition("/")[0] not in plain
    }
    captions = STUDIES[run.study].captions_of(drawn, settings | {"guidance": guided})
    out.mkdir(parents=True, exist_ok=True)
    files = save(drawn, out / run.name)
    _forget(out, set(before) - {file.name for file in files})
    libraries = {name: version(name) for name in ("torch", "diffusers", "pillow", "matplotlib")}
    led = [one for one in (pipe, *run.options.values()) if isinstance(one, GuidedPipeline)]
    record = {
        "study": run.study,
        "command": run.command,
        "settings": settings,
        "versions": {"rcdm": rcdm.__version__, "python": platform.python_version(), **libraries},
        **({"guidance": as_json(led[0])} if led else {}),
        "summary": result.summary,
        "figures": {file.name: captions[key] for file, key in zip(files, drawn, strict=True)},
        **result.numbers,
    }
    partial = out / f"{run.name}.json.partial"
    partial.write_text(json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    partial.replace(out / f"{run.name}.json")
    Parts(out / f"{run.name}.parts").clear()
    return record


def finished(out: Path, name: str) -> Record | None:
    """What OUT/NAME.json holds, if it and all of its figures are there."""
    try:
        record = json.loads((out / f"{name}.json").read_text())
        files = [out / file for file in record["figures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(file.is_file() and file.with_suffix(".pdf").is_file() for file in files)
    return record if whole and isinstance(record.get("settings"), dict) else None


def _forget(out: Path, figures: Collection[str]) -> None:
    """Delete figures of an earlier run that are none of this one's."""
    for file in figures:
        (out / Path(file).name).unlink(missing_ok=True)
        (out / Path(file).with_suffix(".pdf").name).unlink(missing_ok=True)


def _with_parts(pipe: RCDMPipeline, run: StudyRun, folder: Path, on_progress: Callable[[str], None]) -> Any:
    """The result of the study; the pipeline keeps its finished batches in the folder and shows a progress bar."""
    parts = Parts(folder, identity_of(pipe))
    if (n := len(parts)) > 0:
        on_progress(f"{run.name}: continues with {n} finished parts")

    def announce(text: str) -> None:
        if not sys.stderr.isatty():  # no bar there
            on_progress(f"{run.name}: {text}")
        bar["desc"] = f"{run.name}, {text}"
        pipe.set_progress_bar_config(**bar)

    before = getattr(pipe, "_progress_bar_config", {})
    bar: dict[str, Any] = {"disable": None if first() else True, "leave": False, "unit": "step", "desc": run.name}
    pipe.set_progress_bar_config(**bar)
    try:
        with keeping(parts), kept_draws(pipe), ExitStack() as beside:
            for other in run.options.values():
                if isinstance(other, RCDMPipeline):
                    beside.enter_context(kept_draws(other, identity_of(other)))
            return STUDIES[run.study](
                pipe,
                run.images,
                sources=run.sources,
                seeds=run.seeds,
                num_inference_steps=run.steps,
                on_progress=announce,
                **run.extras,
                **run.options,
            )
    finally:
        pipe.set_progress_bar_config(**before)


@contextmanager
def kept_draws(pipe: RCDMPipeline, whose: str = "") -> Iterator[None]:
    """Inside, every batch that the pipeline draws is a part, kept in float16; `whose` tells a second pipeline apart."""
    draw_batch = pipe.draw_batch

    def kept(seeds: Any, h: Any, source: Any, steps: int, guidance: Sequence[Guidance], report: Any) -> Tensor:
        inputs = {"h": h, "source": source, "seeds": seeds, "steps": steps, **guidance_inputs(pipe, guidance)}
        inputs |= {"whose": whose} if whose else {}
        drawn = part("draws", inputs, lambda: draw_batch(seeds, h, source, steps, guidance, report).half())
        return drawn.to(pipe.device).float()

    pipe.draw_batch = kept  # type: ignore[method-assign]
    try:
        yield
    finally:
        del pipe.draw_batch


def identity_of(pipe: RCDMPipeline) -> str:
    """What every draw of a pipeline depends on: its weights and its sampler."""
    return f"{weights_digest(pipe.unet, pipe.sources)} {_sampler(pipe)}"


def _sampler(pipe: RCDMPipeline) -> str:
    words = f"{type(pipe.scheduler).__name__} {_config_digest(pipe.scheduler.config)}"
    return words if pipe.unet.mixed_precision == "no" else f"{words} {pipe.unet.mixed_precision}"


def _settings(pipe: RCDMPipeline, run: StudyRun) -> dict[str, Any]:
    """Everything that the numbers depend on, JSON-ready."""
    study = STUDIES[run.study]
    defaults = {
        name: p.default
        for name, p in study.parameters.items()
        if isinstance(p.default, bool | int | float | str) and name not in run.extras
    }
    options = {name: _plain(value) for name, value in {**defaults, **run.options}.items()}
    return {
        "checkpoint": run.checkpoint,
        "weights": weights_digest(pipe.unet, pipe.sources),
        "scheduler": _sampler(pipe),
        "sources": list(run.sources),
        "images": {"n": len(run.images), "sha256": _digest(run.images), "names": list(run.names)},
        "seeds": list(run.seeds),
        "full_resolution": pipe.config.full_resolution,
        "guidance": {name: word for name, word in pipe.guided_sources.items() if name in run.sources},
        "guided_by": digest(guidance_inputs(pipe, [pipe.guidance_of(name) for name in run.sources]))[:12],
        "steps": run.steps or pipe.config.default_steps if study.draws else None,
        "options": options,
        "data": {name: {"n": len(value), "sha256": _digest(value)} for name, value in run.extras.items()},
    }


def _plain(value: Any) -> Any:
    """A setting as JSON: weights and images by their digests."""
    if isinstance(value, GuidedPipeline):
        about = as_json(value)
        return f"{about['prior']} ({about['method']}) {digest({'whole': identity_of(value)})[:12]}"
    if isinstance(value, nn.Module):
        return {"weights": weights_digest(value)}
    if isinstance(value, Tensor):
        return {"n": len(value), "sha256": _digest(value)}
    return {"sha256": _digest([value])} if isinstance(value, Image.Image) else value


def _config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the settings of a scheduler; what begins with _ differs between runs."""
    return digest({name: config[name] for name in sorted(config) if not name.startswith("_")})


def _digest(images: Any) -> str:
    if isinstance(images, Tensor):
        return digest({"images": images})
    return digest({str(i): torch.from_numpy(np.array(image)) for i, image in enumerate(images)})
