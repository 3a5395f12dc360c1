"""What a target counts: the parameters, multiplications or bytes that are left when channels leave."""

from __future__ import annotations

from onnx_tools.compaction.choice.choosing import Measure
from onnx_tools.compaction.choice.config import Target
from onnx_tools.compaction.costs.cost import layer_costs, stored_cost, stored_without, total_cost
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.file_facts import bytes_on_disk
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import InvalidOption

_ENTRY = 512
"""Bytes of what the model says then of its pruning and compaction; long patterns take more."""


def measure_for(model: ModelFile, channels: ChannelMap, target: Target) -> Measure:
    """What `target` counts: a fraction of all that is stored, or of the MACs of all layers, or bytes of the files.

    Raises `InvalidOption` where it can't be counted.
    """
    if target.of == "macs":
        return _macs(channels)
    before = stored_cost(channels.index)
    files = bytes_on_disk(model) + _ENTRY

    def left(gone: Ids) -> float:
        after = stored_without(channels, channels.without(gone))
        if target.of == "params":
            return after.parameters / max(before.parameters, 1)
        return files - before.bytes + after.bytes

    return left


def _macs(channels: ChannelMap) -> Measure:
    layers = layer_costs(channels)
    before = total_cost(layers).macs
    if not before:
        raise InvalidOption("target macs: the shapes of no layer are known; --input-shape may tell them")
    return lambda gone: (total_cost(layers, channels.without(gone)).macs or 0) / before
