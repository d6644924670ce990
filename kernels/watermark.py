"""How far a partition has come in event time, and which of its rows are late."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def watermark_advance(
    time_ns: NDArray[np.int64],
    lateness_ns: int,
    jump_ns: int,
    jump_rows: int,
    watermark_ns: NDArray[np.int64],
    ahead_rows: NDArray[np.int64],
    ahead_ns: NDArray[np.int64],
    out_late: NDArray[np.bool_],
) -> None:
    """Move the watermark along the rows in log order; a row far ahead moves it only when many in a row agree.

    One exporter with a wrong clock would otherwise make the samples of all others late. After a real gap every row is
    ahead, and jump_rows of them settle it without losing any.

    Rows        time_ns int64[n], in log order
    Parameters  lateness_ns, a row older than the watermark by more is late; jump_ns, what counts as far ahead;
                jump_rows, how many rows far ahead in a row are believed
    State       int64[1] each: watermark_ns, the newest believed time, -1 before the first row; ahead_rows, length of
                the present run of rows far ahead; ahead_ns, the earliest time in that run
    Output      out_late bool[n]
    """
    for i in range(time_ns.size):
        t = time_ns[i]
        out_late[i] = False
        if watermark_ns[0] < 0:
            watermark_ns[0] = t
        elif t <= watermark_ns[0] + jump_ns:
            ahead_rows[0] = 0
            out_late[i] = t < watermark_ns[0] - lateness_ns
            watermark_ns[0] = max(watermark_ns[0], t)
        else:
            ahead_ns[0] = t if ahead_rows[0] == 0 else min(ahead_ns[0], t)
            ahead_rows[0] += 1
            if ahead_rows[0] >= jump_rows:
                watermark_ns[0] = ahead_ns[0]
                ahead_rows[0] = 0
