"""The newest value of each column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def latest_add(
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    column: NDArray[np.float64],
    value: NDArray[np.float64],
    value_time_ns: NDArray[np.int64],
) -> None:
    """Keep each entity's newest value of a column and its time.

    Rows   entity int32[n], time_ns int64[n], column float64[n], NaN = missing
    State  value float64[m], NaN before the first; value_time_ns int64[m]
    """
    for i in range(entity.size):
        e = entity[i]
        if not np.isnan(column[i]) and time_ns[i] >= value_time_ns[e]:
            value[e] = column[i]
            value_time_ns[e] = time_ns[i]


@kernel
def latest_read(
    now_ns: int,
    stale_ns: int,
    value: NDArray[np.float64],
    value_time_ns: NDArray[np.int64],
    out_value: NDArray[np.float64],
) -> None:
    """Read each entity's newest value of a column.

    Parameters  now_ns; stale_ns, the age from which a value is not believed any more
    State       value float64[m], NaN before the first; value_time_ns int64[m]; only read
    Output      out_value float64[m], NaN where the newest value is older
    """
    for e in range(value.size):
        out_value[e] = value[e] if now_ns - value_time_ns[e] <= stale_ns else np.nan
