"""What `rcdm report` does: a section per study, and one for the networks of a checkpoint."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rcdm
from rcdm.cli.guiding import checkpoint_of
from rcdm.cli.options import announce, chosen_sources
from rcdm.cli.study_runs import study_run
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.places import checkpoint_folder
from rcdm.figures.network_levels import levels_figure, levels_table
from rcdm.figures.report_page import Section, page_html
from rcdm.figures.style import save
from rcdm.studies import STUDIES, Entry, Study
from rcdm.studies.study_files import run_study

log = logging.getLogger(__name__)


QUICK_REFERENCE = 300


def entries() -> dict[str, tuple[Study, Entry]]:
    """Name of its files -> what is run."""
    return {name: (study, entry) for study in STUDIES.values() for name, entry in study.entries.items()}


def write_report(options: argparse.Namespace) -> None:
    """Run what the options of `rcdm report` ask for, and write the page after each section."""
    folder = checkpoint_folder(options.checkpoint)
    draws = folder is None or (folder / "model_index.json").is_file()
    sections = list(_networks(options, folder)) if folder is not None else []
    if not draws and not sections:
        raise ValueError(
            f"The networks of {options.checkpoint} have not been measured level by level: `rcdm pretrain` does so at "
            "its end, and `rcdm evaluate FOLDER --data DATA` does for a folder that holds sources/ alone."
        )
    pipe = checkpoint_of(options, options.checkpoint) if draws else None
    about = _about(options, pipe)
    for section in _studies(options, pipe) if pipe is not None else ():
        sections.append(section)
        _write(options, about, sections)  # so that what is finished can be looked at
    print(_write(options, about, sections))
    if failed := [section.title for section in sections if section.failure]:
        print(f"Not answered: {', '.join(failed)}; the page says why.")


def _studies(options: argparse.Namespace, pipe: RCDMPipeline) -> Iterator[Section]:
    """A section per study, with a sentence in place of figures where it failed."""
    known = entries()
    chosen_sources(pipe, options.source)  # a wrong name is no matter of a single study
    names = options.study or list(known)
    for i, name in enumerate(names):
        announce(f"study {i + 1} of {len(names)}: {name}")
        yield _section(options, pipe, name, *known[name])


def _section(options: argparse.Namespace, pipe: RCDMPipeline, name: str, study: Study, entry: Entry) -> Section:
    title = name.replace("-", " by ", 1).replace("_", " ")
    settings = {**entry.settings, **(entry.quick_settings if options.quick else {})}
    asked = argparse.Namespace(**vars(options))
    if options.quick:
        asked.samples = entry.quick[1] if options.samples is None else options.samples
        asked.reference = min(options.reference, QUICK_REFERENCE)
    try:
        chosen = [source for source in chosen_sources(pipe, options.source) if entry.only(source)]
        if not chosen:
            raise ValueError("No source that it can be asked of was chosen.")
        asked.source = [] if chosen == list(pipe.sources) else chosen
        usual = entry.quick[0] if options.quick else None
        texts = [f"{key}={value}" for key, value in settings.items()]
        run = study_run(pipe, asked, study.name, settings=settings, option_texts=texts, name=name, usual=usual)
        record = run_study(pipe, run, options.out, on_progress=announce)
    except Exception as error:  # one study must not end the others
        announce(f"{name} failed: {error}")
        if not isinstance(error, ValueError):
            log.warning("%s failed", name, exc_info=error)
        return Section(title, study.question, failure=str(error) or type(error).__name__)
    figures = [(options.out / file, caption) for file, caption in record["figures"].items()]
    return Section(title, study.question, figures, record["summary"], record["command"], f"{name}.json")


def _about(options: argparse.Namespace, pipe: RCDMPipeline | None) -> list[str]:
    """The lines below the title of the page."""
    lines = [f"Checkpoint {options.checkpoint}, rcdm {rcdm.__version__}."]
    if pipe is not None:
        lines.append(f"Sources: {', '.join(chosen_sources(pipe, options.source))}.")
        lines += [pipe.caution] if pipe.caution else []
    if options.quick:
        lines.append("Made with --quick: few images, wide intervals. Without it the numbers are worth quoting.")
    return lines


def _write(options: argparse.Namespace, about: list[str], sections: list[Section]) -> Path:
    options.out.mkdir(parents=True, exist_ok=True)
    page = options.out / "report.html"
    partial = page.with_suffix(".partial")
    partial.write_text(page_html(f"What {Path(options.checkpoint).name} keeps", about, sections))
    partial.replace(page)
    return page


def _networks(options: argparse.Namespace, folder: Path) -> Iterator[Section]:
    """What the networks hold at each level, where their pretraining has measured it: networks.md, .png and .pdf."""
    if not (metrics := _metrics_below(folder / "sources")):
        return
    sweep = _by_strength(options.sweep) if options.sweep else None
    options.out.mkdir(parents=True, exist_ok=True)
    table = levels_table(metrics)
    (options.out / "networks.md").write_text(table + "\n")
    files = save({"": levels_figure(metrics, sweep)}, options.out / "networks")
    print(table)
    caption = "Linear probe along the levels, with 95 % intervals; " + table.partition("\n")[0]
    if sweep:
        caption += " Beside: effective rank of SimCLR against the strength of its views."
    yield Section("networks", "What do the networks hold at each level, by the probes of their pretraining?",
                  [(file, caption) for file in files], table)  # fmt: skip


def _metrics_below(folder: Path) -> dict[str, Any]:
    """Name -> metrics.json of the source folders below a folder that were measured at every level."""
    by_network = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))}
    return {name: metrics for name, metrics in by_network.items() if "levels" in metrics}


def _by_strength(folder: Path) -> dict[float, Any]:
    """Strength of the views, as a share of the strongest in the folder -> metrics.json."""
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in _metrics_below(folder)}
    crops = {name: config["training"]["views"]["crop"] for name, config in configs.items()}
    if len(set(crops.values())) < 2:
        raise ValueError(f"{folder} holds no sweep: pretrain with --strength 0, 0.25, 0.5 and 1 and different --name.")
    return {crops[name] / max(crops.values()): metrics for name, metrics in _metrics_below(folder).items()}
