"""Mutants of one module: small mistakes put into it one at a time, and whether the tests notice.

    pip install cosmic-ray
    python benchmarks/mutants.py rcdm/diffusion/process.py tests/diffusion/test_process.py --sample 25

The mistakes are cosmic-ray's: another operator, number, comparison, condition. It starts Python anew for each, and
mutmut leaves out functions with decorators; here each is a fork of a process that has torch imported, and runs only the
tests that call the function. Places are sampled evenly, then one mutant of each. Left out: <<, >>, |, & and ^ as
replacements, on which tensors of floats raise, and what nothing evaluates: annotations, the * of a signature.
`equivalent_mutants.tsv` lists mutants that change nothing a caller can see, and why; they do not count.
"""

import argparse
import ast
import importlib.machinery
import os
import pickle
import pkgutil
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path.cwd()
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.tsv")
LEFT_OUT = ("_LShift", "_RShift", "_BitOr", "_BitAnd", "_BitXor", "_Eq_Is", "_NotEq_IsNot", "/NoOp")
QUIET = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]


def sampled(source: str, count: int, seed: int) -> list[tuple[int, str, str, str]]:
    """So many mutants, each of another place: line, its text before and after, and the module with the latter."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    places: defaultdict[Any, list[tuple[str, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        if get_operator(name).arguments() or name.endswith(LEFT_OUT):
            continue
        operator = get_operator(name)()
        for k, (start, _) in enumerate(place for node in nodes for place in operator.mutation_positions(node)):
            places[start].append((name, k))
    rng, lines, meaning, found = random.Random(seed), source.splitlines(), _meaning(source), []
    for place in rng.sample(sorted(places), len(places)):
        for name, k in rng.sample(places[place], len(places[place])):
            changed = mutate_code(source, get_operator(name)(), k)
            if changed is not None and _meaning(changed) not in (meaning, None):
                after = changed.splitlines()[place[0] - 1].strip()
                if name.endswith(("ZeroIterationForLoop", "RemoveDecorator")):  # these move the lines below them
                    after = name.split("/")[1]
                found.append((place[0], lines[place[0] - 1].strip(), after, changed))
                break
        if len(found) == count:
            break
    return sorted(found)


def _meaning(source: str) -> str | None:
    """The code without annotations and without * and / in signatures; None where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
        if isinstance(node, ast.arguments):
            node.args = node.posonlyargs + node.args + node.kwonlyargs
            node.defaults = node.defaults + [value for value in node.kw_defaults if value is not None]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


def first_line(source: str, line: int) -> int:
    """Where the innermost function around a line begins, decorators included; 0 outside of all functions."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    spans = [(min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno) for node in functions]
    return max((begin for begin, end in spans if begin <= line <= (end or 0)), default=0)


class Reached:
    """A plug-in of pytest: test -> where the functions of one file begin that it calls; "" for what all tests share."""

    def __init__(self, file: Path) -> None:
        self.file, self.now = str(file), ""
        self.called: defaultdict[str, set[int]] = defaultdict(set)
        sys.settrace(self.trace)

    def trace(self, frame: Any, _event: str, _argument: Any) -> None:
        if frame.f_code.co_filename == self.file:
            self.called[self.now].add(frame.f_code.co_firstlineno)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.now = item.nodeid
        yield
        self.now = ""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        before = self.now
        self.now = before if fixturedef.scope == "function" else ""
        yield
        self.now = before


class Mutated(importlib.machinery.SourceFileLoader):
    """The code of a file with another text, once this stands first on sys.meta_path."""

    text = ""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def path_stats(self, path: str) -> Any:
        raise OSError("no cache of compiled code")

    def get_data(self, path: str) -> bytes:
        return self.text.encode()


def in_child(work: Callable[[], int], limit: int) -> int:
    """Exit status of a fork that does this work quietly; that of SIGALRM where it takes longer, in seconds."""
    child = os.fork()
    if not child:
        signal.alarm(limit)
        quiet = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            status = int(work())
        except BaseException:
            status = 1
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    for name, default in (("--sample", 25), ("--seed", 0)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    path = ROOT / args.module
    name, source = str(args.module.with_suffix("")).replace("/", "."), path.read_text()
    chosen = sampled(source, args.sample, args.seed)
    for module in pkgutil.walk_packages([str(ROOT / "rcdm")], "rcdm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for loaded in [known for known in sys.modules if known.partition(".")[0] == "rcdm"]:
        del sys.modules[loaded]

    kept, began = Path(tempfile.mkstemp()[1]), time.monotonic()

    def run(changed: str, tests: list[str], *plugins: object) -> int:
        Mutated.text = changed
        sys.meta_path.insert(0, Mutated(name, str(path)))
        return int(pytest.main([*QUIET, *tests], plugins=plugins))

    def trace() -> int:
        status = run(source, args.tests, reached := Reached(path))
        kept.write_bytes(pickle.dumps(reached.called))
        return status

    if in_child(trace, 1200) != 0:
        raise SystemExit("The tests fail without any mutant.")
    called, limit = pickle.loads(kept.read_bytes()), 10 + 3 * int(time.monotonic() - began)
    kept.unlink()
    judged = {tuple(row.split("\t")[:3]) for row in EQUIVALENT.read_text().splitlines()}
    count: Counter[str] = Counter()
    for line, before, after, changed in chosen:
        where = first_line(source, line)
        tests = [test for test, functions in called.items() if test and (not where or where in functions | called[""])]
        status = in_child(partial(run, changed, tests), limit) if tests else 0
        verdict = {-signal.SIGALRM: "timed out", 0: "SURVIVED" if tests else "NOT REACHED"}.get(status, "caught")
        if status == 0 and (str(args.module), before, after) in judged:
            verdict = "equivalent"
        count[verdict] += 1
        print(f"{verdict:11} {args.module}:{line}  {before}  ->  {after}", flush=True)
    share = (count["caught"] + count["timed out"]) / max(1, len(chosen) - count["equivalent"])
    print(f"{args.module}\t{len(chosen)} mutants\t{dict(count)}\tshare {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
