"""The rooms: imports point one way, every module has a name of its own, and each room says what it is."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import rcdm

PACKAGE = Path(__file__).resolve().parents[1] / "rcdm"
ORDER = (
    ("data",), ("networks",), ("diffusion",), ("measures",), ("training",), ("ssl", "figures"), ("studies",), ("ui",),
    ("cli",),
)  # fmt: skip
"""From left to right: a room imports from rooms to its left alone."""

PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """The folder directly below rcdm/; empty for files beside it."""
    return file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else ""


def imported(file: Path) -> set[str]:
    """Every module of rcdm that a file imports, wherever in the file: `rcdm.data.images`, or `rcdm` for the package."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{file}: relative imports hide where they point")
    return {module for module in modules if module == "rcdm" or module.startswith("rcdm.")}


def test_every_folder_has_its_place():
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert folders == set(PLACE)


@pytest.mark.parametrize("room", list(PLACE))
def test_a_room_imports_from_its_left_alone(room):
    wrong = []
    for file in FILES:
        if room_of(file) != room:
            continue
        for module in imported(file):
            other = module.split(".")[1] if "." in module else ""
            if other in PLACE and other != room and PLACE[other] >= PLACE[room]:
                wrong.append(f"{file.relative_to(PACKAGE)} imports {module}")
    assert not wrong


def test_the_public_names_are_used_by_the_command_line_alone():
    """Whoever imports `rcdm` itself could reach everything: inside, only the outermost room and version numbers do."""
    allowed = {"__version__"}
    for file in FILES:
        if room_of(file) in ("cli", "") or "rcdm" not in imported(file):
            continue
        used = set(
            re.findall(
                r"\brcdm\.(\w+)", re.sub(r"(?m)^\s*(from|import) .*$|\"[^\"\n]*\"|`[^`\n]*`", "", file.read_text())
            )
        )
        assert used <= allowed, f"{file.relative_to(PACKAGE)} uses rcdm.{', rcdm.'.join(used - allowed)}"


def test_no_two_modules_have_one_name():
    names = Counter(
        file.parent.name if file.name == "__init__.py" else file.stem for file in FILES if file.parent != PACKAGE
    )
    assert not [name for name, count in names.items() if count > 1]


def test_a_module_says_what_it_is_first_and_is_no_book():
    for file in FILES:
        text = file.read_text()
        doc = ast.get_docstring(ast.parse(text))
        assert doc and len(doc.partition("\n")[0]) <= 120, file
        assert text.count("\n") <= 345, f"{file.relative_to(PACKAGE)} has {text.count(chr(10))} lines: two ideas?"


def test_no_study_imports_another():
    shared = {"__init__", "declared", "unrun", "record", "evaluation", "study_files"}
    records = {f.stem for f in (PACKAGE / "studies").glob("*.py")} - shared
    for name in records:
        others = {
            module.split(".")[2]
            for module in imported(PACKAGE / "studies" / f"{name}.py")
            if module.startswith("rcdm.studies.")
        }
        own_figures = {f"{name.removesuffix('_study')}_figures", f"{name}_figures"}
        assert others <= {"declared", "record", *own_figures}, name


def test_rooms_in_the_documents_are_those_of_the_tree():
    document = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for line in document.splitlines():
        for path in re.findall(r"`((?:rcdm|tests|checkpoints|benchmarks|docs)/[\w./*-]+)`", line):
            assert list(PACKAGE.parent.glob(path.rstrip("/"))), f"CONTRIBUTING.md names {path}, which is not there"
    order = " ▸ ".join(", ".join(rooms) for rooms in ORDER)
    assert order in document


def test_documents_import_from_rcdm_alone():
    documents = [PACKAGE.parent / "README.md", PACKAGE.parent / "CONTRIBUTING.md", *PACKAGE.parent.glob("docs/**/*.md")]
    for document in documents:
        for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
            for module in re.findall(r"(?m)^\s*(?:from|import) (rcdm[\w.]*)", block):
                assert module == "rcdm", f"{document.name} imports {module}"
            for name in re.findall(r"\brcdm\.(\w+)", block):
                assert name in rcdm.__all__ and getattr(rcdm, name) is not None, f"{document.name} uses rcdm.{name}"
    for notebook in PACKAGE.parent.glob("docs/**/*.ipynb"):
        assert not re.findall(r"(?:from|import) rcdm\.[\w.]+", notebook.read_text()), notebook.name


def test_every_public_name_is_there():
    assert set(rcdm._ROOMS) | set(rcdm._MODULES) == set(rcdm.__all__)
    for name in rcdm.__all__:
        assert getattr(rcdm, name) is not None and name in dir(rcdm)
