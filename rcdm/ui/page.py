"""The page: the shared controls beside the tabs; built once, launched with the server's limits."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from rcdm.data import images as im
from rcdm.ui import about, api, attack, compare, edit, mix, own_network, sprite_lab, transform
from rcdm.ui.blocks import Page
from rcdm.ui.controls import Controls, build_controls, caution_html, look_at
from rcdm.ui.engine import DEVICE_QUEUE, Engine
from rcdm.ui.examples import EXAMPLES, default_sources, examples_of
from rcdm.ui.export import FIRST_TAB
from rcdm.ui.guard import LARGEST_SEED, is_here
from rcdm.ui.loaded import EXAMPLES_FOLDER
from rcdm.ui.routes import TITLE, app_arguments
from rcdm.ui.settings import Settings
from rcdm.ui.sheet import render
from rcdm.ui.theme import CSS, HEAD, THEME
from rcdm.ui.waiting import keep_fair

TABS = {
    "Compare": compare.build, "Transform": transform.build, "Mix": mix.build, "Edit": edit.build,
    "Attack": attack.build, "Sprite lab": sprite_lab.build, "About": about.build,
}  # fmt: skip
LONGEST_NAME = 80  # characters of a direction in a link
SWEEP_SECONDS = 300  # how often old uploads are looked for


def build(engine: Engine) -> gr.Blocks:
    """The page of an engine. Public endpoints: `/encode`, `/draw`, `/study` and `/sprite`."""
    age = max(engine.settings.keep_minutes * 60 - SWEEP_SECONDS, 60)
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, age)) as page:
        gr.HTML(render("intro.html"), elem_classes="intro")
        api.build(engine)  # before all else that acts: later events of the same name would be given another one
        with gr.Row():
            with gr.Column(elem_classes="controls", min_width=300):
                controls = build_controls(engine)
                own_network.build(engine, controls)
            with gr.Column(elem_classes="results", min_width=300), gr.Tabs() as tabs:
                for name, tab in TABS.items():
                    with gr.Tab(name, id=name):
                        tab(engine, controls)
        _restore(page, engine, controls, tabs)
    return page


def _restore(page: gr.Blocks, engine: Engine, controls: Controls, tabs: gr.Tabs) -> None:
    """Open the page with the settings of its address, and the image that the same browser had given it last."""
    last = gr.BrowserState("", storage_key="rcdm-image")
    controls.photo.change(
        lambda photo: photo if photo and is_here(photo) else "", controls.photo, last,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    own = [(tab, key, control) for tab, named in controls.tabs.items() for key, control in named.items()]

    def restore(photo: str, request: gr.Request) -> list[Any]:
        updates = from_query(engine, request.query_params)
        if "example" not in request.query_params and photo and is_here(photo):
            updates[0] = photo
        wish = request.query_params.get("tab", FIRST_TAB)
        updates.append(gr.Tabs(selected=wish) if wish in TABS and wish != FIRST_TAB else gr.skip())
        given, name = request.query_params, request.query_params.get("checkpoint")
        known = examples_of(engine[name]) if name in engine.shelf.names else []
        return updates + [
            own_from_query(control, given.get(key, "") if tab == wish else "", known) for tab, key, control in own
        ]

    outputs = [*controls.inputs(), controls.caution, controls.examples, tabs, *(control for _, _, control in own)]
    opened = page.load(restore, last, outputs, show_progress="hidden", api_visibility="private")
    look_at(engine, controls, opened.then)


def own_from_query(control: gr.components.Component, text: str, known: Sequence[Path] = ()) -> Any:
    """What a link says of a tab's own control, where that may be its value; nonsense is left out.

    `known` are the examples of the link's checkpoint: where it names no second image, that is the second of them.
    """
    if isinstance(control, gr.Image):
        return str(EXAMPLES[text]) if text in EXAMPLES else str(known[1]) if known else gr.skip()
    if isinstance(control, gr.Slider):
        try:
            value = float(text)
        except ValueError:
            return gr.skip()
        whole = float(control.step).is_integer()
        return (int(value) if whole else value) if control.minimum <= value <= control.maximum else gr.skip()
    if isinstance(control, gr.Dropdown) and control.allow_custom_value:
        return text if 0 < len(text) <= LONGEST_NAME else gr.skip()
    return text if text in [value for _, value in getattr(control, "choices", [])] else gr.skip()


def from_query(engine: Engine, query: Any) -> list[Any]:
    """Query parameters -> updates of photo, checkpoint, sources, number, steps, seed, caution, examples.

    Nonsense is left out. A link to a checkpoint without a picture begins with one of its own examples.
    """
    updates: list[Any] = [gr.skip() for _ in range(8)]
    if query.get("example") in EXAMPLES:
        updates[0] = str(EXAMPLES[query["example"]])
    name = query.get("checkpoint", engine.settings.checkpoint)
    if name not in engine.shelf.names:
        return updates
    known = list(engine[name].pipe.sources.names)
    if "checkpoint" in query:
        updates[1], updates[6] = name, caution_html(engine[name])
        own = [str(path) for path in examples_of(engine[name])]
        updates[7] = gr.Dataset(samples=[[path] for path in own])
        if "example" not in query:
            updates[0] = own[0]
        updates[2] = gr.update(choices=known, value=default_sources(known))
        updates[4] = engine[name].pipe.config.default_steps
    if chosen := [source for source in query.getlist("source") if source in known]:
        updates[2] = gr.update(choices=known, value=chosen)
    limits = {
        3: ("images", 1, engine.settings.most_images),
        4: ("steps", 1, engine.settings.most_steps),
        5: ("seed", 0, LARGEST_SEED - engine.settings.most_images),
    }
    for place, (key, low, high) in limits.items():
        text = query.get(key, "")
        if text.isascii() and text.isdigit() and len(text) < 11 and low <= int(text) <= high:
            updates[place] = int(text)
    return updates


def launch(engine: Engine, *, prevent_thread_lock: bool = False) -> gr.Blocks:
    """Serve the page of an engine; returns when the server stops, or at once with `prevent_thread_lock`."""
    settings = engine.settings
    os.environ["FORWARDED_ALLOW_IPS"] = settings.trusted_proxies  # read by uvicorn
    # api_open: what waits in the queue is reached through it alone
    page = build(engine).queue(max_size=settings.queue, default_concurrency_limit=4, api_open=False)
    keep_fair(page._queue, engine.sessions, settings.jobs, DEVICE_QUEUE)
    page._queue.sleep_when_free = 0.02  # seconds between two looks at the queue: Gradio's 0.001 takes 4 % of a core
    page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        share=settings.share,
        prevent_thread_lock=True,
        theme=THEME,
        css=CSS,
        head=HEAD,
        allowed_paths=[str(EXAMPLES_FOLDER)],  # else a list of examples is refused outside the repository
        max_file_size=(most := max(im.MAX_BYTES, settings.network_bytes)),
        state_session_capacity=1000,
        app_kwargs=app_arguments(engine.finished, engine.sessions, most),
        ssr_mode=False,
        run_history=False,
        footer_links=["api"],
    )
    if not prevent_thread_lock:
        _wait(page)
    return page


def _wait(page: gr.Blocks) -> None:
    """Until SIGINT or SIGTERM; then close, without waiting for whoever still listens."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    threading.Thread(target=page.close, daemon=True).start()
    page.server.thread.join(timeout=3)


def serve(settings: Settings) -> None:
    """Load the checkpoint and serve its page until interrupted; uploads lie in a folder that ends with the server."""
    sys.setswitchinterval(0.0005)  # else each operation of a drawing may wait 5 ms for the threads that answer
    with tempfile.TemporaryDirectory(prefix="rcdm-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")  # else Gradio sums up times after every event
        os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # and remembers ten thousand of them
        engine = Engine(settings)
        engine.warm_up()
        launch(engine)
