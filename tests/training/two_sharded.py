"""What tests/training/test_sharded.py starts in two processes: training whose weights FSDP splits (SOURCES OUT).

accelerate knows FSDP on accelerators alone, and takes two CPU processes for plain data parallelism whatever is asked.
So the kind of the run is put right here, after accelerate has found the processes; the sharding is torch's own.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from test_training import tiny

from rcdm.training.denoiser import train


def shard_on_cpus() -> None:
    """Let accelerate believe that this is an FSDP run of version 2."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    begin = AcceleratorState.__init__

    def begun(self: AcceleratorState, *given: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        begin(self, *given, fsdp_plugin=fsdp_plugin, **named)
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        if fsdp_plugin is not None:
            AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin

    AcceleratorState.__init__ = begun


if __name__ == "__main__":
    torch.set_num_threads(1)
    shard_on_cpus()
    sources, out = Path(sys.argv[1]), Path(sys.argv[2])
    train(tiny(sources, out / "eight", train_batch_size=4, lr_warmup_steps=1))
    print("finished")
