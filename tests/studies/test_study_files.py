"""A study with its files: nothing finished is lost, nothing is done twice, every setting is written down."""

import json
from dataclasses import replace
from importlib import import_module
from inspect import Parameter
from pathlib import Path

import pytest
import torch
from PIL import Image

import rcdm
from rcdm import cli
from rcdm.cli.study_data import StudyData
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.data.dataset_protocol import digest_of
from rcdm.data.datasets import load_dataset
from rcdm.diffusion.pipeline import RCDMPipeline
from rcdm.measures.parts import Parts, digest, json_part, keeping
from rcdm.measures.readers import attributes_of
from rcdm.measures.retention import probed
from rcdm.studies import STUDIES
from rcdm.training.run_folder import alone_in


def two() -> torch.Tensor:
    return sprites.render(sprites.sample_factors(2, seed=4), 16)


def quick_save(figures, stem: Path) -> list[Path]:
    """The files of `figures.save`, of one pixel."""
    files = [stem.with_name(f"{stem.name}-{key}.png" if key else f"{stem.name}.png") for key in figures]
    for file in files:
        Image.new("RGB", (1, 1)).save(file)
        file.with_suffix(".pdf").write_bytes(b"%PDF")
    return files


@pytest.fixture
def study(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    """`study(NAME, …)` runs the command and returns the folder; `study.error` what it wrote."""
    monkeypatch.setattr("rcdm.studies.study_files.save", quick_save)

    def run(name: str, *more: str, sources=("tiny/projector",), photos=()) -> Path:
        where = ["--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path / "out")]
        cli.main(["study", name, *photos, *where, "--source", *sources, "--reference", "20", *more])
        run.error = capsys.readouterr().err
        return tmp_path / "out"

    return run


def counted(monkeypatch, stop_at: int | None = None) -> list[int]:
    """Counts batches that are really drawn; interrupts the one after `stop_at`."""
    drawn: list[int] = []
    denoise = RCDMPipeline._denoise

    def counting(self, streams, *more):
        if stop_at is not None and len(drawn) == stop_at:
            raise KeyboardInterrupt
        drawn.append(len(streams))
        return denoise(self, streams, *more)

    monkeypatch.setattr(RCDMPipeline, "_denoise", counting)
    return drawn


def test_parts_are_computed_once_for_equal_inputs_alone(tmp_path):
    parts, made = Parts(tmp_path / "parts", "a"), []

    def make():
        made.append(1)
        return torch.full((2, 2), float(len(made)))

    inputs = {"h": torch.arange(3.0), "seeds": [1, 2]}
    first, again = parts.get("x", inputs, make), Parts(tmp_path / "parts", "a").get("x", inputs, make)
    assert torch.equal(first, again) and len(made) == 1
    for other in ({**inputs, "seeds": [1, 3]}, {**inputs, "h": torch.arange(3.0).double()}, {"seeds": [1, 2]}):
        parts.get("x", other, make)
    Parts(tmp_path / "parts", "b").get("x", inputs, make)
    assert len(made) == 5 and len(parts) == 5
    parts.clear()
    assert not (tmp_path / "parts").exists()


def test_numbers_come_back_from_parts_as_they_were(tmp_path):
    found = {"a": [1, 0.1 + 0.2, float("inf")], "ü": {"null": None}}
    parts = Parts(tmp_path / "parts")
    assert json_part("x", {"n": 1}, lambda: found) == found
    with keeping(parts):
        assert json_part("x", {"n": 1}, lambda: found) == found
        assert json_part("x", {"n": 1}, lambda: pytest.fail("computed again")) == found


@pytest.mark.parametrize(("name", "probe"), [
    ("retention", "rcdm.measures.retention.mlp_model"), ("levels", "rcdm.measures.levels.linear_probe"),
    ("width", "rcdm.measures.levels.linear_probe"), ("invariance", "rcdm.measures.levels.linear_probe")])  # fmt: skip
def test_probes_are_not_computed_again_after_an_interruption(name, probe, study, monkeypatch):
    module, _, function = probe.rpartition(".")
    real, calls = getattr(import_module(module), function), []

    def counting(*given, **named):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given, **named)

    monkeypatch.setattr(probe, counting)
    more = ["--images", "8", "--samples", "2", "--steps", "1"]
    more += ["--option", "only=hue,flip"] if name == "invariance" else []
    more += (
        [w for o in ("drawn_images=2", "noise_levels=2") for w in ("--option", o)]
        if name in ("levels", "width")
        else []
    )
    sources = ("tiny/backbone", "tiny/projector")
    stop = -1
    out = study(name, *more, sources=sources)
    whole = len(calls)
    (out / f"{name}.json").unlink()
    calls.clear()
    stop = whole - 1
    with pytest.raises(SystemExit):
        study(name, *more, sources=sources)
    stop = -1
    study(name, *more, sources=sources)
    assert whole < len(calls) + 1 < 2 * whole, "finished probes were computed again"


def test_a_probe_is_learnt_once_for_all_images_that_it_is_asked_about(pipe, tmp_path, monkeypatch):
    attributes, learn = attributes_of(pipe), torch.rand(24, 3, 16, 16) * 2 - 1
    asked = [torch.rand(5, 3, 16, 16) * 2 - 1 for _ in range(2)]

    def readings(images):
        found, _ = probed(pipe, learn, attributes.read(learn), images, attributes.read(images), "tiny/backbone")
        return [number[probe] for number in found.values() for probe in ("ridge", "probe")]

    plain = [readings(images) for images in asked]
    assert plain[0] != pytest.approx(plain[1], rel=0.01)
    with keeping(Parts(tmp_path)):
        first = readings(asked[0])
        for name in ("mlp_model", "ridge_model"):
            monkeypatch.setattr(f"rcdm.measures.retention.{name}", lambda *_: pytest.fail("learnt again"))
        assert [*first, *readings(asked[1])] == pytest.approx([*plain[0], *plain[1]], rel=1e-3)


@pytest.mark.parametrize(("name", "learn"), [("retention", "probe_images"), ("guidance", "reference")])
def test_attributes_of_training_images_are_read_once_for_all_sources(name, learn, pipe):
    seen, usual = [], attributes_of(pipe)
    attributes = replace(usual, read=lambda x: seen.append(len(x)) or usual.read(x))
    images, training = torch.rand(2, 3, 16, 16), torch.rand(23, 3, 16, 16)
    more = {"scales": "2", "strengths": ""} if name == "guidance" else {}
    sources = ("tiny/backbone", "tiny/projector")
    STUDIES[name](
        pipe,
        images,
        sources=sources,
        seeds=(0, 1),
        attributes=attributes,
        num_inference_steps=1,
        **{learn: training},
        **more,
    )
    assert seen.count(23) == 1 and len(seen) > 3


def test_a_damaged_part_is_computed_again(tmp_path):
    parts = Parts(tmp_path)
    parts.get("x", {"n": 1}, lambda: torch.ones(2))
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    assert torch.equal(parts.get("x", {"n": 1}, lambda: torch.zeros(2)), torch.zeros(2))


def test_digest_tells_shapes_types_and_names_apart():
    x = torch.arange(6.0)
    others = [{"x": x.view(2, 3)}, {"x": x.int()}, {"y": x}, {"x": x + 1e-7}, {"x": x.tolist()}]
    assert len({digest(inputs) for inputs in ({"x": x}, *others)}) == 6
    assert digest({"x": x.view(2, 3).T}) == digest({"x": x.view(2, 3).T.contiguous()})


def test_an_interrupted_study_continues_and_says_so(study, monkeypatch, capsys, tmp_path):
    sources = ("tiny/backbone", "tiny/projector", "tiny/layer2")
    whole = json.loads((study("interpolation", sources=sources) / "interpolation.json").read_text())
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    with monkeypatch.context() as patch:
        drawn = counted(patch, stop_at=2)
        with pytest.raises(SystemExit) as stop:
            study("interpolation", sources=sources)
    assert stop.value.code == 130 and "run the same command again" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "interpolation.parts").glob("*.safetensors"))) == len(drawn) == 2
    drawn = counted(monkeypatch)
    again = json.loads((study("interpolation", sources=sources) / "interpolation.json").read_text())
    assert "continues with 2 finished parts" in study.error and len(drawn) == 1
    assert again == whole and not (tmp_path / "out" / "interpolation.parts").exists()


def test_information_continues_too(study, monkeypatch):
    more = ("--images", "3", "--option", "levels=4")
    sources = ("tiny/backbone", "tiny/projector")
    calls, forward = [], torch.nn.Module.__call__
    with monkeypatch.context() as patch:

        def counting(self, *given, **named):
            if type(self).__name__ == "RepresentationUNet":
                calls.append(1)
                if len(calls) == 20:
                    raise KeyboardInterrupt
            return forward(self, *given, **named)

        patch.setattr(torch.nn.Module, "__call__", counting)
        with pytest.raises(SystemExit):
            study("information", *more, sources=sources)
        once = len(calls)
        study("information", *more, sources=sources)
    assert once == 20 and len(calls) - once == 4  # of 4 + 2 * 2 * 4 the part that was begun


def test_a_study_that_draws_nothing_has_no_steps(study, capsys):
    with pytest.raises(SystemExit):
        study("information", "--steps", "4")
    assert "draws nothing: leave --steps out" in capsys.readouterr().err
    out = study("information", "--images", "2", "--option", "levels=2")
    record = json.loads((out / "information.json").read_text())
    assert record["settings"]["steps"] is None
    assert all("N 2 images" in caption and " steps" not in caption for caption in record["figures"].values())


def test_what_is_finished_is_not_done_again_until_a_setting_changes(study, monkeypatch):
    out = study("samples", "--images", "2", "--samples", "2")
    stamp = (out / "samples.json").stat().st_mtime_ns
    drawn = counted(monkeypatch)
    study("samples", "--images", "2", "--samples", "2")
    assert not drawn and "finished before" in study.error and (out / "samples.json").stat().st_mtime_ns == stamp
    study("samples", "--images", "2", "--samples", "2", "--seed", "1")
    assert drawn and json.loads((out / "samples.json").read_text())["settings"]["seeds"] == [1, 2]
    (out / "samples-images.pdf").unlink()
    drawn.clear()
    study("samples", "--images", "2", "--samples", "2", "--seed", "1")
    assert drawn and (out / "samples-images.pdf").exists()


def test_the_record_has_every_setting(study, tiny_checkpoint):
    record = json.loads(
        (study("samples", "--images", "2", "--samples", "3", "--steps", "2") / "samples.json").read_text()
    )
    settings = record["settings"]
    assert settings["seeds"] == [0, 1, 2] and settings["steps"] == 2 and settings["sources"] == ["tiny/projector"]
    assert settings["images"]["n"] == 2 == len(settings["images"]["names"]) and len(settings["weights"]) == 64
    assert {"rcdm", "torch", "diffusers", "python"} <= set(record["versions"])
    assert record["command"].startswith("rcdm study samples --checkpoint") and "--steps 2" in record["command"]
    for file, caption in record["figures"].items():
        assert "N 2 images" in caption and "seeds 0–2" in caption, file


def test_the_recorded_command_does_the_same(study, tmp_path, monkeypatch):
    first = json.loads(
        (study("interpolation", "--samples", "2", "--option", "points=4") / "interpolation.json").read_text()
    )
    words = first["command"].split()
    cli.main([*words[1:], "--out", str(tmp_path / "again"), "--device", "cpu"])
    again = json.loads((tmp_path / "again" / "interpolation.json").read_text())
    assert again == first


def photo_folder(tmp_path, n: int = 5) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for i, image in enumerate(im.to_pil(sprites.render(sprites.sample_factors(n, seed=1), 40))):
        image.save((folder / "deep" if i % 2 else folder) / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_images_of_a_study_are_files_a_folder_or_a_split(pipe, tmp_path):
    folder = photo_folder(tmp_path)
    data = StudyData(pipe, photos=[str(folder), str(folder / "0.png")])
    assert len(data.images) == 6 and data.names[0].endswith("0.png") and "notes" not in str(data.names)
    assert len(StudyData(pipe, photos=[str(folder)], count=3).images) == 3
    held_out, train = (StudyData(pipe, data=str(folder), split=split, usual=9) for split in ("held_out", "train"))
    assert len(held_out.images) == 1 and len(train.images) == 4
    reference = {"reference": Parameter("reference", Parameter.KEYWORD_ONLY)}
    assert len(train.extras(reference)["reference"]) == 4
    assert len(StudyData(pipe, usual=3).images) == 3 == len(StudyData(pipe, usual=3).names)


def test_what_is_learnt_from_is_not_what_is_looked_at(pipe, tmp_path, capsys):
    folder = photo_folder(tmp_path, 60)
    probes = {"probe_images": Parameter("probe_images", Parameter.KEYWORD_ONLY)}

    def common(count: int, reference: int) -> int:
        data = StudyData(pipe, data=str(folder), split="train", count=count, reference=reference)
        looked_at, learnt_from = (
            {image.numpy().tobytes() for image in images}
            for images in (data.images, data.extras(probes)["probe_images"])
        )
        return len(looked_at & learnt_from)

    assert common(30, 24) == common(30, 2000) == common(4, 20) == 0 and "few" not in capsys.readouterr().err
    assert common(50, 2000) == 50 and "those that are looked at, too" in capsys.readouterr().err


def test_images_that_came_later_are_told_from_those_of_the_training(pipe, tmp_path, capsys):
    folder, checkpoint = photo_folder(tmp_path, 30), tmp_path / "mine"
    pipe.save_pretrained(checkpoint)
    about = {"images_digest": digest_of(load_dataset(str(folder), 16)), "data": "photos"}
    (checkpoint / "training.json").write_text(json.dumps(about))
    mine = rcdm.load(checkpoint)
    assert len(StudyData(mine, data=str(folder), count=2).images) == 2
    assert "may have seen" not in capsys.readouterr().err
    (folder / "one more.png").write_bytes((folder / "0.png").read_bytes())
    assert len(StudyData(mine, data=str(folder), count=2).images) == 2
    assert "may have seen some of those that are held out" in capsys.readouterr().err
    folder.rename(tmp_path / "others")  # other data on purpose
    assert len(StudyData(mine, data=str(tmp_path / "others"), count=2).images) == 2
    assert "may have seen" not in capsys.readouterr().err


def test_a_sharp_photograph_reaches_a_network_that_sees_more_than_is_drawn(pipe, tmp_path):
    Image.effect_noise((700, 700), 80).convert("RGB").save(tmp_path / "sharp.png")
    pipe.register_to_config(full_resolution=True)
    pipe.sources._preprocessing["tiny"] = replace(pipe.sources._preprocessing["tiny"], size=384)
    (photo,) = StudyData(pipe, photos=[str(tmp_path / "sharp.png")]).images
    expected = pipe.encode(im.decode(tmp_path / "sharp.png"), "tiny/backbone")
    assert torch.equal(pipe.encode(photo, "tiny/backbone"), expected)


def test_too_few_images_are_refused_with_the_number(study, pipe, tmp_path, capsys):
    folder = photo_folder(tmp_path)
    with pytest.raises(ValueError, match="--images asks for 9, and there are 5: lower it"):
        _ = StudyData(pipe, photos=[str(folder)], count=9).images
    with pytest.raises(ValueError, match=r"holds out 1: lower it, or take images .* --split train"):
        _ = StudyData(pipe, data=str(folder), count=4).images
    for name, words in (("invariance", "at least 2 images"), ("interpolation", "exactly two images")):
        with pytest.raises(SystemExit):
            study(name, photos=[str(folder / "0.png")])
        assert words in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image files"):
        StudyData(pipe, photos=[str(tmp_path / "empty")])


def test_a_checkpoint_of_photographs_asks_for_images(pipe, monkeypatch):
    pipe.register_to_config(trained_on="my photos")
    with pytest.raises(ValueError, match="--data FOLDER"):
        _ = StudyData(pipe).images


def test_large_photographs_are_kept_small_and_cropped_alike(pipe, tmp_path):
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (700, 900, 3), generator=stream, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "large.png")
    kept = StudyData(pipe, photos=[str(tmp_path / "large.png")]).images[0]
    assert max(kept.size) < 300
    assert im.centre_crop(kept, 16).tobytes() == im.centre_crop(im.decode(tmp_path / "large.png"), 16).tobytes()


def test_a_study_under_way_is_not_joined_by_another(study, tmp_path, monkeypatch):
    """While one process computes OUT/NAME, whatever its settings, a second is refused, and nothing is lost."""
    monkeypatch.setattr("rcdm.training.run_folder.os.getpid", lambda: 4711)
    with alone_in(tmp_path / "out" / "samples.parts"), pytest.raises(SystemExit):
        study("samples", "--images", "1", "--samples", "2", "--data", "sprites")
    assert not (tmp_path / "out" / "samples.json").exists()
    study("samples", "--images", "1", "--samples", "2", "--data", "sprites")
    assert not (tmp_path / "out" / "samples.parts").exists()


def test_results_of_other_settings_are_not_replaced_without_a_word(study):
    study("samples", "--images", "1", "--samples", "2", "--data", "sprites")
    assert "replaces" not in study.error
    study("samples", "--images", "1", "--samples", "3", "--data", "sprites")
    assert "replaces what was there, of other settings (seeds)" in study.error
