"""The guard and the one way out over HTTP: what is refused before a packet leaves, and what a receiver cannot do to us."""

from __future__ import annotations

import socket
import ssl
from typing import Any, cast

import pytest

from service.alerting.contract import Outcome
from service.alerting.guard import HttpParams
from service.alerting.transport import REPLY_BYTES_MAX, Posted, Poster
from service.alerting.uncertain import UncertainDelivery
from service.clock import SystemClock
from tests.fakes.clock import ManualClock
from tests.fakes.sink import Answer, Sink

LOCAL = HttpParams(allow_http_loopback=True, timeout_s=5)


def never_dial(address: str, port: int, timeout_s: float) -> socket.socket:
    raise AssertionError(f"a packet was about to leave for {address}")


def post_to(url: str, addresses: list[str], **params: Any) -> Posted:
    """Post with a resolver that gives `addresses`; any attempt to connect fails the test."""
    poster = Poster(HttpParams(**params), SystemClock(), lambda host, port: addresses, never_dial)
    return poster.post(url, b"{}", {})


def post(sink: Sink, params: HttpParams = LOCAL, body: bytes = b"{}") -> Posted:
    return Poster(params, SystemClock()).post(sink.url, body, {})


REFUSED_URLS = [
    "http://hooks.example.com/",
    "ftp://hooks.example.com/",
    "https://user@hooks.example.com/",
    "https://user:pass@hooks.example.com/",
    "https://hooks.example.com@127.0.0.1/",
    "https:///path",
    "https://",
    "https://hooks.example.com:0/",
    "https://hooks.example.com:65536/",
    "https://hooks.example.com:port/",
    "https://hooks.example.com/a b",
    "https://hooks.example.com/\r\nHost: inside",
    "https://hooks.example.com\\@inside.example/",
    "https://hooks.example.com/#fragment",
    "https://hööks.example.com/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://1.2.3.4.5/",
    "https://hooks..example.com/",
    "https://-hooks.example.com/",
    "https://hooks.example.com./",
    "https://[::1%25lo]/",
    "https://[zz]/",
    "https://" + "a" * 3000 + ".example/",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_out_of_bounds_is_rejected_and_no_packet_leaves(url: str) -> None:
    delivery = post_to(url, ["8.8.8.8"]).delivery
    assert delivery.outcome is Outcome.REJECTED
    assert delivery.detail


NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "169.254.0.1",
    "fe80::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "239.1.2.3",
    "ff02::1",
    "ff0e::1",
    "255.255.255.255",
    "240.0.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "2001:db8::1",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2001::1",
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "not an address",
]
PRIVATE = [
    "10.0.0.1",
    "172.16.5.4",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
]


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("address", NEVER)
def test_an_address_inside_is_rejected_and_no_packet_leaves(address: str, allow_private: bool) -> None:
    url = "https://hooks.example.com/"
    posted = post_to(url, [address], allow_private=allow_private)
    assert posted.delivery.outcome is Outcome.REJECTED
    assert posted.delivery.detail.startswith("hooks.example.com: resolves to ")


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_rejected_unless_it_is_allowed(address: str) -> None:
    url = "https://hooks.example.com/"
    assert post_to(url, [address]).delivery.outcome is Outcome.REJECTED
    with pytest.raises(AssertionError, match="about to leave"):
        post_to(url, [address], allow_private=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_connected_to(address: str) -> None:
    with pytest.raises(AssertionError, match="about to leave"):
        post_to("https://hooks.example.com/", [address])


@pytest.mark.parametrize("literal", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254"])
def test_an_address_in_the_url_is_judged_like_any_other(literal: str) -> None:
    poster = Poster(HttpParams(), SystemClock(), dial=never_dial)
    assert poster.post(f"https://{literal}/", b"", {}).delivery.outcome is Outcome.REJECTED


def test_one_address_inside_condemns_all_others() -> None:
    posted = post_to("https://hooks.example.com/", ["8.8.8.8", "10.0.0.1"])
    assert posted.delivery.detail == "hooks.example.com: resolves to a private address"


def test_without_tls_only_this_machine_is_reached() -> None:
    posted = post_to("http://hooks.example.com/", ["8.8.8.8"], allow_http_loopback=True)
    assert "needs https" in posted.delivery.detail


def test_a_list_of_allowed_hosts_lets_nobody_else_through() -> None:
    hosts = ["hooks.slack.com", "*.corp.example"]
    for host in ("evil.example", "corp.example", "hooks.slack.com.evil.example"):
        posted = post_to(f"https://{host}/", ["8.8.8.8"], allowed_hosts=hosts)
        assert posted.delivery.detail == f"{host}: not one of allowed_hosts"
    with pytest.raises(AssertionError, match="about to leave"):
        post_to("https://HOOKS.slack.com/", ["8.8.8.8"], allowed_hosts=hosts)


def test_a_name_is_resolved_once_so_that_a_second_answer_cannot_point_inside() -> None:
    answers = [["8.8.8.8"], ["127.0.0.1"]]
    dialled = []

    def refuse(address: str, port: int, timeout_s: float) -> socket.socket:
        dialled.append((address, port))
        raise ConnectionRefusedError(111, "Connection refused")

    poster = Poster(HttpParams(), SystemClock(), lambda host, port: answers.pop(0), refuse)
    assert poster.post("https://rebind.example:8443/", b"", {}).delivery.outcome is Outcome.RETRY
    assert [("8.8.8.8", 8443)] == dialled
    assert [["127.0.0.1"]] == answers


class RecordingTls:
    """Stands in for an SSLContext: notes the name it is asked to verify, and encrypts nothing."""

    def __init__(self) -> None:
        self.names: list[str | None] = []

    def set_alpn_protocols(self, protocols: list[str]) -> None:
        assert ["http/1.1"] == protocols

    def wrap_socket(self, sock: socket.socket, server_hostname: str | None) -> socket.socket:
        self.names.append(server_hostname)
        return sock


def test_tls_and_host_name_the_host_while_the_connection_goes_to_the_guarded_address() -> None:
    tls = RecordingTls()
    dialled = []
    with Sink() as sink:

        def dial(address: str, port: int, timeout_s: float) -> socket.socket:
            dialled.append((address, port))
            return socket.create_connection(("127.0.0.1", sink.port), timeout_s)

        poster = Poster(
            HttpParams(),
            SystemClock(),
            lambda host, port: ["8.8.8.8"],
            dial,
            cast(ssl.SSLContext, tls),
        )
        posted = poster.post("https://hooks.example.com/a?b=c", b"{}", {"X-One": "1"})
        assert posted.delivery.outcome is Outcome.DELIVERED
        (request,) = sink.requests
    assert [("8.8.8.8", 443)] == dialled
    assert ["hooks.example.com"] == tls.names
    assert "/a?b=c" == request.path
    assert {
        "host": "hooks.example.com",
        "content-length": "2",
        "x-one": "1",
        "user-agent": "skinflint",
        "accept-encoding": "identity",
        "connection": "close",
    } == request.headers


def test_certificates_are_verified_by_default() -> None:
    context = Poster(HttpParams(), SystemClock())._tls
    assert (True, ssl.CERT_REQUIRED) == (context.check_hostname, context.verify_mode)


def test_a_server_without_tls_is_an_error_and_not_a_fallback() -> None:
    with Sink() as sink:
        url = sink.url.replace("http:", "https:")
        posted = Poster(LOCAL, SystemClock()).post(url, b"", {})
        assert posted.delivery.outcome is Outcome.RETRY
        assert "TLS failed" in posted.delivery.detail
        assert not isinstance(posted.delivery, UncertainDelivery)
        assert [] == sink.requests


def test_the_next_address_is_tried_when_one_does_not_connect() -> None:
    dialled = []
    with Sink() as sink:

        def dial(address: str, port: int, timeout_s: float) -> socket.socket:
            dialled.append(address)
            if address == "::1":
                raise OSError(101, "Network is unreachable")
            return socket.create_connection((address, port), timeout_s)

        poster = Poster(LOCAL, SystemClock(), lambda host, port: ["::1", "127.0.0.1"], dial)
        posted = poster.post(f"http://localhost:{sink.port}/", b"", {})
    assert posted.delivery.outcome is Outcome.DELIVERED
    assert ["::1", "127.0.0.1"] == dialled


def test_a_name_that_does_not_resolve_is_tried_again() -> None:
    def fail(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    posted = Poster(HttpParams(), SystemClock(), fail).post("https://h.example/", b"", {})
    assert posted.delivery.outcome is Outcome.RETRY
    assert posted.delivery.detail == "h.example: the name does not resolve"


def test_a_redirect_is_not_followed() -> None:
    with Sink() as inside:
        places = ("http://169.254.169.254/latest/meta-data/", inside.url)
        for place in places:
            with Sink(default=Answer(307, headers=[("Location", place)])) as sink:
                delivery = post(sink).delivery
                assert 1 == len(sink.requests)
            assert delivery.outcome is Outcome.REJECTED
            assert delivery.detail == "127.0.0.1: HTTP 307, redirects are not followed"
        assert [] == inside.requests


def test_proxies_from_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sink() as proxy, Sink() as sink:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(sink).delivery.outcome is Outcome.DELIVERED
        assert ([], 1) == (proxy.requests, len(sink.requests))


def test_of_an_endless_reply_only_the_beginning_is_read() -> None:
    with Sink(default=Answer(body_bytes=10**9)) as sink:
        posted = post(sink)
        assert posted.delivery.outcome is Outcome.DELIVERED
        assert REPLY_BYTES_MAX == len(posted.reply)
    # Beyond what was read there is only what the kernel's buffers took.
    assert sink.bytes_sent < 50 * 10**6


def test_a_compressed_reply_is_not_unpacked() -> None:
    bomb = Answer(headers=[("Content-Encoding", "gzip")], body=b"\x1f\x8b" + b"\x00" * 100)
    with Sink(default=bomb) as sink:
        assert bomb.body == post(sink).reply


def test_a_reply_in_drips_ends_at_the_deadline_of_the_whole_attempt() -> None:
    clock = SystemClock()
    began_s = clock.monotonic_s()
    with Sink(default=Answer(drip_interval_s=0.05)) as sink:
        delivery = post(sink, LOCAL.model_copy(update={"timeout_s": 0.4})).delivery
    assert isinstance(delivery, UncertainDelivery)
    assert delivery.detail == "127.0.0.1: no answer in time"
    assert clock.monotonic_s() - began_s < 2


def test_an_answer_that_is_not_http_is_tried_again() -> None:
    near, far = socket.socketpair()
    with far:
        far.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        far.shutdown(socket.SHUT_WR)
        poster = Poster(LOCAL, SystemClock(), dial=lambda address, port, timeout_s: near)
        delivery = poster.post("http://127.0.0.1:1/", b"", {}).delivery
    assert delivery.outcome is Outcome.RETRY
    assert delivery.detail == "127.0.0.1: the connection broke or the answer was not HTTP"


def test_no_time_left_means_no_attempt() -> None:
    clock = ManualClock()

    def slow_resolver(host: str, port: int) -> list[str]:
        clock.advance(60)
        return ["8.8.8.8"]

    delivery = Poster(HttpParams(), clock, slow_resolver, never_dial).post("https://h.example/", b"", {}).delivery
    assert (Outcome.RETRY, "h.example: no answer in time") == (delivery.outcome, delivery.detail)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 40, 9999999999.0),
        ("Fri, 09 Jan 2026 12:01:30 GMT", 90.0),
        ("Fri, 09 Jan 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_ignored(value: str, seconds: float | None) -> None:
    poster = Poster(LOCAL, ManualClock())
    assert seconds == poster._retry_after_s([(b"Retry-After", value.encode("latin-1"))])
