"""From starting the page to its first drawing, and from a signal to its end; against importing torch alone."""

import argparse
import signal
import statistics
import subprocess
import sys
import time

from gradio_client import Client, handle_file
from server import ROOT, Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sprites-32")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for _ in range(options.runs):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        torch_alone = time.monotonic() - begun
        server = Server("--checkpoint", options.checkpoint)
        try:
            up = server.wait()
            photo = handle_file(str(ROOT / "rcdm" / "examples" / "heart.png"))
            client = Client(server.url, verbose=False)
            client.predict(photo, api_name="/draw")
            rows.append((torch_alone, up, time.monotonic() - server.begun))
        finally:
            ended = server.stop(signal.SIGTERM)
    print("| import torch | serving | first drawing (2 sources x 8 images) | SIGTERM to the end |\n|---|---|---|---|")
    cells = [f"{statistics.median(column):.1f} s" for column in zip(*rows, strict=True)]
    print(f"| {' | '.join(cells)} | {ended:.1f} s |\n\nMedian of {len(rows)} runs.")


if __name__ == "__main__":
    main()
