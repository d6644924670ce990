"""Obviously right twins of the kernels: plain loops and NumPy over whole histories, no recurrences."""

from __future__ import annotations

import numpy as np

from kernels import waste


def rows_sort(entity, time_ns):
    """Order by entity, and whether that is an order by time within each, too."""
    order = sorted(range(len(entity)), key=lambda i: entity[i])
    pairs = [(entity[i], time_ns[i]) for i in order]
    return order, pairs == sorted(pairs)


def rows_number(entity, time_ns):
    pairs = sorted(set(zip(entity.tolist(), time_ns.tolist(), strict=True)))
    place = {pair: i for i, pair in enumerate(pairs)}
    return [place[pair] for pair in zip(entity.tolist(), time_ns.tolist(), strict=True)], pairs


def rows_merge(row, value, rows):
    out = np.full(rows, np.nan)
    for r in range(rows):
        values = value[(row == r) & ~np.isnan(value)]
        out[r] = values.max() if len(values) else np.nan
    return out


def presence_read(entity, time_ns):
    """Entity, first and last time, and how many rows."""
    return [
        (e, time_ns[entity == e].min(), time_ns[entity == e].max(), np.sum(entity == e))
        for e in sorted(set(entity.tolist()))
    ]


def presence_add(visits, stale_ns):
    """Present since and last seen of one entity after all its visits (first_ns, last_ns) in order."""
    if not visits:
        return 0, 0
    gaps = [i for i in range(1, len(visits)) if visits[i][0] - max(v[1] for v in visits[:i]) > stale_ns]
    return visits[gaps[-1] if gaps else 0][0], max(v[1] for v in visits)


def holder_confirm(ticks, names_holder, most):
    """Of one entity: in which ticks it is unsettled, and when its holder was last confirmed. A tick is (label set, time)s."""
    unsettled, before, attributed_ns = [], None, 0
    for i, rows in enumerate(ticks):
        seen_ns = {label_set: max(t for other, t in rows if other == label_set) for label_set, _ in rows}
        instants = sorted(set(seen_ns.values()))
        order = [{name for name, t in seen_ns.items() if t == instant} for instant in instants]
        settled = order if len(seen_ns) <= most else None
        holders = [t for label_set, t in seen_ns.items() if names_holder[label_set]]
        if settled is None or settled != before:
            unsettled.append(i)
        elif holders:
            attributed_ns = max(attributed_ns, *holders)
        before = settled
    return unsettled, attributed_ns


def alert_leave(holder_since_ns, opened_ns):
    return (opened_ns > 0) & (holder_since_ns[:, None] > opened_ns)


def alert_advance(ticks, for_ns, keep_firing_for_ns):
    """One entity and kind: events by tick, from a list of (now_ns, found); an end clears it."""
    opened_ns = fired_ns = last_true_ns = 0
    events = []
    for now_ns, found in ticks:
        if found:
            opened_ns = opened_ns or now_ns
            last_true_ns = now_ns
        fires = found and not fired_ns and now_ns - opened_ns >= for_ns
        ends = not found and fired_ns > 0 and now_ns - last_true_ns >= keep_firing_for_ns
        fired_ns = now_ns if fires else fired_ns
        if ends or not (found or fired_ns):
            opened_ns = fired_ns = last_true_ns = 0
        events.append((fires, ends, opened_ns))
    return events


def latest_add(entity, time_ns, column, m):
    out = np.full(m, np.nan)
    for e in range(m):
        own = [(t, v) for t, v, k in zip(time_ns, column, entity, strict=True) if k == e and not np.isnan(v)]
        out[e] = max(own, key=lambda pair: pair[0])[1] if own else np.nan
    return out


def latest_read(now_ns, stale_ns, value, value_time_ns):
    return np.array([v if now_ns - t <= stale_ns else np.nan for v, t in zip(value, value_time_ns, strict=True)])


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


def signal_read(signal_time_ns, now_ns, stale_ns):
    fresh = now_ns - signal_time_ns <= stale_ns
    return np.where(fresh.any(axis=1), fresh.argmax(axis=1), signal_time_ns.shape[1])


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
    """The panes of one entity: number of each and the values in it, of which the first 65,535 count."""
    panes = {}
    for t, v in zip(time_ns.tolist(), value.tolist(), strict=True):
        if not np.isnan(v):
            panes.setdefault(t // pane_ns, []).append(v)
    return {number: values[:65_535] for number, values in panes.items()}


def window_read(time_ns, value, now_ns, pane_ns, panes, active_above):
    newest = (now_ns - 1) // pane_ns
    added = window_add(time_ns, value, pane_ns)
    v = np.array([v for number in range(newest - panes + 1, newest + 1) for v in added.get(number, [])])
    if len(v) == 0:
        return 0, np.nan, np.nan, np.nan, np.nan, np.nan
    return len(v), np.mean(v > active_above), v.mean(), v.var(), v.min(), v.max()


def window_range(time_ns, value, now_ns, pane_ns, panes):
    return window_read(time_ns, value, now_ns, pane_ns, panes, 0.0)[4:]


def window_mean(time_ns, value, now_ns, pane_ns, panes):
    return window_read(time_ns, value, now_ns, pane_ns, panes, 0.0)[2]


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


def dwell_sum(usd_in_state):
    """By state and by entity."""
    return usd_in_state.sum(axis=0), usd_in_state.sum(axis=1)


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


def waste_find(g, exempt, for_ns, usd_in_state, graced, now_ns, grace_ns):
    """One GPU's state `g` as a dict; returns kind, how long it must last, what it wastes now and has wasted."""
    rate = g["score"] * g["usd_per_hour"]
    kinds = len(exempt)
    kind = kinds - 1 if g["disagrees"] else g["state"] if g["state"] < kinds - 1 else -1
    young = g["holder_since_ns"] > 0 and now_ns < g["holder_since_ns"] + grace_ns
    if kind < 0 or exempt[kind] or (young and kind in graced):
        return -1, 0, rate, 0.0
    return kind, for_ns[kind], rate, 0.0 if g["disagrees"] else usd_in_state[kind]


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
