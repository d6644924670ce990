from __future__ import annotations

import math
import re

import pytest
import yaml

from detectors.labels import LabelSet
from service.pipeline.gpu_models import TABLE_FILE as GPU_TABLE
from service.pipeline.gpu_models import gpu_model
from service.pipeline.prices import TABLE_FILE, PriceBook
from service.settings import PriceRule, PriceSettings

LISTED = PriceBook(PriceSettings())


def price(**labels: str) -> float:
    return LISTED.usd_per_gpu_hour(LabelSet(**labels))


def ruled(*rules: PriceRule, **labels: str) -> float:
    return PriceBook(PriceSettings(rules=list(rules))).usd_per_gpu_hour(LabelSet(**labels))


def test_a_gpu_costs_its_share_of_the_instance():
    assert price(instance_type="p5.48xlarge") == pytest.approx(55.04 / 8)
    assert price(instance_type="a2-highgpu-1g", model="NVIDIA A100-SXM4-40GB") == 3.673


def test_azure_types_are_found_under_their_label():
    assert price(instance_type="Standard_ND96isr_H100_v5") == pytest.approx(98.32 / 8)


def test_capacity_types_have_their_own_prices():
    on_demand = price(instance_type="p5.48xlarge", capacity_type="on-demand")
    assert price(instance_type="p5.48xlarge", capacity_type="spot") == pytest.approx(on_demand * 0.48)
    assert price(instance_type="p5.48xlarge", capacity_type="reserved") == pytest.approx(on_demand * 0.68)


def test_a_spot_price_that_is_not_listed_is_unknown_and_not_the_on_demand_one():
    assert math.isnan(price(instance_type="a3-highgpu-8g", capacity_type="spot"))
    assert math.isnan(price(model="NVIDIA H100 80GB HBM3", capacity_type="spot"))


@pytest.mark.parametrize(
    "model, expected",
    [
        ("NVIDIA H100 80GB HBM3", 6.88),
        ("NVIDIA H200", 7.912),
        ("NVIDIA A100-SXM4-80GB", 3.430881),
        ("NVIDIA A100-PCIE-40GB", 2.744705),
        ("NVIDIA L40S", 1.861),
        ("NVIDIA L4", 0.8048),
        ("Tesla T4", 0.526),
        ("NVIDIA A10G", 1.006),
        ("Tesla V100-SXM2-16GB", 3.06),
        ("NVIDIA B200", 14.2416),
    ],
)
def test_without_instance_type_the_model_decides(model, expected):
    assert price(model=model) == expected


@pytest.mark.parametrize("model", ["", "NVIDIA GH200 480GB", "NVIDIA L40", "AMD Instinct MI300X"])
def test_a_model_that_is_not_listed_has_no_price(model):
    assert math.isnan(price(model=model))


def test_the_first_rule_that_matches_wins_over_the_list():
    rules = (
        PriceRule(model="*h100*", cluster="east-*", usd_per_gpu_hour=2.5),
        PriceRule(model="*H100*", usd_per_gpu_hour=4),
        PriceRule(capacity_type="spot", usd_per_gpu_hour=1),
    )
    h100 = "NVIDIA H100 80GB HBM3"
    assert ruled(*rules, model=h100, cluster="east-1") == 2.5
    assert ruled(*rules, model=h100, cluster="west-1", capacity_type="spot") == 4
    assert ruled(*rules, model="NVIDIA L4", capacity_type="spot") == 1
    assert ruled(*rules, model="NVIDIA L4") == 0.8048


def test_a_rule_that_names_a_label_does_not_match_where_the_label_is_missing():
    assert math.isnan(ruled(PriceRule(region="eu-*", usd_per_gpu_hour=1)))


def test_without_the_default_table_only_rules_count():
    book = PriceBook(PriceSettings(use_default_table=False))
    assert math.isnan(book.usd_per_gpu_hour(LabelSet(instance_type="p5.48xlarge")))


@pytest.mark.parametrize(
    "model, profile, share",
    [
        ("NVIDIA H100 80GB HBM3", "3g.40gb", 3 / 7),
        ("NVIDIA H100 80GB HBM3", "MIG 1g.10gb+me", 1 / 7),
        ("NVIDIA H100 80GB HBM3", "1c.3g.40gb", 1 / 7),
        ("NVIDIA A30", "2g.12gb", 2 / 4),
        ("Something newer", "2g.99gb", 2 / 7),
    ],
)
def test_a_mig_instance_costs_its_share_of_compute_slices(model, profile, share):
    rule = PriceRule(usd_per_gpu_hour=7)
    assert ruled(rule, model=model, mig_id="3", mig_profile=profile) == pytest.approx(7 * share)


@pytest.mark.parametrize("profile", ["", "nonsense", "9g.80gb"])
def test_a_mig_instance_of_unknown_size_has_no_price(profile):
    rule = PriceRule(usd_per_gpu_hour=7)
    assert math.isnan(ruled(rule, model="NVIDIA H100 80GB HBM3", mig_id="3", mig_profile=profile))


def test_every_list_price_names_a_source_with_a_date():
    table = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", str(source["date"])) for source in table["sources"].values())
    clouds = table["instances"].values()
    rows = [row for cloud in clouds for row in cloud["types"].values()] + table["models"]
    used = {row["source"] for row in rows} | {cloud["spot_source"] for cloud in clouds}
    assert used | {table["reserved_discount"]["source"]} == set(table["sources"])


def test_model_prices_are_those_of_the_instance_they_name():
    table = yaml.safe_load(TABLE_FILE.read_text(encoding="utf-8"))
    types = {name: row for cloud in table["instances"].values() for name, row in cloud["types"].items()}
    for row in table["models"]:
        listed = types[row["as"]]
        assert row["usd_per_gpu_hour"] == pytest.approx(listed["usd_per_hour"] / listed["gpus"], rel=1e-6)
        assert row["source"] == listed["source"]


@pytest.mark.parametrize(
    "name, tdp_watts, memory_gib",
    [
        ("NVIDIA H100 80GB HBM3", 700, 79.6),
        ("NVIDIA H100 PCIe", 350, 79.6),
        ("NVIDIA A100-SXM4-40GB", 400, 40),
        ("NVIDIA A100 80GB PCIe", 300, 80),
        ("NVIDIA L40S", 350, 45),
        ("NVIDIA RTX 6000 Ada Generation", 300, 48),
        ("NVIDIA GH200 480GB", 900, 95.6),
        ("Tesla T4", 70, 15),
    ],
)
def test_gpu_models_are_known_by_the_drivers_name(name, tdp_watts, memory_gib):
    model = gpu_model(name)
    assert model is not None
    assert model.tdp_watts == tdp_watts
    assert model.memory_bytes / 2**30 == pytest.approx(memory_gib, abs=0.1)


def test_an_unknown_model_is_none_and_words_are_whole():
    assert gpu_model("") is None
    assert gpu_model("NVIDIA L4000") is None


def test_no_model_is_hidden_behind_an_earlier_one_and_figures_are_plausible():
    rows = yaml.safe_load(GPU_TABLE.read_text(encoding="utf-8"))
    for row in rows:
        model = gpu_model(" ".join(row["words"]))
        assert model is not None
        assert model.words == frozenset(row["words"])
        assert 0 < model.idle_watts < 0.25 * model.tdp_watts
