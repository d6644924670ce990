"""Walking the settings' types along a path, as the values are walked: what stands under which key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

Key = str | int
Path = tuple[Key, ...]


def bare(annotation: Any) -> Any:
    """Return the annotation without its Annotated wrapping."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def members(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a value of this annotation may be: one, several for a union, none for anything else."""
    kind = bare(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) in (Union, UnionType):
        return [model for choice in get_args(kind) for model in members(choice)]
    return []


def type_name(model: type[BaseModel]) -> str:
    """Return what stands under `type` for this member of a union of models; empty for a model without one."""
    field = model.model_fields.get("type")
    if field is None or get_origin(field.annotation) is not Literal:
        return ""
    return str(get_args(field.annotation)[0])


def member(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the model that `value` is meant for, chosen by its `type` in a union; None where there is none."""
    choices = members(annotation)
    if get_origin(bare(annotation)) not in (Union, UnionType):
        return choices[0] if choices else None
    wanted = value.get("type") if isinstance(value, Mapping) else None
    return next((model for model in choices if type_name(model) == wanted), None)


def child(annotation: Any, key: Key, value: Any) -> Any:
    """Return the annotation of what `value` (of `annotation`) holds under `key`; None where nothing may stand there."""
    model = member(annotation, value)
    if model is not None:
        field = model.model_fields.get(str(key))
        return field.annotation if field else None
    kind = bare(annotation)
    if get_origin(kind) is list and isinstance(key, int):
        return get_args(kind)[0]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return None


def is_secret(annotation: Any) -> bool:
    """Tell whether a value of this annotation must never be shown."""
    return bare(annotation) is SecretStr


def dotted(path: Path) -> str:
    """Return the path as people write it: alerting.receivers[0].name."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return what to say of a key that no model knows: the key that may have been meant, or all there are."""
    return f"unknown key; {meant(key, known) or 'known keys: ' + ', '.join(known)}"


def meant(word: str, known: Iterable[str]) -> str:
    """Return `did you mean "…"?` with the nearest known word; empty when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else ""
