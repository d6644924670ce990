"""@kernel, the one home of compiler options, and the cache folder that a change of any kernel file renames."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def _cache_root() -> Path:
    """Return the folder under which compiled kernels are kept."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "skinflint" / "kernels"


def _prepare_cache() -> bool:
    """Point numba at <root>/<hash of the kernel files>; False where nothing can be written.

    Numba does not see that a function imported from another file changed, nor that an option in this file did;
    a folder named by the content of all files cannot be stale. Cache files are pickles, so a folder that others
    may write to is refused.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(os.environ.get("NUMBA_BOUNDSCHECK", "").encode())
    folder = _cache_root() / digest.hexdigest()[:16]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    if folder.stat().st_mode & stat.S_IWOTH:
        raise PermissionError(f"{folder}: others may write to the kernel cache; expected mode 0700")
    numba.config.CACHE_DIR = str(folder)
    return os.access(folder, os.W_OK)


_CACHE = _prepare_cache()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call and keep the machine code for the next process.

    fastmath would fold isnan to False, and telemetry is full of NaN. error_model="numpy" gives inf and NaN instead
    of exceptions out of a loop. parallel=True aborts the process when two threads call it; partitions are the parallelism.
    """
    compiled = numba.njit(cache=_CACHE, nogil=True, error_model="numpy", fastmath=False, _nrt=False)(function)
    return cast("Callable[P, R]", compiled)
