"""Environment variables over the file: SKINFLINT__HTTP__PORT=9616 stands for `http: {port: 9616}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.config.fields import Key, Path, child, member, unknown_key
from service.config.tree import Origin, Tree, plain_scalar

PREFIX: Final = "SKINFLINT__"


class _NoSuchKey(Exception):
    """The variable names nothing that can be set."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def overlay(tree: Tree, environ: Mapping[str, str], model: type[BaseModel]) -> None:
    """Put the variables' values into the tree, whole sections before the keys inside them."""
    names = [name for name in environ if name.startswith(PREFIX)]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        try:
            path, annotation = _locate(name, tree.values, model)
        except _NoSuchKey as error:
            tree.complain(error.path, str(error), Origin(name))
        else:
            _put(tree, path, _parse(environ[name], annotation))
            tree.origins[path] = Origin(name)


def variable(path: Path) -> str:
    """Return the variable that sets the key at `path`."""
    return PREFIX + "__".join(str(key).upper() for key in path)


def _locate(name: str, values: Any, model: type[BaseModel]) -> tuple[Path, Any]:
    """Return the path that the variable names, and the annotation of what belongs there."""
    path: Path = ()
    annotation: Any = model
    value = values
    for part in name[len(PREFIX) :].lower().split("__"):
        key: Key = int(part) if isinstance(value, list) and part.isdigit() else part
        _check(path, key, value, member(annotation, value))
        annotation = child(annotation, key, value)
        path = (*path, key)
        value = _under(value, key)
    return path, annotation


def _check(path: Path, key: Key, value: Any, model: type[BaseModel] | None) -> None:
    if model is not None:
        if key not in model.model_fields:
            raise _NoSuchKey((*path, key), unknown_key(str(key), model.model_fields))
    elif not isinstance(value, list):
        raise _NoSuchKey((*path, key), f"cannot be set by itself: give the whole as JSON in {variable(path)}")
    elif not isinstance(key, int) or key >= len(value):
        raise _NoSuchKey((*path, key), f"the file has only {len(value)} items here, from 0 on")


def _under(value: Any, key: Key) -> Any:
    if isinstance(value, list) and isinstance(key, int):
        return value[key]
    return value.get(key) if isinstance(value, dict) else None


def _put(tree: Tree, path: Path, value: Any) -> None:
    holder: Any = tree.values
    for key in path[:-1]:
        if not isinstance(_under(holder, key), dict | list):
            holder[key] = {}
        holder = holder[key]
    holder[path[-1]] = value
    for known in [known for known in tree.origins if known[: len(path)] == path]:
        del tree.origins[known]


def _parse(text: str, annotation: Any) -> Any:
    """Read the variable as its key wants it: text stays text, anything else is a plain word or JSON."""
    if _fits(text, annotation):
        return text
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return plain_scalar(text)


def _fits(text: str, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(text), strict=True)
    except ValidationError:
        return False
    return True
