"""Where the programs are that the Makefile builds for these tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    """Return the path of a program, the Makefile's own before the machine's."""
    built = ROOT / "build/tools" / name
    found = str(built) if built.is_file() else shutil.which(name)
    assert found, f"{name} is missing: make tools"
    return found


def output(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a program prints; its errors are the test's when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
