"""The house's own rules, where no tool checks them: names, lengths, twins, indexes, and documents that cannot rot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernels
from detectors import DETECTORS
from service import config
from service.alerting.notifiers import NOTIFIERS
from service.app import configuration_type
from service.ingest.formats import FORMATS
from service.ingest.scanners import SCANNERS
from tests.kernels import naive

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "detectors", "service")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 40
KERNEL_LINES_MAX = 70
PARAMETERS_MAX = 5
FOREIGN_NAMES = {"get_extra_info"}  # asyncio's, overridden
BANNED_WORDS = {"util", "utils", "helper", "helpers", "manager", "misc", "handler", "info"}

# What may be longer, and why.
LONG_FILES = {
    "service/settings.py": "every key with its meaning, and nothing else",
    "service/pipeline/worker.py": "one owner of one state",
    "detectors/idle_waste.py": "six states that exclude each other",
    "kernels/otlp.py": "one wire format, level by level",
}
LONG_FUNCTIONS = {
    "kernels/waste.py:waste_classify": "a decision in one piece, told in its order",
    "detectors/idle_waste.py:_classify": "hands every column to the kernel",
    "service/pipeline/present.py:view": "fills one record of many fields",
    "kernels/log.py:records_walk": "the fields of a record, one after the other",
    "kernels/alert.py:alert_advance": "hands seven columns on, as they were and as they are",
    "kernels/native.py:_object_at": "the members of an object, one kind after the other",
    "kernels/adapter.py:adapter_scan": "hands thirty arrays on",
    "kernels/native.py:native_scan": "hands thirty arrays on",
    "kernels/otlp.py:otlp_scan": "three levels of messages inside each other",
    "kernels/points.py:points_judge": "a decision in one piece, told in its order",
}
# Kernels whose twin is the reference parser: scan and reference are compared, record by record, where they meet.
PROVED_ON_RECORDS = {"native_scan", "otlp_scan", "adapter_scan", "points_judge"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef))


def line_count(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_kernel_has_a_naive_twin_of_the_same_name():
    decorated = {
        node.name
        for path in Path(kernels.__file__).parent.glob("*.py")
        for node in functions(path)
        if any(ast.unparse(mark).startswith("kernel") for mark in node.decorator_list)
    }
    twins = {name for name in vars(naive) if not name.startswith("_")}
    assert len(decorated) > 5
    assert decorated - twins == PROVED_ON_RECORDS
    assert "reference" in (ROOT / "tests/service/ingest/test_scanners.py").read_text(encoding="utf-8")


# Modules of a plug-in folder that hold no plug-in.
SHARED = {
    "detectors": {
        "batch",
        "columns",
        "contract",
        "entities",
        "features",
        "label_texts",
        "labels",
        "numbers",
        "params",
        "roster",
        "state",
    },
    "service/ingest/formats": set(),
    "service/ingest/scanners": {"contract", "points", "raw_labels"},
    "service/alerting/notifiers": set(),
}
INDEXES = {
    "detectors": {name: kind.__module__ for name, kind in DETECTORS.items()},
    "service/ingest/formats": {name: type(known).__module__ for name, known in FORMATS.items()},
    "service/ingest/scanners": {name: kind.__module__ for name, kind in SCANNERS.items()},
    "service/alerting/notifiers": {name: kind.__module__ for name, kind in NOTIFIERS.items()},
}


@pytest.mark.parametrize("folder", INDEXES)
def test_every_file_of_a_plugin_folder_is_in_its_index_and_in_a_test(folder):
    present = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"} - SHARED[folder]
    indexed = {module.rpartition(".")[2] for module in INDEXES[folder].values()}
    assert indexed == present
    texts = [path.read_text(encoding="utf-8") for path in TESTS if path != Path(__file__)]
    tests = "\n".join([*texts, *(path.name for path in (ROOT / "tests/data").rglob("*"))])
    untested = [name for name in INDEXES[folder] if not re.search(name.replace("_", "[-_]"), tests)]
    assert untested == []


def test_files_are_short():
    long = {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > FILE_LINES_MAX}
    assert long - set(LONG_FILES) == set()


def test_functions_are_short():
    long = {
        f"{name_of(path)}:{node.name}"
        for path in MODULES
        for node in functions(path)
        if line_count(node) > (KERNEL_LINES_MAX if path.is_relative_to(ROOT / "kernels") else FUNCTION_LINES_MAX)
    }
    assert long - set(LONG_FUNCTIONS) == set()


def test_functions_take_few_positional_parameters():
    """Constructors take what they need, kernels take columns, and options of the command line are named."""
    many = [
        f"{name_of(path)}:{node.name}"
        for path in MODULES
        if path != ROOT / "service/__main__.py" and not path.is_relative_to(ROOT / "kernels")
        for node in functions(path)
        if node.name != "__init__"
        and len([arg for arg in node.args.args if arg.arg not in {"self", "cls"}]) > PARAMETERS_MAX + 2
    ]
    assert many == []


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_names_say_what_a_thing_is():
    names = [
        (name_of(path), name)
        for path in MODULES
        for name in [
            path.stem,
            *(node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.ClassDef)),
        ]
    ]
    banned = [found for found in names if words(found[1]) & BANNED_WORDS]
    assert [found for found in banned if found[1] not in FOREIGN_NAMES] == []


def test_every_module_says_what_lives_in_it():
    silent = [
        name_of(path)
        for path in MODULES
        if path.read_text(encoding="utf-8").strip() and ast.get_docstring(tree_of(path)) is None
    ]
    assert silent == []


def test_time_comes_from_the_clock():
    """Durations of our own work may be measured; what the stream means may not depend on the machine's time."""
    forbidden = re.compile(r"\btime\.(time|time_ns|sleep)\(|\bdatetime\.(now|utcnow)\(|\bdate\.today\(")
    found = [
        f"{name_of(path)}:{number}"
        for path in MODULES
        if path != ROOT / "service/clock.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_nothing_is_left_to_do_in_comments():
    found = [name_of(path) for path in MODULES if re.search(r"#.*\b(TODO|FIXME|XXX)\b", path.read_text())]
    assert found == []


def test_test_names_are_sentences():
    short = [
        f"{name_of(path)}:{node.name}"
        for path in TESTS
        for node in functions(path)
        if node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert short == []


@pytest.mark.parametrize(
    "file, render", [("config.yaml", config.document), ("docs/configuration.md", config.reference)]
)
def test_the_documented_configuration_is_the_one_that_the_types_give(file, render):
    """Made by `skinflint config-document` (and `--markdown`)."""
    assert (ROOT / file).read_text(encoding="utf-8") == render(configuration_type())


def test_the_shipped_configuration_loads_as_the_defaults():
    kind = configuration_type()
    assert config.load(ROOT / "config.yaml", {}, kind) == kind()


def test_the_lock_file_pins_every_package_with_hashes_and_names_no_place_to_get_them_from():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z0-9][\w.-]*)==\S+.*\\\n(?:    --hash=sha256:[0-9a-f]{64}\s)", lock, re.MULTILINE)
    named = re.findall(r"^([a-z0-9][\w.-]*)==", lock, re.MULTILINE)
    assert len(pins) == len(named) > 40
    assert "://" not in lock


PACKAGE_FILES = ["requirements.lock", "pyproject.toml", "Makefile", ".ci/run", "tests/kafka/pom.xml"]
IMAGE_FILES = ["deploy/requirements.lock", "deploy/Dockerfile"]


@pytest.mark.parametrize("file", [*PACKAGE_FILES, *IMAGE_FILES])
def test_packages_come_from_wherever_the_machine_is_set_up_for(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.findall(r"index.url|find.links|trusted.host|<repositor|\[\[tool\.uv\.index", text) == []
