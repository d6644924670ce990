"""When entities were there, and whether they still report under the labels that are known of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel


@kernel
def presence_read(
    order: NDArray[np.int64],
    entity: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    out_entity: NDArray[np.int32],
    out_first_ns: NDArray[np.int64],
    out_last_ns: NDArray[np.int64],
    out_start: NDArray[np.int64],
    out_count: NDArray[np.int64],
) -> None:
    """Find the entities that have rows, with their first and last time.

    Rows    order int64[n], the rows by (entity, time_ns); entity int32[n], time_ns int64[n], as they came
    Output  the first out_count[0] of each are filled: out_entity int32[n]; out_first_ns, out_last_ns int64[n];
            out_start int64[n + 1], where each entity's rows begin in `order`, and one more for the end of the last.
            out_count int64[1], how many entities
    """
    count = 0
    for k in range(order.size):
        i = order[k]
        if count == 0 or entity[i] != out_entity[count - 1]:
            out_entity[count] = entity[i]
            out_first_ns[count] = time_ns[i]
            out_start[count] = k
            count += 1
        out_last_ns[count - 1] = time_ns[i]
    out_start[count] = order.size
    out_count[0] = count


@kernel
def presence_add(
    entity: NDArray[np.int32],
    first_ns: NDArray[np.int64],
    last_ns: NDArray[np.int64],
    stale_ns: int,
    present_since_ns: NDArray[np.int64],
    last_seen_ns: NDArray[np.int64],
) -> None:
    """Note when entities were there; one that was silent for too long is present anew.

    Rows        entity int32[k], each once; first_ns, last_ns int64[k], of its rows in this tick
    Parameters  stale_ns, a longer silence ends a presence
    State       present_since_ns, last_seen_ns int64[m], 0 = never
    """
    for i in range(entity.size):
        e = entity[i]
        if present_since_ns[e] == 0 or first_ns[i] - last_seen_ns[e] > stale_ns:
            present_since_ns[e] = first_ns[i]
        last_seen_ns[e] = max(last_seen_ns[e], last_ns[i])


@kernel
def holder_confirm(
    entity: NDArray[np.int32],
    last_ns: NDArray[np.int64],
    start: NDArray[np.int64],
    label_set: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    names_holder: NDArray[np.bool_],
    settled: NDArray[np.int32],
    attributed_ns: NDArray[np.int64],
    found: NDArray[np.int32],
    seen_ns: NDArray[np.int64],
    out_unsettled: NDArray[np.int64],
    out_count: NDArray[np.int64],
) -> None:
    """Pass over entities that report under the same labels as before: that says nothing new of them.

    An entity is settled when its label sets are those of its tick before, and were last seen in the same order, newest
    first: at one instant together (time-slicing names one holder in each), or one after another (two exporters). Whoever
    is named newest is then confirmed as of that instant.

    Rows        entity int32[k], last_ns int64[k], start int64[k + 1]: as presence_read gives them; label_set int32[n],
                time_ns int64[n], by (entity, time)
    Parameters  names_holder bool[label sets]
    State       settled int32[m, s >= 2], an entity's label sets, newest first and by id within an instant, as -2 - id
                when last seen together with the one before, -1 = none; all -1 while it is not settled, or has more than
                s. attributed_ns int64[m], when labels last named its holder. found int32[s], seen_ns int64[s], scratch
    Output      out_unsettled int64[k], indices into the entities: the first out_count[0] are filled; out_count int64[1]
    """
    most = settled.shape[1]
    out_count[0] = 0
    for i in range(entity.size):
        e = entity[i]
        only = label_set[start[i]]
        k = start[i] + 1
        while k < start[i + 1] and label_set[k] == only:
            k += 1
        if k == start[i + 1] and settled[e, 0] == only and settled[e, 1] == -1:  # nearly always
            if names_holder[only]:
                attributed_ns[e] = max(attributed_ns[e], last_ns[i])
            continue
        count = 0
        for k in range(start[i + 1] - 1, start[i] - 1, -1):
            known = count > most
            for j in range(min(count, most)):
                known = known or found[j] == label_set[k]
            if known:
                continue
            place = count
            count += 1
            while count <= most and place > 0 and seen_ns[place - 1] == time_ns[k] and found[place - 1] > label_set[k]:
                found[place] = found[place - 1]
                place -= 1
            if count <= most:
                found[place], seen_ns[count - 1] = label_set[k], time_ns[k]
        same = count <= most
        named_ns = -1
        for j in range(most):
            now = found[j] if j < count <= most else -1
            if now >= 0 and named_ns < 0 and names_holder[now]:
                named_ns = seen_ns[j]
            if now >= 0 and j > 0 and seen_ns[j] == seen_ns[j - 1]:
                now = -2 - now
            same = same and settled[e, j] == now
            settled[e, j] = now
        if not same:
            out_unsettled[out_count[0]] = i
            out_count[0] += 1
        elif named_ns >= 0:
            attributed_ns[e] = max(attributed_ns[e], named_ns)
