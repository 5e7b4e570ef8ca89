"""Open the page on a checkpoint: `python app.py --checkpoint cifar10-32`. Also the entry of a hosted Space."""

import os

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  (before anything touches CUDA)

from rcdm.cli import alone

if __name__ == "__main__":
    alone("serve", "Open the RCDM page in a browser.")
