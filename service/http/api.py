"""The endpoints. All run on the server's one event loop, one after the other, so that readers never crowd out the worker."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import gzip_accepted
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from detectors.idle_waste import STATES
from service.alerting.contract import Alert, AlertStatus
from service.clock import Clock
from service.http import documents
from service.http.query import Query, pack_cursor
from service.metrics.exposition import exposition
from service.summary import worst_first
from service.view import WASTE_STATES, FleetView, Publisher

WASTED = "wasted"
_OWNERS_DEFAULT = 10
_OWNERS_MAX = 1000
_searched = attrgetter("node", "model", "namespace", "pod", "job")
_ALERT_RANK = {AlertStatus.FIRING: 0, AlertStatus.PENDING: 1, AlertStatus.RESOLVED: 2}

Endpoint = Callable[[Request], Awaitable[Response]]


class Json(JSONResponse):
    """JSON in ASCII: whatever characters a label holds, it can be written."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Api:
    """Answers from the newest view and status."""

    def __init__(self, publisher: Publisher, registry: CollectorRegistry, clock: Clock, stuck_after_s: float) -> None:
        self._publisher = publisher
        self._registry = registry
        self._clock = clock
        self._stuck_after_s = stuck_after_s

    def routes(self) -> list[Route]:
        """Return path and endpoint of everything but the page."""
        endpoints: dict[str, Endpoint] = {
            "/metrics": self.metrics,
            "/livez": self.livez,
            "/readyz": self.readyz,
            "/api/v1/summary": self.summary,
            "/api/v1/gpus": self.gpus,
            "/api/v1/alerts": self.alerts,
        }
        return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]

    async def metrics(self, request: Request) -> Response:
        """Everything for Prometheus, as text or OpenMetrics, whichever the scraper asks for."""
        body, content_type = exposition(self._registry, request.headers.get("accept", ""))
        headers = {"content-type": content_type, "vary": "accept, accept-encoding"}
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            # Names repeat so much that the lowest level leaves a tenth.
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["content-encoding"] = "gzip"
        return Response(body, headers=headers)

    async def livez(self, request: Request) -> Response:
        """200 as long as the loop comes round; whether brokers or receivers answer is none of its business."""
        age_s = self._publisher.status_age_s()
        alive = age_s is None or age_s <= self._stuck_after_s
        return Json(
            {"alive": alive, "loop_age_s": age_s},
            HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def readyz(self, request: Request) -> Response:
        """200 when the service does its work, else 503 with the reasons in words."""
        status = self._publisher.status
        return Json(
            {"ready": status.ready, "reasons": list(status.reasons)},
            HTTPStatus.OK if status.ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def summary(self, request: Request) -> Response:
        """The fleet in a few figures."""
        query = Query(request.query_params, ("owners",))
        owners = query.integer("owners", _OWNERS_DEFAULT, 0, _OWNERS_MAX)
        return Json(documents.summary(self._publisher, self._clock.now_ns(), owners))

    async def gpus(self, request: Request) -> Response:
        """GPUs, the most wasteful first, in pages.

        A page continues after (waste, row) of the one before: a GPU whose waste did not change in between is listed
        exactly once, however many others moved.
        """
        allowed = ("state", "owner", "namespace", "node", "q", "limit", "cursor")
        query = Query(request.query_params, allowed)
        view = self._publisher.view
        limit, cursor = query.limit(), query.cursor((float, int))
        order, waste = worst_first(view)
        order = order[_matches(view, query)[order]]
        total = len(order)
        if cursor is not None:
            after, row = cursor
            order = order[(waste[order] < after) | ((waste[order] == after) & (order > row))]
        page = order[:limit].tolist()
        more = len(order) > limit
        return Json(
            {
                "as_of": documents.instant(view.as_of_ns),
                "freshness": documents.freshness(self._publisher, self._clock.now_ns()),
                "total": total,
                "gpus": [documents.gpu(view, i) for i in page],
                "next_cursor": pack_cursor((float(waste[page[-1]]), page[-1])) if more else None,
            }
        )

    async def alerts(self, request: Request) -> Response:
        """Alerts, firing before pending before resolved, the most expensive first, in pages."""
        query = Query(request.query_params, ("status", "kind", "owner", "limit", "cursor"))
        view = self._publisher.view
        status = query.choice("status", [item.value for item in AlertStatus])
        kind, owner = query.text("kind"), query.text("owner")
        limit, cursor = query.limit(), query.cursor((int, float, str))
        found = [
            (_alert_order(item), item)
            for item in view.alerts
            if status in (None, item.status.value) and kind in (None, item.kind) and owner in (None, item.owner)
        ]
        found.sort(key=lambda pair: pair[0])
        rest = found if cursor is None else [pair for pair in found if [*pair[0]] > cursor]
        page = rest[:limit]
        return Json(
            {
                "as_of": documents.instant(view.as_of_ns),
                "freshness": documents.freshness(self._publisher, self._clock.now_ns()),
                "total": len(found),
                "left_out": max(0, sum(view.alert_counts.values()) - len(view.alerts)),
                "counts": documents.alert_counts(view),
                "alerts": [documents.alert(item) for _, item in page],
                "next_cursor": pack_cursor(page[-1][0]) if len(rest) > limit else None,
            }
        )


def _alert_order(item: Alert) -> tuple[int, float, str]:
    cost = documents.number(item.usd_per_hour)
    return _ALERT_RANK[item.status], 1.0 if cost is None else -float(cost), item.alert_id


def _matches(view: FleetView, query: Query) -> NDArray[np.bool_]:
    """Return bool[m]: which rows pass every filter of the request."""
    mask = np.ones(len(view), dtype=np.bool_)
    state = query.choice("state", (*STATES, WASTED))
    if state == WASTED:
        mask &= view.state < len(WASTE_STATES)
    elif state is not None:
        mask &= view.state == STATES.index(state)
    owner, node, namespace = query.text("owner"), query.text("node"), query.text("namespace")
    if owner is not None:
        names, code = view.owners
        mask &= code == (names.index(owner) if owner in names else -1)
    if node is not None:
        mask &= _rows(labels.node == node for labels in view.labels)
    if namespace is not None:
        mask &= _rows(labels.namespace == namespace for labels in view.labels)
    needle = (query.text("q") or "").strip().lower()
    if needle:
        gpus = zip(view.entity_key, view.owner, view.labels, strict=True)
        mask &= _rows(needle in "\n".join((key, owner, *_searched(labels))).lower() for key, owner, labels in gpus)
    return mask


def _rows(tests: Iterable[bool]) -> NDArray[np.bool_]:
    return np.fromiter(tests, np.bool_)
