"""The real broker as a fixture, one for the whole run, started when the first test asks for it; and a broom."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.kafka.broker import Broker

# kafka-python leaves the sockets of refused connections to the garbage collector.
SOCKETS_LEFT = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return a running Apache Kafka on loopback."""
    running = Broker(tmp_path_factory.mktemp("kafka")).start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Let the sockets that a test left be found while its SOCKETS_LEFT holds; for modules that import this."""
    yield
    gc.collect()
