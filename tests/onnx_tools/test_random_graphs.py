"""What compaction says and does, on random networks.

OXIPRUNE_EXAMPLES makes it longer.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, note, settings
from onnx import ModelProto

from onnx_tools.compaction.tracing import map_channels
from tests.channel_oracle import Feeds, check_dead, every_value, random_feeds, some_of
from tests.random_graphs import networks, runnable

LARGEST = 1e6
"""Of a number in a network; beyond it rounding says too much."""

on_networks = settings(
    max_examples=int(os.environ.get("OXIPRUNE_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def tame_feeds(model: ModelProto, rng: np.random.Generator) -> Feeds:
    """Random feeds, if all that the model computes of them is of moderate size."""
    note(onnx.printer.to_text(model))
    feeds = random_feeds(model, rng)
    values = every_value(runnable(model), feeds).values()
    assume(all(np.abs(value).max(initial=0) < LARGEST for value in values))
    return feeds


@on_networks
@given(networks())
def test_networks_are_valid(model: ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)


@on_networks
@given(networks())
def test_what_is_dead_may_hold_anything(model: ModelProto) -> None:
    rng = np.random.default_rng(0)
    feeds = tame_feeds(model, rng)
    channels = map_channels(model)
    free = channels.groups.free
    sets = [free[[at]] for at in rng.permutation(len(free))[:4]]
    for gone in [*sets, some_of(channels, free, rng)]:
        check_dead(runnable(model), channels, gone, feeds, rng)
