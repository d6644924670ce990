"""A configuration file as plain values, each with the line it came from; of YAML only the parts that cannot surprise.

Why not yaml.safe_load: it forgets the lines, takes the last of two equal keys, unfolds aliases (236 bytes become 59,049
leaves) and reads `no` as False. Here plain words follow YAML 1.2's core schema, and anchors and tags are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from service.config.fields import Path, dotted
from service.errors import ConfigProblem

FILE_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 32

_INT: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}


class Origin(NamedTuple):
    """Where a value came from: a file and its line, or an environment variable (line 0)."""

    file: str
    line: int = 0


@dataclass(slots=True)
class Tree:
    """Values, the origin of each path in them, and what was wrong on the way."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    readable: bool = True

    def origin(self, path: Path) -> Origin:
        """Return the origin of the value at `path`, or of the nearest value around it."""
        for length in range(len(path), -1, -1):
            found = self.origins.get(path[:length])
            if found is not None:
                return found
        return Origin("")

    def complain(self, path: Path, message: str, origin: Origin | None = None) -> None:
        """Add a problem at `path`."""
        file, line = origin or self.origin(path)
        self.problems.append(ConfigProblem(dotted(path) or "(file)", message, file, line))

    def placed(self, problem: ConfigProblem) -> ConfigProblem:
        """Return the problem with the file and line of its path, or of what stands nearest around it."""
        words = re.findall(r"\w+", problem.path)
        file, line = self.origin(tuple(int(word) if word.isdigit() else word for word in words))
        return ConfigProblem(problem.path, problem.message, file, line)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Read an unquoted word by YAML 1.2's core schema; what is no number, truth value or null is text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def read_tree(file: FilePath) -> Tree:
    """Read a YAML file. Nothing is raised: whatever is wrong is among the tree's problems."""
    tree = Tree(origins={(): Origin(str(file))})
    text = _text(file, tree)
    if text is None:
        return tree
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problem = str(error.problem or error)
        whole = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        return _unreadable(tree, whole, Origin(str(file), line))
    except yaml.YAMLError as error:
        return _unreadable(tree, "not YAML: " + " ".join(str(error).split()))
    if isinstance(node, MappingNode):
        tree.values = _value(node, (), tree)
    elif node is not None:
        return _unreadable(tree, "expected keys with values, such as `source:`")
    return tree


def _unreadable(tree: Tree, message: str, origin: Origin | None = None) -> Tree:
    tree.complain((), message, origin)
    tree.readable = False
    return tree


def _text(file: FilePath, tree: Tree) -> str | None:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        _unreadable(tree, f"cannot be read: {error.strerror}")
        return None
    if len(raw) > FILE_BYTES_MAX:
        _unreadable(tree, f"larger than {FILE_BYTES_MAX} bytes")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        _unreadable(tree, "expected UTF-8 text", Origin(str(file), line))
        return None


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses what could unfold, run or nest without end."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse("anchors and aliases are refused: write the value out", event)
        if getattr(event, "tag", None) is not None:
            self._refuse(f"the tag {event.tag} is refused: write the plain value", event)
        if self.depth > DEPTH_MAX:
            self._refuse(f"nested deeper than {DEPTH_MAX} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    @staticmethod
    def _refuse(problem: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _value(node: Node, path: Path, tree: Tree) -> Any:
    if isinstance(node, MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, SequenceNode):
        for i, item in enumerate(node.value):
            tree.origins[(*path, i)] = _origin(item, tree)
        return [_value(item, (*path, i), tree) for i, item in enumerate(node.value)]
    return node.value if getattr(node, "style", None) else plain_scalar(node.value)


def _mapping(node: MappingNode, path: Path, tree: Tree) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        origin = _origin(key_node, tree)
        if not isinstance(key_node, ScalarNode):
            tree.complain(path, "expected a word as key", origin)
            continue
        below = (*path, key_node.value)
        if key_node.value in values:
            first = tree.origins[below].line
            tree.complain(below, f"the key stands here a second time, first in line {first}", origin)
            continue
        tree.origins[below] = origin
        values[key_node.value] = _value(value_node, below, tree)
    return values


def _origin(node: Node, tree: Tree) -> Origin:
    return Origin(tree.origins[()].file, node.start_mark.line + 1)
