"""A study's declaration, read from its file without running it: `--help` answers before torch could be imported.

Only what a declaration is made of is evaluated: constants, and functions without their bodies. What is neither (a
class, a library) stands as something that means nothing; a test compares every declaration with the record itself.
"""

from __future__ import annotations

import ast
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from rcdm.studies import _MODULES
from rcdm.studies.declared import Declared, Entry, Option

ROOT = Path(__file__).parents[2]


@cache
def declarations() -> dict[str, Declared]:
    """Name of each study -> what it says of itself, in the order of the report."""
    return {name: declaration(ROOT / f"rcdm/studies/{module}.py") for name, module in _MODULES.items()}


def declaration(file: Path) -> Declared:
    """What the file's `STUDY = Study(…)` says of itself."""
    module = _Module(file)
    call = module.nodes["STUDY"].value  # type: ignore[attr-defined]
    known = [parameter.name for parameter in fields(Declared)]
    given = dict(zip(known, call.args, strict=False)) | {word.arg: word.value for word in call.keywords}
    return Declared(**{name: module.evaluate(node) for name, node in given.items() if name in known})


class _Nothing:
    """Stands for what is not evaluated; can be called and asked for attributes, and stays nothing."""

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        return self

    def __getattr__(self, name: str) -> _Nothing:
        return self


class _Module:
    """The names of a file, each found when it is asked for."""

    def __init__(self, file: Path) -> None:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        self.found: dict[str, Any] = {"__doc__": ast.get_docstring(tree, clean=False), "Entry": Entry, "Option": Option}
        self.nodes: dict[str, ast.stmt] = {}
        for node in tree.body:
            for name in _names_of(node):
                self.nodes[name] = node

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        scope = {name: self.find(name) for name in names if name in self.nodes or name in self.found}
        return eval(compile(ast.fix_missing_locations(ast.Expression(node)), "declaration", "eval"), scope)

    def find(self, name: str) -> Any:
        """The value of a name."""
        if name not in self.found:
            self.found[name] = self._value(self.nodes[name], name)
        return self.found[name]

    def _value(self, node: ast.stmt, name: str) -> Any:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return self.evaluate(node.value)
        if isinstance(node, ast.FunctionDef):
            return self._without_body(node)
        if isinstance(node, ast.ImportFrom) and (file := _file_of(node.module or "")).is_file():
            return _Module(file).find(next(alias.name for alias in node.names if name in (alias.name, alias.asname)))
        return _Nothing()

    def _without_body(self, node: ast.FunctionDef) -> Any:
        """A function of the same parameters and defaults that does nothing."""
        for given in ast.walk(node.args):
            if isinstance(given, ast.arg):
                given.annotation = None
        return self.evaluate(ast.Lambda(node.args, ast.Constant(None)))


def _file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def _names_of(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return []
