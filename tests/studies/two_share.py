"""What tests/studies/test_processes_share.py runs, in one process or in two: an evaluation and three studies."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from test_study_files import quick_save

from rcdm import cli
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.judge import Evaluator


def work(checkpoint: str, evaluator: str, out: Path) -> int:
    """Run the commands, with quick stand-ins for what no process shares; returns how many images this one has drawn."""
    drawn: list[int] = []
    denoise = RCDMPipeline._denoise
    where = ["--device", "cpu", "--out", str(out)]
    sizes = ["--gallery", "66", "--retention-images", "34", "--retention-draws", "2", "--probe-images", "20"]
    sizes += ["--guidance-images", "20", "--guidance-draws", "2"]
    judged = ["--evaluator", evaluator, "--realism-draws", "130"]
    study = ["--checkpoint", checkpoint, *where, "--source", "tiny/backbone", "tiny/projector", "--reference", "20"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RCDMPipeline, "_denoise", lambda s, streams, *m: drawn.append(len(streams)) or denoise(s, streams, *m)
        )
        patch.setattr("rcdm.cli.measuring.Evaluator", partial(Evaluator, n=500))
        patch.setattr("rcdm.studies.study_files.save", quick_save)
        cli.main(["evaluate", checkpoint, *where, *sizes, *judged, "--data", "sprites"])
        cli.main(["study", "retention", *study, "--images", "34", "--samples", "2"])
        cli.main(["study", "samples", *study, "--images", "34", "--samples", "2"])
        cli.main(["study", "information", *study, "--images", "9", "--option", "batch_size=4", "--option", "levels=3"])
    return sum(drawn)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("drawn", work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
