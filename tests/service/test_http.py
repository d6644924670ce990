"""The HTTP server over real sockets: what it answers, what it refuses, and what a hostile client cannot do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detectors.idle_waste import STATES
from detectors.labels import LabelSet
from service.alerting.contract import AlertStatus
from service.errors import ConfigError
from service.http import HttpServer
from service.http.documents import instant
from service.http.limits import Limits
from service.metrics import register
from service.settings import HttpSettings
from service.summary import by_state
from service.view import WASTE_STATES, FleetView, Publisher
from tests.fakes.clock import ManualClock
from tests.fakes.view import (
    AS_OF_NS,
    SECOND_NS,
    alert_on,
    alerts_of,
    fleet_view,
    publisher_of,
    service_status,
    still_clock,
)

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00\n\udc80" + "x" * 300


@contextmanager
def serving(publisher: Publisher, clock: ManualClock | None = None, **options: Any) -> Iterator[str]:
    """Serve on a free loopback port and give the address."""
    settings = HttpSettings(port=0)
    clock = clock or still_clock()
    registry = CollectorRegistry()
    register(registry, publisher, settings, clock, "9.9.9")
    server = HttpServer(settings, publisher, registry, clock, **options)
    address = server.start()
    try:
        yield address
    finally:
        server.stop(5)


def fetch(address: str, path: str, expect: int = 200, **query: object) -> Any:
    answer = httpx.get(f"{address}{path}?{urlencode(query)}" if query else f"{address}{path}")
    assert answer.status_code == expect, answer.text
    return answer.json()


def every_page(address: str, path: str, **query: object) -> Iterator[dict[str, Any]]:
    cursor: dict[str, object] = {}
    while True:
        page = fetch(address, path, **query, **cursor)
        yield page
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


@pytest.fixture(scope="module")
def view() -> FleetView:
    return fleet_view(300)


@pytest.fixture(scope="module")
def address(view: FleetView) -> Iterator[str]:
    with serving(publisher_of(view)) as found:
        yield found


# What it answers


def test_the_summary_adds_up_to_the_view(address, view):
    found = fetch(address, "/api/v1/summary", owners=2)
    totals = by_state(view)
    assert found["as_of"] == instant(view.as_of_ns)
    assert found["fleet"]["gpus"] == 300
    assert found["fleet"]["waste_usd_per_hour"] == pytest.approx(totals.waste_usd_per_hour.sum())
    assert found["fleet"]["wasted_gpus"] == totals.gpus[: len(WASTE_STATES)].sum()
    assert [row["state"] for row in found["states"]] == list(STATES)
    assert len(found["owners"]) == 2 and found["owners_rest"]["owner"] == "_other"
    assert found["alerts"] == {s.value: view.alert_counts[s] for s in AlertStatus}
    assert found["service"]["lag_records"] == 42


def test_pages_of_gpus_hold_each_gpu_once_and_the_worst_first(address, view):
    pages = list(every_page(address, "/api/v1/gpus", limit=37))
    rows = [row for page in pages for row in page["gpus"]]
    assert sorted(row["key"] for row in rows) == sorted(view.entity_key)
    costs = [-1 if row["waste_usd_per_hour"] is None else row["waste_usd_per_hour"] for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert {page["total"] for page in pages} == {300}


def test_a_gpu_that_did_not_change_is_listed_once_though_the_view_did():
    view = fleet_view(100)
    publisher = publisher_of(view)
    with serving(publisher) as address:
        first = fetch(address, "/api/v1/gpus", limit=50)
        seen = {row["key"] for row in first["gpus"]}
        waste = view.waste_usd_per_hour.copy()
        moved = view.entity_key.index(next(iter(set(view.entity_key) - seen)))
        waste[moved] = 1000.0
        publisher.publish_view(replace(view, waste_usd_per_hour=waste))
        rest = fetch(address, "/api/v1/gpus", limit=1000, cursor=first["next_cursor"])
    keys = [row["key"] for row in (*first["gpus"], *rest["gpus"])]
    assert sorted(keys) == sorted(set(view.entity_key) - {view.entity_key[moved]})


@pytest.mark.parametrize(
    ("query", "test"),
    [
        ({"state": "idle_held"}, lambda row: row["state"] == "idle_held"),
        ({"state": "wasted"}, lambda row: row["state"] in WASTE_STATES),
        ({"owner": "growth"}, lambda row: row["owner"] == "growth"),
        ({"owner": ""}, lambda row: row["owner"] == ""),
        ({"namespace": "notebooks"}, lambda row: row["namespace"] == "notebooks"),
        ({"node": "gpu-node-0003"}, lambda row: row["node"] == "gpu-node-0003"),
        ({"q": "JUPYTER"}, lambda row: "jupyter" in row["pod"]),
        (
            {"q": "l40s", "state": "active"},
            lambda r: "L40S" in r["model"] and r["state"] == "active",
        ),
    ],
)
def test_filters_give_exactly_the_gpus_that_match(address, query, test):
    everything = fetch(address, "/api/v1/gpus", limit=1000)["gpus"]
    found = fetch(address, "/api/v1/gpus", limit=1000, **query)
    wanted = {row["key"] for row in everything if test(row)}
    assert wanted and {row["key"] for row in found["gpus"]} == wanted
    assert found["total"] == len(wanted)


def test_alerts_come_firing_first_and_in_pages(address, view):
    rows = [a for page in every_page(address, "/api/v1/alerts", limit=7) for a in page["alerts"]]
    assert sorted(row["alert_id"] for row in rows) == sorted(a.alert_id for a in view.alerts)
    statuses = [row["status"] for row in rows]
    assert statuses == sorted(statuses, key=["firing", "pending", "resolved"].index)
    firing = [row["usd_per_hour"] for row in rows if row["status"] == "firing"]
    known = [cost for cost in firing if cost is not None]
    assert known == sorted(known, reverse=True) and firing[: len(known)] == known
    assert all(row["action"] for row in rows)


def test_alerts_can_be_filtered(address, view):
    firing = fetch(address, "/api/v1/alerts", status="firing", kind="idle_held", limit=1000)
    wanted = {a.alert_id for a in view.alerts if a.status is AlertStatus.FIRING and a.kind == "idle_held"}
    assert wanted and {row["alert_id"] for row in firing["alerts"]} == wanted
    assert fetch(address, "/api/v1/alerts", owner="nobody-of-that-name")["total"] == 0


def test_alerts_that_the_view_left_out_are_counted():
    view = fleet_view(100)
    capped = replace(view, alerts=view.alerts[:2])
    with serving(publisher_of(capped)) as address:
        assert fetch(address, "/api/v1/alerts")["left_out"] == len(view.alerts) - 2


def test_numbers_that_are_not_known_are_null_and_the_json_is_strict(address):
    text = httpx.get(f"{address}/api/v1/gpus?limit=1000").text

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = json.loads(text, parse_constant=refuse)["gpus"]
    assert any(row["usd_per_hour"] is None for row in rows)
    assert any(row["power_watts"] is None for row in rows)


def test_hostile_names_arrive_as_they_are():
    labels = [LabelSet(node=HOSTILE, gpu="0", pod=HOSTILE, team=HOSTILE)]
    view = fleet_view(labels=labels)
    state = np.zeros(1, np.int8)
    view = replace(view, state=state)
    view = replace(view, alerts=(alert_on(view, 0, AlertStatus.FIRING),))
    with serving(publisher_of(view)) as address:
        assert fetch(address, "/api/v1/gpus")["gpus"][0]["pod"] == HOSTILE
        assert fetch(address, "/api/v1/summary")["owners"][0]["owner"] == HOSTILE
        assert fetch(address, "/api/v1/alerts")["alerts"][0]["owner"] == HOSTILE
        assert httpx.get(f"{address}/metrics").status_code == 200


def test_the_metrics_speak_text_and_openmetrics(address):
    text = httpx.get(f"{address}/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    assert 'skinflint_gpus{state="active"}' in text.text
    wanted = {"accept": "application/openmetrics-text; version=1.0.0"}
    assert httpx.get(f"{address}/metrics", headers=wanted).text.endswith("# EOF\n")


def test_the_metrics_are_compressed_for_who_asks(address):
    plain = httpx.get(f"{address}/metrics", headers={"accept-encoding": "identity"})
    packed = httpx.get(f"{address}/metrics", headers={"accept-encoding": "gzip;q=1, identity;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert [line.split(" ")[0] for line in packed.text.splitlines()] == [
        line.split(" ")[0] for line in plain.text.splitlines()
    ]


def test_the_probes_tell_alive_from_ready():
    clock = still_clock()
    publisher = Publisher(clock)
    with serving(publisher, clock, stuck_after_s=60) as address:
        assert fetch(address, "/livez")["alive"] is True
        assert "starting" in fetch(address, "/readyz", expect=503)["reasons"][0]
        publisher.publish_status(service_status())
        assert fetch(address, "/readyz") == {"ready": True, "reasons": []}
        publisher.publish_status(service_status(ready=False, reasons=("the disk is full",)))
        assert fetch(address, "/readyz", expect=503)["reasons"] == ["the disk is full"]
        clock.advance(61)
        assert fetch(address, "/livez", expect=503)["loop_age_s"] == 61


@pytest.mark.parametrize(
    ("seconds", "status", "level", "words"),
    [
        (0, {}, "ok", "Live"),
        (61, {}, "alarm", "no tick has closed for 1 min 1 s"),
        (61, {"tick_s": 60.0}, "ok", "Live"),
        (61, {"source_ended": True}, "notice", "input has ended"),
        (301, {"silent_after_s": 300.0}, "alarm", "for 5 min 1 s, so every GPU counts as unknown"),
    ],
)
def test_old_figures_are_called_old(seconds, status, level, words):
    clock = still_clock()
    publisher = publisher_of(fleet_view(8), service_status(**status), clock)
    clock.advance(seconds)
    with serving(publisher, clock) as address:
        found = fetch(address, "/api/v1/summary")["freshness"]
    assert found["level"] == level and words in found["text"]


def test_a_kafka_source_far_behind_the_clock_is_called_out_and_a_replay_is_not():
    clock = still_clock()
    old = fleet_view(8, as_of_ns=AS_OF_NS - 3600 * SECOND_NS)
    for kind, level in (("kafka", "alarm"), ("file", "ok"), ("simulate", "ok")):
        publisher = publisher_of(old, service_status(source_kind=kind), clock)
        with serving(publisher, clock) as address:
            assert fetch(address, "/api/v1/summary")["freshness"]["level"] == level


def test_a_silent_fleet_is_unknown_and_every_answer_says_that_it_is_old():
    clock = still_clock()
    publisher = publisher_of(fleet_view(8), service_status(silent_after_s=235.0), clock)
    clock.advance(240)
    with serving(publisher, clock) as address:
        gpus, alerts = fetch(address, "/api/v1/gpus"), fetch(address, "/api/v1/alerts")
        fleet = fetch(address, "/api/v1/summary")["fleet"]
    assert gpus["freshness"]["level"] == alerts["freshness"]["level"] == "alarm"
    assert {row["state"] for row in gpus["gpus"]} == {"unknown"}
    assert (fleet["wasted_gpus"], fleet["waste_usd_per_hour"]) == (0, 0)
    assert fleet["waste_usd_total"] > 0


def test_everything_can_be_asked_before_the_first_tick():
    with serving(Publisher(still_clock())) as address:
        assert fetch(address, "/api/v1/summary")["as_of"] is None
        assert fetch(address, "/api/v1/gpus") == {
            "as_of": None,
            "freshness": {
                "level": "notice",
                "text": "Starting: the first tick has not closed yet, so there is nothing to show.",
                "view_age_s": None,
            },
            "total": 0,
            "gpus": [],
            "next_cursor": None,
        }
        assert fetch(address, "/api/v1/alerts")["total"] == 0
        assert httpx.get(f"{address}/").status_code == 200


# What it refuses


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v1/gpus?limit=0", "limit: expected a whole number 1..1000"),
        ("/api/v1/gpus?limit=1001", "1..1000"),
        ("/api/v1/gpus?limit=ten", "whole number"),
        ("/api/v1/gpus?limit=%D9%A1", "whole number"),
        ("/api/v1/gpus?state=sleepy", "unallocated, truly_idle"),
        ("/api/v1/gpus?limit=5&limit=6", "limit: expected once"),
        ("/api/v1/gpus?sort=name", "expected one of: state"),
        ("/api/v1/gpus?cursor=nonsense", "next_cursor"),
        ("/api/v1/gpus?cursor=%F0%9F%92%A9", "next_cursor"),
        ("/api/v1/gpus?cursor=WyJhIl0=", "next_cursor"),
        ("/api/v1/gpus?q=" + "x" * 300, "at most 256 characters"),
        ("/api/v1/alerts?status=loud", "pending, firing, resolved"),
        ("/api/v1/summary?owners=-1", "0..1000"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_was_expected(address, path, words):
    answer = httpx.get(f"{address}{path}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_an_unknown_path_is_answered_with_the_known_ones(address):
    found = fetch(address, "/api/v2/gpus", expect=404)
    assert found["status"] == 404 and "/api/v1/gpus" in found["detail"]


@pytest.mark.parametrize("path", ["/page/../server.py", "/page/%2e%2e/server.py", "/page/", "/docs"])
def test_no_file_but_those_of_the_page_is_served(address, path):
    assert raw(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed_over_http(address, method):
    answer = httpx.request(method, f"{address}/api/v1/gpus")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"
    assert "read-only" in answer.json()["detail"]


def test_a_body_is_refused(address):
    answer = httpx.request("GET", f"{address}/api/v1/gpus", content=b"x" * 100)
    assert answer.status_code == 400 and "body" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9615", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9615", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("0.0.0.0", 421),
    ],
)
def test_another_name_in_the_host_header_is_refused_on_loopback(address, host, status):
    answer = httpx.get(f"{address}/api/v1/summary", headers={"host": host})
    assert answer.status_code == status


def test_every_answer_carries_the_security_headers(address):
    for path in ("/", "/page/page.js", "/metrics", "/api/v1/gpus", "/nope", "/api/v1/gpus?limit=0"):
        headers = httpx.get(f"{address}{path}").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gpu-watch.example"])
def test_an_address_beyond_loopback_needs_a_decision(host):
    with pytest.raises(ConfigError, match="allow_beyond_loopback"):
        HttpServer(HttpSettings(host=host), publisher_of(fleet_view(1)), CollectorRegistry(), still_clock())


def test_beyond_loopback_any_host_name_is_answered():
    settings = HttpSettings(host="0.0.0.0", port=0, allow_beyond_loopback=True)
    server = HttpServer(settings, publisher_of(fleet_view(1)), CollectorRegistry(), still_clock())
    port = server.start().rpartition(":")[2]
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/livez", headers={"host": "fleet.example"})
        assert answer.status_code == 200
    finally:
        server.stop(5)


def test_a_port_in_use_is_a_configuration_error_that_names_it():
    with serving(publisher_of(fleet_view(1))) as address:
        port = int(address.rpartition(":")[2])
        second = HttpServer(HttpSettings(port=port), publisher_of(), CollectorRegistry(), still_clock())
        with pytest.raises(ConfigError, match=rf"http.port: cannot listen on 127.0.0.1:{port}"):
            second.start()


def test_a_name_that_does_not_resolve_is_a_configuration_error():
    settings = HttpSettings(host="no-such-host.invalid", allow_beyond_loopback=True)
    server = HttpServer(settings, publisher_of(), CollectorRegistry(), still_clock())
    with pytest.raises(ConfigError, match=r"http.host: cannot resolve"):
        server.start()


# What a hostile client cannot do


def connected(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def raw(address: str, request: str) -> bytes:
    with connected(address) as client:
        client.sendall(request.encode("latin-1"))
        client.shutdown(socket.SHUT_WR)
        return client.recv(65_536)


def seconds_until_cut(client: socket.socket) -> float:
    begun = time.monotonic()
    try:
        while client.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - begun


def test_headers_that_never_end_are_cut_off():
    limits = Limits(head_timeout_s=0.3)
    with serving(publisher_of(fleet_view(1)), limits=limits) as address:
        with connected(address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            assert seconds_until_cut(client) < 3
        with connected(address) as silent:
            assert seconds_until_cut(silent) < 3


def test_trickling_bytes_do_not_buy_time():
    limits = Limits(head_timeout_s=0.4)
    with (
        serving(publisher_of(fleet_view(1)), limits=limits) as address,
        connected(address) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        client.settimeout(0.05)
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 5:
                client.sendall(b"X: y\r\n")
                try:
                    if client.recv(100) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() - begun < 3


def test_an_idle_connection_is_closed_after_its_answer():
    limits = Limits(head_timeout_s=0.3, idle_timeout_s=1)
    with (
        serving(publisher_of(fleet_view(1)), limits=limits) as address,
        connected(address) as client,
    ):
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        assert seconds_until_cut(client) < 3


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    limits = Limits(head_timeout_s=0.3, idle_timeout_s=1, answer_timeout_s=0.6)
    with (
        serving(publisher_of(fleet_view(1000)), limits=limits) as address,
        connected(address) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /api/v1/gpus?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 8:
                client.sendall(ask * 50)
        assert time.monotonic() - begun < 8


def test_huge_headers_are_refused(address):
    answer = raw(address, f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'y' * 100_000}\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


@pytest.mark.parametrize(
    "request_text",
    [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_malformed_requests_leave_the_server_answering(address, request_text):
    answer = raw(address, request_text)
    assert not answer or int(answer.split()[1]) in (200, 400, 405, 421)
    assert fetch(address, "/livez")["alive"] is True


def test_a_thousand_slow_connections_do_not_keep_others_out():
    limits = Limits(connections_max=20)
    with serving(publisher_of(fleet_view(8)), limits=limits) as address, ExitStack() as stack:
        for _ in range(1000):
            client = stack.enter_context(connected(address))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        begun = time.monotonic()
        assert "skinflint_gpus" in httpx.get(f"{address}/metrics", timeout=5).text
        assert time.monotonic() - begun < 2


def test_stopping_ends_the_thread_in_time_even_with_a_slow_client():
    server = HttpServer(HttpSettings(port=0), publisher_of(fleet_view(8)), CollectorRegistry(), still_clock())
    address = server.start()
    with connected(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        begun = time.monotonic()
        server.stop(2)
        assert time.monotonic() - begun < 3
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/livez")


def test_a_fault_in_an_endpoint_is_a_problem_document_without_its_stack():
    class Broken(Publisher):
        @property
        def view(self) -> FleetView:
            raise RuntimeError("secret-canary")

    with serving(Broken(still_clock())) as address:
        answer = httpx.get(f"{address}/api/v1/gpus")
    assert answer.status_code == 500
    assert "secret-canary" not in answer.text and answer.json()["status"] == 500


def test_a_hundred_thousand_gpus_are_answered_quickly():
    view = fleet_view(100_000, alerts=())
    view = replace(view, alerts=alerts_of(view, stride=50))
    with serving(publisher_of(view)) as address:
        for path in ("/api/v1/summary", "/api/v1/gpus?q=jupyter&state=wasted", "/api/v1/alerts"):
            begun = time.monotonic()
            assert httpx.get(f"{address}{path}", timeout=10).status_code == 200
            assert time.monotonic() - begun < 1
