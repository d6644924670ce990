"""What every test has: no deadline for single examples, since the first one compiles kernels."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.kafka.fixtures import broker

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("tests")

__all__ = ["broker"]
