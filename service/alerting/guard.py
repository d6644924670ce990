"""Where a message may go: the rules for URLs and addresses that keep a receiver from reaching inside our network."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import Field

from service.settings import Section

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]
"""(host, port) → addresses as text; raises OSError where the name does not resolve."""

_URL_CHARS_MAX = 2048
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
# inet_aton reads 2130706433, 0x7f.1 and 0177.1 as addresses; a name whose last label is a number is one of those.
_ENDS_IN_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$")

# Credentials of the machine are one GET away here. Refused even where private addresses are allowed: two of them lie
# in private ranges, and 168.63.129.16 and 192.0.0.192 count as global.
_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "192.0.0.192",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)
_PRIVATE = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Tunnels that carry an IPv4 address inside; nobody needs them to reach a webhook.
_TUNNELS = tuple(ip_network(text) for text in ("::/96", "2001::/32", "2002::/16", "64:ff9b:1::/48"))
_NAT64 = ip_network("64:ff9b::/96")


class HttpParams(Section):
    """Parameters of every receiver that is reached over HTTP."""

    allowed_hosts: list[str] = []
    """Hosts the URL may name, as shell patterns; empty allows any."""
    allow_private: bool = False
    """Also connect to private addresses (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7), for own receivers."""
    allow_http_loopback: bool = False
    """Also connect to this machine, and without TLS, for trials and local receivers."""
    ca_file: str = ""
    """PEM file of further authorities to trust, for receivers of your own."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5
    """Time to connect, TLS included."""
    timeout_s: Annotated[float, Field(gt=0, le=120)] = 20
    """Time for one whole attempt, from connecting to the last byte of the reply's head."""


class Refused(Exception):
    """The guard will not go there. The message names host and rule, never path or query, which may be secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed; `path` holds the query too and is secret."""

    scheme: str
    host: str
    port: int
    path: str

    def __repr__(self) -> str:
        return f"Target({self.scheme}://{self.host}:{self.port}/…)"


def system_resolver(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of `host`, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Checks a URL, then the addresses its host resolves to; the caller connects to these and to nothing else."""

    def __init__(self, params: HttpParams, resolve: Resolver) -> None:
        self._params = params
        self._resolve = resolve

    def target(self, url: str) -> Target:
        """Return where `url` points, or raise Refused."""
        parts = _split(url)
        schemes = ("https", "http") if self._params.allow_http_loopback else ("https",)
        if parts.scheme not in schemes:
            raise Refused(f"expected a URL that begins with {' or '.join(schemes)}://")
        if parts.username is not None or parts.password is not None:
            raise Refused("expected a URL without user name and password")
        host = _host(parts)
        allowed = self._params.allowed_hosts
        if allowed and not any(fnmatchcase(host, pattern.lower()) for pattern in allowed):
            raise Refused(f"{host}: not one of allowed_hosts")
        port = _port(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, path)

    def addresses(self, target: Target) -> list[str]:
        """Resolve once and return the addresses to connect to; Refused if any of them is out of bounds.

        One bad address condemns all: a name that points inside as well as outside is how rebinding looks.
        """
        found = self._resolve(target.host, target.port)
        if not found:
            raise Refused(f"{target.host}: resolves to no address")
        for text in found:
            reason = self._why_not(text, target.scheme)
            if reason:
                raise Refused(f"{target.host}: resolves to {reason}")
        return found

    def _why_not(self, text: str, scheme: str) -> str:
        try:
            address = _unwrapped(ip_address(text))
        except ValueError:
            return "something that is not an address"
        if address.is_loopback:
            return "" if self._params.allow_http_loopback else "a loopback address"
        if scheme == "http":
            return "another machine, which needs https"
        if address not in _METADATA and any(address in network for network in _PRIVATE):
            return "" if self._params.allow_private else "a private address"
        return _never(address)


def check_url(params: HttpParams, url: str) -> None:
    """Raise Refused if `url` could never be used; looks at its text only and resolves nothing."""
    Guard(params, system_resolver).target(url)


def _never(address: Address) -> str:
    """Return why this address is out of bounds whatever the parameters say; empty if it is a public one."""
    if address in _METADATA:
        return "a cloud metadata address"
    if any(address in network for network in _TUNNELS):
        return "a tunnel address"
    if address.is_multicast or not address.is_global:
        return "a reserved, link-local or multicast address"
    return ""


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that a mapped or NAT64 address stands for, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _split(url: str) -> SplitResult:
    # urlsplit drops tabs and newlines and lets backslashes pass, and other parsers read these differently.
    if len(url) > _URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        raise Refused(f"expected a URL of at most {_URL_CHARS_MAX} printable ASCII characters")
    if " " in url or "\\" in url or "#" in url:
        raise Refused("expected a URL without spaces, backslashes and fragment")
    try:
        return urlsplit(url)
    except ValueError:
        raise Refused("expected a well-formed URL") from None


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    if parts.netloc.startswith("["):
        try:
            return str(IPv6Address(host.replace("%", " ")))  # no zones: they mean something on this machine only
        except ValueError:
            raise Refused("expected an IPv6 address between the brackets") from None
    try:
        return str(IPv4Address(host))
    except ValueError:
        if not _NAME.fullmatch(host) or _ENDS_IN_NUMBER.search(host):
            raise Refused("expected a host name or an IP address in its usual form") from None
    return host


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        raise Refused("expected a port between 1 and 65535") from None
    if port == 0:
        raise Refused("expected a port between 1 and 65535")
    return port or (443 if parts.scheme == "https" else 80)
