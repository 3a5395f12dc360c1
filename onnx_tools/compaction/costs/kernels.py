"""What a profile of onnxruntime says of the nodes of a model that was given names by which they are found again.

onnxruntime names the event of a kernel after its node, "NAME_kernel_time". Optimisations of the level
`ORT_ENABLE_BASIC` keep the name of a node that takes in another (a convolution and its BatchNormalization), or add
theirs, as in "NAME/MatMulAddFusion"; higher ones call some after values (..._nchwc). Names that the model has could be
missing, be those of two nodes in different graphs, or look like such an addition: ours can't.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import onnx

from onnx_tools.graph_parts import Node
from onnx_tools.model_file import message_at

_KERNEL = re.compile(r"oxiprune\.(\d+)(/[A-Za-z]*Fusion(/.*)?)?_kernel_time", re.DOTALL)
_RUN = "model_run"


def name_nodes(model: onnx.ModelProto, nodes: Sequence[Node]) -> None:
    """Name the nodes in graphs of a copy of the model after their numbers in `nodes`; functions stay as they are."""
    for number, node in enumerate(nodes):
        if node.path[0][0] == "graph":
            message_at(model, node.path).name = f"oxiprune.{number}"


def kernel_times(events: Iterable[Mapping[str, Any]], runs: int) -> dict[int, float]:
    """Microseconds of the kernels of each node in one run, by its number: medians over the last `runs` of a profile.

    All kernels that carry a node's name count, as often as they ran. A node that has none is not there.
    """
    last = _times_of_runs(events)[-runs:]
    return {number: float(median(run[number] for run in last)) for number in set().union(*last)}


def by_label(times: Mapping[int, float], nodes: Sequence[Node]) -> dict[str, float]:
    """The same by the labels of the nodes, without those that two nodes have."""
    counts = Counter(node.label for node in nodes)
    return {nodes[number].label: time for number, time in times.items() if counts[nodes[number].label] == 1}


def _times_of_runs(events: Iterable[Mapping[str, Any]]) -> list[Counter[int]]:
    """The event of a run comes after those of its kernels."""
    runs, current = [], Counter[int]()
    for event in events:
        if event.get("cat") == "Node" and (kernel := _KERNEL.fullmatch(event["name"])):
            current[int(kernel[1])] += event["dur"]
        elif event.get("name") == _RUN:
            runs.append(current)
            current = Counter()
    return runs
