"""/metrics as a scraper sees it: complete from the first moment, bounded, fast, and clean by promtool."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from detectors.idle_waste import STATES
from detectors.labels import LabelSet
from service.ingest.contract import REASONS
from service.metrics import FleetCollector, LoopTimings, label_text, register
from service.metrics.exposition import exposition
from service.settings import HttpSettings
from service.summary import OTHER
from service.view import NOTIFICATION_OUTCOMES, RECORD_OUTCOMES, Publisher, ServiceStatus
from tests.fakes.view import AS_OF_NS, fleet_view, publisher_of, service_status, still_clock

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
HOSTILE = (
    'quote" back\\slash',
    "line\nbreak\r",
    "bidi\u202etxt",
    "\x00\x1b[31m",
    "half \udc80 pair",
    "x" * 10_000,
    "",
    OTHER,
)


def scraped(publisher: Publisher, **settings: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    register(registry, publisher, HttpSettings(**settings), still_clock(), "9.9.9")
    return registry


def series(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_every_closed_label_has_its_series_before_the_first_event():
    status = replace(ServiceStatus.empty(), receivers=("slack",))
    publisher = Publisher(still_clock())
    publisher.publish_status(status)
    registry = scraped(publisher)
    for name in (
        "skinflint_gpus",
        "skinflint_waste_usd_per_hour",
        "skinflint_waste_usd_total",
        "skinflint_gpu_seconds_total",
    ):
        assert series(registry, name) == {(state,): 0 for state in STATES}
    zero = {(reason,): 0 for reason in REASONS}
    assert series(registry, "skinflint_dead_letters_total") == zero
    assert series(registry, "skinflint_records_total") == {(o,): 0 for o in RECORD_OUTCOMES}
    assert series(registry, "skinflint_alerts") == {
        ("pending",): 0,
        ("firing",): 0,
        ("resolved",): 0,
    }
    assert series(registry, "skinflint_notifications_total") == {
        ("slack", outcome): 0 for outcome in NOTIFICATION_OUTCOMES
    }


def test_nothing_is_counted_before_the_saved_state_is_known():
    """A zero between two scrapes is a reset for Prometheus: increase() would count the whole past once more."""
    names = {family.name for family in scraped(Publisher(still_clock())).collect() if family.samples}
    assert {name for name in names if name.startswith("skinflint_")} == {
        "skinflint_build_info",
        "skinflint_ready",
        "skinflint_notifications_unrouted",
        "skinflint_checkpoints",
        "skinflint_kafka_raw_batches",
        "skinflint_tick_duration_seconds",
        "skinflint_checkpoint_duration_seconds",
    }


def test_an_age_that_is_not_known_has_no_sample_rather_than_zero():
    registry = scraped(Publisher(still_clock()))
    for name in (
        "skinflint_watermark_timestamp_seconds",
        "skinflint_checkpoint_age_seconds",
        "skinflint_view_timestamp_seconds",
        "skinflint_view_age_seconds",
        "skinflint_loop_age_seconds",
    ):
        assert series(registry, name) == {}


def test_the_figures_are_those_of_the_view_and_the_status():
    view = fleet_view(200)
    registry = scraped(publisher_of(view))
    gpus = series(registry, "skinflint_gpus")
    assert {s: gpus[(s,)] for s in STATES} == dict(zip(STATES, np.bincount(view.state, minlength=8), strict=True))
    waste = series(registry, "skinflint_waste_usd_per_hour")
    assert sum(waste.values()) == pytest.approx(np.nansum(view.waste_usd_per_hour))
    get = registry.get_sample_value
    assert get("skinflint_unknown_price_gpus") == view.unknown_price_count > 0
    lag = {"topic": "gpu-telemetry", "partition": "0"}
    assert get("skinflint_partition_lag_records", lag) == 42
    assert get("skinflint_checkpoint_age_seconds") == pytest.approx(4)
    assert get("skinflint_watermark_timestamp_seconds") == pytest.approx(AS_OF_NS / 1e9 + 30)
    assert get("skinflint_notifications_total", {"receiver": "slack", "outcome": "retried"}) == 2
    assert get("skinflint_dead_letters_total", {"reason": "malformed"}) == 11
    assert get("skinflint_ready") == 1
    assert get("skinflint_build_info", {"version": "9.9.9"}) == 1


def test_owners_beyond_the_limit_are_summed_as_other():
    view = fleet_view(200)
    owners = series(scraped(publisher_of(view), owner_series_max=2), "skinflint_owner_waste_usd_per_hour")
    assert len(owners) == 3 and (OTHER,) in owners
    assert sum(owners.values()) == pytest.approx(np.nansum(view.waste_usd_per_hour))


def test_gpus_have_no_series_unless_asked_for_and_then_only_the_worst():
    view = fleet_view(200)
    name = "skinflint_gpu_waste_usd_per_hour"
    none = scraped(publisher_of(view))
    assert series(none, name) == {}
    assert none.get_sample_value("skinflint_gpu_series_left_out") == 200
    some = scraped(publisher_of(view), gpu_series_max=10)
    worst = sorted(np.nan_to_num(view.waste_usd_per_hour), reverse=True)[:10]
    assert sorted(series(some, name).values(), reverse=True) == worst
    assert some.get_sample_value("skinflint_gpu_series_left_out") == 190


def test_hostile_names_give_valid_and_distinct_series():
    labels = [LabelSet(node=text, gpu="0", namespace=text, pod=text, team=text, model="m") for text in HOSTILE]
    registry = scraped(publisher_of(fleet_view(labels=labels)), gpu_series_max=100)
    text = generate_latest(registry).decode("utf-8")
    families = {f.name: f for f in text_string_to_metric_families(text)}
    gpus = families["skinflint_gpu_waste_usd_per_hour"].samples
    assert len({sample.labels["node"] for sample in gpus}) == len(HOSTILE)
    assert max(len(sample.labels["pod"]) for sample in gpus) < 250
    assert "\u202e" not in text and "\x1b" not in text
    assert generate_openmetrics(registry).endswith(b"# EOF\n")


def test_a_harmless_name_is_left_alone_and_different_names_stay_different():
    assert label_text("team-ä/β 1") == "team-ä/β 1"
    assert label_text("a\x01") != label_text("a\x02")
    assert label_text("y" * 500 + "1") != label_text("y" * 500 + "2")


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus"
    registry = CollectorRegistry()
    settings = HttpSettings(gpu_series_max=5)
    timings = register(registry, publisher_of(), settings, still_clock(), "9.9.9")
    timings.tick.observe(0.02)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_every_metric_of_ours_has_the_prefix_and_says_what_it_is():
    for family in scraped(publisher_of(), gpu_series_max=1).collect():
        assert family.name.startswith(("skinflint_", "process_"))
        assert family.documentation.endswith(".")


def test_the_timings_stand_on_the_registry_that_was_passed_in():
    registry = CollectorRegistry()
    LoopTimings(registry).checkpoint.observe(0.3)
    assert registry.get_sample_value("skinflint_checkpoint_duration_seconds_count") == 1


@pytest.mark.parametrize("gpu_series_max", [0, 100_000])
def test_a_scrape_of_a_hundred_thousand_gpus_takes_less_than_half_a_second(gpu_series_max):
    view = fleet_view(100_000, alerts=())
    registry = scraped(publisher_of(view, service_status()), gpu_series_max=gpu_series_max)
    begun = time.thread_time()  # neighbours on the machine do not count
    exposition(registry, "")
    assert time.thread_time() - begun < 0.5


@pytest.mark.parametrize("accept, encode", [("", generate_latest), (OPENMETRICS, generate_openmetrics)])
def test_what_is_written_is_what_the_library_would_write(accept, encode):
    labels = [LabelSet(node=text, gpu="0", namespace=text, pod=text, team=text, model="m") for text in HOSTILE]
    hostile = fleet_view(labels=labels)
    for view in (hostile, fleet_view(100), fleet_view(0)):
        registry = CollectorRegistry()
        registry.register(FleetCollector(publisher_of(view), HttpSettings(gpu_series_max=50), still_clock(), "1"))
        written, content_type = exposition(registry, accept)
        assert sorted(written.splitlines()) == sorted(encode(registry).splitlines())
        assert written.endswith(b"# EOF\n") == ("openmetrics" in content_type)
