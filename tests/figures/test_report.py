"""`rcdm report`: one page of everything, which a failing study does not stop."""

import re
from html.parser import HTMLParser

import pytest

from rcdm import cli
from rcdm.cli import report_sections
from rcdm.figures.network_levels import levels_table
from rcdm.figures.report_page import Section, page_html
from rcdm.studies import STUDIES, Study, StudyResult, unrun


class Page(HTMLParser):
    """What a page would load, its text, and the tags that are open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads, self.words, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.loads += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def make(tiny_checkpoint, tmp_path, capsys):
    def run(*more: str) -> tuple[Page, str]:
        cli.main(["report", "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path / "out")]
                 + ["--source", "tiny/projector", "--quick", "--reference", "30", *more])  # fmt: skip
        return Page((tmp_path / "out" / "report.html").read_text()), capsys.readouterr().err

    return run


def test_the_page_holds_all_that_it_shows_and_is_not_made_twice(make, tmp_path):
    page, _ = make("--study", "samples", "interpolation", "--steps", "1")
    assert page.loads and all(link.startswith(("data:image/webp;base64,", "#")) for link in page.loads)
    assert not page.open and "N 4 images, seeds 0–3, 1 denoising step" in page.words
    assert "rcdm study samples --checkpoint" in page.words and "samples-images.pdf" in page.words
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"samples.json", "samples.png", "samples.pdf", "interpolation-images.pdf", "report.html"} <= files
    again, said = make("--study", "samples", "interpolation", "--steps", "1")
    assert again.words == page.words and said.count("finished before with the same settings") == 2


def test_a_study_that_fails_is_a_sentence_and_the_others_go_on(make, monkeypatch):
    def breaks(*given, **named):
        raise RuntimeError("the sky is <falling>")

    monkeypatch.setitem(STUDIES, "novel", Study("novel", "Does it fall?", breaks))
    calm = Study("calm", "Is it well?", lambda pipe, images, **_: StudyResult(summary="all is well"))
    monkeypatch.setitem(STUDIES, "calm", calm)
    monkeypatch.setattr(unrun, "declarations", lambda: dict(STUDIES))
    page, _ = make("--study", "novel", "manipulation-neighbours", "calm")
    assert "Not answered: the sky is <falling>" in page.words and "all is well" in page.words
    assert "No source that it can be asked of" in page.words  # a projector has no non-negative dimensions


def test_every_study_is_in_the_report():
    assert {study.name for study, _ in report_sections.entries().values()} == set(STUDIES)


def test_an_unknown_study_or_source_is_refused(make, capsys):
    for more, words in ((("--study", "astrology"), "retention"), (("--source", "x/y"), "tiny/backbone")):
        with pytest.raises(SystemExit):
            make(*more)
        assert words in capsys.readouterr().err


def test_a_page_escapes_what_it_is_given(tmp_path):
    text = page_html(
        "<a>", ["<b>"], [Section("<i>", "<p>", summary="<s>", command="<u>", numbers="<q>", failure="<em>")]
    )
    assert not re.search(r"<(a|b|i|s|u|q|em)>", text) and "&lt;em&gt;" in text


def test_a_network_without_a_projector_has_no_gap():
    level = {"linear_top1": {"value": 0.5, "null": 0.1}, "knn20": {"value": 0.4}}
    table = levels_table(
        {"a": {"n": 9, "levels": {"backbone": level}}, "b": {"n": 9, "levels": {"backbone": level, "projector": level}}}
    )
    assert "| a | 50.0 (40.0) |  |  |" in table and "| b | 50.0 (40.0) | 50.0 (40.0) | +0.0 |" in table
