"""Open the page on a checkpoint: `python app.py --checkpoint sprites-32`. Also the entry of a hosted Space."""

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  (before anything touches CUDA)

from rcdm.ui.settings import add_serve_options, from_options

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Open the RCDM page in a browser.")
    add_serve_options(parser)
    options = parser.parse_args()
    try:
        settings = from_options(options)
        from rcdm.ui.page import serve

        serve(settings)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
