"""The model card of a checkpoint, and its numbers as tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from rcdm.diffusion.checked_folder import read_metrics
from rcdm.diffusion.guidance_settings import Guidance
from rcdm.networks.checked_files import read_object

BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
"""Between these lines of a card stand the tables of metrics.json; the rest is its author's."""

_BESIDE = (
    "README.md",
    "metrics.json",
    "training.json",
    "directions.safetensors",
    "drawing.json",
    "example.png",
    "reader",
)
_MEASURED = ("metrics.json", "directions.safetensors", "drawing.json", "example.png")
_PROBES = {"ridge": "ridge", "probe": "small network"}
_TEMPLATE = Path(__file__).parent / "templates" / "checkpoint.md"


def complete_folder(
    folder: Path, origin: Path | None, *, name: str, size: int, parameters: int, about: Mapping[str, Any]
) -> None:
    """Give a saved pipeline what lies beside its weights: that of the folder it was loaded from, or a new card.

    `about` says: `sources` (their names), `networks` (name -> config.json), `data`, `has_unconditional`. A card that is
    there already stays; its tables follow metrics.json. No file says where on this machine it was loaded from.
    """
    for config in (folder / "model_index.json", *folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json")):
        _forget_place(config)
    for file in (origin / beside for beside in _BESIDE if origin is not None and origin.resolve() != folder.resolve()):
        if file.is_dir():
            shutil.copytree(file, folder / file.name, dirs_exist_ok=True)
        elif file.is_file():
            shutil.copyfile(file, folder / file.name)
    card = folder / "README.md"
    if not card.is_file():
        _new_card(name, size, parameters, about, folder / "training.json").save(card)
    if metrics := read_metrics(folder):
        card.write_text(_with_tables(card.read_text(), metrics))


def set_aside(folder: Path) -> list[str]:
    """Rename what was measured of other weights in a folder, and drawn with them; returns the new names.

    The tables of its card go, too.
    """
    before = [folder / name for name in _MEASURED if (folder / name).is_file()]
    after = [file.rename(file.with_name(f"{file.stem}.before{file.suffix}")).name for file in before]
    card = folder / "README.md"
    if after and card.is_file():
        card.write_text(_between(card.read_text(), "Nothing has been measured yet: `rcdm evaluate` does."))
    return after


def _forget_place(config: Path) -> None:
    content = read_object(config)
    if content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2) + "\n")


def _new_card(name: str, size: int, parameters: int, about: Mapping[str, Any], training: Path) -> ModelCard:
    data, networks = about["data"], about["networks"]
    return ModelCard.from_template(
        ModelCardData(
            license=_licence({str(config.get("licence", "")) for config in networks.values()}, data),
            library_name="diffusers",
            pipeline_tag="image-to-image",
            tags=["rcdm", "self-supervised-learning", "interpretability"],
        ),
        template_path=str(_TEMPLATE),
        name=name,
        size=size,
        parameters=parameters / 1e6,
        data=data,
        begun=_begun(training),
        has_unconditional=about["has_unconditional"],
        source=about["sources"][0],
        networks=[_network(network, config, about["sources"]) for network, config in networks.items()],
        begin=BEGIN,
        end=END,
    )


def _begun(training: Path) -> str:
    """Where its training is written down, and whose weights it began from."""
    if not training.is_file():
        return ""
    known = read_object(training).get("config", {}).get("pretrained_model_name_or_path")
    first = f" It began from the weights of `{Path(known).name}`." if known else ""
    return f"{first} Settings and history of its training are in `training.json`."


def _network(name: str, config: Mapping[str, Any], sources: tuple[str, ...]) -> dict[str, Any]:
    """A row of the table of networks, and how its file was read."""
    return {
        "name": name,
        "levels": ", ".join(source.partition("/")[2] for source in sources if source.partition("/")[0] == name),
        "architecture": config.get("architecture", ""),
        "data": config.get("training", {}).get("data", "see the paper" if "published" in config else "unknown"),
        "licence": config.get("licence", ""),
        "paper": config.get("published", {}).get("paper", ""),
        "file": config.get("file", {}).get("name", ""),
        "reading": config.get("reading", {}).get("lines", []),
        "options": config.get("reading", {}).get("options", ""),
    }


def _licence(of_networks: set[str], data: str) -> str:
    """The identifier that the hub knows; `other` unless it is plain."""
    if any(licence.upper().replace(" ", "-").startswith("CC-BY-NC") for licence in of_networks):
        return "cc-by-nc-4.0"
    return "mit" if of_networks == {"MIT"} and data == "sprites" else "other"


def _with_tables(card: str, metrics: Mapping[str, Any]) -> str:
    """The card with the tables of these metrics between its two lines, where it has them."""
    try:
        tables = markdown_tables(dict(metrics))
    except (KeyError, StopIteration, TypeError):  # measured in part, or by another program
        tables = "The numbers are in `metrics.json`."
    return _between(card, tables)


def _between(card: str, text: str) -> str:
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{text}\n{end}{after}" if begin and end else card


def _led_and_plain(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a table: a source that is guided says how, and stands there without guidance, too."""
    rows: dict[str, Any] = {}
    for name, own in sources.items():
        words = Guidance(own.get("guidance_scale", 1), own.get("guidance_strength", 0)).in_words()
        rows[f"{name}, {words}" if words else name] = own
        if "unguided" in own:
            rows[f"{name}, not guided"] = {**own, **own["unguided"]}
    return rows


def markdown_tables(metrics: dict[str, Any]) -> str:
    """metrics.json as two Markdown tables: source x faithfulness, and source x attribute."""
    sources = metrics["sources"]
    half = "; drawn in bfloat16" if metrics.get("mixed_precision", "no") != "no" else ""
    lines = [
        f"Gallery of {metrics['n']} held-out images, one draw each; retention on {metrics['retention_images']} images "
        f"x {metrics['retention_draws']} draws; {metrics['num_inference_steps']} steps; probes learnt on "
        f"{metrics['probe_images']} training images{half}.",
        "",
        "| source | cycle error (95 %) | shuffled | shifted 1 px | MRR (95 %) | R@1 | chance MRR |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in _led_and_plain(sources).items():
        lines.append(
            f"| {name} | {_interval(m['cycle_error'])} | {m['cycle_error_shuffled']['value']:.2f} "
            f"| {m['cycle_error_shifted']['value']:.3f} | {_interval(m['mrr'])} "
            f"| {m['recall_at_1']['value']:.2f} | {m['mrr']['null']:.4f} |"
        )
    if "evaluator" in metrics:
        lines += _judged(metrics)
    attributes = list(next(iter(sources.values()))["retention"])
    lines += ["", "| source | " + " | ".join(attributes) + " |", "|---" * (len(attributes) + 1) + "|"]
    for name, m in _led_and_plain(sources).items():
        cells = []
        for attribute in attributes:
            r = m["retention"][attribute]
            cells.append(f"{r['value']:.2f} · {r['probe']:.2f} · {calibration_of(r)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    first = next(iter(sources.values()))["retention"]
    if all("null" in first[attribute] for attribute in attributes):  # else the denoiser cannot draw unconditionally
        null = [f"{first[attribute]['null']:.2f}" for attribute in attributes]
        lines.append("| *unconditional draws (null of retention)* | " + " | ".join(null) + " |")
    if "agreement" in metrics:
        correlations = "; ".join(f"{_PROBES[name]} {_interval(rho)}" for name, rho in metrics["agreement"].items())
        lines += [
            "",
            f"Spearman correlation of retention with a probe's R² over all sources and attributes: {correlations}.",
        ]
    return "\n".join(lines)


def _judged(metrics: Mapping[str, Any]) -> list[str]:
    """The table of what an outside judge says, with what stands before and behind it."""
    sources, free = metrics["sources"], metrics.get("unconditional")  # none of a denoiser that cannot draw them
    rows = sources if free is None else {**sources, "*unconditional draws*": free}
    first = next(iter(rows.values()))
    lines = [
        "",
        f"Judged by {metrics['evaluator']} (never a source): KID x 1000; copying, the distance of the draws to the "
        "nearest training image over that of held-out images (1: none); spread, the distance of two draws of an "
        "image over that of two images.",
        "",
    ]
    if among := first["copying"].get("among"):
        lines[-2] += f" Copies were looked for among {among} training images"
        lines[-2] += f" of {of}." if (of := first["copying"].get("of")) else "."
    fid = "fid" in first
    if fid:
        lines[-2] += " KID and FID compare only with those of the same judge and N."
    copied = "copied" in first
    columns = f"{' FID (N) |' * fid} copying (95 %) |{' copied (95 %; chance 0.01) |' * copied} spread (95 %) |"
    lines += [f"| source | KID (± deviation) |{columns}"]
    lines += [f"|---|---|{'---|' * (fid + copied)}---|---|"]
    for name, m in rows.items():
        cells = [f"{name} †" if m.get("sister") else name]
        cells += [f"{m['kid']['value']:.2f} ± {m['kid']['deviation']:.2f}"]
        cells += [f"{m['fid']['value']:.3f} ({m['fid']['n']})"] if fid else []
        cells += [_interval(m[name]) for name in ("copying", *["copied"] * copied, "spread_perceptual")]
        lines.append(f"| {' | '.join(cells)} |")
    if any(m.get("sister") for m in sources.values()):
        lines += [
            "",
            "† The judge is a sister of this source's network: of one family, trained on the same images. What the "
            "source keeps it sees best.",
        ]
    return lines


def calibration_of(number: Mapping[str, Any]) -> str:
    """Calibration of a retention in short: the ratio ρ or, above 0.9 where that is unstable, the difference form δ."""
    stable = number["value"] <= 0.9
    return f"ρ {number['calibration']:.2f}" if stable else f"δ {number['calibration_difference']:.2f}"


def _interval(number: dict[str, Any]) -> str:
    return f"{number['value']:.3f} ({number['low']:.3f}–{number['high']:.3f})"
