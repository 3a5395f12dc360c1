"""Metrics: the rules that score a weight's elements. One small file each; `METRICS` is the table.

To add one: a file with a subclass of `ImportanceMetric`, and a row here.
"""

from __future__ import annotations

from inspect import signature

from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.metrics.base import ImportanceMetric, Positions
from oxiprune_gpu.metrics.magnitude import L1Magnitude, L2Magnitude
from oxiprune_gpu.metrics.random import Random
from oxiprune_gpu.metrics.taylor import Taylor, TaylorProxy

METRICS: dict[str, type[ImportanceMetric]] = {
    "l1": L1Magnitude,
    "l2": L2Magnitude,
    "taylor": TaylorProxy,
    "random": Random,
}
"""Text of a metric -> its class. `Taylor(gradient)` has no row: it needs an array, which no text can hold."""


def parse_metric(metric: str | ImportanceMetric) -> ImportanceMetric:
    """Return the metric that `metric` names: `l1`, `l2`, `taylor` (the proxy), `random:SEED`.

    Raises:
        InvalidOption: there is no such metric, or its argument is missing or wrong.
    """
    if isinstance(metric, ImportanceMetric):
        return metric
    if not isinstance(metric, str):
        raise InvalidOption(f"metric must be text or an ImportanceMetric, not {type(metric).__name__}")
    name, colon, argument = metric.partition(":")
    if name not in METRICS:
        raise InvalidOption(f"unknown metric '{metric}': use one of {', '.join(map(_usage, METRICS))}")
    return METRICS[name].from_text(argument if colon else None)


def _usage(name: str) -> str:
    """How a metric is written as text: its name, and what it takes, as in `random:SEED`."""
    return ":".join([name, *(argument.upper() for argument in signature(METRICS[name]).parameters)])


__all__ = [
    "METRICS",
    "ImportanceMetric",
    "L1Magnitude",
    "L2Magnitude",
    "Positions",
    "Random",
    "Taylor",
    "TaylorProxy",
    "parse_metric",
]
