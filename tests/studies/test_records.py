"""Records: each study says all about itself, and a new one needs nothing else to be found everywhere."""

import ast
import inspect
import json
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

import rcdm
from rcdm import cli, studies
from rcdm.cli import report_sections
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.measures.attributes import Attributes
from rcdm.studies import STUDIES, Entry, Option, Study, StudyResult, unrun
from rcdm.studies.declared import Declared
from rcdm.studies.record import COMMON, DATA
from rcdm.ui.api import study_of
from rcdm.ui.controls import Asked
from rcdm.ui.loaded import Loaded

BOTH = ("tiny/backbone", "tiny/projector")
SETTINGS = {"checkpoint": "tiny", "images": {"n": 8}, "seeds": [0, 1], "steps": 1, "options": {}, "data": {}}
WITH_CHOICES = [(study.name, option) for study in STUDIES.values() for option in study.options if option.choices]
COLOUR = Attributes(lambda x: {"red": x[:, :1].mean((2, 3)), "blue": x[:, 2:].mean((2, 3))}, {})
QUICK = {
    "retention": {"attributes": COLOUR},
    "information": {"levels": 2},
    "invariance": {"only": "hue, flip"},
    "interpolation": {"points": 3},
    "manipulation": {"points": 2, "directions": 2},
    "adversarial": {"steps": 1},
    "levels": {"drawn_images": 2, "noise_levels": 2},
    "width": {"drawn_images": 2, "noise_levels": 2},
}
"""Settings with which a study is short."""


def world(n: int, seed: int = 4) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=seed), 16)


def short(pipe: rcdm.RCDMPipeline, name: str, sources=BOTH, **changes) -> StudyResult:
    """A study of as few images as it needs."""
    study = STUDIES[name]
    more = {"reference": world(30, seed=1)} if "reference" in study.parameters else {}
    more |= {"probe_images": world(30, seed=1)} if "probe_images" in study.parameters else {}
    options = {"sources": sources, "seeds": [0, 1], "num_inference_steps": 1}
    return study(pipe, world(study.most or max(study.fewest, 2)), **options, **more, **QUICK.get(name, {}), **changes)


@pytest.mark.parametrize("name", list(STUDIES))
def test_the_options_of_a_record_are_those_of_its_function(name):
    study = STUDIES[name]
    assert study.name == name and study.question.strip().endswith(("?", "."))
    own = [key for key in inspect.signature(study.run).parameters if key not in (*COMMON, *DATA)]
    assert [option.name for option in study.options] == [key for key in own if key not in study.objects]
    assert set(study.objects) <= set(own) and inspect.signature(study) == inspect.signature(study.run)
    for option in study.options:
        default = study.defaults[option.name]
        assert option.meaning and "\n" not in option.meaning and option.meaning[-1] not in ".!"
        assert bool(option.kind) is (default is None) and (option.kind or isinstance(default, int | float | str))
        assert not option.choices or default in option.choices


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_declaration_that_was_read_from_a_file_is_that_of_the_record(name):
    read, record = unrun.declarations()[name], STUDIES[name]
    for part in fields(Declared):
        if part.name not in ("run", "report"):
            assert getattr(read, part.name) == getattr(record, part.name), part.name
    assert read.in_words() == record.in_words() and read.defaults == record.defaults
    assert list(read.parameters) == list(record.parameters)
    for name, entry in record.entries.items():
        assert replace(entry, only=None) == replace(read.entries[name], only=None)


MINE = '''"""What is asked?"""
import nowhere
from nowhere import Study, turn
raise SystemExit
WAYS = {"a": turn, "b": None}
START: float = 0.5
@turn.quickly
def study(pipe, images, *, sources, way: turn.Way = "a", start=START):
    1 / 0
OPTIONS = (Option("way", "which", choices=tuple(WAYS)), Option("start", f"of {len(WAYS)}"))
STUDY = Study("mine", __doc__, study, options=OPTIONS, captions=turn(7), draws=False)
'''


def test_a_declaration_is_read_without_running_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    words = ["mine: What is asked? (usually 4 images, 2 samples; draws nothing)", "  way=a: which (a, b)"]
    words += ["  start=0.5: of 2"]
    assert unrun.declaration(file).in_words() == "\n".join(words)


@pytest.mark.parametrize("options", [(), ("pace", "depth"), ("place",)])
def test_a_record_that_differs_from_its_function_is_refused(options):
    def run(pipe, images, *, sources, seeds, reference=None, pace=1):
        return StudyResult()

    with pytest.raises(ValueError, match=r"novel and its function differ in .*p"):
        Study("novel", "What?", run, options=tuple(Option(name, "what it is") for name in options))
    assert Study("novel", "What?", run, options=(Option("pace", "how fast"),)).defaults == {"pace": 1}
    with pytest.raises(ValueError, match="how pace is read"):
        Study("novel", "What?", lambda pipe, images, *, pace=None: run, options=(Option("pace", "how fast"),))


@pytest.mark.parametrize(("name", "option"), WITH_CHOICES)
def test_every_choice_is_taken_and_another_refused(pipe, name, option):
    study, default = STUDIES[name], STUDIES[name].defaults[option.name]
    for choice in option.choices:
        assert option.read(choice, default, pipe) == choice == study.accept({option.name: choice})[option.name]
        result = short(pipe, name, sources=["tiny/layer2"], **{option.name: choice})
        assert choice in result.numbers.values()
    for refuses in (
        lambda: option.read("magic", default, pipe),
        lambda: study.accept({option.name: "magic"}),
        lambda: short(pipe, name, **{option.name: "magic"}),
    ):
        with pytest.raises(ValueError, match=f"no {option.name} 'magic'; choose one of {', '.join(option.choices)}"):
            refuses()


@pytest.mark.parametrize(
    ("default", "text", "value", "wrong"),
    [(3, "4", 4, "x"), (0.5, "2", 2.0, "x"), ("a", "b", "b", None), (False, "true", True, "yes")],
)
def test_an_option_is_read_in_the_type_of_its_default(pipe, default, text, value, wrong):
    option = Option("pace", "how fast")
    read = option.read(text, default, pipe)
    assert read == value == option.accept(value, default) and type(read) is type(default)
    if wrong is not None:
        with pytest.raises(ValueError, match=f"pace takes a value like {default}, not '{wrong}'"):
            option.read(wrong, default, pipe)
    for other in ({}, None, float("nan"), "x" if default != "a" else 7):
        with pytest.raises(ValueError, match="pace takes a value like"):
            option.accept(other, default)


def test_a_path_is_read_from_text_alone(pipe, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    target, other = STUDIES["manipulation"].option("target"), STUDIES["out_of_distribution"].option("others")
    assert target.read(str(tmp_path / "red.png"), None, pipe).getpixel((3, 3)) == (255, 0, 0)
    assert other.read("sprites", None, pipe).shape == (64, 3, 16, 16)
    for option in (target, other, STUDIES["spectrum"].option("networks")):
        with pytest.raises(ValueError, match=f"{option.name} names a {option.kind}"):
            option.accept("/etc/passwd", None)


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_figure_has_a_caption_of_its_own(pipe, name):
    study = STUDIES[name]
    bare = replace(study, captions={}, captions_by_method={})
    for method in ("principal", "neighbours") if name == "manipulation" else ("",):
        more = {"method": method, "sources": ["tiny/layer2"]} if method else {}
        drawn = study.figures_of(short(pipe, name, **more), pipe.sources)
        settings = {**SETTINGS, "options": {"method": method}}
        captions, none = (one.captions_of(drawn, settings) for one in (study, bare))
        assert "" in drawn and [key for key in drawn if captions[key] == none[key]] == []


@pytest.mark.parametrize("name", list(STUDIES))
def test_captions_say_the_guidance_of_what_was_drawn(name):
    """Information and spectrum draw nothing, and guidance draws with each in turn."""
    settings = {**SETTINGS, "options": {}, "sources": ["tiny/layer2"], "guidance": {"tiny/layer2": "guidance 3"}}
    (caption,) = STUDIES[name].captions_of([""], settings).values()
    assert ("guidance 3" in caption) == (name not in ("information", "spectrum", "guidance"))


# --- a study that is new ----------------------------------------------------------------------------------------------


def brightness(
    pipe, images, *, sources, seeds, pace="slow", turns=2, num_inference_steps=None, on_progress=lambda _: None
):
    """How bright are the draws?"""
    x = images if isinstance(images, torch.Tensor) else torch.cat([im.to_tensor(image, 16) for image in images])
    number = {"value": float(x.mean()), "low": -1.0, "high": 1.0, "n": len(x)}
    numbers = {"pace": pace, "turns": turns, "sources": {source: {"brightness": number} for source in sources}}
    return StudyResult(im.to_pil(x[:1]), ("image 0",), ("given",), numbers, f"{len(x)} images at a {pace} pace")


BRIGHTNESS = Study(
    "brightness",
    "How bright are the draws?",
    brightness,
    options=(Option("pace", "how fast it goes", choices=("slow", "fast")), Option("turns", "how often")),
    captions={"": "Mean brightness.", "images": "The first image."},
    images=3,
    samples=1,
    fewest=2,
    report={"brightness-slow": Entry(quick=(2, 1)), "brightness-fast": Entry({"pace": "fast"}, quick=(2, 1))},
)


@pytest.fixture
def novel(monkeypatch):
    monkeypatch.setitem(STUDIES, "brightness", BRIGHTNESS)
    monkeypatch.setattr("rcdm.cli.study.NAMES", (*STUDIES,))
    monkeypatch.setattr(unrun, "declarations", lambda: dict(STUDIES))


def test_a_new_study_is_on_the_command_line(novel, tiny_checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["study", "brightness", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "pace=slow: how fast it goes (slow, fast) turns=2: how often" in words and "usually 3 images" in words
    command = ["study", "brightness", "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path)]
    cli.main([*command, "--option", "pace=fast"])
    assert "3 images at a fast pace" in capsys.readouterr().out
    record = json.loads((tmp_path / "brightness.json").read_text())
    assert record["settings"]["options"] == {"pace": "fast", "turns": 2} and record["settings"]["seeds"] == [0]
    assert record["figures"]["brightness.png"].startswith("Mean brightness. Bars and bands")
    assert {file.name for file in tmp_path.iterdir()} >= {"brightness.png", "brightness.pdf", "brightness-images.png"}
    with pytest.raises(SystemExit):
        cli.main([*command, "--option", "pace=late"])
    assert "no pace 'late'; choose one of slow, fast" in capsys.readouterr().err


def test_a_new_study_is_in_the_report(novel, tiny_checkpoint, tmp_path):
    assert list(report_sections.entries())[-2:] == ["brightness-slow", "brightness-fast"]
    cli.main(["report", "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path), "--quick"]
             + ["--study", "brightness-fast"])  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "How bright are the draws?" in page and "2 images at a fast pace" in page


def test_a_new_study_is_on_the_page_of_programs(novel, tiny_checkpoint):
    loaded = Loaded("tiny", rcdm.load(tiny_checkpoint, device="cpu"), "sprites")
    wanted = Asked(loaded, Image.new("RGB", (16, 16)), BOTH, (0,), 1)
    with pytest.raises(ValueError, match=r"no study 'astrology'; choose one of samples, .*, brightness"):
        study_of("astrology", wanted, None, {})
    job = study_of("brightness", wanted, None, {"pace": "fast"})
    result = job.run(loaded, lambda _: None, lambda: None)
    assert result.summary == "4 images at a fast pace" and list(result.numbers["sources"]) == list(BOTH)


# --- rooms ------------------------------------------------------------------------------------------------------------


def imports_of(file: Path) -> set[str]:
    """What a module imports: `rcdm.a.b` for both `from rcdm.a import b` and `from rcdm.a.b import c`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_figures_know_no_study_and_no_study_another():
    for file in (Path(rcdm.__file__).parent / "figures").glob("*.py"):
        assert not [name for name in imports_of(file) if name.startswith(("rcdm.studies", "rcdm.ui", "rcdm.cli"))], file
    modules = {f"rcdm.studies.{module}" for module in studies._MODULES.values()}
    for module in modules:
        assert not imports_of(Path(import_module(module).__file__)) & (modules - {module}), module
