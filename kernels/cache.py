"""Where compiled kernels are kept: a folder that a change of any kernel file renames, and that nobody else may write to."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

import numba


def _root() -> Path:
    """Return the folder under which compiled kernels are kept."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "skinflint" / "kernels"


def _digest() -> str:
    """Return a hash of the kernel files.

    Numba does not see that a function imported from another file changed, nor that an option in `_jit` did; a folder
    named by the content of all files cannot be stale.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(os.environ.get("NUMBA_BOUNDSCHECK", "").encode())
    return digest.hexdigest()[:16]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _own_copy(folder: Path) -> Path | None:
    """Return a folder of this user's in the temporary one that began as a copy of `folder`; None where there can't be one.

    Numba reads no cache that it may not write to, so where the root is read-only, as in an image with a warm cache, it
    gets a copy, of 2 MB. Its name is always the same: restarts find what was compiled before, and a crash loop leaves one.
    """
    fresh = None
    try:
        own = Path(tempfile.gettempdir()) / f"skinflint-kernels-{os.getuid()}-{folder.name}"
        if not own.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix="skinflint-kernels-"))
            for file in folder.glob("*/*.nb[ci]"):
                (fresh / file.parent.name).mkdir(mode=0o700, exist_ok=True)
                shutil.copyfile(file, fresh / file.parent.name / file.name)
            fresh.rename(own)  # whole or not at all
    except OSError:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
        return own if fresh is not None and own.is_dir() else None  # another process was faster
    return own


def _refuse_if_others_write(folder: Path) -> None:
    """Raise where others could: cache files are pickles, and run code of whoever wrote them."""
    if folder.stat().st_mode & stat.S_IWOTH:
        raise PermissionError(f"{folder}: others may write to the kernel cache; expected mode 0700")


def _refuse_unless_ours(folder: Path) -> None:
    """Raise where somebody else was first to take the name, which anybody can guess."""
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not private or found.st_uid != os.getuid():
        raise PermissionError(f"{folder}: somebody else made this; expected a folder of this user's of mode 0700")


def _prepare() -> Path | None:
    """Point numba at the folder and return it; None where nothing can be written, so that each process compiles."""
    folder = _root() / _digest()
    writable = _writable(folder)
    if folder.is_dir():
        _refuse_if_others_write(folder)
    if not writable:
        own = _own_copy(folder)
        if own is None:
            return None
        _refuse_unless_ours(own)
        folder = own
    numba.config.CACHE_DIR = str(folder)
    return folder


FOLDER = _prepare()
"""None where no folder can be had."""
