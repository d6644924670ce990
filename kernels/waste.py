"""In which state a GPU is, from its windows: the six kinds of waste, active, or unknown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel

UNALLOCATED = 0
TRULY_IDLE = 1
IDLE_HELD = 2
LOW_EFFICIENCY = 3
HUNG_COLLECTIVE = 4
KEEP_ALIVE = 5
ACTIVE = 6
UNKNOWN = 7

# Which signal the activity is: index of the third axis of activity_select's state, best first; 3 is none.
SIGNAL_TRUST = np.array([1.0, 0.9, 0.7, 0.0])


@kernel
def waste_classify(
    known: NDArray[np.bool_],
    held: NDArray[np.bool_],
    signal: NDArray[np.int8],
    count: NDArray[np.int64],
    duty: NDArray[np.float64],
    activity: NDArray[np.float64],
    activity_variance: NDArray[np.float64],
    util: NDArray[np.float64],
    tensor: NDArray[np.float64],
    dram: NDArray[np.float64],
    power_load: NDArray[np.float64],
    io: NDArray[np.float64],
    fb: NDArray[np.float64],
    fb_range: NDArray[np.float64],
    rule: NDArray[np.int32],
    idle_duty_max: NDArray[np.float64],
    efficiency_min: NDArray[np.float64],
    efficient_load_min: float,
    efficient_pipe_min: float,
    context_bytes: float,
    veto_load_min: float,
    veto_util_min: float,
    hung_util_min: float,
    hung_load_max: float,
    pipe_max: float,
    dram_max: float,
    steady_std_max: float,
    steady_activity_max: float,
    io_max: float,
    fb_range_max: float,
    samples_min: int,
    signal_trust: NDArray[np.float64],
    out_state: NDArray[np.int8],
    out_score: NDArray[np.float64],
    out_confidence: NDArray[np.float64],
    out_disagrees: NDArray[np.bool_],
) -> None:
    """Classify every entity from the figures of its window, and say which share of its price is wasted.

    Order of the questions: is it known at all; do the signals contradict each other; is it quiet (then who holds it,
    and how much memory); does it look busy without working (hung), or busy for the sake of looking busy (keep-alive);
    does it work well. A figure that is NaN never argues for waste, except that a quiet GPU whose memory is not
    reported counts as truly idle.

    Rows        all [m]. known: fresh samples fill the window; held: somebody is named as holder; signal int8: 0 SM,
                1 GR, 2 UTIL, 3 none; count: samples of activity; duty: share of them above the active level; activity
                and its variance; util, tensor, dram: means in 0..1; power_load: (power - idle) / (limit - idle), NaN if
                the model's figures are unknown or the power is not this entity's alone; io: PCIe and NVLink bytes/s;
                fb: mean framebuffer bytes; fb_range: its highest less its lowest; rule int32, which of the rules applies
    Parameters  idle_duty_max, efficiency_min float64[rules], which a user may set per namespace; efficient_load_min, the
                power load that takes the place of efficiency_min where SM activity is not measured, and
                efficient_pipe_min, the busier of tensor and memory pipe, where power is not known either; the rest scalars,
                named as the figures they bound; signal_trust float64[4]
    Output      out_state int8[m]; out_score float64[m], wasted share in 0..1; out_confidence float64[m] in 0..1;
                out_disagrees bool[m], telemetry contradicts itself (the state is then unknown, never idle)
    Source      states after gpu-usage-audit (idle-held, truly-idle), NVIDIA/nccl#968 (hung: full utilisation near idle
                power), KeepGPU (keep-alive); SM below 0.5 as ineffective use: NVIDIA's notes on DCGM profiling metrics
    """
    for e in range(known.size):
        out_disagrees[e] = False
        out_score[e] = 0.0
        out_confidence[e] = 0.0
        if not known[e] or signal[e] == 3 or count[e] == 0:
            out_state[e] = UNKNOWN
            continue
        trust = signal_trust[signal[e]] * min(1.0, count[e] / samples_min)
        if np.isnan(power_load[e]):
            trust *= 0.85
        if duty[e] <= idle_duty_max[rule[e]]:
            if power_load[e] > veto_load_min or (signal[e] < 2 and util[e] > veto_util_min):
                out_state[e] = UNKNOWN
                out_disagrees[e] = True
                out_confidence[e] = 0.9 * min(1.0, count[e] / samples_min)
                continue
            out_score[e] = 1.0
            out_confidence[e] = trust
            if fb[e] >= context_bytes:
                out_state[e] = IDLE_HELD
            elif held[e]:
                out_state[e] = TRULY_IDLE
                if np.isnan(fb[e]):
                    out_confidence[e] = 0.7 * trust
            else:
                out_state[e] = UNALLOCATED
            continue
        busy = util[e] if not np.isnan(util[e]) else activity[e]
        pipes_quiet = tensor[e] <= pipe_max
        if busy >= hung_util_min and power_load[e] <= hung_load_max and pipes_quiet and not dram[e] > dram_max:
            out_state[e] = HUNG_COLLECTIVE
            out_score[e] = 1.0
            out_confidence[e] = trust
            continue
        if (
            pipes_quiet
            and io[e] <= io_max
            and fb_range[e] <= fb_range_max
            and activity[e] <= steady_activity_max
            and activity_variance[e] <= steady_std_max * steady_std_max
            and count[e] >= samples_min
        ):
            out_state[e] = KEEP_ALIVE
            out_score[e] = 1.0
            out_confidence[e] = 0.9 * trust
            continue
        enough = efficiency_min[rule[e]]
        if activity[e] < enough:
            out_state[e] = LOW_EFFICIENCY
            out_score[e] = 1.0 - activity[e] / enough
            out_confidence[e] = trust
            continue
        # Engine and NVML utilisation say that something ran, not how much of the chip; power says how much.
        if signal[e] > 0 and power_load[e] < efficient_load_min:
            out_state[e] = LOW_EFFICIENCY
            out_score[e] = 1.0 - max(power_load[e], 0.0) / efficient_load_min
            out_confidence[e] = 0.8 * trust
            continue
        blind = np.isnan(power_load[e]) and not np.isnan(tensor[e] + dram[e])
        busiest_pipe = max(tensor[e], dram[e])
        if signal[e] > 0 and blind and busiest_pipe < efficient_pipe_min:
            out_state[e] = LOW_EFFICIENCY
            out_score[e] = 1.0 - busiest_pipe / efficient_pipe_min
            out_confidence[e] = 0.7 * trust
            continue
        out_state[e] = ACTIVE
        out_confidence[e] = trust


@kernel
def waste_find(
    state: NDArray[np.int8],
    disagrees: NDArray[np.bool_],
    score: NDArray[np.float64],
    usd_per_hour: NDArray[np.float64],
    holder_since_ns: NDArray[np.int64],
    rule: NDArray[np.int32],
    now_ns: int,
    grace_ns: int,
    graced: NDArray[np.bool_],
    exempt: NDArray[np.bool_],
    for_ns: NDArray[np.int64],
    usd_in_state: NDArray[np.float64],
    out_kind: NDArray[np.int8],
    out_for_ns: NDArray[np.int64],
    out_usd_per_hour: NDArray[np.float64],
    out_usd_total: NDArray[np.float64],
) -> None:
    """Turn states into findings: nothing where all is well, where a rule exempts, or while a holder has just started.

    The first kinds are the wasteful states in their order, the last one is disagreement, which wastes nothing.

    Rows        state int8[m], disagrees bool[m], score float64[m], as waste_classify gives them; usd_per_hour
                float64[m], NaN = price unknown; holder_since_ns int64[m], 0 = nobody; rule int32[m], which applies
    Parameters  now_ns; grace_ns, for how long a new holder is let be in the kinds that graced bool[kinds] names;
                exempt bool[rules, kinds]; for_ns int64[rules, kinds], how long a kind must last to be an alert
    State       usd_in_state float64[m, states]; only read
    Output      out_kind int8[m], -1 = nothing; out_for_ns int64[m], 0 with nothing; out_usd_per_hour float64[m], wasted
                now; out_usd_total float64[m], wasted by this kind so far
    """
    disagreement = exempt.shape[1] - 1
    for e in range(state.size):
        out_kind[e] = -1
        out_for_ns[e] = 0
        out_usd_total[e] = 0.0
        out_usd_per_hour[e] = score[e] * usd_per_hour[e]
        kind = disagreement if disagrees[e] else int(state[e])
        if kind >= disagreement and not disagrees[e]:
            continue
        young = holder_since_ns[e] > 0 and now_ns - holder_since_ns[e] < grace_ns
        if exempt[rule[e], kind] or (young and graced[kind]):
            continue
        out_kind[e] = kind
        out_for_ns[e] = for_ns[rule[e], kind]
        if kind < disagreement:
            out_usd_total[e] = usd_in_state[e, kind]
