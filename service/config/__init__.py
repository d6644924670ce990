"""Configuration: a YAML file and the environment become frozen settings, or one error that names every problem.

Why an own reader in front of pydantic: an operator needs file and line of each mistake, and the usual YAML loaders forget
them. Values are checked strictly (no "5" for 5, no yes for true), so that a file means what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.config.document import document, reference
from service.config.environment import overlay
from service.config.fields import child, member
from service.config.plugins import Configuration, ReceiverSettings, settings_type
from service.config.problems import add_problems
from service.config.secret_files import read_secret, refuse_secrets, secret_problems
from service.config.tree import Tree, read_tree
from service.errors import ConfigError
from service.settings import Settings

S = TypeVar("S", bound=Settings)


def load(config_file: Path | None, environ: Mapping[str, str], settings_type: type[S]) -> S:
    """Read the file (None: defaults only), put the environment over it and check everything.

    Raises ConfigError with all problems, in the order of the file's lines.
    """
    tree = read_tree(config_file) if config_file else Tree()
    refuse_secrets(tree, settings_type)
    overlay(tree, environ, settings_type)
    settings: S | None = None
    try:
        settings = settings_type.model_validate(_without_empty_sections(tree.values, settings_type), strict=True)
    except ValidationError as error:
        add_problems(tree, error, settings_type)
    if settings is None or tree.problems:
        raise ConfigError(sorted(set(tree.problems), key=lambda p: (p.file, p.line, p.path)))
    return settings


def redacted(settings: BaseModel) -> dict[str, Any]:
    """Return the settings as plain values for showing; secrets are stars."""
    return settings.model_dump(mode="json")


def schema(settings_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of the configuration, for editors."""
    return settings_type.model_json_schema()


def _without_empty_sections(value: Any, annotation: Any) -> Any:
    """Drop sections that stand there without any key, as when all keys are commented out: they mean the defaults."""
    if isinstance(value, list):
        return [_without_empty_sections(item, child(annotation, i, value)) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, below in value.items():
        kind = child(annotation, key, value)
        if below is not None or member(kind, below) is None:
            kept[key] = _without_empty_sections(below, kind)
    return kept


__all__ = [
    "Configuration",
    "ReceiverSettings",
    "document",
    "load",
    "read_secret",
    "redacted",
    "reference",
    "schema",
    "secret_problems",
    "settings_type",
]
