"""From the channels of a model, and those that leave, to parts of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

import numpy as np

from onnx_tools.compact_report import ChannelNote, LayerReport
from onnx_tools.compaction.costs.cost import LayerCost, layer_costs
from onnx_tools.compaction.costs.layer_times import LayerTimes
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Remaining
from onnx_tools.compaction.mapping.channels import Groups, Ids
from onnx_tools.compaction.zeros import Removable
from onnx_tools.graph_parts import Node


def layer_reports(channels: ChannelMap, remaining: Remaining, times: LayerTimes) -> tuple[LayerReport, ...]:
    """Every layer, before and after."""
    return tuple(_layer_report(layer, remaining, times) for layer in layer_costs(channels))


def made_groups(groups: Groups) -> Ids:
    """The groups of channels that layers make, ascending."""
    found: Ids = np.unique(groups.of[groups.families > 0])
    return found


def staying_notes(groups: Groups, found: Removable) -> tuple[ChannelNote, ...]:
    """Why channels stay: those of one family with one reason together, most of those that nobody looks at first."""
    made = made_groups(groups)
    held = made[groups.held[made]]
    counts = Counter((groups.reasons.get(group, ""), int(groups.families[group])) for group in held.tolist())
    unused: Counter[tuple[str, int]] = Counter()
    for note in found.notes:
        if not note.gone:
            unused[note.reason, note.family] += len(note.groups)
            counts.setdefault((note.reason, note.family), len(note.groups))
    notes = [
        ChannelNote(reason, groups.origins.get(family, ()), count, unused[reason, family])
        for (reason, family), count in counts.items()
    ]
    return tuple(sorted(notes, key=lambda note: (-note.unused, -note.channels)))


def dropped_notes(found: Removable) -> tuple[ChannelNote, ...]:
    """Channels that left although they left something behind."""
    return tuple(ChannelNote(n.reason, n.origins, len(n.groups), len(n.groups)) for n in found.notes if n.gone)


def _layer_report(layer: LayerCost, remaining: Remaining, times: LayerTimes) -> LayerReport:
    before, after = layer.cost(), layer.cost(remaining)
    sizes = dict(_sizes(layer.channels, layer.node))
    left = {} if not sizes else remaining.sizes(layer.node.outputs[0])  # type: ignore[arg-type]
    return LayerReport(
        name=layer.node.label,
        op_type=layer.node.op_type,
        channels_before=prod(sizes.values()) if sizes else None,
        channels_after=prod(left.get(axis, size) for axis, size in sizes.items()) if sizes else None,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        bytes_before=before.bytes,
        bytes_after=after.bytes,
        macs_before=before.macs,
        macs_after=after.macs,
        open_sizes=layer.open,
        microseconds_before=times.before.get(layer.node.label),
        microseconds_after=times.after.get(layer.node.label),
    )


def _sizes(channels: ChannelMap, node: Node) -> Iterator[tuple[int, int]]:
    """The axes of a node's result along which channels were followed, and their sizes."""
    for factor in channels.of(node.outputs[0] if node.outputs else None):
        yield from zip(factor.axes, factor.ids.shape, strict=True)
