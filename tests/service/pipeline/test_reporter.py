"""What readers are shown after a restart, before anything new has come, and when nothing comes any more."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from detectors.idle_waste import STATES
from service.alerting.contract import AlertStatus
from service.app import Pipeline
from service.ingest.dead_letter import DeadLetterFile
from service.ingest.file_source import FileSource
from service.metrics import register
from service.pipeline.checkpoint import FileCheckpointStore, StateDirectory
from service.pipeline.loop import Loop
from service.pipeline.reporter import Reporter
from service.settings import DeadLetterSettings, FileSettings, HttpSettings, SimulateSettings, SourceSettings
from service.view import FleetView, Publisher
from service.watchdog import Watchdog
from tests.fakes.clock import ManualClock
from tests.service.pipeline.stream import START_NS, configuration

SILENT_AFTER_S = 180 + 15 + 30 + 10  # stale_after_s, tick_s, lateness_max_s, idle_partition_s


DEFAULT = DeadLetterSettings()
ALIVE: list[Life] = []


@pytest.fixture(autouse=True)
def _ended_at_the_end():
    yield
    while ALIVE:
        ALIVE[-1].end()


class Outlet:
    """Takes every notification."""

    def put(self, notifications: Any) -> None: ...

    def full(self) -> bool:
        return False


class Life:
    """One process of the service on the state in `folder`, without threads; its input is a file that may grow."""

    def __init__(self, folder: Path, clock: ManualClock, dead_letter: DeadLetterSettings = DEFAULT) -> None:
        self.clock = clock
        self.stop = threading.Event()
        self.publisher = Publisher(clock)
        self.registry = CollectorRegistry()
        settings = configuration(source=SourceSettings(kind="file", file=FileSettings(paths=["x"])))
        timings = register(self.registry, self.publisher, HttpSettings(), clock, "9")
        self._directory = StateDirectory(folder / "state")
        store = FileCheckpointStore(self._directory)
        resume = store.load()
        source = FileSource(FileSettings(paths=[str(folder / "in.ndjson")], follow=True), clock)
        letters = DeadLetterFile(folder / "letters", dead_letter, None)
        deliverer = SimpleNamespace(
            raise_if_failed=lambda: None, snapshot=lambda: SimpleNamespace(outcomes={}, waiting={})
        )
        self.reporter = Reporter(self.publisher, timings, settings, deliverer, Watchdog(60, clock), clock)
        self.loop: Loop = Pipeline(settings, source, resume, clock).loop(
            letters, Outlet(), store, [self.reporter], self.stop
        )
        self._parts = (store, source, letters)
        ALIVE.append(self)
        self.reporter.on_round(self.loop)  # as run_service does

    def go_on(self, seconds: float) -> None:
        """Let the loop come round for so long; the clock moves while the source waits."""
        end_s = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end_s:
            self.loop._round()

    def end(self) -> None:
        """Leave as a process does that is asked to stop."""
        ALIVE.remove(self)
        self.stop.set()
        self.loop.run()
        for part in self._parts:
            part.close()
        self._directory.release()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"skinflint_{name}", labels)


def idle_gpus(minutes: int) -> str:
    """Return native samples: one GPU that idles beside one that works badly, both priced."""
    rows = []
    for i in range(minutes * 4):
        for gpu, sm, power in (("GPU-1", 0.0, 60), ("GPU-2", 0.2, 300)):
            rows.append({
                "ts": START_NS + i * 15 * 10**9, "uuid": gpu, "node": "n", "gpu": gpu[-1], "pod": "p", "namespace": "team-a",
                "model": "NVIDIA H100 80GB HBM3", "sm": sm, "util": sm * 100, "mem": 9000, "power": power, "tensor": sm,
            })  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def first(tmp_path: Path) -> Life:
    """Return a life that has read all there is, has fired an alert and is up to date."""
    (tmp_path / "in.ndjson").write_text(idle_gpus(60))
    life = Life(tmp_path, ManualClock())
    life.go_on(30)
    assert life.metric("alerts", state="firing") == 1
    assert life.metric("waste_usd_per_hour", state="low_efficiency") > 0
    return life


def assert_same(found: FleetView, expected: FleetView) -> None:
    for field in dataclasses.fields(FleetView):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, other, equal_nan=True), field.name
        else:
            assert one == other, field.name


def test_a_restart_on_a_silent_topic_shows_at_once_what_was_shown_before(first: Life, tmp_path: Path) -> None:
    shown = first.publisher.view
    first.end()
    again = Life(tmp_path, ManualClock())
    assert_same(again.publisher.view, shown)
    assert again.publisher.status.ready
    assert again.metric("waste_usd_total", state="idle_held") == first.metric("waste_usd_total", state="idle_held") > 0
    assert again.metric("records_total", outcome="accepted") == 480
    again.go_on(30)
    assert_same(again.publisher.view, shown)


def test_showing_a_resumed_state_does_not_change_it(first: Life, tmp_path: Path) -> None:
    first.end()
    saved = first.loop.worker.snapshot()
    again = Life(tmp_path, ManualClock())
    kept = again.loop.worker.snapshot()
    assert kept.keys() == saved.keys()
    assert all(np.array_equal(kept[name], saved[name], equal_nan=kept[name].dtype.kind == "f") for name in kept)


def test_a_service_without_any_state_shows_zeros_once_it_comes_round(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text("")
    life = Life(tmp_path, ManualClock())
    assert life.publisher.view_age_s() is None
    assert {life.metric("waste_usd_total", state=state) for state in STATES} == {0}


def test_a_fleet_that_fell_silent_is_unknown_and_costs_what_it_did_cost(first: Life) -> None:
    total = first.metric("waste_usd_total", state="idle_held")
    first.go_on(SILENT_AFTER_S - first.publisher.view_age_s() - 2)
    assert first.metric("gpus", state="idle_held") == 1
    first.go_on(5)
    assert first.metric("gpus", state="unknown") == 2
    assert sum(first.metric("waste_usd_per_hour", state=state) for state in STATES) == 0
    assert first.metric("owner_waste_usd_per_hour", owner="team-a") == 0
    assert first.metric("waste_usd_total", state="idle_held") == total
    assert first.metric("view_age_seconds") > SILENT_AFTER_S
    assert first.publisher.view.alert_counts[AlertStatus.FIRING] == 1


def test_a_fleet_that_speaks_again_is_known_again(first: Life, tmp_path: Path) -> None:
    first.go_on(SILENT_AFTER_S + 5)
    assert first.publisher.is_silent()
    before = len(idle_gpus(60))
    with (tmp_path / "in.ndjson").open("a") as file:
        file.write(idle_gpus(62)[before:])
    first.go_on(1)
    assert not first.publisher.is_silent()
    assert first.metric("gpus", state="idle_held") == 1


def test_when_dead_letters_are_full_reading_waits_and_says_so_and_goes_on_when_files_are_moved_away(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.ndjson"
    path.write_text("")
    life = Life(tmp_path, ManualClock(), DEFAULT.model_copy(update={"bytes_max": 8000}))
    lines = [f"{line}\n{{\n" for line in idle_gpus(60).splitlines()]  # a bad line after each good one
    written = 0
    while life.publisher.status.ready or not written:
        with path.open("a") as file:
            file.write("".join(lines[written : written + 2]))
        written += 2
        life.go_on(1)
    read = life.metric("records_total", outcome="accepted")
    assert life.metric("ready") == 0
    assert "dead letters" in life.publisher.status.reasons[0]
    assert all(partition.paused for partition in life.publisher.status.partitions)
    assert 7000 < life.metric("dead_letter_bytes") <= life.metric("dead_letter_bytes_max") == 8000
    assert 20 < read == written
    with path.open("a") as file:
        file.write("".join(lines[written : written + 10]))
    life.go_on(60)
    assert life.metric("records_total", outcome="accepted") == read
    assert life.loop.checkpoints > 0, "what was read is saved all the same"
    older = sorted(tmp_path.glob("letters*"))[:-1]
    moved = [letter for file in older for letter in file.read_text().splitlines()]
    for file in older:
        file.unlink()
    life.go_on(60)
    assert life.metric("ready") == 1
    assert life.metric("records_total", outcome="accepted") == written + 10
    left = [letter for file in sorted(tmp_path.glob("letters*")) for letter in file.read_text().splitlines()]
    assert len({json.loads(letter)["offset"] for letter in moved + left}) == len(moved + left) == written + 10


@pytest.mark.parametrize(
    "source, live, expected",
    [
        (SourceSettings(), True, SILENT_AFTER_S),  # sixty times as fast: silence is still the clock's
        (SourceSettings(simulate=SimulateSettings(speed=0)), True, SILENT_AFTER_S),
        (SourceSettings(simulate=SimulateSettings(speed=0.5)), True, 2 * SILENT_AFTER_S),
        (SourceSettings(kind="kafka", simulate=SimulateSettings(speed=0.5)), True, SILENT_AFTER_S),
        (SourceSettings(), False, math.inf),  # a finite input ends, it does not fall silent
    ],
)
def test_how_long_silence_may_last_is_counted_in_seconds_of_the_clock(
    source: SourceSettings, live: bool, expected: float
) -> None:
    reporter = Reporter(None, None, configuration(source=source), None, None, ManualClock())
    assert reporter._silent_after_s(live) == expected
