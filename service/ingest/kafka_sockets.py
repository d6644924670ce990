"""How much kafka-python asks a socket for at a time: more than its 4 KiB, which cost a tenth of a core at full speed."""

from __future__ import annotations

from typing import Any

from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

CLIENT_READ_BYTES = 4096
READ_BYTES = 1 << 16


def read_more_at_once() -> None:
    """Put READ_BYTES in the place of the one number that the client's reader holds; leave a reader without it alone.

    The number is written into `_sock_recv`, so no setting and no wrapper reaches it. It is read for every connection of
    this process, and means the same for all: an upper bound.
    """
    for transport in (KafkaTCPTransport, KafkaSSLTransport):
        reader: Any = transport._sock_recv
        code = reader.__code__
        if CLIENT_READ_BYTES in code.co_consts:
            consts = tuple(READ_BYTES if const == CLIENT_READ_BYTES else const for const in code.co_consts)
            reader.__code__ = code.replace(co_consts=consts)
