"""Train a denoiser on the representations of frozen networks: `python train_rcdm.py --help`."""

from rcdm.cli import train_main

if __name__ == "__main__":
    train_main()
