"""Whether something could be written, tried rather than guessed: permissions alone do not tell (/proc, read-only mounts)."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path


def why_not_writable(folder: Path) -> str:
    """Return what stands against files in `folder`, which need not exist yet; empty for nothing. Leaves no trace."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".skinflint-", dir=there):
            return ""
    except OSError as error:
        return str(error.strerror)


def why_no_file(path: Path) -> str:
    """Return what stands against writing the file `path`, whose folder must exist; empty for nothing."""
    if path.exists():
        code = errno.EISDIR if path.is_dir() else 0 if os.access(path, os.W_OK) else errno.EACCES
        return os.strerror(code) if code else ""
    return why_not_writable(path.parent) if path.parent.is_dir() else os.strerror(errno.ENOENT)
