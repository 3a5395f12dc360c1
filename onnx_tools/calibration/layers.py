"""A model layer by layer: what the inputs of a weight are once the layers before it are pruned."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from onnx_tools.calibration.collect import CPU, MEMORY, feeds_for, wanted
from onnx_tools.calibration.cuts import Cuts
from onnx_tools.calibration.data import Data, Feeds
from onnx_tools.calibration.jobs import Job, Shapes, in_groups, jobs_of
from onnx_tools.calibration.observed import Observation, Observed, ObservedWeight, Place
from onnx_tools.calibration.resumed import Changed, Resumed
from onnx_tools.calibration.rows import ChannelRows
from onnx_tools.calibration.running import Runner, Told, places_of
from onnx_tools.calibration.shifts import Norm
from onnx_tools.calibration.store import FINE, verdict
from onnx_tools.calibration.sums import Statistics
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node
from onnx_tools.model_file import ModelFile
from onnx_tools.rewrite import Progress
from onnx_tools.temporaries import folder_beside

_BETWEEN = 8
"""Of the memory, one part of so many is for the values between two steps: of two models, as onnxruntime and we do."""


class Seen(NamedTuple):
    """What the inputs of a weight come to; None, and why, where that is of no use."""

    statistics: Statistics | None
    reason: str


class Step(NamedTuple):
    """Weights with the same inputs, or a normalisation. `position`: of its node, as in `Observation`.

    `node`: the number of that node in the main graph, or of the one around it; 0 in a function.
    """

    position: int
    node: int
    weights: tuple[ObservedWeight, ...] = ()
    norm: Norm | None = None


@dataclass(frozen=True)
class Layers:
    """A model that is run on for each step, and so is the dense one beside it. Made by `layers_of`.

    `steps`: in the order in which they are computed. `unobserved`: weights that are in none, by name, each with the
    reason. `feeds`: the data.
    """

    steps: tuple[Step, ...]
    unobserved: Mapping[str, str]
    runner: Runner
    feeds: Feeds
    shapes: Shapes
    memory: int
    pruned: Resumed
    dense: Resumed

    def look(self, number: int, changed: Changed, progress: Progress | None = None) -> dict[str, Seen]:
        """What the inputs of the weights of a step are when stored tensors have changed, by name.

        With changes the statistics compare: see `Statistics.cross`. Raises as `Calibration.collect`.
        """
        step = self.steps[number]
        found = self._observed(number, jobs_of(step.weights), changed, progress)
        return {weight.weight.name: _of_weight(weight, found) for weight in step.weights}

    def look_at_norm(self, number: int, changed: Changed, progress: Progress | None = None) -> Seen:
        """What a normalisation reads when stored tensors have changed; a feature is a channel; one group."""
        norm = self.steps[number].norm
        assert norm is not None
        job = _job_of(norm, self.steps[number].position)
        ((statistics, reason),) = self._observed(number, [job], changed, progress).values()
        return Seen(statistics, reason)

    def _observed(
        self, number: int, jobs: Sequence[Job], changed: Changed, progress: Progress | None
    ) -> dict[object, tuple[Statistics | None, str]]:
        """What jobs of a step find, by the keys of their observations."""
        runner = self.runner if self.steps[number].norm is None else replace(self.runner, hessian=False)
        models = 2 if changed else 1  # beside the changed model the dense one runs, and both give values and sums
        tell = Told(progress, number, len(self.steps), self.feeds.count)
        found: dict[object, tuple[Statistics | None, str]] = {}
        groups = in_groups(
            jobs, self.shapes, self.memory, hessian=runner.hessian, models=models, beside=self.memory // _BETWEEN
        )
        for group in groups:
            at = places_of(group), self.steps[number].node
            pruned, dense = self.pruned.begin(*at, changed), self.dense.begin(*at, {}) if changed else None
            results = runner.observe(group, self.feeds, tell, pruned, dense)
            found |= {job.observation.key: result for job, result in zip(group, results, strict=True)}
        return found


@contextlib.contextmanager
def layers_of(
    model: str | os.PathLike[str],
    data: Data,
    *,
    only: Collection[str] | None = None,
    norms: Sequence[Norm] = (),
    hessian: bool = False,
    memory: int = MEMORY,
    providers: Sequence[str] = CPU,
) -> Iterator[Layers]:
    """A model and data to run it on, for as long as the block lasts.

    `norms`: normalisations that are steps too. Other arguments and errors as `Calibration.collect`.
    """
    runner = Runner(ModelFile.open(model), tuple(providers), hessian)
    observed = wanted(runner.file, only)
    nodes = GraphIndex(runner.file.skeleton).nodes
    steps = [*_weight_steps(observed, nodes), *_norm_steps(norms, nodes)]
    jobs = [*jobs_of(observed.weights), *(_job_of(step.norm, step.position) for step in steps if step.norm)]
    tapped = runner.tapped(jobs, shapes=True)
    with folder_beside(pathlib.Path(tempfile.gettempdir()) / "data") as kept:
        feeds = feeds_for(tapped, data, kept)
        shapes = tapped.run(feeds.largest(), feeds.source)
        tapped.close()
        unobserved = {each.name: each.reason for each in observed.unobserved}
        ordered = tuple(sorted(steps, key=lambda step: step.position))
        pruned, dense = (
            Resumed(runner.file, cuts, runner.providers, kept / name, memory // _BETWEEN // 4, feeds.count)
            for cuts in (Cuts(runner.file.skeleton.graph),)
            for name in ("pruned", "dense")
        )
        yield Layers(ordered, unobserved, runner, feeds, shapes, memory, pruned, dense)


def _weight_steps(observed: Observed, nodes: Sequence[Node]) -> Iterator[Step]:
    for _, group in groupby(observed.weights, key=_inputs):
        weights = tuple(group)
        position = min(each.position for each in weights[0].observations)
        yield Step(position, _main_node(nodes[position]), weights)


def _norm_steps(norms: Sequence[Norm], nodes: Sequence[Node]) -> Iterator[Step]:
    positions = {node.path: number for number, node in enumerate(nodes)}
    for norm in norms:
        yield Step(positions[norm.node.path], _main_node(norm.node), norm=norm)


def _main_node(node: Node) -> int:
    return node.path[1][1] if node.path[0] == ("graph", 0) else 0


def _job_of(norm: Norm, position: int) -> Job:
    value = norm.node.inputs[0]
    assert value is not None
    observation = Observation((Place(value.name),), ChannelRows(), norm.label, position)
    return Job(norm.label, observation, 1, norm.mean.elements, 4)


def _inputs(weight: ObservedWeight) -> tuple[object, ...]:
    return tuple(each.key for each in weight.observations)


def _of_weight(weight: ObservedWeight, found: Mapping[object, tuple[Statistics | None, str]]) -> Seen:
    """The sums over all readers of a weight."""
    results = [found[each.key] for each in weight.observations]
    reason = verdict({state for _, state in results})
    if reason:
        return Seen(None, reason)
    parts = [statistics.for_groups(weight.view.shape[0]) for statistics, _ in results if statistics is not None]
    return Seen(sum(parts[1:], start=parts[0]), FINE)
