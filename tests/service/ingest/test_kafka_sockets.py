import socket
from types import SimpleNamespace

import pytest
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from service.ingest.kafka_sockets import READ_BYTES, read_more_at_once


class Counting:
    """A socket that counts how often it is read and how much was asked for."""

    def __init__(self, inner):
        self._inner = inner
        self.asked = []

    def recv(self, size):
        self.asked.append(size)
        return self._inner.recv(size)


@pytest.mark.parametrize("transport", [KafkaTCPTransport, KafkaSSLTransport])
def test_the_client_reads_the_same_bytes_in_larger_pieces(transport):
    read_more_at_once()
    read_more_at_once()
    sent = bytes(range(256)) * 300
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        near.sendall(sent)
        counting = Counting(far)
        received, error = transport._sock_recv(SimpleNamespace(_sock=counting))
    assert (received, error) == (sent, None)
    assert set(counting.asked) == {READ_BYTES}
    assert len(counting.asked) <= 4
