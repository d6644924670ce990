"""A simulated fleet: seeded plan, physics, telemetry faults, ground truth, wire-format encoders and the producer.

Everything about an instant is a pure function of (seed, scenario, GPU, instant): nothing is carried along from sample
to sample, so a source can be sought to any offset and goes on with the same bytes.
"""
