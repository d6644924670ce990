"""Configuration: a YAML file and the environment become frozen settings, or one error that names every problem.

Why an own reader in front of pydantic: an operator needs file and line of each mistake, and the usual YAML loaders forget
them. Values are checked strictly (no "5" for 5, no yes for true), so that a file means what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.config.document import document, reference
from service.config.draft import Draft, without_empty_sections
from service.config.environment import overlay
from service.config.plugins import Configuration, ReceiverSettings, settings_type
from service.config.problems import add_problems
from service.config.secret_files import read_secret, refuse_secrets, secret_problems, why_not_private
from service.config.tree import Tree, read_tree
from service.errors import ConfigError, ConfigProblem
from service.settings import Settings

S = TypeVar("S", bound=Settings)
Check = Callable[[Draft], Iterable[ConfigProblem]]
"""A rule beyond the types; names its problems by path and leaves out what is malformed."""


def load(
    config_file: Path | None, environ: Mapping[str, str], settings_type: type[S], checks: Sequence[Check] = ()
) -> S:
    """Read the file (None: defaults only), put the environment over it and check everything.

    `checks` see each part that is well-formed, however wrong the others are. Raises ConfigError with all problems, in
    the order of the file's lines.
    """
    tree = _tree(config_file, environ, settings_type)
    settings: S | None = None
    try:
        settings = settings_type.model_validate(without_empty_sections(tree.values, settings_type), strict=True)
    except ValidationError as error:
        add_problems(tree, error, settings_type)
    if tree.readable:
        draft = Draft(tree, settings_type)
        tree.problems += [tree.placed(problem) for check in checks for problem in check(draft)]
    if settings is None or tree.problems:
        raise ConfigError(sorted(set(tree.problems), key=lambda p: (p.file, p.line, p.path)))
    return settings


def placed(
    error: ConfigError, config_file: Path | None, environ: Mapping[str, str], settings_type: type[BaseModel]
) -> ConfigError:
    """Return the error with file and line beside each problem, for what shows only when the service starts."""
    tree = _tree(config_file, environ, settings_type)
    return ConfigError([problem if problem.file else tree.placed(problem) for problem in error.problems])


def redacted(settings: BaseModel) -> dict[str, Any]:
    """Return the settings as plain values for showing; secrets are stars."""
    return settings.model_dump(mode="json")


def schema(settings_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of the configuration, for editors."""
    return settings_type.model_json_schema()


def _tree(config_file: Path | None, environ: Mapping[str, str], settings_type: type[BaseModel]) -> Tree:
    tree = read_tree(config_file) if config_file else Tree()
    refuse_secrets(tree, settings_type)
    overlay(tree, environ, settings_type)
    return tree


__all__ = [
    "Check",
    "Configuration",
    "Draft",
    "ReceiverSettings",
    "document",
    "load",
    "placed",
    "read_secret",
    "redacted",
    "reference",
    "schema",
    "secret_problems",
    "settings_type",
    "why_not_private",
]
