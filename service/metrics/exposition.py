"""The text of /metrics. The library writes all but the series by GPU: at 10 µs a sample, 100,000 would take it a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from detectors.idle_waste import STATES
from service.metrics.families import label_text
from service.view import FleetView

_END = b"# EOF\n"  # ends OpenMetrics, and nothing may follow it
_number: Callable[[float], str] = floatToGoString
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\""})


class WasteByGpu(Metric):
    """A gauge for some rows of a view: as samples for whoever asks the registry, and as lines for /metrics."""

    def __init__(self, view: FleetView, rows: NDArray[np.int64]) -> None:
        super().__init__(
            "skinflint_gpu_waste_usd_per_hour",
            "What each of the most wasteful GPUs wastes now; NaN where the price is unknown.",
            "gauge",
        )
        self._view = view
        self._chosen = rows

    def _rows(self) -> Iterator[tuple[str, str, str, str, str, str, float]]:
        """Yield the labels in order of their names, then the value."""
        view, rows = self._view, self._chosen
        keys, labels, owners = tuple(view.entity_key), tuple(view.labels), tuple(view.owner)
        state, usd = view.state[rows].tolist(), view.waste_usd_per_hour[rows].tolist()
        for i, s, value in zip(rows.tolist(), state, usd, strict=True):
            known = labels[i]
            yield keys[i], known.namespace, known.node, owners[i], known.pod, STATES[s], value

    @property
    def samples(self) -> list[Sample]:
        """Return the samples as the library knows them."""
        names = ("gpu", "namespace", "node", "owner", "pod", "state")
        return [
            Sample(self.name, dict(zip(names, map(label_text, texts), strict=True)), value)
            for *texts, value in self._rows()
        ]

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        """Take nothing: the base class starts with an empty list."""

    def text(self) -> bytes:
        """Return what the library would write, header and all."""
        shown, number = _Escaped(), _Numbers()
        head = f"# HELP {self.name} {self.documentation}\n# TYPE {self.name} gauge\n"
        lines = [
            f'{self.name}{{gpu="{shown[gpu]}",namespace="{shown[namespace]}",node="{shown[node]}",'
            f'owner="{shown[owner]}",pod="{shown[pod]}",state="{state}"}} {number[value]}\n'
            for gpu, namespace, node, owner, pod, state, value in self._rows()
        ]
        return "".join([head, *lines]).encode("utf-8")


class _Escaped(dict[str, str]):
    """Label values as they stand in a line, worked out once each: GPUs share nodes, pods and owners."""

    def __missing__(self, text: str) -> str:
        harmless = label_text(text)
        plain = '"' not in harmless and "\\" not in harmless  # a line break is not harmless
        self[text] = escaped = harmless if plain else harmless.translate(_ESCAPED)
        return escaped


class _Numbers(dict[float, str]):
    """Numbers as the library writes them: a fleet has few prices."""

    def __missing__(self, value: float) -> str:
        self[value] = text = _number(value)
        return text


class _Collected(Collector):
    """Metrics that were collected already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def exposition(registry: Collector, accept: str) -> tuple[bytes, str]:
    """Return everything on the registry as the scraper asks for it, text or OpenMetrics, and the content type."""
    encode, content_type = choose_encoder(accept)
    found = list(registry.collect())
    body = encode(_Collected([metric for metric in found if not isinstance(metric, WasteByGpu)]))
    end = _END if body.endswith(_END) else b""
    wide = [metric.text() for metric in found if isinstance(metric, WasteByGpu)]
    return b"".join([body.removesuffix(end), *wide, end]), content_type
