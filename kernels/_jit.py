"""@kernel, the one home of compiler options."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

from kernels.cache import FOLDER

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call and keep the machine code for the next process.

    fastmath would fold isnan to False, and telemetry is full of NaN. error_model="numpy" gives inf and NaN instead
    of exceptions out of a loop. parallel=True aborts the process when two threads call it; partitions are the parallelism.
    """
    compiled = numba.njit(cache=FOLDER is not None, nogil=True, error_model="numpy", fastmath=False, _nrt=False)(
        function
    )
    return cast("Callable[P, R]", compiled)
