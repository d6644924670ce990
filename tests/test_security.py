"""docs/security.md against the tests that it names, and what can be seen from the code and the packages alone."""

from __future__ import annotations

import ast
import re
import site
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| S")]
MODULES = sorted(path for package in ("kernels", "detectors", "service") for path in (ROOT / package).rglob("*.py"))
RUNNERS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "jinja2", "subprocess", "code"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
FORMATS = {"service/config/problems.py": "what pydantic says, or our words for it"}
# setuptools' and our own development install; an image has none.
PTH = {"__editable__.skinflint-0.1.0.pth", "distutils-precedence.pth"}


def test_every_item_of_the_list_is_done_or_refused_with_a_test():
    assert [row[0] for row in ROWS] == [f"S{number}" for number in range(1, 22)]
    for number, risk, state, answer, proof in ROWS:
        assert state in {"done", "in part", "refused"}, number
        assert risk
        assert len(answer) > 20, number
        assert ("**" in answer) == (state == "in part"), f"{number}: what is missing stands in bold"
        assert re.search(r"`tests/\S+::test_\w+`", proof), number


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/\S+?::test_\w+)`", PAGE))))
def test_every_test_that_the_page_names_is_there(named):
    file, _, name = named.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_nothing_runs_what_it_reads():
    assert len(MODULES) > 100
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & RUNNERS
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & RUNNERS
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                # A format that is no literal could come from anywhere.
                foreign = isinstance(node.func, ast.Attribute) and node.func.attr in {"format", "format_map"}
                known = path.relative_to(ROOT).as_posix() in FORMATS
                names = {called} if called in CALLS or (foreign and not known) else set()
            found += [f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name}" for name in names]
    assert found == []


def test_no_package_runs_code_whenever_python_starts():
    folders = [Path(folder) for folder in site.getsitepackages()]
    assert any((folder / "numba").is_dir() for folder in folders)
    assert {path.name for folder in folders for path in folder.glob("*.pth")} <= PTH
