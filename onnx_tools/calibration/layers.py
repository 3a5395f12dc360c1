"""A model layer by layer: what the inputs of a weight are once the layers before it are pruned."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from onnx_tools.calibration.collect import CPU, MEMORY, feeds_for, wanted
from onnx_tools.calibration.data import Data, Feeds
from onnx_tools.calibration.jobs import Shapes, in_groups, jobs_of
from onnx_tools.calibration.observed import ObservedWeight, observe
from onnx_tools.calibration.running import Changed, Runner, Told
from onnx_tools.calibration.store import FINE, verdict
from onnx_tools.calibration.sums import Statistics
from onnx_tools.model_file import ModelFile
from onnx_tools.rewrite import Progress
from onnx_tools.temporaries import folder_beside


class Seen(NamedTuple):
    """What the inputs of a weight come to; None, and why, where that is of no use."""

    statistics: Statistics | None
    reason: str


@dataclass(frozen=True)
class Layers:
    """A model that is run again for each step. Made by `layers_of`.

    `steps`: weights with the same inputs, in the order in which they are first read. `unobserved`: the others, by name,
    each with the reason. `source`, `runs`: the data in words, and how often the model is run to go through it.
    """

    steps: tuple[tuple[ObservedWeight, ...], ...]
    unobserved: Mapping[str, str]
    runner: Runner
    feeds: Feeds
    shapes: Shapes
    memory: int

    def look(self, number: int, changed: Changed, progress: Progress | None = None) -> dict[str, Seen]:
        """What the inputs of the weights of a step are when stored tensors have changed, by name.

        With changes the statistics compare: see `Statistics.cross`. Raises as `Calibration.collect`.
        """
        step = self.steps[number]
        jobs = jobs_of(step)
        # Beside the changed model the dense one runs, and both give values and sums.
        memory = self.memory // 2 if changed else self.memory
        groups = in_groups(jobs, self.shapes, memory, hessian=self.runner.hessian)
        tell = Told(progress, number, len(self.steps), self.feeds.count)
        found: dict[object, tuple[Statistics | None, str]] = {}
        for group in groups:
            results = self.runner.observe(group, self.feeds, tell, changed)
            found |= {job.observation.key: result for job, result in zip(group, results, strict=True)}
        return {weight.weight.name: _of_weight(weight, found) for weight in step}


@contextlib.contextmanager
def layers_of(
    model: str | os.PathLike[str],
    data: Data,
    *,
    only: Collection[str] | None = None,
    hessian: bool = False,
    memory: int = MEMORY,
    providers: Sequence[str] = CPU,
) -> Iterator[Layers]:
    """A model and data to run it on, for as long as the block lasts. Arguments and errors as `Calibration.collect`."""
    runner = Runner(ModelFile.open(model), tuple(providers), hessian)
    observed = wanted(observe(runner.file.skeleton), only)
    tapped = runner.tapped(jobs_of(observed.weights), shapes=True)
    with folder_beside(pathlib.Path(tempfile.gettempdir()) / "data") as kept:
        feeds = feeds_for(tapped, data, kept)
        shapes = tapped.run(feeds.largest(), feeds.source)
        tapped.close()
        steps = tuple(tuple(each) for _, each in groupby(observed.weights, key=_inputs))
        unobserved = {each.name: each.reason for each in observed.unobserved}
        yield Layers(steps, unobserved, runner, feeds, shapes, memory)


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
