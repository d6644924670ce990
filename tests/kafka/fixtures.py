"""The real broker as a fixture: one for the whole run, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kafka.broker import Broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return a running Apache Kafka on loopback."""
    running = Broker(tmp_path_factory.mktemp("kafka")).start()
    yield running
    running.stop()
