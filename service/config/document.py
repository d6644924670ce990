"""The configuration explained from its own types: the documented config.yaml and the reference for readers."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.config.fields import bare, child, is_secret, members, type_name

WIDTH: Final = 100
_PLAIN: Final = re.compile(r"[A-Za-z][\w./-]*")
_NOT_TEXT: Final = {"true", "false", "null", "yes", "no", "on", "off"}
_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

_HEAD: Final = """\
# Skinflint's configuration: every key with its default, so an empty file means the same as this one.
# Durations are in seconds unless a name says otherwise. Each key can be set from the environment too, maps and lists
# as JSON: SKINFLINT__HTTP__PORT=9616, SKINFLINT__INGEST__LABELS='{"cluster": "east-1"}'.
# `skinflint check-config` names file, line and expectation of whatever is wrong here.
"""


def document(settings_type: type[BaseModel]) -> str:
    """Return config.yaml: every key with its default, and its meaning as a comment."""
    return "\n".join([_HEAD.rstrip(), *_section(settings_type(), 0)]) + "\n"


def reference(settings_type: type[BaseModel]) -> str:
    """Return the reference of the configuration as Markdown: one table a section."""
    lines = [
        "# Configuration",
        "",
        "Made from the settings' types, as is `config.yaml`. Each key can be set from the environment:",
        "`SKINFLINT__` and its path in capitals, joined by two underscores; lists and maps as JSON.",
        "Secrets stand in files of mode 0600 named by the `*_file` keys, or in the environment.",
    ]
    for path, model, instance in _sections(settings_type, settings_type(), ""):
        lines += ["", f"## {path or 'Sections'}", "", _first_paragraph(model), ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            meaning = f"{field.description or ''} {_limits(field)}".replace("\n", " ").strip().replace("|", "\\|")
            lines.append(f"| `{name}` | {_default(field, name, instance)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _section(instance: BaseModel, indent: int) -> Iterator[str]:
    margin = " " * indent
    for name, field in type(instance).model_fields.items():
        value = getattr(instance, name)
        if isinstance(value, BaseModel) and indent < 2:
            yield ""
        yield from _comment(field, margin)
        if is_secret(field.annotation):
            yield f"{margin}# {name}:"
        elif isinstance(value, BaseModel):
            yield f"{margin}{name}:" + ("" if type(value).model_fields else " {}")
            yield from _section(value, indent + 2)
        elif members(child(field.annotation, 0, [])):
            yield f"{margin}{name}:" + ("" if value else " []")
            yield from _items(field, value, indent + 2)
        else:
            yield f"{margin}{name}: {_flow(value)}"


def _items(field: FieldInfo, value: list[BaseModel], indent: int) -> Iterator[str]:
    """Show the default items, then as comments what other items may look like."""
    margin = " " * indent
    for item in value:
        yield from _dashed(list(_section(item, indent + 2)), indent)
    for model in members(child(field.annotation, 0, [])):
        if model in map(type, value):
            continue
        yield f"{margin}# for example:" if not type_name(model) else f"{margin}# or:"
        lines = [line for name, below in model.model_fields.items() for line in _example(name, below)]
        yield from (f"{margin}# {line}" for line in _dashed(lines, 0))


def _example(name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(field, "  ")
    if is_secret(field.annotation):
        yield f"  # {name}:"
    elif field.is_required():
        choices = _choices(field)
        yield f"  {name}: {choices[0] if len(choices) == 1 else '…'}"
    else:
        value = field.get_default(call_default_factory=True)
        yield f"  {name}: {_flow(value)}"


def _dashed(lines: list[str], indent: int) -> list[str]:
    """Put the dash of a list item before its first key."""
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#"))
    lines[first] = " " * indent + "- " + lines[first][indent + 2 :]
    return [line[2:] for line in lines[:first]] + lines[first:]


def _comment(field: FieldInfo, margin: str) -> list[str]:
    text = f"{field.description or ''} {_limits(field)}".strip()
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# ", break_on_hyphens=False
    )


def _limits(field: FieldInfo) -> str:
    """Return what values are allowed, as a sentence; empty where the type says it all."""
    choices = _choices(field)
    if choices:
        return f"One of: {', '.join(choice or '(empty)' for choice in choices)}." if choices[1:] else ""
    bounds = {
        bound: _flow(getattr(limit, bound))
        for bound in _BOUNDS
        for limit in field.metadata
        if getattr(limit, bound, None) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']} to {bounds['le']}."
    text = " and ".join(f"{_BOUNDS[bound]} {limit}" for bound, limit in bounds.items())
    return text.capitalize() + "." if text else ""


def _choices(field: FieldInfo) -> list[str]:
    kind = bare(field.annotation)
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []


def _flow(value: Any) -> str:
    """Return the value on one line of YAML."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT
        return value if plain else json.dumps(value)
    return json.dumps(value)


def _sections(
    model: type[BaseModel], instance: BaseModel | None, path: str
) -> Iterator[tuple[str, type[BaseModel], BaseModel | None]]:
    yield path, model, instance
    for name, field in model.model_fields.items():
        below = f"{path}.{name}".lstrip(".")
        value = getattr(instance, name, None)
        for section in members(field.annotation):
            yield from _sections(section, value, below)
        for item in members(child(field.annotation, 0, [])):
            kind = type_name(item)
            yield from _sections(item, None, f"{below}[]" + (f" (type: {kind})" if kind else ""))


def _default(field: FieldInfo, name: str, instance: BaseModel | None) -> str:
    if members(field.annotation):
        return "see below"
    if is_secret(field.annotation):
        return "none"
    if instance is not None:
        return f"`{_flow(getattr(instance, name))}`"
    if field.is_required():
        choices = _choices(field)
        return f"`{choices[0]}`" if len(choices) == 1 else "required"
    return f"`{_flow(field.get_default(call_default_factory=True))}`"


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
