"""Figures: every pixel as it was drawn, one colour per source, numbers where they belong."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from rcdm.figures.general import _short
from rcdm.figures.grids import Maps, _in_lines, _wrapped, grid_figures, grid_png
from rcdm.figures.intervals import interval_panels
from rcdm.figures.matrix import matrix
from rcdm.figures.result import StudyResult
from rcdm.figures.style import DOUBLE, SINGLE, STYLE, TALLEST, figure, fill_handles, looks, save
from rcdm.studies import STUDIES, Study
from rcdm.studies.levels_figures import _in_depth

SOURCES = ("simclr/backbone", "simclr/projector", "mine/layer2", "mine/projector")


def noise(n: int, side: int) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


def number(value: float, **more) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 5, **more}


@pytest.mark.parametrize("side", [16, 33, 128])
def test_a_grid_holds_every_pixel(tmp_path, side):
    images = noise(6, side)
    (page,) = grid_figures(images, ("one", "two"), ("a", "b", "c"))
    (file,) = save({"": page}, tmp_path / "grid")
    pixels = np.asarray(Image.open(file).convert("RGB"))
    axes = page.axes[0].get_window_extent()
    left, top = round(axes.x0), pixels.shape[0] - round(axes.y1)
    times = round(axes.width) // page.axes[0].images[0].get_array().shape[1]
    first = pixels[top : top + side * times, left : left + side * times]
    assert np.array_equal(first, np.asarray(images[0]).repeat(times, 0).repeat(times, 1))
    right = left + round(axes.width) - side * times
    third = pixels[top : top + side * times, right : right + side * times]
    assert np.array_equal(third, np.asarray(images[2]).repeat(times, 0).repeat(times, 1))


@pytest.mark.parametrize(("side", "times"), [(16, 14), (32, 7), (224, 1), (512, 1)])
def test_one_page_holds_every_pixel_however_long_its_labels_are(side, times):
    images, long = noise(6, side), "W" * 300 + r" $\frac$ and/so_on_$1 " * 9
    pixels = np.asarray(Image.open(io.BytesIO(grid_png(images, ("", long), ("a", "seed 1", long)))).convert("RGB"))
    last = np.asarray(images[5]).repeat(times, 0).repeat(times, 1)
    edge = 6  # right of and below the last one
    corner = pixels[-edge - last.shape[0] : -edge, -edge - last.shape[1] : -edge]
    assert np.array_equal(corner, last) and pixels.shape[1] < 3 * (last.shape[1] + 8) + 700


def test_more_images_than_a_picture_can_hold_are_refused():
    with pytest.raises(ValueError, match="too many for one picture"):
        grid_png([Image.new("RGB", (512, 512))] * 200, ("",), [""] * 200)


def test_a_grid_fits_pages_and_keeps_groups_together():
    pages = grid_figures(noise(200 * 4, 16), [f"row {i}" for i in range(200)], list("abcd"), group=7)
    stacks = [[t.get_text() for t in axes.texts if "row" in t.get_text()] for page in pages for axes in page.axes]
    assert len(pages) > 1 and len(stacks) > len(pages)  # four columns leave room for stacks beside each other
    assert [label for stack in stacks for label in stack] == [f"row {i}" for i in range(200)]
    assert all(len(stack) % 7 == 0 for stack in stacks[:-1])
    for page in pages:
        width, height = page.get_size_inches()
        assert width <= DOUBLE + 0.1 and height <= TALLEST + 0.1


def test_maps_have_one_scale_with_a_bar():
    grey = [Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 100, 50, 0)]
    (page,) = grid_figures(grey, ("a", "b"), ("given", "map"), maps=Maps(("map",), 2.0, "bits"))
    assert page.axes[1].get_xlim() == (0, pytest.approx(2.0 * 100 / 255)) and page.axes[1].get_xlabel() == "bits"
    sheet = page.axes[0].images[0].get_array()
    assert tuple(sheet[0, 0]) == (0, 0, 0) and tuple(sheet[0, -1]) != (100, 100, 100)


def test_a_source_keeps_its_look_whatever_is_shown_beside_it():
    assert looks(["simclr/backbone"])["simclr/backbone"] == looks(SOURCES)["simclr/backbone"]
    many = looks([f"{network}/{level}" for network in ("a", "b", "c", "vicreg") for level in ("backbone", "projector")])
    assert len({(look.colour, look.face, look.marker) for look in many.values()}) == 8
    levels = looks([f"a/{level}" for level in ("layer1", "layer2", "layer3", "layer4", "backbone", "projector")])
    assert len({str(look.line) for look in levels.values()}) == 6
    grey = {source: round(sum(look.colour), 1) for source, look in many.items()}
    assert all(grey[f"{n}/backbone"] < grey[f"{n}/projector"] for n in "abc")


def test_a_panel_shows_value_interval_and_null():
    with matplotlib.rc_context(STYLE):
        drawn = interval_panels(
            {"hue": {SOURCES[0]: number(0.5, null=0.1, other=0.7)}}, looks(SOURCES), xlabel="", value="v", null="n"
        )
    lines = [tuple(float(x) for x in line.get_xdata()) for line in drawn.axes[0].lines]
    assert lines == [pytest.approx((0.4, 0.6)), (0.1, 0.1), (0.7,), (0.5,)]
    assert drawn.get_size_inches()[0] == SINGLE


def test_a_matrix_leaves_what_is_not_there_empty_and_hatches_what_is_below_0():
    axes = figure(2, 2).subplots()
    shading = matrix(axes, [[0.25, float("nan")], [-0.001, 1.5], [-0.25, 0.0]], ["a", "b", "c"], ["d", "e"], top=1.0)
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.00", "1.50", "-0.25", "0.00"]
    assert [patch.get_xy() for patch in axes.patches] == [(0, 2)] and axes.patches[0].get_hatch()
    cells = shading.get_array()
    assert cells[2, 0] == cells[0, 0] and cells[2, 1] == 0


def words_of(drawn) -> list[str]:
    return [text.get_text() for legend in drawn.legends for text in legend.get_texts()]


@pytest.mark.parametrize("study", ["samples", "retention", "information", "invariance", "out_of_distribution"])
def test_legends_say_what_open_markers_are(study):
    for key, drawn in STUDIES[study].figures_of(result_of(study), SOURCES).items():
        white = any(line.get_markerfacecolor() == (1.0, 1.0, 1.0) for axes in drawn.axes for line in axes.lines)
        assert not white or any("projector" in words for words in words_of(drawn)), key
    look = looks(SOURCES)
    told = [handle.get_label() for handle in fill_handles(SOURCES, look)]
    assert told == ["filled: backbone", "open: projector", "pale: layer2"] and not fill_handles(SOURCES[:1], look)


def ladder(n: int) -> list[dict]:
    return [number(0.1 * i, null=1.0) for i in range(n)]


def result_of(study: str) -> StudyResult:
    """The least that each study returns, for two sources."""
    two = SOURCES[:2]
    if study == "samples":
        numbers = {s: {"similarity": number(0.5, null=0.1), "spread": number(0.2)} for s in two}
        return StudyResult(noise(8, 8), ("r", "s"), ("given", "seed 0", "mean", "spread"), {"sources": numbers})
    if study == "retention":
        cell = number(0.5, null=0.0, calibration=1.1, calibration_interval=[0.9, 1.3], probe=0.6)
        numbers = {s: {"hue": cell, "size": {**cell, "value": 0.1}} for s in two}
        gap = {"hue": number(0.4, p_holm=0.01), "size": number(0.0, p_holm=1.0)}
        more = {"differences": {"simclr": gap}, "agreement": {"probe": number(0.8)}}
        return StudyResult(noise(2, 8), ("r", "s"), ("given",), {"sources": numbers, "images": 9, **more})
    if study == "information":
        numbers = {s: {"form_1": number(90, null=-20.0), "form_2": number(80)} for s in two}
        gap = {f"{two[0]} − {two[1]}": {**number(-5.0), "limited_by_decoder": True}}
        more = {"sources": numbers, "differences": gap, "logsnr": [-8, 6], "white": 3.0}
        return StudyResult(noise(3, 8), ("image 0",), ("given", *two), more)
    if study == "invariance":
        of = {s: {"alignment": ladder(3), "seen": ladder(3)} for s in two}
        moved = {s: {**found, "transport": number(0.9) | {"attribute": "hue"}} for s, found in of.items()}
        kinds = {
            "hue": {"strengths": [0.1, 0.2, 0.5], "unit": "turns", "in_views": True, "sources": moved},
            "vertical flip": {"strengths": [1, 2, 3], "unit": "times", "in_views": False, "sources": of},
        }
        rows = [f"{k}, image {i}{tail}" for k in kinds for i in range(2) for tail in ("", *(f", {s}" for s in two))]
        probe = {"flip": {s: number(0.6, null=0.5) for s in two}}
        numbers = {"sources": list(two), "transformations": kinds, "transformation_probe": probe}
        return StudyResult(noise(len(rows) * 4, 8), tuple(rows), ("none", "1", "2", "3"), numbers)
    if study == "interpolation":
        jump = {"to_first": [1, 0.5, 0], "to_second": [0, 0.5, 1], "jumps": [0.5, 0.5]}
        numbers = {"ratios": [0, 0.5, 1], "seeds": [0], "sources": dict.fromkeys(two, jump)}
        return StudyResult(noise(10, 8), two, ("first", "0", "0.5", "1", "second"), numbers)
    if study == "manipulation":
        moves = {"moves": {"hue 0": {"hue": 0.9, "size": 0.1}, "size": {"hue": 0.0, "size": 0.4}}}
        return StudyResult(noise(2, 8), two, ("given",), {"seeds": [0], "sources": dict.fromkeys(two, moves)})
    if study == "levels":
        probed = {"ridge": {"hue": number(0.5)}, "transformation_probe": {"flip": number(0.6, null=0.5)}}
        drawn = {"retention": {"hue": number(0.4)}, "bits": number(90), "cycle_error": number(0.3)}
        level = {"effective_rank": number(9), "linear_top1": number(0.8, null=0.25), **probed}
        networks = {"simclr": {"levels": {"layer1": level, "backbone": level | drawn}}}
        return StudyResult(noise(2, 8), ("r",), ("given", "draw 0"), {"networks": networks})
    if study == "spectrum":
        ranks = {"effective_rank": number(5), "rankme": number(6), "singular_values": [3.0, 1.0, 0.0]}
        weak = {"strength": 0.0, "backbone": number(0.0), "projector": number(0.0)}
        strong = {**weak, "strength": 1.0, "removed": number(0.3), "heard": number(0.6, null=0.5)}
        strong |= {"angle": number(40, null=60.0)}
        networks = {"simclr": {"strengths": [weak, strong]}}
        return StudyResult(
            noise(2, 8), ("r",), ("a", "b"), {"sources": dict.fromkeys(two, ranks), "networks": networks}
        )
    if study == "out_of_distribution":
        of = {m: {"sketch": number(0.5, null=0.1)} for m in ("similarity", "drop", "cycle_error", "distance")}
        return StudyResult(
            noise(3, 8),
            ("sketch, image 0",),
            ("given", *two),
            {"sources": dict.fromkeys(two, of), "images": {"sketch": 2}},
        )
    if study == "width":
        steps = {"hue": {"by_width": number(0.1), "by_invariance": number(0.3)}}
        variants = {
            "simclr/backbone, 4 components": {"ridge": steps, "retention": steps, "bits": {"all": steps["hue"]}}
        }
        return StudyResult(noise(2, 8), ("r",), ("given", "draw 0"), {"networks": {"simclr": variants, "empty": {}}})
    if study == "guidance":
        tried = {"off": {"off": number(0.2)}, "regression 2": {"off": number(0.1)}}
        own = {"guidance_scale": 1.0, "guidance_strength": 2.0, "tried": tried}
        return StudyResult(noise(2, 8), ("r",), ("given", "draw 0"), {"sources": dict.fromkeys(two, own)})
    found = {s: {"distance": ladder(6), "random": ladder(6), "drawn": ladder(6), "flips": ladder(6)} for s in two}
    return StudyResult(
        noise(6, 8), ("r",), tuple("abcdef"), {"strengths_of_255": [0, 1, 2, 4, 8, 16], "sources": found}
    )


@pytest.mark.parametrize("study", list(STUDIES))
def test_every_study_has_its_figures_and_captions(study, tmp_path):
    result = result_of(study)
    drawn = STUDIES[study].figures_of(result, SOURCES)
    assert "" in drawn and any("images" in key for key in drawn)
    settings = {"checkpoint": "tiny", "images": {"n": 7}, "seeds": [3, 4], "steps": 8, "options": {}, "data": {}}
    captions = STUDIES[study].captions_of(drawn, settings)
    for key, caption in captions.items():
        assert "N 7 images" in caption and "seeds 3–4" in caption and "8 denoising steps" in caption, key
    written = save({"": drawn[""]}, tmp_path / study)
    assert Image.open(written[0]).width <= round((DOUBLE + 0.1) * 300)
    pdf = written[0].with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Subtype /Image" not in pdf  # numbers are lines and text
    grid = save({"": drawn[next(key for key in drawn if "images" in key)]}, tmp_path / "grid")[0].with_suffix(".pdf")
    assert b"/Subtype /Image" in grid.read_bytes() and b"/DCTDecode" not in grid.read_bytes()  # no JPEG


def test_a_study_without_figures_of_its_own_is_drawn_too():
    result = StudyResult(numbers={"sources": {SOURCES[0]: {"angle": number(1.0), "words": "no number"}}})
    drawn = Study("novel", "?", lambda pipe, images, **_: result).figures_of(result, SOURCES)
    assert list(drawn) == [""] and drawn[""].axes[0].get_title(loc="left") == "angle"


def test_invariance_has_a_figure_per_transformation():
    drawn = STUDIES["invariance"].figures_of(result_of("invariance"), SOURCES)
    assert {"", "telling", "hue", "hue-images", "vertical-flip", "vertical-flip-images"} == set(drawn)
    labels = [text.get_text() for text in drawn["hue-images"].axes[0].texts]
    assert labels == ["given", *SOURCES[:2], *["none", "0.1", "0.2", "0.5"] * 2]


def test_a_difference_that_may_be_chance_is_hollow():
    drawn = STUDIES["retention"].figures_of(result_of("retention"), SOURCES)
    white = {axes.get_title(loc="left"): sum(line.get_color() == "white" for line in axes.lines)
             for axes in drawn["differences"].axes}  # fmt: skip
    assert white["hue"] == 0 and white["size"] == 1
    assert "0.80" in drawn["agreement"].axes[0].get_title(loc="left")


def test_retention_far_below_0_is_written_at_the_edge_and_explained():
    result = result_of("retention")
    assert "below 0" not in STUDIES["retention"].figures_of(result, SOURCES)[""].get_supxlabel()
    result.numbers["sources"][SOURCES[0]]["size"] |= {"value": -3.2, "low": -4.0, "high": -2.5, "probe": -5.0}
    drawn = STUDIES["retention"].figures_of(result, SOURCES)[""]
    assert "more steps" in drawn.get_supxlabel()
    assert {axes.get_title(loc="left"): [text.get_text() for text in axes.texts] for axes in drawn.axes} == {
        "hue": [], "size": ["◂ −3.2, ×−5.0"]}  # fmt: skip


def test_the_path_between_two_images_ends_at_them():
    labels = [
        text.get_text()
        for text in STUDIES["interpolation"].figures_of(result_of("interpolation"), SOURCES)["images"].axes[0].texts
    ]
    assert labels == [*SOURCES[:2], "first", "0", "0.5", "1", "second"]


def test_labels_leave_out_what_all_rows_share():
    assert _short(["a_b/c, image 0, ground_hue, seed 0", "a_b/c, image 0, size, seed 0"]) == ["ground hue", "size"]
    assert _short(["x, image 0", "x"]) == ["x, image 0", "x"] and _short(["one, seed 0"]) == ["one, seed 0"]


def test_a_file_is_broken_where_a_word_ends():
    assert _in_lines("caltech_butterfly_0005.jpg mine/backbone") == "caltech_butterfly_\n0005.jpg mine/backbone"
    assert _in_lines("W" * 30 + " a") == "W" * 24 + "\n" + "W" * 6 + " a" and _in_lines("") == ""
    assert _in_lines("one two three four", 5, most=2) == "one…\nfour"
    assert _wrapped("strength 0.25", 0.1) == "strength\n0.25" and _wrapped("a_b.c", 0.01) == "a_\nb.\nc"
    rows = {
        _in_lines(f"photo.png a_network_with_a_very_long_name.of_somebody/{level}")
        for level in ("backbone", "projector")
    }
    assert len(rows) == 2 and all(row.count("\n") == 2 for row in rows)  # backbone and projector are told apart


def test_levels_stand_in_the_order_of_depth():
    one, other = (
        ["layer1", "backbone", "projector.0", "projector"],
        ["layer1", "backbone", "projector.0", "projector.1"],
    )
    assert _in_depth({"a": one, "b": [*other, "projector"]}) == [*other, "projector"]
