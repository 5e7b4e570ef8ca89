"""What tests/training/test_processes.py starts in two processes: pretraining, then training (SOURCES OUT)."""

import sys
from pathlib import Path

import torch
from test_training import tiny

from rcdm.data.sprites import Sprites
from rcdm.ssl.pretraining import pretrain
from rcdm.ssl.pretraining_config import PretrainConfig
from rcdm.training.denoiser import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    sources, out = Path(sys.argv[1]), Path(sys.argv[2])
    small = {"width": 2, "blocks": (1, 1, 1, 1), "projector_dim": 8, "projector_hidden_dim": 8}
    config = PretrainConfig("simclr", batch_size=8, max_steps=None, max_minutes=0.02, mixed_precision="no", **small)
    pretrain(Sprites(16), config, out / "pretrained")
    changes = {"train_batch_size": 4, "representations_dir": str(out / "h"), "train_data_dir": str(out / "photos")}
    changes |= {"random_flip": True, "lr_warmup_steps": 1, "checkpoints_total_limit": 4}
    train(tiny(sources, out / "two", **changes))
    print("finished")
