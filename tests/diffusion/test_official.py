"""A file of the released code becomes a checkpoint that draws, and refuses what it never learned."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from test_convert import CASES, flags_of, recorded
from test_published import mlp, named
from torch import nn
from torchvision.models import resnet50

import rcdm
from rcdm import cli
from rcdm.diffusion.official import released as official


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A 32 px denoiser for 48 dimensions, and a published network whose projector has so many."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    backbone = resnet50()
    backbone.fc = nn.Identity()
    state = named("module.backbone.", backbone) | named("module.projector.", mlp(2048, 24, 24, 48, last_bias=False))
    torch.save({"model": state}, folder / "resnet50_fullckpt.pth")
    torch.save(recorded(CASES[0], "model"), folder / "rcdm_ema_vicreg_head.pt")
    return folder


def arguments(files, out) -> list[str]:
    flags = {k: v for k, v in flags_of(CASES[0]).items() if k in rcdm.diffusion.official.convert.DEFAULT_FLAGS}
    given = [part for name, value in flags.items() for part in ("--flag", f"{name}={value}")]
    return ["convert", str(files / "rcdm_ema_vicreg_head.pt"), str(out), *given]


def test_a_converted_file_draws_what_the_network_draws(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    out = tmp_path / "converted"
    cli.main([*arguments(files, out), "--network-file", str(files / "resnet50_fullckpt.pth")])
    pipe = rcdm.load(out, device="cpu")
    assert pipe.sources == ("vicreg-resnet50/projector",) and pipe.image_size == 32
    assert pipe.sources["vicreg-resnet50/projector"].preprocessing.mean == (0.5, 0.5, 0.5)
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and "`rcdm_ema_vicreg_head.pt`" in card.text
    h = torch.randn(1, 48)
    drawn = pipe(representation=h, source=pipe.sources[0], seeds=[3], num_inference_steps=3, output_type="pt").images
    assert drawn.shape == (1, 3, 32, 32) and drawn.isfinite().all()
    for refused in ({"guidance_scale": 2.0, "representation": h, "source": pipe.sources[0]}, {}):
        with pytest.raises(ValueError, match="never learned"):
            pipe(**refused, num_inference_steps=2)
    with pytest.raises(SystemExit):
        cli.main(arguments(files, out))
    assert "exists already" in capsys.readouterr().err


def test_the_wrong_network_or_level_is_refused(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    network = ["--network-file", str(files / "resnet50_fullckpt.pth")]
    for more, words in ((["--level", "backbone"], "takes 48 dimensions"), (["--flag", "nonsense"], "NAME=VALUE")):
        with pytest.raises(SystemExit):
            cli.main([*arguments(files, tmp_path / "out"), *network, *more])
        assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_official_names_are_downloaded_and_converted_once(files, tmp_path, monkeypatch):
    monkeypatch.setenv("RCDM_HOME", str(tmp_path / "home"))
    fetched = []

    def fetch(url, target):
        fetched.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((files / target.name).read_bytes())
        return target

    monkeypatch.setattr(official, "fetch", fetch)
    monkeypatch.setattr("rcdm.networks.published.fetch", fetch)
    flags = flags_of(CASES[0])
    monkeypatch.setattr(
        official,
        "from_official",
        lambda f, _, source: rcdm.diffusion.official.convert.from_official(f, flags, source=source),
    )
    monkeypatch.setattr(
        official, "official_scheduler", lambda _: rcdm.diffusion.official.convert.official_scheduler(flags)
    )
    first = rcdm.load("official/vicreg-projector", device="cpu")
    monkeypatch.setattr(official, "fetch", None)  # offline
    again = rcdm.load("official/vicreg-projector", device="cpu")
    assert len(fetched) == 2 and fetched[0].endswith("rcdm/rcdm_ema_vicreg_head.pt")
    assert tuple(first.sources) == tuple(again.sources)
    config = json.loads((tmp_path / "home/official/vicreg-projector/sources/vicreg-resnet50/config.json").read_text())
    assert config["licence"] == "CC-BY-NC 4.0" and len(config["published"]["sha256"]) == 64


def test_the_nine_released_files_have_names():
    assert len(official.RELEASED) == 9
    with pytest.raises(ValueError, match="supervised-backbone"):
        rcdm.load("official/moco-backbone")
