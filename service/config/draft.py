"""A configuration that may be wrong in parts: each part that is well-formed by itself can be had for further checks."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.config.fields import Key, child, member
from service.config.tree import Tree

MISSING: Final = object()


class Draft:
    """The values of a tree beside the types that they are meant for."""

    def __init__(self, tree: Tree, settings_type: type[BaseModel]) -> None:
        self._tree = tree
        self._settings_type = settings_type

    def raw(self, *path: Key) -> Any:
        """Return what was written at `path`, MISSING where nothing was."""
        value: Any = self._tree.values
        for key in path:
            value = under(value, key)
            if value is MISSING:
                break
        return value

    def part(self, *path: Key) -> Any:
        """Return the section or list item at `path`, with its defaults; None where it is malformed."""
        value, annotation = self._tree.values, self._settings_type
        for key in path:
            value, annotation = under(value, key), child(annotation, key, value)
            if value is MISSING or (value is None and member(annotation, None) is not None):
                return self._default(path)
        try:
            return TypeAdapter(annotation).validate_python(without_empty_sections(value, annotation), strict=True)
        except ValidationError:
            return None

    def items(self, *path: Key) -> list[Any] | None:
        """Return the items of the list at `path`, None in the place of a malformed one; None where there is no list."""
        value = self.raw(*path)
        if value is MISSING:
            return list(self._default(path))
        return [self.part(*path, i) for i in range(len(value))] if isinstance(value, list) else None

    def _default(self, path: tuple[Key, ...]) -> Any:
        value: Any = self._settings_type()
        for key in path:
            value = getattr(value, str(key))
        return value


def under(value: Any, key: Key) -> Any:
    """Return what `value` holds under `key`, MISSING where that is nothing."""
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return value.get(key, MISSING) if isinstance(value, dict) else MISSING


def without_empty_sections(value: Any, annotation: Any) -> Any:
    """Drop sections that stand there without any key, as when all keys are commented out: they mean the defaults."""
    if isinstance(value, list):
        return [without_empty_sections(item, child(annotation, i, value)) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, below in value.items():
        kind = child(annotation, key, value)
        if below is not None or member(kind, below) is None:
            kept[key] = without_empty_sections(below, kind)
    return kept
