"""The page in a browser: headless Chromium against a server on this machine, as a visitor would use it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from PIL import Image

import rcdm
from rcdm.data import images as im
from rcdm.ui import drawing
from rcdm.ui import page as ui
from rcdm.ui.engine import DEVICE, Engine
from rcdm.ui.settings import Settings

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium here: install the package chromium", allow_module_level=True)

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]  # fmt: skip
BOTH = ["tiny/backbone", "tiny/projector"]


@pytest.fixture(scope="module")
def address(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(drawing, "PREVIEW_SECONDS", 0.0)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        engine = Engine(
            dataclasses.replace(Settings(), checkpoint=str(tiny_checkpoint), port=port, jobs=0), device="cpu"
        )
        served = ui.launch(engine, prevent_thread_lock=True)
        try:
            yield served.local_url
        finally:
            served.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visitor; nothing may be asked of another server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    elsewhere: list[str] = []
    tab.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    tab.goto(address)
    tab.wait_for_selector("#draw")
    yield tab
    context.close()
    assert elsewhere == []


def _upload(page: Any, path: Path) -> None:
    page.locator("#photo button[aria-label='Remove Image']").click()
    page.locator("#photo input[type=file]").set_input_files(str(path))


def _seen_anew(page: Any, path: Path) -> None:
    """Give an image, and wait until what the networks see of it stands there in place of the last one."""
    last = page.locator(".view img").get_attribute("src")
    _upload(page, path)
    page.wait_for_function("src => ![undefined, src].includes(document.querySelector('.view img')?.src)", arg=last)


def _opened(page: Any, tab: str, start: str) -> None:
    """Open a tab. Gradio sets its controls to their first values again in the frame after they have appeared."""
    page.get_by_role("tab", name=tab).click()
    page.locator(f"#{start}-start").wait_for()
    page.evaluate("async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame) }")


def _settings(page: Any, *, images: int, steps: int, seed: int) -> None:
    for label, value in (("Images per source", images), ("Steps", steps), ("First seed", seed)):
        field = page.get_by_label(re.compile(f"(number input for )?{label}")).and_(page.locator("input[type=number]"))
        field.first.fill(str(value))
        field.first.blur()


def _drawn(page: Any) -> list[list[Image.Image]]:
    """The images of each column, as they are shown."""
    columns = []
    for section in page.locator("#sheet .columns section").all():
        sources = section.locator(".draws:not(.summary) img").evaluate_all("all => all.map(image => image.src)")
        columns.append([Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in sources])
    return columns


def _finished(page: Any) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll('.status')].some(s => / in [0-9.]+ s/.test(s.textContent))"
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * k) for k in range(3)]).save(path)
    return path


def test_a_visitor_draws_downloads_and_comes_back_by_the_link(
    page: Any, photo: Path, pipe: rcdm.RCDMPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _seen_anew(page, photo)
    _settings(page, images=3, steps=4, seed=7)
    forward = rcdm.RepresentationUNet.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.25)
        return forward(*args, **kwargs)

    monkeypatch.setattr(rcdm.RepresentationUNet, "forward", slow)
    page.click("#draw")
    page.wait_for_function("() => /step [123] of 4/.test(document.body.textContent)")
    previews = _drawn(page)
    assert [len(column) for column in previews] == [3, 3]
    top = page.locator("#sheet .columns").bounding_box()
    _finished(page)
    assert page.locator("#sheet .columns").bounding_box()["y"] == top["y"]  # nothing jumped
    expected = pipe([im.decode(photo)] * 2, source=BOTH, seeds=[7, 8, 9], num_inference_steps=4).images
    shown = _drawn(page)
    assert [x.tobytes() for column in shown for x in column] == [x.tobytes() for x in expected]
    assert shown[0][0].tobytes() != previews[0][0].tobytes()

    for kind, opens in (("PNG", lambda data: Image.open(io.BytesIO(data)).format == "PNG"),
                        ("PDF", lambda data: data.startswith(b"%PDF")),
                        ("JSON", lambda data: json.loads(data)["seeds"] == [7, 8, 9])):  # fmt: skip
        with page.expect_download() as download:
            page.get_by_role("link", name=kind, exact=True).click()
        assert opens(Path(download.value.path()).read_bytes())

    page.locator("#sheet .look").first.click()
    large = page.get_by_role("dialog")
    assert large.locator("img").count() == 2  # beside the given one
    page.keyboard.press("Escape")

    link = page.locator("a.permalink").get_attribute("href")
    page.click("#new-seeds")
    page.wait_for_function("() => document.querySelector('#seed input').value === '10'")
    page.wait_for_function("() => document.querySelector('#sheet figcaption span').textContent === '#10'")
    _finished(page)
    assert _drawn(page)[0][0].tobytes() != shown[0][0].tobytes()

    page.goto(page.url.partition("?")[0] + link)
    page.wait_for_function("() => document.querySelector('#seed input')?.value === '7'")
    checked = page.locator("#sources input:checked").evaluate_all(
        "all => all.map(box => box.parentElement.textContent.trim())"
    )
    assert checked == BOTH


def test_a_drawing_is_stopped(page: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []  # whether the projector, which the stopped visitor alone asks for, was among the sources
    queued, stopped = threading.Event(), threading.Event()
    forward = rcdm.RepresentationUNet.forward

    def slow(unet: Any, x: Any, t: Any, h: Any, source: str | list[str]) -> Any:
        calls.append(BOTH[1] in source)
        if len(calls) > 3:  # shows a step, then lets nobody finish before the queue was seen
            queued.wait(120)
            stopped.wait(0.3)
        return forward(unet, x, t, h, source)

    monkeypatch.setattr(rcdm.RepresentationUNet, "forward", slow)
    second = page.context.new_page()
    second.goto(address)
    second.wait_for_selector("#draw")
    _settings(page, images=1, steps=100, seed=0)
    page.click("#draw")
    page.wait_for_function("() => /step \\d+ of 100/.test(document.body.textContent)")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), "red").save(photo)
    client, places = Client(address, verbose=False), DEVICE["concurrency_limit"] - 1
    others = [client.submit(handle_file(photo), BOTH[:1], 1, 60, i, api_name="/draw") for i in range(places)]
    _until(lambda: all(other.status().code is Status.ITERATING for other in others))
    second.click("#draw")  # another visitor, for whom no place is left, is told the one in the queue
    second.wait_for_function("() => /queue: 1/.test(document.body.textContent)", timeout=60_000)
    second.close()
    queued.set()
    page.click("#stop")
    page.wait_for_function("() => document.body.textContent.includes('Stopped.')")
    stopped.set()
    assert all(len(other.result(timeout=60)[0]) == 1 for other in others)  # the others are drawn to the end
    time.sleep(0.8)
    assert 3 <= sum(calls) < 100  # the stopped one is not
    begun = len(calls)
    time.sleep(0.5)
    assert len(calls) == begun


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not within a minute"
        time.sleep(0.05)


def test_another_checkpoint_puts_away_what_the_first_has_drawn(page: Any) -> None:
    _settings(page, images=1, steps=2, seed=0)
    page.click("#draw")
    _finished(page)
    page.get_by_role("tab", name="Edit").click()
    assert page.locator("#edit-start").is_disabled()  # its training images are not at hand
    page.get_by_text("start the page with --data").first.wait_for()
    page.get_by_label("Checkpoint").click()
    page.get_by_role("option", name="sprites-32").click()
    page.wait_for_function("() => !document.querySelector('#edit-start').disabled")  # it ships directions
    page.get_by_role("tab", name="Compare").click()
    page.get_by_text("A finished drawing of arrow.png").wait_for()  # what the other one ships


def test_a_text_file_named_jpg_is_answered_with_a_sentence(page: Any, photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_text("not a picture")
    _seen_anew(page, photo)
    _upload(page, file)
    message = page.get_by_text(re.compile("not a readable image"))
    message.first.wait_for()
    page.wait_for_function("() => !document.querySelector('.view img')")  # nothing of the last one is left
    assert page.locator("#photo img").count() == 0
    page.click("#draw")
    page.get_by_text(re.compile("Give an image first")).first.wait_for()


def test_an_image_that_comes_while_the_last_one_is_put_away_stays(page: Any, photo: Path, tmp_path: Path) -> None:
    _seen_anew(page, photo)
    held: list[Any] = []

    def hold(route: Any) -> None:
        """Keep what is asked of no image until the next one has come."""
        emptied = json.loads(route.request.post_data or "{}").get("data", [])[:1] == [None]
        held.append(route) if emptied and not held else route.continue_()

    page.route("**/queue/join*", hold)
    last, other = page.locator(".view img").get_attribute("src"), tmp_path / "other.png"
    Image.new("RGB", (64, 48), "red").save(other)
    _upload(page, other)
    page.locator("#photo img").wait_for()
    held.pop().continue_()
    page.unroute("**/queue/join*")
    page.wait_for_function("src => ![undefined, src].includes(document.querySelector('.view img')?.src)", arg=last)
    assert page.locator("#photo img").count() == 1  # it is still there


def test_a_page_that_is_loaded_again_has_the_image_and_the_settings(page: Any, photo: Path) -> None:
    _seen_anew(page, photo)
    seen = page.locator(".view img").get_attribute("src")
    _settings(page, images=2, steps=3, seed=11)
    page.click("#draw")
    _finished(page)
    page.wait_for_function("() => location.search.includes('seed=11')")
    page.reload()
    page.wait_for_function("() => document.querySelector('#seed input')?.value === '11'")
    page.wait_for_function("src => document.querySelector('.view img')?.src === src", arg=seen)


def test_a_link_says_how_draws_are_guided(page: Any, address: str) -> None:
    """The choice is there for checkpoints that can guide draws; it is taken from the link and kept in it."""
    assert not page.locator("#guidance").is_visible()  # of the tiny one nothing was learnt
    page.goto(f"{address}?checkpoint=cifar10-32&source=supervised/backbone&images=2&steps=2&guidance=none")
    page.locator("#guidance input[value=none]:checked").wait_for()
    assert "as chosen: not guided" in page.locator("#guidance").inner_text()  # truth chose none for it
    for guidance, words in (("none", ""), ("all", "· regression 1")):
        page.locator(f"#guidance input[value={guidance}]").check()
        page.click("#draw")
        _finished(page)
        page.wait_for_function("way => location.search.includes(`guidance=${way}`)", arg=guidance)
        heading = page.locator("#sheet .columns section").first.inner_text()
        assert ("regression" in heading) is bool(words) and words in heading
    page.get_by_label("Checkpoint", exact=True).click()
    page.get_by_role("option", name="tiny").click()
    page.wait_for_function("() => !document.querySelector('#guidance')?.offsetParent")
    page.click("#draw")
    _finished(page)  # what was chosen for the other one would be refused
    page.wait_for_function("() => !location.search.includes('guidance')")


def test_a_tab_draws_says_what_it_did_and_opens_by_its_link(page: Any, photo: Path) -> None:
    _seen_anew(page, photo)
    _settings(page, images=1, steps=2, seed=3)
    _opened(page, "Transform", "transform")
    page.get_by_label("number input for Draws per strength").fill("2")
    page.get_by_label("number input for Draws per strength").blur()
    page.click("#transform-start")
    page.wait_for_function("() => document.querySelectorAll('#transform-result section .big img').length === 5")
    big = page.locator("#transform-result .columns .big img").first
    last = big.get_attribute("src")
    slider = page.locator("#transform-result input.steps")
    slider.fill("0")
    assert big.get_attribute("src") != last  # the slider moves the draws
    page.locator("#transform-result .columns .frame").nth(5).click()
    assert big.get_attribute("src") == last and slider.input_value() == "5"
    for kind in ("PNG", "PDF", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("link", name=kind, exact=True).locator("visible=true").click()
        assert Path(download.value.path()).stat().st_size > 500
    link = page.locator("a.permalink").locator("visible=true").get_attribute("href")
    page.goto(page.url.partition("?")[0] + link)
    page.locator("#transform-start").wait_for()  # in sight
    page.wait_for_function("() => document.querySelector('#seed input')?.value === '3'")
    assert page.get_by_label("number input for Draws per strength").input_value() == "2"


def test_edit_offers_its_directions_and_draws_the_one_that_is_chosen(page: Any) -> None:
    page.goto(page.url.partition("?")[0] + "?checkpoint=sprites-32&images=1&steps=2&tab=Edit&draws=1"
              "&source=simclr/backbone&method=principal")  # fmt: skip
    page.wait_for_function("() => document.querySelector('#edit-start')?.offsetParent")
    page.wait_for_function("() => !document.querySelector('#edit-start').disabled")
    page.click("#edit-start")
    page.wait_for_function("() => document.querySelectorAll('#edit-result .columns .film').length === 1")
    first = page.locator("#direction input").input_value()
    page.locator("#direction input").click()
    page.get_by_role("option").nth(1).click()
    page.wait_for_function("() => document.querySelectorAll('#edit-result .columns .film').length === 0")
    page.wait_for_function("() => document.querySelectorAll('#edit-result .columns .film').length === 1")
    assert (second := page.locator("#direction input").input_value()) != first
    page.wait_for_function("() => location.search.includes('direction')")
    page.goto(page.url)
    page.wait_for_function("() => document.querySelector('#edit-start')?.offsetParent")
    page.wait_for_function("() => !document.querySelector('#edit-start').disabled")
    page.wait_for_timeout(2000)  # whatever else the settings of the link set off
    page.click("#edit-start")
    page.wait_for_function("() => document.querySelectorAll('#edit-result .columns .film').length === 1")
    assert page.locator("#direction input").input_value() == second


def test_the_page_opens_with_what_the_checkpoint_ships(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an installed page runs in any folder
    page.goto(page.url.partition("?")[0] + "?checkpoint=sprites-32")
    page.wait_for_function("() => document.querySelectorAll('#sheet .columns section').length === 3")
    assert page.get_by_text("A finished drawing of arrow.png").is_visible()
    assert "This decoder can draw" in page.locator("#sheet").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="PNG", exact=True).locator("visible=true").click()
    assert Image.open(download.value.path()).width > 2000
    assert page.locator("#examples img").count() == 2


def test_the_page_fits_a_phone_and_every_tab_opens(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("#draw")
    wide = tab.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 392
    place = tab.locator("#draw").bounding_box()  # at hand without scrolling
    assert place is not None and 700 < place["y"] < 844 - place["height"]
    tabs, image = tab.get_by_role("tab").first.bounding_box(), tab.locator("#photo").bounding_box()
    assert tabs is not None and image is not None and tabs["y"] < 400 < image["y"]  # pictures first, controls below
    tab.click("#to-controls")
    tab.wait_for_function("() => scrollY > 200")
    tab.click("#draw")
    tab.wait_for_function("() => scrollY < 300")  # what is drawn is then in sight
    _finished(tab)
    assert tab.evaluate("() => scrollY") < 300  # and stays there, however long it gets
    tab.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
    end, bar = tab.locator("footer").bounding_box(), tab.locator("#draw").bounding_box()
    assert end is not None and bar is not None and end["y"] + end["height"] <= bar["y"]  # nothing lies under the bar
    context.close()


@pytest.mark.parametrize("name", ["Transform", "Mix", "Sprite lab"])
def test_a_tab_answers(page: Any, name: str) -> None:
    start = {"Transform": "transform", "Mix": "mix", "Sprite lab": "lab"}[name]
    _settings(page, images=2, steps=1, seed=0)
    _opened(page, name, start)
    page.click(f"#{start}-start")
    _finished(page)
    if name == "Sprite lab":
        with page.expect_download() as download:
            page.get_by_role("link", name="JSON", exact=True).locator("visible=true").click()
        assert not json.loads(Path(download.value.path()).read_text())["photo"]["example"]  # the sprite was given
        return
    slider = page.locator("input.steps")
    before = page.locator(".big img").first.get_attribute("src")
    slider.focus()
    slider.press("ArrowLeft" if name == "Transform" else "ArrowRight")
    assert page.locator(".big img").first.get_attribute("src") != before
