"""What a host reads: the head of the README, the exact versions, and the container."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def _pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("==") for line in lines)


def test_every_dependency_is_pinned_to_a_version_that_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = _pinned()
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["page"]]
    assert [r.name for r in wanted if not r.specifier.contains(pinned[r.name])] == []
    assert Version(pinned["torch"]).release[:2] == (2, 13)  # the newest that hosted GPUs offer


def test_the_head_of_the_readme_fits_the_versions_and_the_files() -> None:
    head = dict(re.findall(r"^(\w+): \"?(.*?)\"?$", (ROOT / "README.md").read_text().split("---")[1], re.M))
    assert head["sdk"] == "gradio" and head["sdk_version"] == _pinned()["gradio"]
    assert head["python_version"] == "3.12" and (ROOT / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60


def test_the_container_copies_files_that_exist_and_drops_its_rights() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert text.index("USER ") < text.index("CMD [") and "HEALTHCHECK" in text
