"""What a target counts: the parameters, multiplications or bytes that are left when channels leave."""

from __future__ import annotations

from onnx_tools.compaction.choice.choosing import Measure
from onnx_tools.compaction.choice.config import Target
from onnx_tools.compaction.costs.cost import Cost, layer_costs, total_cost
from onnx_tools.compaction.mapping.channel_map import ChannelMap
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.file_facts import bytes_on_disk
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import InvalidOption


def measure_for(model: ModelFile, channels: ChannelMap, target: Target) -> Measure:
    """What `target` counts: a fraction of the parameters or MACs of all layers, or bytes of the model's files.

    Raises `InvalidOption` where it can't be counted.
    """
    layers = layer_costs(channels)
    before = total_cost(layers)
    files = bytes_on_disk(model)
    if target.of == "macs" and not before.macs:
        raise InvalidOption("target macs: the shapes of no layer are known; --input-shape may tell them")

    def left(gone: Ids) -> float:
        return _counted(target.of, before, total_cost(layers, channels.without(gone)), files)

    return left


def _counted(of: str, before: Cost, after: Cost, files: int) -> float:
    if of == "params":
        return after.parameters / max(before.parameters, 1)
    if of == "macs":
        return (after.macs or 0) / max(before.macs or 0, 1)
    return files - before.bytes + after.bytes
