"""Obviously right twins of the kernels: plain loops and NumPy over whole histories, no recurrences."""

from __future__ import annotations

import numpy as np

from kernels import waste


def rows_number(entity, time_ns):
    pairs = sorted(set(zip(entity.tolist(), time_ns.tolist(), strict=True)))
    place = {pair: i for i, pair in enumerate(pairs)}
    return [place[pair] for pair in zip(entity.tolist(), time_ns.tolist(), strict=True)], len(pairs)


def rows_merge(row, value, rows):
    out = np.full(rows, np.nan)
    for r in range(rows):
        values = value[(row == r) & ~np.isnan(value)]
        out[r] = values.max() if len(values) else np.nan
    return out


def latest_add(entity, time_ns, values, m):
    out = np.full((m, values.shape[1]), np.nan)
    for e in range(m):
        for c in range(values.shape[1]):
            own = [(t, v) for t, v, k in zip(time_ns, values[:, c], entity, strict=True) if k == e and not np.isnan(v)]
            out[e, c] = max(own, key=lambda pair: pair[0])[1] if own else np.nan
    return out


def activity_select(entity, time_ns, sm, gr, util, stale_ns):
    out = np.full(len(entity), np.nan)

    def seen(signal, i):
        return any(
            entity[j] == entity[i] and not np.isnan(signal[j]) and 0 <= time_ns[i] - time_ns[j] <= stale_ns
            for j in range(i + 1)
        )

    for i in range(len(entity)):
        for signal in (sm, gr, util):
            if seen(signal, i):
                out[i] = signal[i]
                break
    return out


def ewma_add(time_ns, value, half_life_s):
    """Weights of all samples of one entity from their times alone, then the weighted mean and variance."""
    times, values = time_ns[~np.isnan(value)] * 1e-9, value[~np.isnan(value)]
    if len(values) == 0:
        return np.nan, 0.0
    keep = 2.0 ** (-np.diff(times) / half_life_s)
    weights = np.array([np.prod(keep[i:]) * (1.0 if i == 0 else 1.0 - keep[i - 1]) for i in range(len(values))])
    mean = np.sum(weights * values) / np.sum(weights)
    return mean, np.sum(weights * (values - mean) ** 2) / np.sum(weights)


def window_add(time_ns, value, pane_ns):
    """The panes of one entity: number of each and the values in it."""
    panes = {}
    for t, v in zip(time_ns.tolist(), value.tolist(), strict=True):
        if not np.isnan(v):
            panes.setdefault(t // pane_ns, []).append(v)
    return panes


def window_read(time_ns, value, now_ns, pane_ns, panes, active_above):
    newest = (now_ns - 1) // pane_ns
    inside = (time_ns // pane_ns > newest - panes) & (time_ns // pane_ns <= newest) & ~np.isnan(value)
    v = value[inside]
    if len(v) == 0:
        return 0, np.nan, np.nan, np.nan, np.nan, np.nan
    return len(v), np.mean(v > active_above), v.mean(), v.var(), v.min(), v.max()


def histogram_add(time_ns, value, lowest, bin_width, half_life_s, bins):
    keep = ~np.isnan(value)
    times, values = time_ns[keep], value[keep]
    weight = np.zeros(bins)
    for t, v in zip(times, values, strict=True):
        b = min(max(int((v - lowest) / bin_width), 0), bins - 1)
        weight[b] += 2.0 ** (-(times.max() - t) * 1e-9 / half_life_s)
    return weight


def histogram_quantile(quantile, values):
    return np.quantile(values, quantile, method="inverted_cdf") if len(values) else np.nan


def dwell_add(states, scores, prices, seconds, state_count):
    """Seconds and dollars per state of one entity over its whole history."""
    time, usd = np.zeros(state_count), np.zeros(state_count)
    for state, score, price in zip(states, scores, prices, strict=True):
        time[state] += seconds
        usd[state] += 0.0 if np.isnan(price) else price * score * seconds / 3600
    return time, usd


def watermark_advance(times, lateness_ns, jump_ns, jump_rows):
    watermark, run, late = -1, [], []
    for t in times:
        if watermark < 0:
            watermark = t
            late.append(False)
        elif t <= watermark + jump_ns:
            run = []
            late.append(t < watermark - lateness_ns)
            watermark = max(watermark, t)
        else:
            run.append(t)
            late.append(False)
            if len(run) >= jump_rows:
                watermark, run = min(run), []
    return watermark, late


def waste_classify(g, p):
    """One GPU's figures `g` and bounds `p` as dicts; returns state, score, disagrees."""
    none = (waste.UNKNOWN, 0.0, False)
    if not g["known"] or g["signal"] == 3 or g["count"] == 0:
        return none
    if g["duty"] <= p["idle_duty_max"]:
        hot = g["power_load"] > p["veto_load_min"]
        util_says_busy = g["signal"] in (0, 1) and g["util"] > p["veto_util_min"]
        if hot or util_says_busy:
            return waste.UNKNOWN, 0.0, True
        if g["fb"] >= p["context_bytes"]:
            return waste.IDLE_HELD, 1.0, False
        return (waste.TRULY_IDLE if g["held"] else waste.UNALLOCATED), 1.0, False
    busy = g["activity"] if np.isnan(g["util"]) else g["util"]
    at_idle_power = g["power_load"] <= p["hung_load_max"]
    moves_memory = g["dram"] > p["dram_max"]
    if busy >= p["hung_util_min"] and at_idle_power and g["tensor"] <= p["pipe_max"] and not moves_memory:
        return waste.HUNG_COLLECTIVE, 1.0, False
    steady = g["activity_variance"] <= p["steady_std_max"] ** 2 and g["activity"] <= p["steady_activity_max"]
    silent = g["io"] <= p["io_max"] and g["fb_range"] <= p["fb_range_max"] and g["tensor"] <= p["pipe_max"]
    if steady and silent and g["count"] >= p["samples_min"]:
        return waste.KEEP_ALIVE, 1.0, False
    if g["activity"] < p["efficiency_min"]:
        return waste.LOW_EFFICIENCY, 1.0 - g["activity"] / p["efficiency_min"], False
    if g["signal"] > 0 and g["power_load"] < p["efficient_load_min"]:
        return waste.LOW_EFFICIENCY, 1.0 - max(g["power_load"], 0.0) / p["efficient_load_min"], False
    pipe = max(g["tensor"], g["dram"])
    blind = g["signal"] > 0 and np.isnan(g["power_load"]) and not np.isnan(g["tensor"] + g["dram"])
    if blind and pipe < p["efficient_pipe_min"]:
        return waste.LOW_EFFICIENCY, 1.0 - pipe / p["efficient_pipe_min"], False
    return waste.ACTIVE, 0.0, False


def records_walk(body, count):
    """Read the records one after the other; return (key, value, headers) each, and whether all was as it should be."""

    def number(at):
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1), at

    def field(at):
        size, at = number(at)
        return (None, at) if size < 0 else (body[at : at + size], at + size)

    found, at = [], 0
    for _ in range(count):
        size, start = number(at)
        timestamp, at = number(start + 1)
        offset, at = number(at)
        key, at = field(at)
        value, at = field(at)
        headers, at = number(at)
        first = at
        for _ in range(2 * headers):
            _, at = field(at)
        if at - start != size:
            break
        found.append((offset, timestamp, key, value, body[first:at]))
    return found, at == len(body) and len(found) == count


def slots_fill(entry_hash, count, size):
    slot = [-1] * size
    for entry in range(count):
        place = int(entry_hash[entry]) % size
        while slot[place] >= 0:
            place = (place + 1) % size
        slot[place] = entry
    return slot


def rows_repeated(record, label_set, time_ns):
    def repeats(i):
        before = [j for j in range(i) if (record[j], label_set[j]) == (record[i], label_set[i])]
        return label_set[i] >= 0 and bool(before) and time_ns[i] <= time_ns[before[-1]]

    return [repeats(i) for i in range(len(record))]


def points_number(record, column, label_set, time_ns, plain):
    """Return the row of each point, -1 for none: rows are numbered in order of their first point."""
    rows = {}
    out = []
    for p in range(len(record)):
        counts = column[p] >= 0 and plain[record[p]]
        key = (record[p], label_set[p], time_ns[p])
        out.append(rows.setdefault(key, len(rows)) if counts else -1)
    return out


def points_put(row, column, value, columns):
    cells = {(column[p], row[p]): value[p] for p in range(len(row)) if row[p] >= 0}
    return np.array([[cells.get((c, r), np.nan) for r in range(max(row, default=-1) + 1)] for c in range(columns)])
