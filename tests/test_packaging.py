"""The wheel: it holds the program and every checkpoint that can be loaded, and draws from an empty folder."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_editable, build_wheel

import rcdm
from rcdm.diffusion import places

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 90e6
"""Bytes: what an index takes is 100 MB."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / build_wheel(str(folder))


def loadable() -> set[str]:
    """Names of the checkpoints that are pipelines, and of those whose networks such a one shares."""
    pipelines = {path.parent for path in (ROOT / "checkpoints").glob("*/model_index.json")}
    configs = [json.loads((folder / "sources" / "config.json").read_text()) for folder in pipelines]
    shared = {one["checkpoint"] for config in configs for one in config.get("shared", {}).values()}
    return {folder.name for folder in pipelines} | {Path(name).name for name in shared}


def test_the_wheel_is_of_this_version_and_not_too_large(wheel):
    assert wheel.name == f"rcdm-{rcdm.__version__}-py3-none-any.whl" and wheel.stat().st_size < LIMIT


def test_the_wheel_holds_every_checkpoint_that_can_be_loaded_and_no_other(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[2] for name in names if name.startswith("rcdm/checkpoints/")}
    assert folders == loadable()
    for folder in folders:
        files = {str(f.relative_to(ROOT)) for f in (ROOT / "checkpoints" / folder).rglob("*") if f.is_file()}
        assert {f"rcdm/{file}" for file in files} <= set(names)


def test_no_checkpoint_says_where_it_lay_when_it_was_made():
    """Neither in diffusers' own field, nor as an absolute path in any other."""
    files = list(places.SHIPPED.rglob("*.json"))
    texts = {file: file.read_text() for file in files}
    assert len(files) > 10
    assert not [file for file, text in texts.items() if '"_name_or_path"' in text or '": "/' in text]


def test_a_server_settles_its_memory_before_gradio_starts_a_thread():
    code = (
        "import sys, rcdm.cli.serve as serve\n"
        "serve.keep_freed_memory = lambda: sys.exit('too late' if 'gradio' in sys.modules else 'in time')\n"
        "from rcdm.cli import main\n"
        "main(['serve', '--checkpoint', 'sprites-32'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stderr.strip().endswith("in time"), ended.stderr


def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("rcdm/checkpoints/")}
    files = {
        str(f.relative_to(ROOT)) for f in (ROOT / "rcdm").rglob("*") if f.is_file() and "__pycache__" not in f.parts
    }
    assert files <= names and {name.partition("/")[0] for name in names} == {
        "rcdm",
        f"rcdm-{rcdm.__version__}.dist-info",
    }


def test_an_editable_install_copies_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))).namelist()
    assert not [name for name in names if name.startswith("rcdm/")]


def test_what_is_installed_draws_from_an_empty_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    code = (
        "import rcdm, sys\nfrom rcdm.cli import main\nfrom rcdm.diffusion.places import available\n"
        "assert rcdm.__file__.startswith(sys.argv[1]) and available(), available()\n"
        "main(['sample', sys.argv[1] + '/rcdm/examples/heart.png', '--samples', '1', '--steps', '2',"
        " '--source', 'simclr/projector'])\n"
        "import rcdm.cli.measuring\n"  # evaluation draws what the page opens with
        "assert 'gradio' not in sys.modules\n"
        "main(['evaluate', 'sprites-32'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "installed")],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "empty" / "sample.png").is_file(), done.stderr
    assert done.returncode == 2 and "say with --out where its numbers go" in done.stderr  # the package stays as it is


def test_plain_names_mean_repositories_of_one_owner(monkeypatch):
    monkeypatch.delenv("RCDM_HUB", raising=False)
    assert places.hub_id("cars-64") == f"{places.HUB_OWNER}/cars-64"
    monkeypatch.setenv("RCDM_HUB", "somebody")
    assert places.hub_id("cars-64") == "somebody/cars-64" and places.hub_id("other/cars-64") == "other/cars-64"
    assert places.hub_id("a/b/c") is None and places.hub_id("../etc") is None


def test_a_name_that_is_not_here_is_taken_from_the_hub_or_says_what_to_do(monkeypatch, tiny_checkpoint):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or tiny_checkpoint)
    monkeypatch.setenv("RCDM_HUB", "somebody")
    assert rcdm.load("tiny-99", device="cpu").sources and asked == ["somebody/tiny-99"]

    def fails(name, **_):
        raise OSError("no such repository")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(ValueError, match=r"here are: .*sprites-32.* somebody/tiny-99 could not be had .* set RCDM_HUB"):
        rcdm.load("tiny-99")


def test_gradio_is_an_extra_that_the_first_command_of_the_readme_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith("gradio")]
    assert [name for name in project["optional-dependencies"]["page"] if name.startswith("gradio")]


def test_the_page_says_what_it_needs(monkeypatch, capsys):
    from rcdm import cli

    monkeypatch.setattr("rcdm.cli.serve.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        cli.main(["serve"])
    assert "pip install 'rcdm[page]'" in capsys.readouterr().err


def test_the_version_is_in_one_place():
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {rcdm.__version__}\n" in citation
    assert f"## {rcdm.__version__}" in (ROOT / "CHANGELOG.md").read_text()
