"""Every tab of the page in Chromium: seconds until the first picture and until the result, on an idle server.

A fresh browser opens each tab with the page's defaults (Compare with two sources); switching tabs is timed, too. Each
is done `--times` times with other seeds, so that nothing is remembered; printed are the medians.
"""

import argparse
import os
import shutil
import statistics
import time
from typing import Any

from playwright.sync_api import sync_playwright
from server import Server

STARTS = {"Compare": "#draw", "Transform": "#transform-start", "Mix": "#mix-start", "Edit": "#edit-start",
          "Attack": "#attack-start", "Sprite lab": "#lab-start"}  # fmt: skip
DRAWN = ".strip img, .frames .big img, .sheet:not(.stale) .draws img"
SEEN = f"() => [...document.querySelectorAll('{DRAWN}')].some(i => i.offsetParent && !i.dataset.old)"
OLD = f"() => document.querySelectorAll('{DRAWN}').forEach(i => {{ i.dataset.old = 1 }})"
_ENDED = "s.offsetParent && / in [0-9.]+ s/.test(s.textContent)"
DONE = f"() => [...document.querySelectorAll('.status')].some(s => {_ENDED})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    server = Server("--checkpoint", options.checkpoint, "--jobs", "0")
    server.wait(seconds=300)
    time.sleep(10)  # until it has warmed up
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            print(f"{'tab':12} {'switched':>9} {'first':>6} {'done':>6}   seconds, median of {options.times}")
            for tab, start in STARTS.items():
                if tab == "Sprite lab" and not options.checkpoint.startswith("sprites"):
                    continue
                runs = [timed(browser, server.url, tab, start, 100 * i) for i in range(options.times)]
                medians = [statistics.median(values) for values in zip(*runs, strict=True)]
                print(f"{tab:12} {medians[0]:9.2f} {medians[1]:6.2f} {medians[2]:6.2f}", flush=True)
    finally:
        server.stop()


def timed(browser: Any, address: str, tab: str, start: str, seed: int) -> tuple[float, float, float]:
    """Seconds until a tab is in sight, and from a click on its button until the first picture and the result."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    two = "&source=simclr/backbone&source=simclr/projector" if tab == "Compare" else ""
    page.goto(f"{address}?seed={seed}{two}")
    page.wait_for_function("seed => document.querySelector('#seed input')?.value === String(seed)", arg=seed)
    begun = time.monotonic()
    page.get_by_role("tab", name=tab).click()
    page.locator(start).wait_for()
    switched = time.monotonic() - begun
    page.evaluate(OLD)
    begun = time.monotonic()
    page.click(start)
    page.wait_for_function(SEEN, timeout=300_000)
    first = time.monotonic() - begun
    page.wait_for_function(DONE, timeout=300_000)
    done = time.monotonic() - begun
    page.context.close()
    return switched, first, done


if __name__ == "__main__":
    main()
