"""Damaged and hostile checkpoints: each is drawn from, or refused in one sentence, and nothing else happens."""

import json
import random
import resource
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rcdm
from rcdm.networks.checked_files import read_object

MUTANTS = 200
SECONDS = 10
MEMORY = 2 * 2**30
PROGRAM = (sys.prefix, sys.base_prefix, str(Path(rcdm.__file__).parents[1]), "/proc/", "/sys/", "/dev/")
DIGEST = "0" * 64
FLAT = {"size": 16, "mean": [0, 0, 0], "std": [0, 1, 1]}  # a channel without deviation
VALUES: tuple[Any, ...] = (
    None, "", [], {}, -1, 0, 1e9, 10**30, True, float("nan"), float("inf"), "x" * 100_000, "../x", "/etc/passwd",
    {"a": {"b": 1}}, [[[]]], "os:system", 0.5, 2**31,
)  # fmt: skip


def places(tree: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a JSON value."""
    yield here
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*here, key))


def change_field(file: Path, rng: random.Random) -> str:
    """Another value for a field, a field less, or one more."""
    tree = json.loads(file.read_text())
    *way, last = rng.choice(list(places(tree))[1:])
    at = tree
    for key in way:
        at = at[key]
    what = rng.choice(("value", "value", "value", "drop", "add"))
    if what == "drop":
        del at[last]
    elif what == "add" and isinstance(at, dict):
        at[rng.choice(("patch_size", "__class__", "unknown", "../x"))] = rng.choice(VALUES)
    else:
        at[last] = rng.choice(VALUES)
    file.write_text(json.dumps(tree))
    return f"{file.name} {what} {way} {last}"


def break_text(file: Path, rng: random.Random) -> str:
    """A file that is no JSON object any more."""
    text = file.read_bytes()
    what = rng.choice(
        (b"", b"{", b"[1, 2]", b"null", b"\xff\xfe{}", b"[" * 100_000, text[: len(text) // 2], b'{"a": NaN}')
    )
    file.write_bytes(what)
    return f"{file.name} {what[:10]!r}"


def break_tensors(file: Path, rng: random.Random) -> str:
    """A safetensors file that is cut short, lies about its sizes, or holds other tensors."""
    data = file.read_bytes()
    what = rng.choice(("empty", "cut", "length", "header", "flip", "nan", "drop", "rename", "shape", "more", "pickle"))
    if what in ("nan", "drop", "rename", "shape", "more"):
        tensors = {name: t.clone() for name, t in load_file(file).items()}
        name = rng.choice([name for name, t in tensors.items() if t.is_floating_point() and t.numel()])
        if what == "nan":
            tensors[name].view(-1)[0] = rng.choice((float("nan"), float("inf")))
        elif what == "shape":
            tensors[name] = torch.zeros(3, 7)
        elif what == "more":
            tensors["more"] = torch.zeros(2)
        else:
            tensor = tensors.pop(name)
            if what == "rename":
                tensors[f"{name}.x"] = tensor
        save_file(tensors, file)
    else:
        flipped = bytearray(data)
        flipped[rng.randrange(8, min(len(data), 400))] ^= 0xFF
        file.write_bytes({
            "empty": b"", "cut": data[: rng.randrange(len(data))], "length": struct.pack("<Q", 2**60) + data[8:],
            "header": struct.pack("<Q", 2) + b"{}" + data, "flip": bytes(flipped), "pickle": b"\x80\x04cos\nsystem\n.",
        }[what])  # fmt: skip
    return f"{file.parent.name}/{file.name} {what}"


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one thing in a checkpoint, and say what."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors"))
    file = rng.choice(files)
    ways: tuple[Callable[[Path, random.Random], str], ...] = (
        (break_tensors,) if file.suffix == ".safetensors" else (change_field, change_field, change_field, break_text)
    )
    if rng.random() < 0.05:
        file.unlink()
        return f"{file.name} is gone"
    return rng.choice(ways)(file, rng)


def try_out(folder: Path) -> str:
    """Load, read what lies beside, draw and encode -> the sentence of a refusal, or ''."""
    from rcdm.measures.readers import attributes_of
    from rcdm.ui.loaded import Loaded

    try:
        pipe = rcdm.load(folder, device="cpu")
        attributes_of(pipe)
        loaded = Loaded("tiny", pipe)
        [loaded.similarity_floor(source) for source in pipe.sources]
        out = pipe(torch.zeros(1, 3, 16, 16), source=pipe.sources[0], seeds=[0], num_inference_steps=2)
        assert out.images[0].size == (pipe.image_size, pipe.image_size)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def whole(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with all that may lie in one."""
    folder = tmp_path / "whole"
    shutil.copytree(tiny_checkpoint, folder)
    number = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "null": 0.1}
    about = {"similarity_floor": number, "retention": {"hue": {**number, "probe": 0.5, "calibration": 1.0}}}
    metrics = {"n": 10, "sources": {"tiny/backbone": about}, "spread": {"hue": 1.0}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than MEMORY beyond what the process has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Paths that this thread opens."""
    paths: list[str] = []
    watching, me = [True], threading.get_ident()

    def hook(event: str, arguments: tuple) -> None:
        if watching[0] and event == "open" and threading.get_ident() == me and isinstance(arguments[0], str):
            paths.append(arguments[0])

    sys.addaudithook(hook)  # stays for the life of the process, so it is switched off below
    yield paths
    watching[0] = False


def test_what_is_whole_is_taken(whole: Path) -> None:
    assert try_out(whole) == ""


@pytest.mark.usefixtures("little_memory")
def test_mutants_are_drawn_from_or_refused_in_a_sentence(whole: Path, tmp_path: Path, opened: list[str]) -> None:
    """MUTANTS folders with one thing changed. Anything but a ValueError of one line is a fault of ours."""
    refused = 0
    assert try_out(whole) == ""  # all that is loaded once is loaded
    for seed in range(MUTANTS):
        folder = tmp_path / "alone" / "mutant"
        shutil.copytree(whole, folder)
        what, begun = mutate(folder, random.Random(seed)), time.monotonic()
        opened.clear()
        try:
            said = try_out(folder)
        except Exception as error:
            pytest.fail(f"mutant {seed} ({what}): {type(error).__name__} {str(error)[:300]}")
        refused += bool(said)
        assert time.monotonic() - begun < SECONDS, (seed, what)
        outside = [path for path in opened if path.startswith("/") and not path.startswith((str(folder), *PROGRAM))]
        assert not outside, (seed, what, outside)
        assert "\n" not in said and len(said) < 900 and "Error(" not in said, (seed, what, said)
        shutil.rmtree(folder)
    assert refused > MUTANTS / 3


@pytest.mark.parametrize(("file", "field", "value", "said"), [
    ("unet/config.json", "patch_size", 0, "patch_size is no field"),
    ("unet/config.json", "timestep_scale", float("nan"), "NaN"),
    ("unet/config.json", "sources", {"tiny/backbone": 10**9}, "sources.tiny/backbone"),
    ("unet/config.json", "space", {"kind": "pixels", "patch": 0}, "at least 1"),
    ("model_index.json", "unet", ["os", "system"], "unet.0"),
    ("model_index.json", "scheduler", ["diffusers", "DiffusionPipeline"], "no scheduler"),
    ("model_index.json", "default_steps", 0, "default_steps"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9, "num_train_timesteps"),
    ("scheduler/scheduler_config.json", "beta_schedule", 3, "beta_schedule"),
    ("scheduler/scheduler_config.json", "prediction_type", "none", "prediction"),
    ("sources/config.json", "networks", ["../../secret"], "networks.0"),
    ("sources/config.json", "networks", [".."], "networks.0"),
    ("sources/config.json", "shared", {"tiny": {"checkpoint": "../../x", "sha256": DIGEST}}, "shared.tiny.checkpoint"),
    ("sources/config.json", "shared", {"tiny": {"checkpoint": "/etc", "sha256": DIGEST}}, "shared.tiny.checkpoint"),
    ("sources/tiny/config.json", "arguments", {"width": 10**9}, "arguments.width"),
    ("sources/tiny/config.json", "arguments", {"width": 60_000}, "needs"),
    ("sources/tiny/config.json", "arguments", {"depth": 3}, "depth"),
    ("sources/tiny/config.json", "preprocessing", FLAT, "preprocessing.std"),
])  # fmt: skip
def test_the_sentence_names_the_file_and_the_field(whole: Path, file: str, field: str, value: Any, said: str) -> None:
    content = read_object(whole / file)
    (whole / file).write_text(json.dumps({**content, field: value}))
    sentence = try_out(whole)
    assert said in sentence and Path(file).name in sentence.replace("model.safetensors", "config.json")


def test_absurd_widths_take_no_memory(whole: Path) -> None:
    """65,536 channels would be 150 GB of weights."""
    file = whole / "unet" / "config.json"
    content = read_object(file)
    content["unet_config"]["block_out_channels"] = [65_536, 65_536]
    file.write_text(json.dumps(content))
    assert "needs" in try_out(whole) or "no network" in try_out(whole)


def test_a_shard_outside_the_folder_is_refused(whole: Path) -> None:
    weights = next((whole / "unet").glob("*.safetensors"))
    weights.rename(whole / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"x": "../other.safetensors"}}
    (whole / "unet" / f"{weights.name}.index.json").write_text(json.dumps(index))
    assert "not in its folder" in try_out(whole)
