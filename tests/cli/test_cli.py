"""The command line, and the README that tells how to use it."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from PIL import Image

import rcdm
from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.diffusion.model_card import markdown_tables
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.diffusion.process import Process
from rcdm.diffusion.regressor import Regressor, learn_source
from rcdm.measures.judge import Evaluator
from rcdm.studies import NAMES, STUDIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.jpg"
    im.to_pil(sprites.render(sprites.sample_factors(1, seed=9), 64))[0].save(file)
    return file


def sample(photo: Path, checkpoint: Path, out: Path, *more: str) -> dict:
    cli.main(["sample", str(photo), "--checkpoint", str(checkpoint), "--device", "cpu", "--out", str(out), *more])
    return json.loads(out.with_suffix(".json").read_text())


def test_sample_writes_a_grid_and_every_setting(photo, tiny_checkpoint, tmp_path):
    out = tmp_path / "deep" / "grid.png"
    report = sample(photo, tiny_checkpoint, out, "--samples", "3", "--source", "tiny/backbone", "tiny/projector")
    assert Image.open(out).format == "PNG"
    assert report["settings"]["samples"] == 3 and report["settings"]["source"] == ["tiny/backbone", "tiny/projector"]
    assert report["seeds"] == [0, 1, 2] and report["steps"] == 4 and report["versions"]["rcdm"] == rcdm.__version__
    assert [draw["source"] for draw in report["draws"]] == ["tiny/backbone", "tiny/projector"]
    assert "Nothing has been measured of this checkpoint" in report["note"]
    assert all(len(draw["similarity"]) == 3 and -1 <= min(draw["similarity"]) <= 1 for draw in report["draws"])


def test_sample_draws_what_python_draws(photo, tiny_checkpoint, tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr("rcdm.cli.sample_grid.grid_png", lambda images, *_: grids.append(images) or b"")
    sample(photo, tiny_checkpoint, tmp_path / "a.png", "--seed", "5", "--samples", "2", "--source", "tiny/layer2")
    pipe = rcdm.load(tiny_checkpoint, device="cpu")
    drawn = pipe(im.decode(photo), source="tiny/layer2", seeds=[5, 6]).images
    assert [image.tobytes() for image in grids[0][1:]] == [image.tobytes() for image in drawn]


def test_sample_guides_a_prior_to_a_file_that_nobody_trained_for(photo, tiny_checkpoint, tmp_path, monkeypatch):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "mine.pth")
    shown = []
    monkeypatch.setattr("rcdm.cli.sample_grid.grid_png", lambda images, *_: shown.append(images) or b"")
    network = ["--prior", str(tiny_checkpoint), "--backbone", str(tmp_path / "mine.pth"), "--image-size", "16"]
    network += ["--prior-images", "32"]
    out = tmp_path / "guided.png"
    report = sample(photo, tiny_checkpoint, out, *network, "--method", "mpgd", "--samples", "2", "--steps", "2")
    assert report["sources"] == ["mine/backbone"] and len(shown[0]) == 3 and "no decoder was trained" in report["note"]
    about = report["guidance"]["sources"]["mine/backbone"]
    assert report["guidance"]["method"] == "mpgd" and about["strength"] > 0 and about["target"] > 0
    again = sample(photo, tiny_checkpoint, out, *network, "--method", "mpgd", "--samples", "2", "--steps", "2")
    assert again["draws"] == report["draws"] and again["guidance"] == report["guidance"]


def test_guidance_is_the_checkpoints_own_unless_an_option_names_it(photo, tiny_checkpoint, tmp_path, capsys):
    source = "tiny/backbone"
    pipe = rcdm.load(tiny_checkpoint, device="cpu")
    reference = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    learnt = learn_source(pipe.unet, pipe.sources, Process(pipe.scheduler), reference, source)
    pipe.use_regressor(Regressor.of({source: learnt}, 16))
    pipe.use_guidance({}, None, {source: 50.0})
    pipe.save_pretrained(tmp_path / "led")

    def drawn(checkpoint: Path, *options: str) -> dict:
        found = sample(photo, checkpoint, tmp_path / "a.png", "--samples", "2", "--source", source, *options)
        return found["draws"][0] | {"note": found["note"]}

    own, off = drawn(tmp_path / "led"), drawn(tmp_path / "led", "--guidance-scale", "1")
    assert own["guidance_strength"] == 50 and own["guidance_scale"] == 1 and "regression 50" in own["note"]
    assert off["guidance_strength"] == 0 and "regression" not in off["note"]
    assert own["similarity"] != off["similarity"] == drawn(tiny_checkpoint)["similarity"]
    assert own["similarity"] == drawn(tmp_path / "led", "--guidance-strength", "50")["similarity"]
    with pytest.raises(SystemExit):
        drawn(tiny_checkpoint, "--guidance-strength", "1")
    assert "no regression of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        drawn(tiny_checkpoint, "--guidance-strength", "1", "--prior", str(tiny_checkpoint))
    assert "leave it out with --prior" in capsys.readouterr().err


def test_without_a_file_a_prior_is_guided_by_the_networks_of_the_checkpoint(photo, tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    asked = [str(photo), "--prior", str(tiny_checkpoint), "--source", "tiny/projector", "--samples", "2"]
    asked += ["--checkpoint", str(tiny_checkpoint), "--steps", "2", "--device", "cpu", "--out", str(out)]
    asked += ["--prior-images", "20"]
    for _ in range(2):
        cli.main(["study", "samples", *asked])
    assert "finished before" in capsys.readouterr().err
    record = json.loads((out / "samples.json").read_text())
    assert record["settings"]["sources"] == list(record["guidance"]["sources"]) == ["tiny/projector"]
    assert record["guidance"]["sources"]["tiny/projector"]["images"] == 20
    assert "guided by" in record["settings"]["checkpoint"] and "--prior-images 20" in record["command"]


def test_sample_takes_several_photographs_and_all_sources(photo, tiny_checkpoint, tmp_path):
    second = tmp_path / "second.png"
    Image.new("RGBA", (30, 50), (200, 10, 10, 128)).save(second)
    out = tmp_path / "out.png"
    cli.main(["sample", str(photo), str(second), "--checkpoint", str(tiny_checkpoint), "--samples", "1"]
             + ["--device", "cpu", "--out", str(out)])  # fmt: skip
    draws = json.loads(out.with_suffix(".json").read_text())["draws"]
    assert len(draws) == 2 * 3 and len({draw["photo"] for draw in draws}) == 2


def test_sample_puts_sources_side_by_side(photo, tiny_checkpoint, tmp_path, monkeypatch):
    grids = {}
    for way in ("--across", "--seed=0"):
        monkeypatch.setattr(
            "rcdm.cli.sample_grid.grid_png", lambda images, *_, _way=way: grids.update({_way: images}) or b""
        )
        sample(
            photo,
            tiny_checkpoint,
            tmp_path / "a.png",
            "--samples",
            "2",
            way,
            "--source",
            "tiny/layer2",
            "tiny/backbone",
        )
    across, below = grids["--across"], grids["--seed=0"]
    assert [image.tobytes() for image in across[1:]] == [image.tobytes() for image in below[1:3] + below[4:]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "nowhere.jpg"], "nowhere.jpg"),
        (["sample", "."], "is a folder"),
        (["sample", "PHOTO", "--steps", "-3"], "must be at least 1"),
        (["sample", "PHOTO", "--source", "tiny/none"], "choose one of tiny/backbone"),
        (["sample", "PHOTO", "--samples", "0"], "at least 1"),
        (["sample", "PHOTO", "--out", "grid.txt"], "must end in .png"),
        (["sample", "PHOTO", "--checkpoint", "nothing"], "no checkpoint 'nothing'"),
        (["study", "astrology"], "retention"),
        (["evaluate", "nothing"], "no checkpoint"),
        (["train", "--output_dir", "x"], "sources_dir"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_two(arguments, words, photo, tiny_checkpoint, capsys):
    arguments = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    if arguments[0] == "sample" and "--checkpoint" not in arguments:
        arguments += ["--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and words in message and "Traceback" not in message


NEEDED = {name: [] for name in cli.COMMANDS} | {
    "sample": ["x"],
    "study": ["samples"],
    "pretrain": ["--out", "x", "--objective", "simclr"],
    "convert": ["x", "y"],
}
"""Command -> what it cannot do without."""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "evaluate"),
        (["astrology"], 2, "invalid choice"),
        (["--version"], 0, rcdm.__version__),
        (["networks"], 0, "dinov2-vits14"),
        (["networks", "--image_size", "many"], 2, "argument --image-size: invalid int"),
        (["train", "--output-dir=x", "--backbone", "x", "--image-size=many"], 2, "argument --image_size: invalid int"),
        (["study", "--help"], 0, "path=linear"),
        (["study", "adversarial", "--help"], 0, "steps=20"),
        (["report", "--help"], 0, "manipulation-principal"),
        *(
            ([name, *needed, "--colour", "blue"], 2, "unrecognized arguments: --colour")
            for name, needed in NEEDED.items()
        ),
        (["sample", "nothing.png"], 2, "'nothing.png' is not a file"),
        (["sample", "README.md", "--source", "simclr/nothing"], 2, "choose one of simclr-nojitter/backbone"),
        (["sample", "README.md", "--samples", "0"], 2, "--samples must be at least 1"),
        (["sample", "README.md", "--prior", "no/such/prior"], 2, "There is no checkpoint 'no/such/prior'"),
        (["sample", "README.md", "--prior", "sprites-32", "--particles", "0"], 2, "particles must be at least 1"),
        (
            ["sample", "README.md", "--prior", "sprites-32", "--prior-images", "3"],
            2,
            "prior_images must be at least 16",
        ),
        (["sample", "README.md", "--prior", "sprites-32", "--method", "luck"], 2, "invalid choice"),
        (["sample", "README.md", "--image-size", "64"], 2, "with --backbone and --prior"),
        (["sample", "README.md", "--method", "tds"], 2, "give --prior, too"),
        (["sample", "README.md", "--prior", "sprites-32", "--particles", "9"], 2, "is for --method tds"),
        (["sample", "docs/images/kept.png", "--out", "docs/images/kept.png"], 2, "would be written over"),
        (["sample", "docs/images/kept.png", "--out", "README.md/a.png"], 2, "README.md is no folder"),
        (["study", "samples", "--out", "README.md/a"], 2, "README.md is no folder"),
        (["study", "samples", "--prior", "sprites-32", "--source", "simclr/no"], 2, "choose one of simclr-nojitter"),
        (["sample", "README.md", "--checkpoint", "backbones-cifar10"], 2, "backbones only"),
        (["study", "astrology"], 2, "choose one of samples, retention"),
        (["study", "samples", "--data", "nowhere"], 2, "nowhere is neither"),
        (["study", "samples", "--option", "pace=1"], 2, "samples has no settings besides"),
        (["study", "adversarial", "--option", "pace=1"], 2, "write NAME=VALUE with one of steps"),
        (["study", "adversarial", "--option", "steps=many"], 2, "steps takes a value like 20"),
        (["study", "spectrum", "--steps", "5"], 2, "draws nothing: leave --steps out"),
        (["report", "--study", "astrology"], 2, "choose of samples, retention"),
        (["study", "samples", "--checkpoint", "no/such/name"], 2, "There is no checkpoint 'no/such/name'"),
        (["report", "--images", "0"], 2, "--images must be at least 1"),
        (["evaluate", "no/such/name"], 2, "There is no checkpoint"),
        (["evaluate", "--prior", "sprites-32"], 2, "say with --out"),
        (["serve", "--checkpoint", "backbones-cifar10"], 2, "backbones only"),
        (["train", "--output_dir", "x"], 2, "sources_dir"),
        (["pretrain", "--out", "x", "--objective", "luck"], 2, "There is no objective 'luck'"),
        (["convert", "nothing.pt", "x"], 2, "is not a file"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(arguments, code, words):
    script = (
        f"import sys\nfrom rcdm import cli\ntry:\n    cli.main({arguments})\nfinally:\n"
        "    assert not {'torch', 'diffusers', 'gradio', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code and words in done.stdout + done.stderr, done.stderr


def test_a_line_comes_before_torch_is_imported(monkeypatch, capsys, photo, tiny_checkpoint):
    monkeypatch.delitem(sys.modules, "torch")
    said = []
    grid = SimpleNamespace(draw_grid=lambda _: said.append(capsys.readouterr().err))
    monkeypatch.setitem(sys.modules, "rcdm.cli.sample_grid", grid)
    cli.main(["sample", str(photo), "--checkpoint", str(tiny_checkpoint)])
    assert said[0].strip().endswith("rcdm sample: loading torch")


def test_the_names_of_the_studies_are_those_of_their_records():
    assert tuple(STUDIES) == NAMES


def test_help_names_the_settings_of_each_study(capsys):
    with pytest.raises(SystemExit):
        cli.main(["study", "information", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "levels=24" in words and "ln SNR" in words and "adversarial" in words and "steps=20" not in words
    with pytest.raises(SystemExit):
        cli.main(["study", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "levels=24" in words and "steps=20" in words and "(linear, spherical)" in words


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_names_a_default_only_where_there_is_one(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert not [empty for empty in ("None", "[]", "()") if f"(default: {empty})" in words]


def test_help_of_training_and_drawing_names_their_defaults(capsys):
    for command, default in (("study", "(default: sprites-32)"), ("train", "(default: 4096)")):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert default in " ".join(capsys.readouterr().out.split())


class FakeReader:
    """Reads the mean colour; stands in for the trained reader on 16 px random pictures."""

    size = 16

    def read(self, images):
        return {"red": images[:, :1].mean((2, 3)), "sky": images[:, 2:, :8].mean((2, 3))}


@pytest.fixture
def with_reader(tiny_checkpoint, monkeypatch):
    (tiny_checkpoint / "reader").mkdir(exist_ok=True)
    monkeypatch.setattr("rcdm.measures.readers.load_reader", lambda folder: FakeReader())
    yield tiny_checkpoint
    (tiny_checkpoint / "reader").rmdir()


def test_retention_study_has_the_shape_it_promises(with_reader):
    pipe = rcdm.load(with_reader, device="cpu")
    images = sprites.render(sprites.sample_factors(5, seed=0), 16)
    more = sprites.render(sprites.sample_factors(40, seed=1), 16)
    result = STUDIES["retention"](pipe, images, sources=["tiny/backbone"], seeds=[7, 8, 9], probe_images=more)
    assert len(result.images) == len(result.rows) * len(result.columns) and result.columns[:2] == ("given", "draw 0")
    red = result.numbers["sources"]["tiny/backbone"]["red"]
    assert {"value", "low", "high", "n", "null", "calibration", "ridge", "probe"} <= set(red) and red["n"] == 5


def test_retention_of_a_pipeline_that_ignores_h_is_its_null(with_reader):
    pipe = rcdm.load(with_reader, device="cpu")
    for projection in pipe.unet.projections.values():
        torch.nn.init.zeros_(projection.linear.weight)
    images = sprites.render(sprites.sample_factors(6, seed=0), 16)
    numbers = STUDIES["retention"](pipe, images, sources=["tiny/projector"], seeds=[0, 1]).numbers["sources"]
    for attribute in numbers["tiny/projector"].values():
        assert attribute["value"] == pytest.approx(attribute["null"], abs=1e-4)


def test_evaluate_asks_where_the_data_of_a_checkpoint_are(capsys, tmp_path):
    for checkpoint in ("cifar10-32", "backbones-cifar10"):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", checkpoint, "--out", str(tmp_path / "there")])
        assert "has learned from cifar10: say where that is with --data" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_numbers_of_networks_go_where_they_are_wanted(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rcdm.ssl.source_metrics.measure_source", lambda *_, **__: {"data": "", "n": 1, "levels": {}})
    folder, out = tmp_path / "networks", tmp_path / "there"
    shutil.copytree(tiny_checkpoint / "sources", folder / "sources")
    before = sorted(folder.rglob("*"))
    cli.main(["evaluate", str(folder), "--data", "sprites", "--out", str(out)])
    assert sorted(folder.rglob("*")) == before
    written = [path.relative_to(out) for path in out.rglob("metrics.json")]
    cli.main(["evaluate", str(folder), "--data", "sprites"])
    assert written and [path.relative_to(folder) for path in folder.rglob("metrics.json")] == written


def test_evaluate_refuses_too_few_images_before_it_draws(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(RCDMPipeline, "draw", lambda *_, **__: pytest.fail("it has drawn"))
    for i, image in enumerate(im.to_pil(sprites.render(sprites.sample_factors(40, seed=2), 16))):
        folder = tmp_path / ("few" if i < 8 else "more")
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{i}.png")
    for name, words in (("few", "few holds out 1 of its images"), ("more", "Probes need at least 20 training images")):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", str(tiny_checkpoint), "--data", str(tmp_path / name), "--device", "cpu"]
                     + ["--probe-images", "10", "--out", str(tmp_path / "there")])  # fmt: skip
        assert words in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_evaluate_writes_every_number_with_n_and_null(with_reader, tmp_path, capsys):
    sizes = ["--gallery", "6", "--retention-images", "4", "--retention-draws", "2", "--probe-images", "40"]
    sizes += ["--guidance-images", "6", "--guidance-draws", "2"]
    cli.main(["evaluate", str(with_reader), "--device", "cpu", "--out", str(tmp_path), *sizes])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n"] == 6 and metrics["num_inference_steps"] == 4
    for source in metrics["sources"].values():
        assert source["cycle_error"]["n"] == 6 and source["mrr"]["null"] == pytest.approx(0.408, abs=1e-3)
        assert source["cycle_error_shuffled"]["value"] > source["cycle_error_shifted"]["value"]
        assert set(source["retention"]) == {"red", "sky"}
    assert set(metrics["differences"]["tiny"]) == {"red", "sky"} and metrics["differences"]["tiny"]["red"]["n"] == 4
    assert "| tiny/projector |" in capsys.readouterr().out


def test_a_denoiser_that_cannot_draw_freely_is_evaluated_too(with_reader, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rcdm.cli.measuring.Evaluator", partial(Evaluator, n=30))
    for name in ("judges/sources/judge", "photographs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "judges" / "sources" / "judge").symlink_to(with_reader / "sources" / "tiny")
    for i, image in enumerate(im.to_pil(sprites.render(sprites.sample_factors(40, seed=2), 16))):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        image.save(tmp_path / "photographs" / f"{i}.png")
    pipe = rcdm.load(with_reader)
    pipe.unet.register_to_config(has_unconditional=False)
    pipe.save_pretrained(tmp_path / "mine")
    asked = ["--gallery", "4", "--retention-images", "4", "--retention-draws", "2", "--probe-images", "20"]
    asked += ["--guidance-images", "0", "--data", str(tmp_path / "photographs"), "--device", "cpu"]
    asked += ["--scheduler", "euler"]
    cli.main(["evaluate", str(tmp_path / "mine"), *asked, "--evaluator", f"{tmp_path}/judges/judge/backbone"])
    metrics = json.loads((tmp_path / "mine" / "metrics.json").read_text())
    assert "unconditional" not in metrics and all("kid" in of for of in metrics["sources"].values())
    printed = capsys.readouterr().out
    assert "Judged by judge/backbone" in printed and "unconditional" not in printed
    assert not (tmp_path / "mine" / "drawing.json").exists()  # a page draws with the checkpoint's own sampler


def test_what_the_disk_says_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rcdm.cli.sample._sample", lambda _: (tmp_path / "no" / "file").write_text(""))
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", "x.png"])
    assert ended.value.code == 2 and "No such file or directory" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(tiny_checkpoint):
    for device in ("cud", "cuda:77", "meta:x"):
        with pytest.raises(ValueError, match=f"There is no device '{device}' here"):
            rcdm.load(tiny_checkpoint, device=device)
        with pytest.raises(ValueError, match=f"There is no device '{device}' here"):
            rcdm.guided(str(tiny_checkpoint), rcdm.load(tiny_checkpoint).sources, device=device)


def test_the_source_stands_beside_a_long_name():
    from rcdm.cli.sample_grid import _short

    name = "My holiday in the Alps, the second day, view from the hut - Kopie (2).jpg"
    assert _short("plane.jpg") == "plane.jpg" and len(_short(name)) <= 32
    assert _short(name).startswith("My holiday") and _short(name).endswith("Kopie (2).jpg")


def test_study_command_writes_numbers_and_figure(with_reader, photo, tmp_path, capsys):
    other = tmp_path / "other.png"
    Image.open(photo).convert("RGB").rotate(90).point(lambda level: level // 2).save(other)
    asked = ["--source", "tiny/projector", "--device", "cpu", "--out", str(tmp_path)]
    asked += ["--checkpoint", str(with_reader), "--samples", "2"]
    with pytest.raises(SystemExit):
        cli.main(["study", "retention", str(photo), str(photo), *asked])
    assert "alike in everything" in capsys.readouterr().err
    cli.main(["study", "retention", str(photo), str(other), *asked])
    assert Image.open(tmp_path / "retention.png").size[0] > 100
    assert "tiny/projector" in (printed := capsys.readouterr().out) and "With 2 images" in printed
    assert "tiny/projector" in json.loads((tmp_path / "retention.json").read_text())["sources"]


def readme_command(name: str) -> str:
    found = re.findall(rf"<!-- {name} -->\n```bash\n(.+)\n```", (ROOT / "README.md").read_text())
    assert len(found) == 1
    return found[0]


def test_the_readme_has_one_command_for_the_page_and_one_for_the_tests():
    assert readme_command("page").endswith("python app.py") and (ROOT / "app.py").is_file()
    assert readme_command("test").startswith('pip install -e ".[dev]"') and "pytest" in readme_command("test")


def test_the_test_command_covers_style_tests_notebooks_and_documents():
    command = readme_command("test")
    assert all(
        word in command for word in ("ruff check", "mypy", "pytest -n auto", "pytest --nbmake", "mkdocs build --strict")
    )


def test_the_readme_is_short_and_its_pictures_and_links_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 12_000
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    assert not [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert text.count("](docs/images/") >= 4  # the figure that convinces, and one per thing that people do


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script and "<!-- test -->" in script
    assert 'eval "$command"' in script and "pytest" not in script


def test_ci_uses_the_wheel_from_an_empty_folder():
    script = (ROOT / ".ci" / "run").read_text()
    assert all(word in script for word in ("build --wheel", "rcdm sample", "rcdm evaluate", "rcdm serve", "/health"))


@pytest.mark.parametrize("page", ["docs/checkpoints.md", "checkpoints/sprites-32/README.md"])
def test_the_tables_are_those_of_metrics_json(page):
    metrics = json.loads((ROOT / "checkpoints" / "sprites-32" / "metrics.json").read_text())
    assert markdown_tables(metrics) in (ROOT / page).read_text()


def test_the_shipped_checkpoint_is_small_and_draws(tmp_path):
    folder = ROOT / "checkpoints" / "sprites-32"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png"}
    report = sample(
        ROOT / "rcdm" / "examples" / "ship.jpg", folder, tmp_path / "a.png", "--samples", "3", "--steps", "2"
    )
    kept = report["draws"][0]["kept_by_draws"]
    assert len(report["draws"]) == 8 and set(kept) == set(sprites.KINDS)
    for number in kept.values():
        assert number["low"] <= number["value"] <= number["high"] and number["n"] == 3 and "null" in number


def test_the_table_of_published_networks_is_in_the_documents(capsys):
    cli.main(["networks"])
    table = capsys.readouterr().out.strip()
    pages = [page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))]
    assert [page for page in pages if f"<!-- networks -->\n{table}\n<!-- /networks -->" in page]


def test_levels_of_a_published_network_are_listed_without_its_weights(capsys):
    cli.main(["networks", "dino-vits16"])
    printed = capsys.readouterr().out
    assert printed.startswith("blocks.0      384\n") and "projector: width known once it is downloaded" in printed
    cli.main(["networks", "dinov3-vits16", "--all"])
    printed = capsys.readouterr().out
    for level, width in (("blocks.3.mlp.fc1", 1536), ("patch_embed.proj", 384)):
        assert re.search(rf"^{re.escape(level)} +{width}$", printed, re.MULTILINE)
    assert "projector: none was published" in printed
    with pytest.raises(SystemExit):
        cli.main(["networks", "dinov9"])
    assert "no file and no published network" in capsys.readouterr().err


def test_a_scheduler_is_chosen_by_name_and_written_down(tiny_checkpoint, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    plain = [str(photo), "--checkpoint", str(tiny_checkpoint), "--samples", "2"]
    plain += ["--source", "tiny/projector", "--device", "cpu"]
    for name, chosen in (("own", []), ("euler", ["--scheduler", "euler"])):
        cli.main(["sample", *plain, "--out", str(tmp_path / f"{name}.png"), *chosen])
    own, euler = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "euler"))
    assert own["scheduler"] == "DPMSolverMultistepScheduler" and euler["scheduler"] == "EulerDiscreteScheduler"
    assert own["draws"][0]["similarity"] != euler["draws"][0]["similarity"]
    cli.main(["study", "samples", *plain, "--scheduler", "ddim", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["settings"]["scheduler"].startswith("DDIMScheduler") and "--scheduler ddim" in record["command"]
    cli.main(["sample", *plain, "--mixed-precision", "bf16", "--out", str(tmp_path / "half.png")])
    assert json.loads((tmp_path / "half.json").read_text())["mixed_precision"] == "bf16"
    cli.main(["study", "samples", *plain, "--mixed-precision", "bf16", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["settings"]["scheduler"].endswith(" bf16") and "--mixed-precision bf16" in record["command"]
    with pytest.raises(SystemExit):
        cli.main(["sample", *plain, "--scheduler", "magic"])
    assert "choose one of ddim" in capsys.readouterr().err
