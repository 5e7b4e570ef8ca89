"""Tabs that change one picture step by step: their jobs, what is seen of them, and what can be taken away."""

import argparse
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.datastructures import QueryParams

import rcdm
from rcdm.data import images as im
from rcdm.data.transformations import TRANSFORMATIONS, in_views_of
from rcdm.measures.directions import spoken
from rcdm.studies.adversarial import STRENGTHS
from rcdm.studies.manipulation import moves
from rcdm.ui import attack, controls, drawing, edit, export, frames, mix, page, sheet, shipped, transform
from rcdm.ui.drawing import Columns
from rcdm.ui.engine import Engine
from rcdm.ui.examples import EXAMPLES, examples_of
from rcdm.ui.exploring import Bits, Study
from rcdm.ui.ladders import POINTS, Attacked, Edited, Ladders, Survey, Transformed, by_movement
from rcdm.ui.loaded import Loaded
from rcdm.ui.settings import Settings
from rcdm.ui.watching import checked, let_see

BOTH = ("tiny/backbone", "tiny/projector")
PICTURE = Image.linear_gradient("L").convert("RGB")
SEEDS = (3, 4)


@pytest.fixture
def loaded(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setattr("rcdm.ui.loaded.REFERENCES", 24)
    return Loaded(str(tiny_checkpoint), rcdm.load(tiny_checkpoint, device="cpu"), "sprites")


def _run(job: Any, loaded: Loaded) -> Any:
    return job.run(loaded, lambda _: None, lambda: None)


def _pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_transformation_that_does_nothing_moves_nothing(loaded: Loaded) -> None:
    found = _run(Transformed(PICTURE, "brightness", BOTH, SEEDS, 2), loaded)
    steps = 1 + len(TRANSFORMATIONS["brightness"].strengths)
    assert len(found.steps) == len(found.changed[""]) == steps and list(found.drawn) == list(BOTH)
    assert all(len(draws) == 2 for ladder in found.drawn.values() for draws in ladder)
    assert all(value > 0 for value in found.numbers["sources"][BOTH[0]]["alignment"])
    plain = loaded.pipe(im.to_tensor(PICTURE, 16), source=BOTH[0], seeds=SEEDS, num_inference_steps=2).images
    assert _pixels(found.drawn[BOTH[0]][0]) == _pixels(plain)  # several noises, those of the seeds
    still = _run(Transformed(Image.new("RGB", (16, 16)), "brightness", BOTH, SEEDS, 2), loaded)  # black stays black
    assert still.numbers["sources"][BOTH[0]]["alignment"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert _pixels(still.drawn[BOTH[1]][0]) == _pixels(still.drawn[BOTH[1]][-1])


def test_an_attack_moves_further_than_a_random_change_and_stays_within_its_strength(loaded: Loaded) -> None:
    found = _run(Attacked(PICTURE, BOTH[:1], SEEDS, 1, 10), loaded)
    numbers = found.numbers["sources"][BOTH[0]]
    assert [numbers["distance"][0], numbers["random"][0]] == pytest.approx([0, 0], abs=1e-9)
    assert numbers["distance"][-1] > 2 * numbers["random"][-1] > 0
    clean, *hostile = (im.to_tensor(picture, 16) for picture in found.changed[BOTH[0]])
    for strength, picture in zip(STRENGTHS[1:], hostile, strict=True):
        assert 0 < (picture - clean).abs().max() * 127.5 < strength + 1.1  # each rounded to a grey level


def test_a_push_moves_what_the_study_says_and_zero_is_the_image_itself(loaded: Loaded) -> None:
    survey = _run(Survey(PICTURE, BOTH, 3, "principal", 2.0), loaded)
    moving, still = by_movement(survey)
    assert set(moving) | set(still) == {way for ways in survey.values() for way in ways}
    most = [max(max(survey[source].get(way, {"": 0.0}).values()) for source in BOTH) for way in moving]
    assert most == sorted(most, reverse=True)
    found = _run(Edited(PICTURE, BOTH, SEEDS, 2, "principal", 2.0, "component 1"), loaded)
    h = loaded.pipe.encode([PICTURE], BOTH[0])
    plain = loaded.pipe(representation=h, source=BOTH[0], seeds=SEEDS, num_inference_steps=2).images
    assert _pixels(found.drawn[BOTH[0]][POINTS // 2]) == _pixels(plain) and len(found.steps) == POINTS
    way = loaded.ways[f"{BOTH[0]}|principal"]["component 1"]
    for step, push in ((0, -2.0), (1, -1.0), (-1, 2.0)):
        pushed = loaded.pipe(representation=h + push * way, source=BOTH[0], seeds=SEEDS, num_inference_steps=2).images
        for drawn, wanted in zip(found.drawn[BOTH[0]][step], pushed, strict=True):
            assert (
                im.to_tensor(drawn, 16) - im.to_tensor(wanted, 16)
            ).abs().max() <= 2.1 / 255  # a grey level, by rounding
    pushes = torch.linspace(-2, 2, POINTS)
    pixels = torch.stack([torch.cat([im.to_tensor(d, 16) for d in draws]) for draws in found.drawn[BOTH[0]]])
    again = moves(pixels[None, None], ["component 1"], pushes, loaded.attributes)["component 1"]
    assert found.numbers["sources"][BOTH[0]]["moves"] == pytest.approx(again, abs=0.05)  # of rounded pixels
    alone = _run(Edited(PICTURE, BOTH[1:], SEEDS, 2, "principal", 2.0, "component 1"), loaded)
    assert _pixels(alone.drawn[BOTH[1]][0]) == _pixels(found.drawn[BOTH[1]][0])
    with pytest.raises(ValueError, match="no direction 'up'"):
        _run(Edited(PICTURE, BOTH, SEEDS, 2, "principal", 2.0, "up"), loaded)


def test_directions_that_move_nothing_are_told_from_those_that_do() -> None:
    survey = {
        "a": {"up": {"hue": 0.2, "size": 0.01}, "down": {"hue": 0.01}},
        "b": {"up": {"hue": 0.0}, "on": {"x": 0.9}},
    }
    assert by_movement(survey) == (["on", "up"], ["down"])


def test_what_is_being_drawn_is_seen_by_its_own_thread_alone(loaded: Loaded, monkeypatch: Any) -> None:
    monkeypatch.setattr(drawing, "PREVIEW_SECONDS", 0.0)
    let_see(loaded.pipe)
    shown: list[drawing.Progress] = []
    Transformed(PICTURE, "flip", BOTH, SEEDS, 2).run(loaded, shown.append, lambda: None)
    assert shown[-1].share == 1 and [len(progress.pictures) for progress in shown if progress.pictures][-1] == 4
    count = len(shown)
    seen: list[Any] = []
    with checked(loaded.pipe, lambda: None, see=seen.append):
        pass
    loaded.pipe(im.to_tensor(PICTURE, 16), source=BOTH[0], seeds=[0], num_inference_steps=1)
    assert len(shown) == count and seen == []


def test_a_stop_ends_every_job_within_a_call(loaded: Loaded) -> None:
    for job in (Transformed(PICTURE, "hue", BOTH, SEEDS, 5), Attacked(PICTURE, BOTH, SEEDS, 5, 5),
                Survey(PICTURE, BOTH, 0, "principal", 1.0),
                Edited(PICTURE, BOTH, SEEDS, 5, "principal", 1.0, "component 0")):  # fmt: skip
        calls: list[int] = []

        def check(calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            job.run(loaded, lambda _: None, check)
        assert len(calls) == 2


def test_views_say_which_changes_they_contain() -> None:
    colour = {"crop": 0.0, "flip": 0.0, "jitter": 0.0, "hue": 0.2}
    assert in_views_of(colour, "hue") and not in_views_of(colour, "brightness") and not in_views_of(colour, "shift")
    assert in_views_of(None, "hue") is None and in_views_of({"grey": 0.2}, "saturation")
    assert [name for name in TRANSFORMATIONS if in_views_of({"crop": 1.0, "flip": 0.0}, name)] == ["shift", "zoom"]


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_a_ladder_has_one_slider_and_all_draws_of_every_step() -> None:
    drawn = {source: [[PICTURE] * 2] * 3 for source in BOTH}
    html = frames.frames_html(Ladders(("0", "1", "2"), drawn, {"": [PICTURE] * 3}, {}), SEEDS, what="Step", start=1,
                              curves={"a": [0, 1, 0.5]})  # fmt: skip
    assert html.count('type="range"') == 1 and 'max="2" value="1"' in html and "<polyline" in html
    assert html.count('class="frame on"') == 3 and html.count("#4") == 2
    assert html.count("<img") == (1 + 3) + 2 * (2 + 3 * 2)


def test_curves_reach_the_top_of_their_own_scale() -> None:
    svg = frames.curves_svg({"a": [0.0, 0.04, 0.08]}, ("0", "1", "2"))
    assert svg.count("<line") == 2 and ">0.08<" in svg  # and not flat below a mark at 1
    assert ">1<" in frames.curves_svg({"a": [0.0, 2.0]}, ("0", "1"))


def test_every_tab_shows_its_result(loaded: Loaded) -> None:
    changed = _run(Transformed(PICTURE, "hue", BOTH, SEEDS, 1), loaded)
    assert "The views of tiny are not known" in transform.shown(loaded, changed, SEEDS)
    loaded.views = lambda _: {"hue": 0.1}  # type: ignore[method-assign]
    assert "Hue was part of the views of tiny." in transform.shown(loaded, changed, SEEDS)
    everything = _run(Study("invariance", (PICTURE,), BOTH, (0,), 1, (("only", "hue,flip"),), companions=2), loaded)
    html = transform.all_shown(loaded, everything)
    assert html.count("<tr>") == 3 and html.count("•") == 2 and "3 images: yours and 2 more" in " ".join(html.split())
    path = _run(Study("interpolation", (PICTURE, PICTURE.rotate(90)), BOTH, SEEDS, 1, (("points", 3),)), loaded)
    html = mix.shown(path)
    assert 'max="2"' in html and html.count("<img") == 2 * (2 + 3 * 2)
    jumps = path.numbers["sources"][BOTH[0]]["jumps"]
    assert (
        ", ".join(f"{jump:.2f}" for jump in jumps) in html and "0.00 to 0.50" in html
    )  # and no point before the first
    survey = _run(Survey(PICTURE, BOTH, 3, "principal", 2.0), loaded)
    moving, still = by_movement(survey)
    html = edit.shown(
        _run(Edited(PICTURE, BOTH, SEEDS, 1, "principal", 2.0, moving[0]), loaded), SEEDS, survey, moving, still
    )
    assert html.count("<table>") == 2 and all(name in html for name in (*moving, *still))
    hostile = _run(Attacked(PICTURE, BOTH, SEEDS, 1, 2), loaded)
    assert "16 of 255" in attack.shown(hostile, SEEDS)
    names = [spoken(name) for name in ("shape 5", "ground_hue 1", "size", "place 1", "component 0")]
    assert names == ["shape: tee", "ground hue (sine)", "size", "place (y)", "component 0"]


# --- taking away ------------------------------------------------------------------------------------------------------

JOBS = {
    "Compare": Columns(PICTURE, BOTH, SEEDS, 1),
    "Transform": Transformed(PICTURE, "flip", BOTH, SEEDS, 1),
    "Mix": Study(
        "interpolation", (PICTURE, PICTURE.rotate(90)), BOTH, SEEDS, 1, (("path", "spherical"), ("points", 3))
    ),
    "Edit": Edited(PICTURE, BOTH, SEEDS, 1, "principal", 1.5, "component 0"),
    "Attack": Attacked(PICTURE, BOTH, SEEDS, 1, 2),
    "Sprite lab": Columns(PICTURE, BOTH, SEEDS, 1),
    "bits": Bits(PICTURE, BOTH),
}


def _made(name: str, loaded: Loaded, own: tuple[tuple[str, Any], ...] = ()) -> export.Result:
    tab = "Compare" if name == "bits" else name
    return export.Result(loaded.name, JOBS[name], PICTURE, _run(JOBS[name], loaded), "heart.png", tab, own, 8)


@pytest.mark.parametrize("name", list(JOBS))
def test_every_tab_can_be_taken_along(name: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _made(name, loaded)
    assert Image.open(io.BytesIO(export.as_png(result))).format == "PNG"
    assert export.as_pdf(result).startswith(b"%PDF")
    record = json.loads(export.as_json(result))
    assert (
        record["tab"] == result.tab
        and list(record["sources"]) == list(BOTH)
        and record["command"] == export.command_of(result)
    )
    command = export.command_of(result)
    if name == "Sprite lab":
        assert command == ""  # its picture is no file; its link carries the factors
        return
    from rcdm import cli
    from rcdm.cli import sample, study

    found: list[argparse.Namespace] = []
    monkeypatch.setattr(sample, "_sample", found.append)
    monkeypatch.setattr(study, "_study", found.append)
    cli.main(shlex.split(command)[1:])
    (options,) = found
    assert options.source == list(BOTH) and options.checkpoint == loaded.name
    for setting in getattr(options, "option", []):  # each is one that the study has, and can be read
        key, _, text = setting.partition("=")
        record_of = rcdm.studies.STUDIES[options.study]
        record_of.option(key).read(text, record_of.defaults[key], loaded.pipe)


def test_the_figure_of_a_drawing_has_its_pixels_similarities_and_bars(loaded: Loaded) -> None:
    result = _made("Compare", loaded)
    png = Image.open(io.BytesIO(export.as_png(result))).convert("RGB")
    times = round(240 / 16)
    first = result.columns[0].images[0].resize((16 * times,) * 2, Image.Resampling.NEAREST)
    pixels, wanted = np.asarray(png), np.asarray(first)
    places = np.argwhere((pixels[:200, : -first.width] == wanted[0, 0]).all(2))
    side = first.width
    assert sum(np.array_equal(pixels[y : y + side, x : x + side], wanted) for y, x in places) == 1
    figure = export.columns_figure(result.given, result.columns, result.seeds)
    words = {text.get_text() for axes in figure.axes for text in (axes.title, *axes.get_yticklabels())}
    assert f"#3  {result.columns[0].similarity[0]:.2f}" in words
    assert {name.replace("_", " ") for name in result.columns[0].kept} <= words


def test_the_command_of_a_path_names_its_second_image(loaded: Loaded) -> None:
    known, own = (_made("Mix", loaded, (("second", name), ("path", "linear"))) for name in ("arrow.png", ""))
    assert shlex.split(export.command_of(known))[3:5] == ["rcdm/examples/heart.png", "rcdm/examples/arrow.png"]
    assert shlex.split(export.command_of(own))[3:5] == ["rcdm/examples/heart.png", "OTHER"]
    assert "with the same seeds (in place of OTHER, another):" in sheet.take_html(own, "key")
    assert "OTHER" not in sheet.take_html(known, "key")


def test_a_link_opens_the_tab_with_its_own_settings(tiny_checkpoint: Path, loaded: Loaded) -> None:
    engine = Engine(Settings(checkpoint=str(tiny_checkpoint)), device="cpu")
    with gr.Blocks():
        shared = controls.build_controls(engine)
        transform.build(engine, shared)
        mix.build(engine, shared)
    query = QueryParams(export.link_of(_made("Transform", loaded, (("change", "zoom"), ("draws", 5))))[1:])
    own = shared.tabs["Transform"]
    assert query["tab"] == "Transform" and list(own) == ["change", "draws"] and query["images"] == "8"
    assert [page.own_from_query(own[key], query[key]) for key in own] == ["zoom", 5]
    second = page.own_from_query(shared.tabs["Mix"]["second"], "arrow.png")
    assert Path(second).name == "arrow.png"
    skip, known = gr.skip(), examples_of(loaded)
    assert page.own_from_query(shared.tabs["Mix"]["second"], "", known) == str(known[1])
    assert page.own_from_query(shared.tabs["Mix"]["second"], "arrow.png", known) == second
    assert page.own_from_query(own["draws"], "", known) == skip
    for key, text in (("change", "spin"), ("draws", "99"), ("draws", "nan"), ("draws", "x")):
        assert page.own_from_query(own[key], text) == skip
    for key, text in (("second", "../../etc/passwd"), ("path", "curly")):
        assert page.own_from_query(shared.tabs["Mix"][key], text) == skip


def test_directions_of_another_checkpoint_are_put_away(tiny_checkpoint: Path) -> None:
    """Of a network that was brought, too; those of a link come with its checkpoint, and stay."""
    engine = Engine(Settings(checkpoint=str(tiny_checkpoint)), device="cpu")
    with gr.Blocks() as built:
        shared = controls.build_controls(engine)
        edit.build(engine, shared)
    direction, checkpoint = shared.tabs["Edit"]["direction"], shared.checkpoint._id
    renew = {event: made.fn for made in built.fns.values() if made.outputs == [direction]
             for target, event in made.targets if target == checkpoint}  # fmt: skip
    assert set(renew) == {"input", "change"} and renew["input"]()["visible"] is False
    assert renew["change"](str(tiny_checkpoint)) == gr.skip()
    assert renew["change"]("mine.pth, guiding tiny #12345678") == renew["input"]()


def test_with_another_checkpoint_a_second_image_of_the_visitors_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: Loaded
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "digest").mkdir()
    own, known = tmp_path / "digest" / "mine.png", examples_of(loaded)
    PICTURE.save(own)
    for name in ("arrow.png", "cat.jpg"):
        copy = shutil.copy(EXAMPLES[name], tmp_path / "digest")
        assert mix.second_of(loaded, str(copy)) == str(known[1]) == mix.second_of(loaded, None)
    assert mix.second_of(loaded, str(own)) == gr.skip()


def test_only_examples_are_named_in_a_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    file = tmp_path / "digest" / "secret.png"
    file.parent.mkdir()
    PICTURE.save(file)
    assert controls.in_link(str(file)) == "" and controls.in_link(0.5) == "0.5" and controls.in_link("hue") == "hue"


# --- the drawing that a checkpoint carries ----------------------------------------------------------------------------


def test_a_shipped_drawing_comes_back_as_it_was_drawn(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, folder)
    loaded = Loaded("tiny", rcdm.load(folder, device="cpu"))
    assert shipped.shipped(loaded) is None
    file = shipped.draw(loaded, BOTH, folder, seed=2)
    result = shipped.shipped(loaded)
    assert result is not None and isinstance(result.job, Columns)
    again = _run(result.job, loaded)
    assert result.seeds == tuple(range(2, 10)) and result.sources == BOTH
    assert [_pixels(column.images) for column in result.columns] == [_pixels(column.images) for column in again]
    assert result.columns[1].kept == again[1].kept
    written = json.loads(file.read_text())
    for wrong in ({"weights": "0"}, {"example": "../secret.png"}, {"seed": -1}, {"columns": []}, {"more": 1},
                  {"columns": [{**written["columns"][0], "source": "no/such"}]},
                  {"columns": [{**written["columns"][0], "mean": "AAAA"}]},
                  {"columns": [{**written["columns"][0], "similarity": [1.0]}]}):  # fmt: skip
        file.write_text(json.dumps({**written, **wrong}))
        assert shipped.shipped(loaded) is None, wrong
    file.write_text("{")
    assert shipped.shipped(loaded) is None


@pytest.mark.parametrize("name", ["sprites-32", "cifar10-32"])
def test_the_shipped_checkpoints_carry_one_of_these_weights(name: str) -> None:
    result = shipped.shipped(Loaded(name, rcdm.load(name, device="cpu")))
    assert result is not None and {"simclr/backbone", "simclr/projector"} <= set(result.sources)


def test_a_drawing_says_what_its_decoder_can_draw(loaded: Loaded) -> None:
    assert loaded.abilities is None
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 32}
    measured = Loaded("tiny", loaded.pipe)
    measured.metrics = {
        "sources": {"a": {"retention": {"hue": {"value": 0.9, "probe": 0.9}, "shape": {"value": 0.1, "probe": 0.9}}}},
        "shares": {"image": number, "source": number, "seed": number, "seed_told": {**number, "null": 0.25}},
    }
    assert measured.abilities is not None
    html = sheet.sheet_html(PICTURE, [drawing.Column("a", [PICTURE] * 2)], (0, 1), abilities=measured.abilities)
    words = " ".join(html.split())
    assert "can draw</b> hue." in words and "shape 1 of 1" in words and "chance 25 %" in words and "N 32" in words
    assert "can draw" not in sheet.sheet_html(PICTURE, [drawing.Column("a", [PICTURE] * 2)], (0, 1))


def test_a_column_says_how_its_draws_were_guided() -> None:
    plain, led = (drawing.Column("a", [PICTURE] * 2, [0.5, 0.5], guidance=words) for words in ("", "regression 2"))
    assert "· regression 2" in " ".join(sheet.sheet_html(PICTURE, [led], (0, 1)).split())
    assert "0.50 ·" not in sheet.sheet_html(PICTURE, [plain], (0, 1))
