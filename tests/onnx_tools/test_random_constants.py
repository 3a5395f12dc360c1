"""Random networks in which some channels are made by nothing but zeros: without what may leave they give the same.

OXIPRUNE_EXAMPLES makes it longer.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.model_file import message_at
from tests.onnx_tools.test_random_graphs import ROUNDING, on_networks, tame_feeds
from tests.onnx_tools.zero_cases import assert_the_same_without, case_of_model
from tests.random_graphs import networks, runnable


def zero_some(model: ModelProto, channels: ChannelMap, rng: np.random.Generator, share: float) -> None:
    """Zero what makes some channels, sometimes what is added to them, sometimes what they are scaled by."""
    chosen = rng.random(len(channels.groups.of)) < share
    bare = rng.random(len(chosen)) < 0.3
    for member in channels.members:
        ids = {Role.MAKES: chosen, Role.SHIFTS: chosen & bare, Role.SCALES: chosen & bare}.get(member.role)
        if ids is None:
            continue
        tensor = message_at(model, member.tensor.path)
        array = numpy_helper.to_array(tensor).copy()
        gone = ids[member.factor.over(range(array.ndim))] if array.ndim else np.zeros((), bool)
        tensor.CopyFrom(numpy_helper.from_array(np.where(gone, 0, array).astype(array.dtype), tensor.name))


@on_networks
@given(networks(), st.sampled_from([0.1, 0.4, 1.0]))
def test_constants_leave_no_trace(model: ModelProto, share: float) -> None:
    rng = np.random.default_rng(0)
    zero_some(model, map_channels(model), rng, share)
    feeds = tame_feeds(model, rng)
    with tempfile.TemporaryDirectory() as folder:
        case = case_of_model(pathlib.Path(folder), runnable(model))
        assert_the_same_without(case, feeds, 10 * ROUNDING.get(next(iter(feeds.values())).dtype, 1e-5))
