"""The columns that a GPU sample may have: name with unit, valid range, meaning. Order is the order in every matrix."""

from __future__ import annotations

from typing import NamedTuple

MAX = 1e15


class Column(NamedTuple):
    """One measurement: values outside [lowest, highest] are rejected, NaN means not measured."""

    name: str
    lowest: float
    highest: float
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("util_ratio", 0, 1, "share of time in which any kernel ran (NVML utilization.gpu)"),
    Column("util_unscaled", 0, 100, "GPU_UTIL_RATIO before it is known whether the exporter means 0..1 or percent"),
    Column("sm_active_ratio", 0, 1, "share of cycles in which an SM had a warp assigned, mean over SMs"),
    Column("sm_occupancy_ratio", 0, 1, "resident warps over the most possible"),
    Column("gr_engine_ratio", 0, 1, "share of time in which the graphics or compute engine was active"),
    Column("tensor_ratio", 0, 1, "share of cycles in which the tensor pipe was active"),
    Column("dram_ratio", 0, 1, "share of cycles in which device memory moved data"),
    Column("fp64_ratio", 0, 1, "share of cycles in which the FP64 pipe was active"),
    Column("fp32_ratio", 0, 1, "share of cycles in which the FP32 pipe was active"),
    Column("fp16_ratio", 0, 1, "share of cycles in which the FP16 pipe was active"),
    Column("mem_copy_ratio", 0, 1, "share of time in which device memory was read or written (NVML)"),
    Column("encoder_ratio", 0, 1, "video encoder utilisation"),
    Column("decoder_ratio", 0, 1, "video decoder utilisation"),
    Column("fb_used_bytes", 0, MAX, "framebuffer in use"),
    Column("fb_free_bytes", 0, MAX, "framebuffer free"),
    Column("fb_reserved_bytes", 0, MAX, "framebuffer reserved by the driver"),
    Column("fb_total_bytes", 0, MAX, "framebuffer size"),
    Column("power_watts", 0, 20_000, "board power"),
    Column("energy_joules", 0, MAX, "counter: energy since the driver was loaded"),
    Column("temperature_celsius", -50, 200, "GPU temperature"),
    Column("memory_temperature_celsius", -50, 200, "memory temperature"),
    Column("sm_clock_hz", 0, 2e10, "SM clock"),
    Column("memory_clock_hz", 0, 5e10, "memory clock"),
    Column("pcie_tx_bytes_per_s", 0, MAX, "PCIe bytes sent"),
    Column("pcie_rx_bytes_per_s", 0, MAX, "PCIe bytes received"),
    Column("nvlink_bytes_per_s", 0, MAX, "NVLink bytes, both directions, all links"),
    Column("xid_code", 0, 10_000, "last XID seen; never returns to 0 by itself"),
    Column("pcie_replay_total", 0, MAX, "counter: PCIe replays"),
    Column("ecc_sbe_total", 0, MAX, "counter: corrected ECC errors"),
    Column("ecc_dbe_total", 0, MAX, "counter: uncorrected ECC errors"),
    Column("power_throttle_seconds", 0, MAX, "counter: time slowed by the power limit"),
    Column("thermal_throttle_seconds", 0, MAX, "counter: time slowed by heat"),
    Column("remapped_rows_total", 0, MAX, "counter: memory rows remapped after uncorrectable errors"),
)

INDEX: dict[str, int] = {column.name: i for i, column in enumerate(COLUMNS)}
