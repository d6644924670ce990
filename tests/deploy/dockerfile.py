"""The Dockerfile as a list of steps, so that a test can take the same ones without an engine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template


@dataclass
class Stage:
    """From one FROM to the next: its steps in order, and what they set."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def words(self, instruction: str) -> list[list[str]]:
        """Return the arguments of each such step."""
        return [shlex.split(rest) for name, rest in self.steps if name == instruction]

    def exec_form(self, instruction: str) -> list[str]:
        """Return the arguments of the only such step, which must be written as a JSON array."""
        (rest,) = (rest for name, rest in self.steps if name == instruction)
        return [str(word) for word in json.loads(rest[rest.index("[") :])]


def stages(text: str) -> list[Stage]:
    """Return the stages; ARG and ENV are filled in with their defaults, as a plain build does."""
    logical = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.split(None, 1) for line in logical.splitlines() if line.strip()]
    found: list[Stage] = []
    args: dict[str, str] = {}
    for instruction, rest in lines:
        known = args | (found[-1].env if found else {})
        if instruction == "FROM":
            found.append(Stage(rest.rpartition(" AS ")[2]))
        elif instruction == "ARG":
            name, _, value = rest.partition("=")
            args[name] = value
        elif instruction == "ENV":
            for word in shlex.split(rest):
                name, _, value = word.partition("=")
                found[-1].env[name] = Template(value).safe_substitute(known)
        else:
            found[-1].steps.append((instruction, " ".join(rest.split())))
    return found


def passes(path: str, ignore: str) -> bool:
    """Tell whether .dockerignore lets a file through to the builder: the last pattern that matches it or a parent decides."""
    through = True
    parts = Path(path).parts
    prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for line in ignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        again = pattern.startswith("!")
        wanted = pattern.lstrip("!")
        names = parts if wanted.startswith("**/") else prefixes
        if any(fnmatchcase(name, wanted.removeprefix("**/")) for name in names):
            through = again
    return through
