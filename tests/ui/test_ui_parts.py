"""The parts of the page that need no server."""

import argparse
import gc
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from PIL import Image
from starlette.datastructures import QueryParams

import rcdm
from rcdm.data import sprites
from rcdm.diffusion.process import Process
from rcdm.diffusion.regressor import Regressor, learn_source
from rcdm.measures.attributes import Attributes, Kept, kept_by_draws
from rcdm.measures.metrics import variance
from rcdm.ui import (
    about,
    api,
    compare,
    controls,
    drawing,
    examples,
    export,
    frames,
    page,
    settings,
    sheet,
    sprite_lab,
)
from rcdm.ui.drawing import Column, Columns
from rcdm.ui.engine import CALLS_PER_SECOND, Engine, on_hosted_gpu
from rcdm.ui.exploring import Bits, Nearest, Study, read_factors
from rcdm.ui.guard import Rate
from rcdm.ui.ladders import Edited, Ladders
from rcdm.ui.loaded import Loaded, Shelf
from rcdm.ui.settings import Settings
from rcdm.ui.store import Store, key_of

BOTH = ("tiny/backbone", "tiny/projector")
PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture
def loaded(tiny_checkpoint: Path) -> Loaded:
    return Loaded("tiny", rcdm.load(tiny_checkpoint, device="cpu"), "sprites")


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(Settings(checkpoint=str(tiny_checkpoint)), device="cpu")


def _run(job: Any, loaded: Loaded) -> Any:
    return job.run(loaded, lambda _: None, lambda: None)


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_previews_come_while_drawing(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PREVIEW_SECONDS", 0.0)
    shown: list[drawing.Progress] = []
    columns = Columns(PICTURE, BOTH, (0, 1, 2), 4).run(loaded, shown.append, lambda: None)
    assert [progress.share for progress in shown] == [0.25, 0.5, 0.75, 1.0]
    assert all([len(column.images) for column in progress.columns] == [3, 3] for progress in shown)
    assert [column.source for column in columns] == list(BOTH) and columns[0].mean is not None
    assert columns[0].spread is not None and columns[0].spread.size == (16, 16)


def test_what_draws_keep_has_the_variance_formula_and_an_interval_that_holds_it() -> None:
    phi = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
    attributes = Attributes(lambda _: {}, {"a": 2.0})
    kept = kept_by_draws(attributes, {"a": phi, "unknown": phi})
    assert list(kept) == ["a"] and kept["a"].value == pytest.approx(1 - float(variance(phi)) / 2)
    assert kept["a"].low < kept["a"].value < kept["a"].high  # type: ignore[operator]
    assert kept_by_draws(attributes, {"a": phi[:2]})["a"].low is None
    same = kept_by_draws(attributes, {"a": phi[:1].expand(5, 1)})["a"]
    assert same.value == same.low == same.high == 1


def test_the_jackknife_interval_covers() -> None:
    stream, attributes, hits = torch.Generator().manual_seed(1), Attributes(lambda _: {}, {"a": 1.0}), 0
    for _ in range(200):  # variance 0.25 of which 1 is the spread: the truth is 0.75
        found = kept_by_draws(attributes, {"a": torch.randn(16, 1, generator=stream) / 2})["a"]
        hits += found.low <= 0.75 <= found.high  # type: ignore[operator]
    assert 0.8 < hits / 200 < 0.99


def test_an_image_is_foreign_when_its_draws_are_less_alike_than_the_floor(loaded: Loaded) -> None:
    job = Columns(PICTURE, ("tiny/backbone",), (0, 1), 2)
    assert _run(job, loaded)[0].foreign is None  # nothing was measured
    for floor, foreign in ((1.1, True), (-1.1, False)):
        loaded.metrics = {"sources": {"tiny/backbone": {"similarity_floor": {"value": floor}}}}
        column = _run(job, loaded)[0]
        assert column.foreign is foreign
        assert ("foreign to this checkpoint" in sheet.sheet_html(PICTURE, [column], (0, 1))) is foreign
        loaded.metrics["num_inference_steps"] = 3  # draws in fewer are less alike whatever is given
        assert _run(job, loaded)[0].foreign is None


def test_columns_are_guided_as_was_chosen_or_all_alike(loaded: Loaded) -> None:
    """Each asked strength draws what the pipeline draws with it, and headings, sheet, command and link say which."""
    pipe, first = loaded.pipe, BOTH[0]
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    learnt = {name: learn_source(pipe.unet, pipe.sources, Process(pipe.scheduler), images, name) for name in BOTH}
    pipe.use_regressor(Regressor.of(learnt, 16))
    pipe.use_guidance(strengths={first: 2.0})
    loaded.metrics = {"sources": {name: {"similarity_floor": {"value": 1.1}} for name in BOTH}}
    headings = {None: ["regression 2", ""], 0.0: ["", ""], 1.0: ["regression 1", "regression 1"]}
    foreign = {None: [True, True], 0.0: [None, True], 1.0: [None, None]}  # the floor is that of the guidance chosen
    for strength, words in headings.items():
        job = Columns(PICTURE, BOTH, (0, 1), 4, strength)
        columns = _run(job, loaded)
        for column in columns:
            drawn = pipe(PICTURE, source=column.source, seeds=(0, 1), num_inference_steps=4, guidance_strength=strength)
            assert [image.tobytes() for image in column.images] == [image.tobytes() for image in drawn.images]
        assert [column.guidance for column in columns] == words
        assert [column.foreign for column in columns] == foreign[strength]
        empty = [Column(name, [], guidance=one.in_words()) for name, one in zip(BOTH, job.guidance(pipe), strict=True)]
        alike = len(set(words)) == 1
        for markup in (sheet.sheet_html(PICTURE, columns, (0, 1)), sheet.skeleton_html(PICTURE, empty, (0, 1))):
            html = " ".join(markup.split())
            assert ("nothing but what their representations hold." in html) is alike
            assert ("how the draws are guided" in html) is not alike
        (way,) = (name for name, value in compare.GUIDED.items() if value == strength)
        own = () if strength is None else (("guidance", way),)
        result = export.Result("tiny", job, PICTURE, columns, own=own)
        said = "" if strength is None else f"--guidance-strength {strength:g} "
        assert said in export.command_of(result) and bool(said) is ("guidance" in export.command_of(result))
        assert (f"guidance={way}" in export.link_of(result)) is (strength is not None)


def test_what_is_kept_stands_beside_its_null(loaded: Loaded) -> None:
    """The null is that of metrics.json; a bar that is not above it is grey, and an interval beyond the bar is open."""
    name = next(iter(loaded.attributes.read(torch.zeros(1, 3, 16, 16))))
    loaded.attributes = Attributes(loaded.attributes.read, {name: 1.0})
    job = Columns(PICTURE, ("tiny/backbone",), (0, 1, 2), 2)
    assert _run(job, loaded)[0].kept[name].null is None
    loaded = Loaded("tiny", loaded.pipe)
    loaded.attributes = Attributes(loaded.attributes.read, {name: 1.0})
    loaded.metrics = {"sources": {"tiny/backbone": {"retention": {name: {"value": 0.5, "null": 0.25}}}}}
    assert _run(job, loaded)[0].kept[name].null == 0.25


@pytest.mark.parametrize(("number", "told", "classes"), [
    (Kept(0.5, 4, 0.3, 0.7, 0.2), True, ()), (Kept(0.5, 4, 0.1, 0.7, 0.2), False, ("untold",)),
    (Kept(0.36, 4, 0.1, 0.5, 0.81), False, ("untold",)), (Kept(0.5, 2, null=0.4), True, ()), (Kept(-1.0, 4), True, ()),
    (Kept(0.1, 4, -0.3, 0.4), True, ("open-left",)), (Kept(0.9, 4, 0.5, 1.2, 0.4), True, ("open-right",)),
])  # fmt: skip
def test_a_bar_within_its_null_is_grey(number: Kept, told: bool, classes: tuple[str, ...]) -> None:
    html = sheet.sheet_html(PICTURE, [Column("a/b", [PICTURE] * 2, [0.5] * 2, {"hue": number})], (0, 1))
    assert number.told is told and ("<s style" in html) == (number.null is not None)
    assert [name for name in ("untold", "open-left", "open-right") if f"{name}" in html] == list(classes)
    assert ("draws without any representation" in html) == (number.null is not None)


def test_bits_of_one_image_have_no_null_and_a_map_per_source(loaded: Loaded) -> None:
    result = _run(Bits(PICTURE, BOTH), loaded)
    assert result.columns == ("given", *BOTH) and len(result.images) == 3
    assert all("null" not in found["form_1"] for found in result.numbers["sources"].values())
    assert sheet.bits_html(result).count("bits (") >= 2
    gap = {"value": 3.0, "low": 1.0, "high": 5.0, "n": 4, "limited_by_decoder": False}
    for gaps in ({"tiny": gap}, {"tiny": {"withheld": True, "form_1": 1.0, "form_2": 9.0, "n": 4}}):
        result.numbers["differences"] = gaps
        html = sheet.bits_html(result)
        assert ("tiny: 3 bits (1 … 5)" in html) == ("withheld" not in html)


def test_the_nearest_training_image_of_a_training_image_is_itself(loaded: Loaded, monkeypatch: Any) -> None:
    monkeypatch.setattr("rcdm.ui.loaded.REFERENCES", 40)
    own = rcdm.data.images.to_pil(loaded.references[7:8])[0]
    result = _run(Nearest(own, BOTH[:1]), loaded)
    assert result.images[0].tobytes() == own.tobytes()
    assert result.numbers["sources"][BOTH[0]]["similarity"][0] == pytest.approx(1, abs=0.01)
    assert "nearest training images" in sheet.nearest_html(result)


def test_without_training_images_the_remedy_is_said(tiny_checkpoint: Path) -> None:
    plain = Loaded("tiny", rcdm.load(tiny_checkpoint, device="cpu"))
    with pytest.raises(ValueError, match="--data"):
        _run(Nearest(PICTURE, BOTH), plain)


QUICK = {
    "information": {"levels": 2},
    "invariance": {"only": "flip"},
    "interpolation": {"path": "spherical", "points": 2},
    "manipulation": {"method": "neighbours"},
    "adversarial": {"steps": 1},
    "levels": {"drawn_images": 2, "noise_levels": 2},
    "width": {"drawn_images": 2, "noise_levels": 2},
}


@pytest.fixture(autouse=True)
def _uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))


def _uploaded(image: Image.Image, folder: Path, name: str) -> Path:
    """Where Gradio would put an image that was sent to it."""
    place = folder / "digest" / name
    place.parent.mkdir(exist_ok=True)
    image.save(place)
    return place


def _second(tmp_path: Path) -> str:
    return str(_uploaded(PICTURE.rotate(90), tmp_path, "second.png"))


@pytest.mark.parametrize("name", list(rcdm.studies.STUDIES))
def test_programs_reach_every_study(name: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rcdm.ui.loaded.REFERENCES", 32)
    sources = ("tiny/layer2",) if name == "manipulation" else BOTH
    wanted = controls.Asked(loaded, PICTURE, sources, (0, 1), 1)
    job = api.study_of(name, wanted, _second(tmp_path), QUICK.get(name, {}))
    pictures, numbers = api._answer(_run(job, loaded))
    assert pictures and numbers and "path" not in numbers
    assert loaded.pipe.regressor is None  # what one visitor's study learns is nobody else's
    if name == "manipulation":
        assert any("shared of target" in label for _, label in pictures) and numbers["reference"] == 32
    if name in ("levels", "width"):  # nothing that is measured on has been learnt from
        assert numbers["images"] == 8 and numbers["reference"] == 32 - 6


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("astrology", {}, "choose one of samples, retention"),
        (["samples"], {}, "choose one of samples, retention"),
        ("interpolation", {"pace": 3}, "no setting 'pace'; choose one of path, points"),
        ("interpolation", {"path": "curly"}, "choose one of linear, spherical"),
        ("interpolation", {"points": "9"}, "a value like 9"),
        ("interpolation", {"points": 10**9}, "whole number from 1 to 100"),
        ("adversarial", {"steps": 0}, "whole number from 1 to 100"),
        ("manipulation", {"reach": 1e9}, "from -100 to 100"),
        ("manipulation", {"directions": 100, "points": 100}, "at most 5000 are drawn"),
        ("manipulation", {"target": "/etc/passwd"}, "target names a file"),
        ("samples", {"features": 1}, "it has none of its own"),
        ("samples", "steps=3", "an object such as"),
    ],
)
def test_studies_of_programs_are_refused_in_a_sentence(
    name: Any, settings: Any, words: str, loaded: Loaded, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        api.study_of(name, controls.Asked(loaded, PICTURE, BOTH, (0,), 1), _second(tmp_path), settings)


def test_a_second_image_is_one_of_those_compared(loaded: Loaded, tmp_path: Path) -> None:
    wanted = controls.Asked(loaded, PICTURE, BOTH, (0,), 1)
    for name, second, pictures, others in (
        ("samples", True, 1, 0), ("interpolation", True, 2, 0), ("adversarial", False, 1, 3),
        ("adversarial", True, 2, 3), ("spectrum", True, 2, 6), ("spectrum", False, 1, 7),
    ):  # fmt: skip
        job = api.study_of(name, wanted, _second(tmp_path) if second else None, {})
        assert (len(job.pictures), job.companions) == (pictures, others), name
    with pytest.raises(ValueError, match="Give an image first"):
        api.study_of("interpolation", wanted, None, {})


def test_any_study_stops_when_nobody_waits(loaded: Loaded) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Study("samples", (PICTURE,), BOTH, (0, 1), 9).run(loaded, lambda _: None, check)
    _run(Study("samples", (PICTURE,), BOTH, (0, 1), 1), loaded)  # and the next one is not stopped
    assert len(calls) == 2


def test_factors_are_read_from_draws_beside_the_truth(loaded: Loaded) -> None:
    factors = sprites.make_factors(
        shape="drop", hue=0.99, size=0.5, rotation=0.25, x=0.1, y=-0.2, ground_hue=0.5, ground_brightness=0.5
    )
    phi = {name: value.expand(4, -1).tolist() for name, value in sprites.phi(factors).items()}
    column = Column("a/b", [PICTURE] * 4, [1.0] * 4, {"hue": Kept(0.9, 4)}, phi=phi)
    read = read_factors(column)
    assert read["shape"] == ("drop", "4 of 4") and read["hue"] == ("0.99", "± 0.00") and read["x"][0] == "0.10"
    truth = {name: ("drop" if name == "shape" else 0.5) for name in sprites.KINDS}
    loaded.metrics = {"sources": {"a/b": {"retention": {"hue": {"value": 0.3, "probe": 0.41},
                                                          "x": {"value": 0.31, "probe": 0.4}}}}}  # fmt: skip
    html = sprite_lab.shown(loaded, PICTURE, [column], (0, 1, 2, 3), truth)
    assert html.count("<tr>") == 1 + len(sprites.KINDS) and "retention 0.90" in html
    assert html.count("</abbr>") == 1  # where draws keep less than a probe reads, by more than a tenth
    other = Column("a/b", [PICTURE] * 4, [1.0] * 4, phi={"hue": phi["hue"]})  # of a checkpoint that has no reader
    assert "<table>" not in sprite_lab.shown(loaded, PICTURE, [other], (0, 1, 2, 3), truth)


def test_work_that_nobody_waits_for_is_told_to_end() -> None:
    ended = threading.Event()

    def work(show: Callable[[Any], None], check: Callable[[], None]) -> None:
        try:
            for step in range(1000):
                time.sleep(0.01)
                check()
                show(step)
        finally:
            ended.set()

    stream = drawing.in_background(work)
    next(stream)
    stream.close()
    assert ended.wait(1)


def test_only_the_latest_preview_waits_and_errors_come_through() -> None:
    shown = threading.Event()

    def work(show: Callable[[Any], None], check: Callable[[], None]) -> None:
        for step in range(100):
            show(step)
        shown.set()
        time.sleep(0.1)
        raise ValueError("no")

    stream = drawing.in_background(work)
    first = next(stream)
    assert shown.wait(1)
    with pytest.raises(ValueError, match="no"):
        rest = [first, *(item for item in stream)]
        assert len(rest) < 10


# --- the engine -------------------------------------------------------------------------------------------------------


def test_finished_work_is_not_done_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job, name = Columns(PICTURE, BOTH, (0,), 1), engine.settings.checkpoint
    first = list(engine.run(name, job))[-1]
    monkeypatch.setattr(rcdm.RepresentationUNet, "forward", None)
    (again,) = engine.run(name, Columns(PICTURE.copy(), BOTH, (0,), 1))
    assert again is first


def test_the_shelf_keeps_what_fits(tiny_checkpoint: Path) -> None:
    names = [str(tiny_checkpoint), "sprites-32"]
    tight, wide = (Shelf(names, max_bytes=limit, seconds=3600, device="cpu") for limit in (1, 2**30))
    for shelf in (tight, wide):
        assert [shelf[name].name for name in names] == names
    assert (len(tight), len(wide)) == (1, 2) and wide[names[0]] is wide[names[0]]
    with pytest.raises(ValueError, match=r"no checkpoint '\.\.' here"):
        wide[".."]


def test_what_a_visitor_brought_is_forgotten_in_time_though_nobody_asks(tiny_checkpoint: Path) -> None:
    shelf = Shelf([str(tiny_checkpoint)], max_bytes=2**30, seconds=3, device="cpu")
    pipe = rcdm.load(tiny_checkpoint)
    assert shelf[str(tiny_checkpoint)] and len(shelf) == 1
    brought, theirs = shelf.bring("mine", pipe), weakref.ref(pipe)
    del pipe
    assert shelf[brought].name == brought and len(shelf) == 2
    for _ in range(60):
        time.sleep(0.2)
        gc.collect()
        if theirs() is None:
            break
    assert theirs() is None and len(shelf) == 1
    with pytest.raises(ValueError, match="There is no checkpoint"):
        shelf[brought]


def test_a_page_in_bfloat16_says_so_in_its_commands(tiny_checkpoint: Path) -> None:
    loaded = Engine(Settings(checkpoint=str(tiny_checkpoint), mixed_precision="bf16"), device="cpu")[
        str(tiny_checkpoint)
    ]
    assert loaded.pipe.unet.mixed_precision == "bf16"
    assert loaded.words == ("--checkpoint", str(tiny_checkpoint), "--mixed-precision", "bf16")


def test_a_hosted_gpu_is_asked_for_as_long_as_the_job_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[Any] = []

    def gpu(duration: Any) -> Any:
        asked_for.append(duration)
        return lambda function: function

    assert on_hosted_gpu(list) is list  # type: ignore[comparison-overlap]
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    on_hosted_gpu(list)  # type: ignore[arg-type]
    few, many = (asked_for[0]("sprites-32", Columns(PICTURE, BOTH, tuple(range(k)), 100)) for k in (1, 16))
    assert 15 <= few < many <= 120
    led = 2 * len(BOTH) * 16 * 100  # images through the denoiser, where a draw that is led costs as much as two
    assert many > led // CALLS_PER_SECOND


def test_a_client_that_asks_too_often_is_told_how_long_to_wait() -> None:
    rate = Rate(2, seconds=0.2)
    others, noisy = (gr.Request(client=types.SimpleNamespace(host=h), headers={}) for h in ("a", "b"))
    for _ in range(2):
        rate.check(noisy)
    with pytest.raises(ValueError, match="wait 1 seconds"):
        rate.check(noisy)
    rate.check(others)
    time.sleep(0.25)
    rate.check(noisy)
    for _ in range(100):
        Rate(0).check(noisy)


def test_the_store_forgets_by_size_and_age() -> None:
    store = Store(max_bytes=2500, seconds=60)
    for i in range(5):
        store.put(str(i), Image.new("RGB", (16, 20)))  # 960 bytes each
    assert [store.get(str(i)) is not None for i in range(5)] == [False] * 3 + [True] * 2 and store.bytes <= 2500
    store.put("huge", Image.new("RGB", (100, 100)))
    assert store.get("huge") is None and store.get("4") is not None
    brief = Store(max_bytes=2500, seconds=0.05)
    brief.put("a", 1)
    time.sleep(0.3)
    assert brief.bytes == 0 and brief.get("a") is None  # forgotten before anybody asked


def test_what_was_asked_for_last_stays_longest_but_not_longer() -> None:
    store = Store(max_bytes=150, seconds=0.4)
    for key in "ab":
        store.put(key, 1)  # 64 bytes each
    assert store.get("a") == 1
    store.put("c", 1)
    assert [store.get(key) for key in "abc"] == [1, None, 1]
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        store.get("a")
    assert store.get("a") is None and store.bytes == 0
    store.put("a", 1)
    store.put("a", Image.new("RGB", (100, 100)))
    assert store.get("a") is None  # what it stood for is another value now, too large to keep


def test_requests_are_told_apart_by_everything_in_them() -> None:
    base = Columns(PICTURE, BOTH, (0, 1), 4)
    turned = PICTURE.rotate(90)
    others = [
        Columns(turned, BOTH, (0, 1), 4),
        Columns(PICTURE, BOTH[:1], (0, 1), 4),
        Columns(PICTURE, BOTH, (0, 2), 4),
        Columns(PICTURE, BOTH, (0, 1), 5),
    ]
    keys = {key_of("c", job) for job in (base, *others)} | {key_of("d", base)}
    assert len(keys) == 6 and key_of("c", Columns(PICTURE.copy(), BOTH, (0, 1), 4)) in keys


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_skeleton_has_the_places_of_the_result() -> None:
    column = Column("a/b", [PICTURE] * 3, [0.5] * 3, mean=PICTURE, spread=PICTURE)
    full = sheet.sheet_html(PICTURE, [column, column], (0, 1, 2))
    bare = sheet.skeleton_html(PICTURE, [Column("a/b", [])] * 2, (0, 1, 2))
    assert full.count("<figure>") == bare.count("<figure>") == 2 * 5 and bare.count("bone") == 10


def test_what_is_kept_is_shown_as_it_is_and_its_bar_is_clamped() -> None:
    kept = {"hue": Kept(1.0, 4), "ground_hue": Kept(-0.1, 4, -0.3, 0.2)}
    html = sheet.sheet_html(PICTURE, [Column("a/b", [PICTURE] * 2, [0.5] * 2, kept)], (0, 1))
    assert "width:0%" in html and "width:100%" in html and ">-0.10<" in html and "-0.30 … 0.20" in html


def test_names_on_the_page_are_text() -> None:
    html = sheet.sheet_html(PICTURE, [Column("<b>/x", [PICTURE], [1.0])], (0,))
    assert "<b>/x" not in html and "&lt;b&gt;" in html


def test_names_in_tables_ladders_curves_and_notes_are_text(loaded: Loaded) -> None:
    evil = "<b>'\"&"
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "calibration": 1.0}
    two = Ladders((evil, evil), {evil: [[PICTURE]] * 2}, {evil: [PICTURE] * 2}, {})
    loaded.name, loaded.metrics = evil, {
        "sources": {evil: {"retention": {evil: number}}}, "retention_images": 1, "retention_draws": 2,
    }  # fmt: skip
    pages = [
        sheet.table_html([evil], [[evil, evil]]),
        sheet.status_html(evil, 0.5),
        frames.frames_html(two, (0,), what=evil, curves={evil: [0, 1]}, note=evil),
        sheet.shaded_html([evil], [(evil, [(0.5, evil)])]),
        about.calibration_html(loaded),
    ]
    for html in pages:
        assert "<b>'" not in html and "&lt;b&gt;&#39;&#34;&amp;" in html


@pytest.fixture
def result(tiny_checkpoint: Path, loaded: Loaded) -> export.Result:
    job = Columns(PICTURE, BOTH, (5, 6), 2)
    return export.Result(str(tiny_checkpoint), job, PICTURE, _run(job, loaded), "heart.png", number=2)


def test_the_link_of_a_drawing_opens_its_settings(result: export.Result, engine: Engine) -> None:
    photo, name, sources, number, steps, seed, _, _ = page.from_query(engine, QueryParams(export.link_of(result)[1:]))
    assert Path(photo).name == "heart.png" and name == result.checkpoint
    assert sources["value"] == list(BOTH) and (number, steps, seed) == (2, 2, 5)


@pytest.mark.parametrize(
    "query", ["seed=-1", "seed=99999999999", "seed=x", "images=17", "steps=0", "example=../x", "source=no/such"]
)
def test_a_link_with_nonsense_changes_nothing(engine: Engine, query: str) -> None:
    assert page.from_query(engine, QueryParams(query)) == [gr.skip()] * 8


def test_the_command_of_a_drawing_is_understood(result: export.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from rcdm import cli
    from rcdm.cli import sample

    found: list[argparse.Namespace] = []
    monkeypatch.setattr(sample, "_sample", found.append)
    cli.main(shlex.split(export.command_of(result))[1:])
    options = found[0]
    assert (options.samples, options.seed, options.steps, options.source) == (2, 5, 2, list(BOTH))


def test_rows_pile_up_under_the_first(engine: Engine, tmp_path: Path) -> None:
    file = _uploaded(PICTURE, tmp_path, "photo.png")
    keys: list[str] = []
    for seed in range(8):
        wanted = controls.asked(engine, str(file), engine.settings.checkpoint, list(BOTH), 2, 1, seed)
        *_, last = compare._draw(engine, None, wanted, "chosen", keys)
        html, before, keys = last[1], keys, last[3]
        assert keys[:-1] == before[1 - compare.MOST_ROWS :]  # the oldest makes room
        assert ("made room" in last[0]) is (seed >= compare.MOST_ROWS)
        assert html.count("other seeds, other noise") == len(keys) - 1
        assert html.count('class="rcdm sheet"') == min(seed + 1, compare.MOST_ROWS) == len(keys)
        assert html.count("What stays the same") == 1
    *_, last = compare._draw(engine, None, wanted, "none", keys)
    assert last[1].count("the same seeds, the same noise") == 1


def test_what_was_given_is_what_a_tab_gave(loaded: Loaded) -> None:
    own = PICTURE.rotate(90)
    wanted = controls.Asked(loaded, PICTURE, BOTH, (0, 1), 1, "arrow.png")
    found = controls.given_to(wanted, Columns(own, BOTH, (0, 1), 1))
    assert (found.picture, found.example) == (own, "") and found.given.tobytes() != wanted.given.tobytes()
    assert controls.given_to(wanted, Columns(PICTURE, BOTH, (0, 1), 1)) is wanted


def test_the_command_of_an_edit_has_the_direction(tiny_checkpoint: Path) -> None:
    for method, words in (("principal", "--option directions=8"), ("attributes", "")):
        job = Edited(PICTURE, BOTH, (0, 1), 2, method, 2.0, "component 6")
        made = export.Result(str(tiny_checkpoint), job, PICTURE, None, "heart.png", number=2)
        assert words in (command := export.command_of(made)) and ("directions" in command) is bool(words)


def test_columns_that_wait_for_images_say_how_they_will_be_guided(engine: Engine, tmp_path: Path) -> None:
    file = _uploaded(PICTURE, tmp_path, "photo.png")
    wanted = controls.asked(engine, str(file), engine.settings.checkpoint, list(BOTH), 2, 1, 0)
    wanted.loaded.pipe.use_guidance({BOTH[0]: 2.0})
    for way, differ in (("chosen", True), ("none", False)):
        _, waiting, *_ = next(compare._draw(engine, None, wanted, way, []))
        assert ("guidance 2" in waiting) is ("how the draws are" in waiting) is differ


def test_the_calibration_of_a_checkpoint_is_shown(loaded: Loaded) -> None:
    assert "rcdm evaluate" in about.calibration_html(loaded)
    shipped = about.calibration_html(Loaded("sprites-32", rcdm.load("sprites-32", device="cpu")))
    assert "vicreg/<wbr>projector" in shipped and "128 held-out images" in shipped
    assert "unconditional draws" in shipped and "<small>δ 0.0" in shipped and "<small>ρ 1." in shipped


def test_the_first_backbone_and_its_projector_are_chosen() -> None:
    choose = examples.default_sources
    assert choose(["a/layer2", "a/backbone", "b/projector", "a/projector"]) == ["a/backbone", "a/projector"]
    assert choose(["a/layer1", "a/layer2", "a/layer3"]) == ["a/layer1", "a/layer2"]
    assert choose(["a/backbone"]) == ["a/backbone"]
    two = ["a/backbone", "a/projector", "supervised/projector", "supervised/backbone"]
    assert choose(two) == ["a/backbone", "a/projector", "supervised/backbone"]
    assert choose(["supervised/backbone", "a/backbone"]) == ["supervised/backbone"]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_options_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    settings.add_serve_options(parser)
    monkeypatch.setenv("RCDM_QUEUE", "7")
    monkeypatch.setenv("RCDM_RATE", "3")
    monkeypatch.setenv("RCDM_SHARE", "no")
    found = settings.from_options(parser.parse_args(["--rate", "5"]))
    assert (found.queue, found.rate, found.share, found.most_steps) == (7, 5, False, Settings().most_steps)
    monkeypatch.setenv("RCDM_QUEUE", "many")
    with pytest.raises(ValueError, match="RCDM_QUEUE must be a whole number"):
        settings.from_environment()


def test_every_setting_is_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "page.md").read_text()
    assert [name for name in Settings.__dataclass_fields__ if settings.variable(name) not in text] == []


def test_importing_rcdm_alone_imports_nothing_heavy() -> None:
    import subprocess

    code = "import sys, rcdm; print([m for m in ('torch', 'diffusers', 'gradio') if m in sys.modules], dir(rcdm))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("[]") and "'load'" in out
