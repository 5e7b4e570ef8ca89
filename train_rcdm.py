"""Train a denoiser on the representations of frozen networks: `python train_rcdm.py --help`."""

from rcdm.cli import alone

if __name__ == "__main__":
    alone("train", "Train a denoiser on the representations of frozen networks.")
