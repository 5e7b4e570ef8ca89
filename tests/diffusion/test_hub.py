"""What is saved or uploaded stands alone: shared networks, card and numbers are in it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, RepoUrl

import rcdm
from rcdm.diffusion import model_card, pipeline
from rcdm.networks.sources import share_networks

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints" / "sprites-32"


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch) -> dict:
    """What was sent to the hub: calls, and the folder as it arrived."""
    sent: dict = {}

    def create_repo(repo_id, **options):
        sent["repo"] = (repo_id, options)
        return RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else 'me/' + repo_id}")

    def upload_folder(*, repo_id, folder_path, **options):
        sent["upload"] = (repo_id, options)
        sent["folder"] = Path(shutil.copytree(folder_path, tmp_path / "hub" / repo_id.replace("/", "--")))
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(pipeline, "create_repo", create_repo)
    monkeypatch.setattr(pipeline, "upload_folder", upload_folder)
    return sent


def test_what_is_pushed_draws_the_same_without_the_networks_it_shared(tiny_checkpoint, tmp_path, uploads):
    shutil.copytree(tiny_checkpoint, tmp_path / "first")
    shutil.copytree(tiny_checkpoint, tmp_path / "second")
    share_networks(tmp_path / "second" / "sources", tmp_path / "first" / "sources")
    pipe = rcdm.load(tmp_path / "second", device="cpu")
    assert pipe.push_to_hub("me/tiny", private=True).startswith("https://huggingface.co/me/tiny")
    assert uploads["repo"][0] == "me/tiny" and uploads["repo"][1]["private"] is True
    shutil.rmtree(tmp_path / "first")
    pushed = rcdm.load(uploads["folder"], device="cpu")
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    a, b = (p(x, source="tiny/projector", seeds=[0, 1], output_type="pt").images for p in (pipe, pushed))
    assert torch.equal(a, b)
    assert str(tmp_path) not in "".join(file.read_text() for file in uploads["folder"].rglob("*.json"))


def test_a_checkpoint_without_a_card_gets_one(tiny_checkpoint, tmp_path, uploads):
    (shutil.copytree(tiny_checkpoint, tmp_path / "bare") / "README.md").unlink()
    pipe = rcdm.load(tmp_path / "bare", device="cpu")
    pipe.save_pretrained(tmp_path / "copy", push_to_hub=True, repo_id="me/copy", token="x")
    assert uploads["repo"] == ("me/copy", {"private": None, "token": "x", "exist_ok": True})
    for folder, name in ((tmp_path / "copy", "copy"), (uploads["folder"], "me/copy")):
        card = (folder / "README.md").read_text()
        head = ModelCard(card).data
        assert (head.license, head.library_name, head.tags[0]) == ("other", "diffusers", "rcdm")
        assert f'rcdm.load("{name}")' in card and "16 px" in card and "unknown data" in card
        assert "| `tiny` | backbone, projector, layer2 | small_resnet | unknown |" in card
        assert "Nothing has been measured yet" in card


def test_card_numbers_and_reader_travel_and_the_tables_follow_the_numbers(tmp_path, uploads):
    metrics = json.loads((SHIPPED / "metrics.json").read_text())
    shutil.copytree(SHIPPED, tmp_path / "measured")
    metrics["n"] = 123456
    (tmp_path / "measured" / "metrics.json").write_text(json.dumps(metrics))
    rcdm.load(tmp_path / "measured", device="cpu").push_to_hub("me/measured")
    folder = uploads["folder"]
    card, before = (folder / "README.md").read_text(), (SHIPPED / "README.md").read_text()
    assert "Gallery of 123456" in card and card.replace("Gallery of 123456", "Gallery of 300") == before
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert {f.name for f in (folder / "reader").iterdir()} == {f.name for f in (SHIPPED / "reader").iterdir()}


def test_numbers_in_another_form_do_not_stop_the_card():
    card = f"a\n{model_card.BEGIN}\nold\n{model_card.END}\nb\n"
    assert "in `metrics.json`" in model_card._with_tables(card, {"accuracy": 1})
    assert model_card._with_tables("no tables", {}) == "no tables"


@pytest.mark.parametrize(
    ("licences", "data", "expected"),
    [({"MIT"}, "sprites", "mit"), ({"MIT"}, "photos", "other"), ({"MIT", "CC-BY-NC 4.0"}, "sprites", "cc-by-nc-4.0")],
)
def test_the_strictest_licence_counts(licences, data, expected):
    assert model_card._licence(licences, data) == expected
