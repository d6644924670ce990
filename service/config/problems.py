"""What pydantic finds wrong, as problems an operator can act on: place, what was expected, what stood there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.config.fields import Key, Path, child, is_secret, meant, member, members, type_name, unknown_key
from service.config.tree import Tree

# Validators over several keys begin their message with the key to mend, as in "source.file.paths: at least …".
_PLACE: Final = re.compile(r"([a-z_]\w*(?:\.\w+|\[\d+\])*): (.+)", re.DOTALL)

_EXPECTED: Final[Mapping[str, str]] = {
    "bool_type": "expected true or false",
    "dict_type": "expected keys with values",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "int_from_float": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "list_type": "expected a list",
    "literal_error": "expected one of {expected}",
    "missing": "is required",
    "model_type": "expected keys with values",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected text (put it in quotes)",
    "too_long": "expected {max_length} or fewer items",
    "too_short": "expected {min_length} or more items",
    "union_tag_invalid": "expected one of {expected_tags}",
    "union_tag_not_found": "is required",
}
_WITHOUT_INPUT: Final = {"missing", "too_short", "union_tag_invalid", "union_tag_not_found"}


def add_problems(tree: Tree, error: ValidationError, model: type[BaseModel]) -> None:
    """Add every error to the tree's problems, with file and line of the value at fault."""
    for detail in error.errors(include_url=False):
        path, annotation = _follow(detail["loc"], tree.values, model)
        if detail["type"] == "value_error":
            _add_own(tree, path, str(detail.get("ctx", {}).get("error", detail["msg"])))
        elif detail["type"] == "extra_forbidden":
            known = _known_keys(path[:-1], tree.values, model)
            tree.complain(path, unknown_key(str(path[-1]), known))
        else:
            if detail["type"].startswith("union_tag"):
                path = (*path, "type")
            tree.complain(path, _message(detail, annotation))


def _add_own(tree: Tree, path: Path, message: str) -> None:
    match = _PLACE.fullmatch(message)
    if match is None:
        tree.complain(path, message)
        return
    words = re.findall(r"\w+", match[1])
    tree.complain((*path, *(int(word) if word.isdigit() else word for word in words)), match[2])


def _follow(loc: tuple[Key, ...], values: Any, model: type[BaseModel]) -> tuple[Path, Any]:
    """Return the path of an error and the annotation there; pydantic's loc also names the member of a union."""
    path: Path = ()
    annotation: Any = model
    value = values
    for key in loc:
        chosen = member(annotation, value)
        if len(members(annotation)) > 1 and chosen is not None and type_name(chosen) == key:
            annotation = chosen
            continue
        annotation = child(annotation, key, value)
        value = _under(value, key)
        path = (*path, key)
    return path, annotation


def _under(value: Any, key: Key) -> Any:
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return value.get(key) if isinstance(value, dict) else None


def _known_keys(path: Path, values: Any, model: type[BaseModel]) -> list[str]:
    _, annotation = _follow(path, values, model)
    value = values
    for key in path:
        value = _under(value, key)
    here = member(annotation, value)
    return list(here.model_fields) if here else []


def _message(detail: ErrorDetails, annotation: Any) -> str:
    context = detail.get("ctx", {})
    text = _EXPECTED.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:])
    text = text.format(**context)
    if detail["type"] == "union_tag_invalid":
        choices = re.findall(r"'([^']*)'", context["expected_tags"])
        return _got(text, str(context["tag"]), choices)
    if detail["type"] in _WITHOUT_INPUT or is_secret(annotation):
        return text
    choices = re.findall(r"'([^']*)'", context.get("expected", ""))
    return _got(text, detail["input"], choices)


def _got(text: str, value: Any, choices: list[str]) -> str:
    shown = repr(value) if isinstance(value, str) else str(value)
    hint = meant(value, choices) if isinstance(value, str) else ""
    kind = {dict: "keys with values", list: "a list", type(None): "nothing", bool: shown.lower()}
    got = kind.get(type(value), shown if len(shown) <= 60 else shown[:57] + "…")
    return f"{text}, got {got}" + (f"; {hint}" if hint else "")
