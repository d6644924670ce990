"""What a receiver can find wrong with itself before its first message, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.alerting.guard import Refused
from service.errors import ConfigError, ConfigProblem, Unavailable


def preflight(receiver: str, checks: Mapping[str, Callable[[], object]]) -> None:
    """Run every check, named by the parameter that it is about; ConfigError with whatever they found."""
    problems = []
    for key, check in checks.items():
        try:
            check()
        except (Refused, Unavailable, OSError) as error:
            said = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            message = f"{key}: {said.removeprefix(f'{key}: ')}"
            problems.append(ConfigProblem(f"alerting.receivers.{receiver}", message))
    if problems:
        raise ConfigError(problems)
