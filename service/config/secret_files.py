"""Secrets: where they may stand, and reading the files that hold them."""

from __future__ import annotations

import os
import stat
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from service.config.environment import variable
from service.config.fields import Path, child, dotted, is_secret
from service.config.tree import Tree
from service.errors import ConfigError, ConfigProblem
from service.settings import SEVERAL_LINES

SECRET_BYTES_MAX: Final = 64 << 10


def refuse_secrets(tree: Tree, model: type[BaseModel]) -> None:
    """Complain of each secret that stands in the configuration file itself: such files are copied and committed."""
    _walk(tree, (), tree.values, model)


def read_secret(value: SecretStr, file: str, path: str, *, several_lines: bool = False) -> SecretStr:
    """Return the secret at `path`: `value`, or what `file` holds where one is named, less the newline at its end.

    Raises ConfigError when both are given, and when the file is missing, empty, open to everyone or no plain text.
    """
    if not file:
        return value
    place = f"{path}_file"
    if value.get_secret_value():
        raise _problem(place, f"given together with {path}: keep one of them")
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _problem(place, f"{file} cannot be read: {error.strerror}") from error
    try:
        _check_mode(os.fstat(descriptor).st_mode, file, place)
        raw = os.read(descriptor, SECRET_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    return _text(raw, file, place, several_lines)


def _check_mode(mode: int, file: str, place: str) -> None:
    if not stat.S_ISREG(mode):
        raise _problem(place, f"{file} is not a file")
    if why := why_not_private(mode, file):
        raise _problem(place, why)


def why_not_private(mode: int, file: str) -> str:
    """Return what is wrong with the mode of a file that holds a secret; empty for nothing."""
    if not mode & stat.S_IRWXO:
        return ""
    return (
        f"{file} is open to every user (mode {stat.S_IMODE(mode):04o}): chmod 600, or 640 "
        "with the service's group (Kubernetes: defaultMode: 0440)"
    )


def secret_problems(settings: BaseModel, path: Path = ()) -> list[ConfigProblem]:
    """Read every secret file that the settings, which stand at `path`, name; return what is wrong with them."""
    problems: list[ConfigProblem] = []
    _check(settings, path, problems)
    return problems


def _text(raw: bytes, file: str, place: str, several_lines: bool) -> SecretStr:
    if len(raw) > SECRET_BYTES_MAX:
        raise _problem(place, f"{file} is larger than {SECRET_BYTES_MAX} bytes")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _problem(place, f"{file}: expected UTF-8 text") from error
    if not text:
        raise _problem(place, f"{file} is empty")
    if any(ord(character) < 32 for character in (text.replace("\n", "") if several_lines else text)):
        raise _problem(place, f"{file}: expected a single line without control characters")
    return SecretStr(text)


def _problem(path: str, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(path, message)])


def _walk(tree: Tree, path: Path, value: Any, annotation: Any) -> None:
    if is_secret(annotation):
        if value not in ("", None):
            tree.complain(path, _advice(path))
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        _walk(tree, (*path, key), below, child(annotation, key, value))


def _advice(path: Path) -> str:
    return (
        f"a secret does not belong in this file: name a file of mode 0600 in {path[-1]}_file, or set {variable(path)}"
    )


def _check(value: Any, path: Path, problems: list[ConfigProblem]) -> None:
    if isinstance(value, list):
        for i, item in enumerate(value):
            _check(item, (*path, i), problems)
    if not isinstance(value, BaseModel):
        return
    for name, field in type(value).model_fields.items():
        below = getattr(value, name)
        if is_secret(field.annotation):
            try:
                file, lines = getattr(value, f"{name}_file", ""), SEVERAL_LINES in field.metadata
                read_secret(below, file, dotted((*path, name)), several_lines=lines)
            except ConfigError as error:
                problems.extend(error.problems)
        _check(below, (*path, name), problems)
