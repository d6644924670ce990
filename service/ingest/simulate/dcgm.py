"""What dcgm-exporter calls each column: names, units and types of both generations, and the labels of one series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from detectors.labels import LabelSet
from service.ingest.simulate.fleet import Node
from service.ingest.simulate.shard import SimulatedRow


class Metric(NamedTuple):
    """A metric of the exporter; a value in the column's unit times `scale` over `divisor` is one in the metric's."""

    name: str
    scale: float
    divisor: float
    counter: bool
    description: str


_MIB: Final = 1 << 20

# Up to 4.8: percent, MiB, mJ, MHz, MB/s, ns. NVLINK_BANDWIDTH_TOTAL is declared a counter there although it is a rate.
_OLD: Final = {
    "util_ratio": Metric("DCGM_FI_DEV_GPU_UTIL", 100, 1, False, "GPU utilization (in %)."),
    "mem_copy_ratio": Metric("DCGM_FI_DEV_MEM_COPY_UTIL", 100, 1, False, "Memory utilization (in %)."),
    "sm_active_ratio": Metric("DCGM_FI_PROF_SM_ACTIVE", 1, 1, False, "The ratio of cycles an SM has at least 1 warp assigned."),
    "gr_engine_ratio": Metric("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1, 1, False, "Ratio of time the graphics engine is active."),
    "tensor_ratio": Metric("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1, 1, False, "Ratio of cycles the tensor (HMMA) pipe is active."),
    "dram_ratio": Metric("DCGM_FI_PROF_DRAM_ACTIVE", 1, 1, False, "Ratio of cycles the device memory interface is active."),
    "fb_used_bytes": Metric("DCGM_FI_DEV_FB_USED", 1, _MIB, False, "Framebuffer memory used (in MiB)."),
    "fb_free_bytes": Metric("DCGM_FI_DEV_FB_FREE", 1, _MIB, False, "Framebuffer memory free (in MiB)."),
    "fb_reserved_bytes": Metric("DCGM_FI_DEV_FB_RESERVED", 1, _MIB, False, "Framebuffer memory reserved (in MiB)."),
    "fb_total_bytes": Metric("DCGM_FI_DEV_FB_TOTAL", 1, _MIB, False, "Framebuffer memory size (in MiB)."),
    "power_watts": Metric("DCGM_FI_DEV_POWER_USAGE", 1, 1, False, "Power draw (in W)."),
    "energy_joules": Metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1000, 1, True, "Total energy consumption since boot (in mJ)."),
    "temperature_celsius": Metric("DCGM_FI_DEV_GPU_TEMP", 1, 1, False, "GPU temperature (in C)."),
    "sm_clock_hz": Metric("DCGM_FI_DEV_SM_CLOCK", 1, 1e6, False, "SM clock frequency (in MHz)."),
    "memory_clock_hz": Metric("DCGM_FI_DEV_MEM_CLOCK", 1, 1e6, False, "Memory clock frequency (in MHz)."),
    "pcie_tx_bytes_per_s": Metric("DCGM_FI_PROF_PCIE_TX_BYTES", 1, 1, False, "The rate of data transmitted over the PCIe bus."),
    "pcie_rx_bytes_per_s": Metric("DCGM_FI_PROF_PCIE_RX_BYTES", 1, 1, False, "The rate of data received over the PCIe bus."),
    "nvlink_bytes_per_s": Metric("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", 1, 1e6, True, "Total number of NVLink bandwidth counters for all lanes."),
    "xid_code": Metric("DCGM_FI_DEV_XID_ERRORS", 1, 1, False, "Value of the last XID error encountered."),
    "pcie_replay_total": Metric("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 1, 1, True, "Total number of PCIe retries."),
    "ecc_dbe_total": Metric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 1, 1, True, "Total number of double-bit volatile ECC errors."),
    "thermal_throttle_seconds": Metric("DCGM_FI_DEV_THERMAL_VIOLATION", 1e9, 1, True, "Throttling duration due to thermal constraints (in ns)."),
}  # fmt: skip

# From 4.9: ratios, bytes, J, Hz, B/s, s.
_RENAMED: Final = {
    "util_ratio": "DCGM_FI_DEV_GPU_UTIL_RATIO",
    "mem_copy_ratio": "DCGM_FI_DEV_MEMORY_UTIL_RATIO",
    "sm_active_ratio": "DCGM_FI_PROF_SM_UTIL_RATIO",
    "gr_engine_ratio": "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO",
    "tensor_ratio": "DCGM_FI_PROF_TENSOR_UTIL_RATIO",
    "dram_ratio": "DCGM_FI_PROF_DRAM_UTIL_RATIO",
    "fb_used_bytes": "DCGM_FI_DEV_FB_USED_BYTES",
    "fb_free_bytes": "DCGM_FI_DEV_FB_FREE_BYTES",
    "fb_reserved_bytes": "DCGM_FI_DEV_FB_RESERVED_BYTES",
    "fb_total_bytes": "DCGM_FI_DEV_FB_CAPACITY_BYTES",
    "power_watts": "DCGM_FI_DEV_BOARD_POWER_WATTS",
    "energy_joules": "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL",
    "temperature_celsius": "DCGM_FI_DEV_GPU_TEMP_CELSIUS",
    "sm_clock_hz": "DCGM_FI_DEV_SM_CLOCK_HERTZ",
    "memory_clock_hz": "DCGM_FI_DEV_MEMORY_CLOCK_HERTZ",
    "nvlink_bytes_per_s": "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND",
    "xid_code": "DCGM_FI_DEV_XID_ERROR",
    "pcie_replay_total": "DCGM_FI_DEV_PCIE_REPLAY_TOTAL",
    "thermal_throttle_seconds": "DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL",
}


def _new_metric(column: str, old: Metric) -> Metric:
    if column not in _RENAMED:
        return old
    description = old.description.split(" (in ")[0].rstrip(".") + "."
    return Metric(_RENAMED[column], 1, 1, old.counter and column != "nvlink_bytes_per_s", description)


METRICS: Final[Mapping[int, Mapping[str, Metric]]] = {
    1: _OLD,
    2: {column: _new_metric(column, metric) for column, metric in _OLD.items()},
}
_XID_TEXTS: Final = {
    0: "No Error",
    13: "Graphics Engine Exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    48: "Double Bit ECC Error",
    63: "ECC page retirement or row remapping recording event",
    94: "Contained ECC error",
}
# An exporter gives ratios with six decimals and energy in whole millijoules.
_DECIMALS: Final = 6


class Series(NamedTuple):
    """One value of one metric of one GPU; `value` None says that the series has ended."""

    metric: Metric
    labels: dict[str, str]
    value: float | None


class Scrape(NamedTuple):
    """What one exporter served at one instant; `ended` are rows of the scrape before whose labels are gone."""

    node: Node
    event_time_ns: int
    rows: Sequence[SimulatedRow]
    ended: Sequence[SimulatedRow] = ()

    @property
    def address(self) -> str:
        """Host and port at which the exporter is scraped."""
        region = f".{self.node.region}"
        return f"{self.node.name.partition(region)[0].removeprefix('ip-').replace('-', '.')}:9400"

    def series(self) -> Iterator[Series]:
        """Yield every series metric by metric, ended ones after the live ones of their metric as a Collector does."""
        names = dict.fromkeys(name for row in (*self.rows, *self.ended) for name in row.columns)
        for column in names:
            metric = METRICS[self.node.generation][column]
            for rows, live in ((self.rows, True), (self.ended, False)):
                for row in rows:
                    if column in row.columns:
                        value = row.columns[column]
                        yield Series(
                            metric, self._labels(row.labels, column, value), _measured(metric, value) if live else None
                        )

    def _labels(self, labels: LabelSet, column: str, value: float) -> dict[str, str]:
        first = self.node.generation == 1
        found = {
            "DCGM_FI_DRIVER_VERSION" if first else "DCGM_FI_SYSTEM_DRIVER_VERSION": "570.86.15"
            if first
            else "580.95.05",
            "GPU_I_ID": labels.mig_id,
            "GPU_I_PROFILE": labels.mig_profile,
            "Hostname" if first else "hostname": labels.node,
            "UUID": labels.uuid,
            "container": labels.container,
            "device": f"nvidia{labels.gpu}",
            "gpu": labels.gpu,
            "modelName": labels.model,
            "namespace": labels.namespace,
            "pci_bus_id": f"00000000:{0x17 + 0x11 * int(labels.gpu):02X}:00.0",
            "pod": labels.pod,
        }
        if column == "xid_code":
            found |= {"err_code": f"{value:.0f}", "err_msg": _XID_TEXTS[int(value)]}
        return {name: found[name] for name in sorted(found) if found[name]}


def _measured(metric: Metric, value: float) -> float:
    scaled = value * metric.scale / metric.divisor
    return float(round(scaled)) if metric.divisor > 1 or metric.scale > 100 else round(scaled, _DECIMALS)
