"""What compaction says and does, on random networks.

OXIPRUNE_EXAMPLES makes it longer.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from onnx import ModelProto

from onnx_tools import compact_file
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.compaction.zeros import removable
from onnx_tools.errors import NothingSelected
from onnx_tools.model_file import ModelFile
from tests.channel_oracle import Feeds, check_dead, every_value, masked, outputs, random_feeds, some_of
from tests.random_graphs import networks, runnable

LARGEST = {np.dtype(np.float16): 1e3}
"""Of a number in a network, else 1e6; beyond it rounding says too much."""

ROUNDING = {np.dtype(np.float16): 3e-2}
"""Of an output, else 1e-5, as a part of the largest number in it."""

on_networks = settings(
    max_examples=int(os.environ.get("OXIPRUNE_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def tame_feeds(model: ModelProto, rng: np.random.Generator) -> Feeds:
    """Random feeds, if all that the model computes of them is of moderate size."""
    note(onnx.printer.to_text(model))
    feeds = random_feeds(model, rng)
    values = every_value(runnable(model), feeds).values()
    assume(all(np.abs(value).max(initial=0) < LARGEST.get(value.dtype, 1e6) for value in values))
    return feeds


def some_sets(channels: ChannelMap, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Free groups that can leave: some of them one by one, then two random sets."""
    free = channels.groups.free
    for group in rng.permutation(free)[:3]:
        yield some_of(channels, np.array([group]), rng)
    yield some_of(channels, free, rng)
    yield some_of(channels, free, rng)


@contextmanager
def file_of(model: ModelProto) -> Iterator[pathlib.Path]:
    """A model in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        yield path


def assert_same_function(smaller: ModelProto, model: ModelProto, feeds: Feeds) -> None:
    """The smaller model is valid, and gives what the other does, up to rounding."""
    onnx.checker.check_model(smaller, full_check=True)
    expected, found = outputs(runnable(model), feeds), outputs(runnable(smaller), feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        rounding = ROUNDING.get(array.dtype, 1e-5)
        tolerance = rounding * max(1.0, np.abs(array).max(initial=0))
        np.testing.assert_allclose(found[name], array, rtol=10 * rounding, atol=tolerance, err_msg=name)


def frame(model: ModelProto) -> ModelProto:
    """What is no part of the graph, and what goes in and out."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for name in ("node", "initializer", "value_info"):
        copy.graph.ClearField(name)
    kept = [entry for entry in copy.metadata_props if entry.key != "oxiprune"]
    copy.ClearField("metadata_props")
    copy.metadata_props.extend(kept)
    return copy


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
    for gone in some_sets(channels, rng):
        check_dead(runnable(model), channels, gone, feeds, rng)


@on_networks
@given(networks())
def test_groups_leave_alone_and_together(model: ModelProto) -> None:
    rng = np.random.default_rng(0)
    feeds = tame_feeds(model, rng)
    channels = map_channels(model)
    with file_of(model) as path:
        for gone in some_sets(channels, rng):
            note(f"without {gone.tolist()}")
            write_without(ModelFile.open(path), channels, gone, (), path.with_name("out.onnx"), force=True)
            smaller = onnx.load(path.with_name("out.onnx"))
            assert_same_function(smaller, masked(model, channels, gone), feeds)
            assert frame(smaller) == frame(model)


@on_networks
@given(networks())
def test_what_is_masked_is_found_and_leaves(model: ModelProto) -> None:
    rng = np.random.default_rng(0)
    feeds = tame_feeds(model, rng)
    channels = map_channels(model)
    gone = some_of(channels, channels.groups.free, rng)
    dead = masked(model, channels, gone)
    with file_of(dead) as path:
        if len(dead.graph.node) == len(model.graph.node):
            found = removable(ModelFile.open(path), channels)
            last = [note.groups for note in found.notes if note.reason == "one channel of an axis has to stay"]
            assert np.isin(gone, np.concatenate([found.gone, *last])).all()
        compact_file(path, path.with_name("out.onnx"), verify=None)
        assert_same_function(onnx.load(path.with_name("out.onnx")), dead, feeds)


@on_networks
@given(networks(), st.sampled_from([0.3, 0.5, 0.9]), st.sampled_from(["layer", "global"]))
def test_pruned_channels_leave(model: ModelProto, sparsity: float, scope: str) -> None:
    feeds = tame_feeds(model, np.random.default_rng(0))
    with file_of(model) as path:
        pruned, smaller = path.with_name("pruned.onnx"), path.with_name("smaller.onnx")
        try:
            prune_channels(path, pruned, config=ChannelConfig(sparsity, scope=scope))
        except NothingSelected:
            return
        compact_file(pruned, smaller, verify=None)
        assert_same_function(onnx.load(smaller), onnx.load(pruned), feeds)
        assert frame(onnx.load(smaller)) == frame(model)


@on_networks
@given(networks())
def test_without_nothing_the_file_is_the_same(model: ModelProto) -> None:
    with file_of(model) as path:
        file = ModelFile.open(path)
        write_without(file, map_channels(model), np.array([], np.int64), (), path.with_name("out.onnx"))
        assert path.with_name("out.onnx").read_bytes() == path.read_bytes()
