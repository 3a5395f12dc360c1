"""Runs of a model over data, and the sums of what is looked at in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_tools.calibration.data import Feeds
from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.calibration.jobs import Job
from onnx_tools.calibration.observed import Place
from onnx_tools.calibration.resumed import Run, Whole
from onnx_tools.calibration.rows import Rows
from onnx_tools.calibration.store import FINE, NOT_FINITE, NOTHING, UNFIT
from onnx_tools.calibration.sums import Adder, Statistics
from onnx_tools.model_file import ModelFile
from onnx_tools.rewrite import Progress


@dataclass(frozen=True)
class Told:
    """Counts runs of the model, in one of several groups."""

    progress: Progress | None
    group: int
    groups: int
    count: int

    def __call__(self, name: str, done: int) -> None:
        """Tell what is done next, and how many runs of the group are done."""
        if self.progress is not None:
            self.progress(name, self.group * self.count + done, self.groups * self.count)


@dataclass(frozen=True)
class Runner:
    """Runs a model and looks at what its weights are multiplied with."""

    file: ModelFile
    providers: tuple[str, ...]
    hessian: bool

    def tapped(self, jobs: Sequence[Job], *, shapes: bool = False) -> Tapped:
        """The model with all that jobs look at."""
        return Tapped(self.file, places_of(jobs), self.providers, shapes=shapes)

    def observe(
        self, group: Sequence[Job], feeds: Feeds, tell: Told, pruned: Run | None = None, dense: Run | None = None
    ) -> list[tuple[Statistics | None, str]]:
        """Run the model over all data; for each job what is found, None if it is of no use, and what is to be said.

        `pruned`: a model that is run in its place; `dense`: one beside that, which it is compared with.
        """
        run = pruned or Whole(self.tapped(group))
        adders = [_JobAdder(job, hessian=self.hessian) for job in group]
        for number, feed in enumerate(feeds):
            tell(group[0].name, number)
            values = run.run(number, feed, feeds.source)
            others = None if dense is None else dense.run(number, feed, feeds.source)
            for adder in adders:
                adder.add(values, others)
            del values, others, feed  # before there are others
        run.close()
        if dense is not None:
            dense.close()
        tell(group[-1].name, feeds.count)
        return [adder.result() for adder in adders]


def places_of(jobs: Sequence[Job]) -> list[Place]:
    """All that jobs look at."""
    return [place for job in jobs for place in job.places]


class _JobAdder:
    """Adds up what one job looks at."""

    def __init__(self, job: Job, *, hessian: bool) -> None:
        self.job = job
        self._adder = Adder(job.groups, job.features, hessian=hessian)
        self._fits = True

    def add(self, values: Mapping[Place, Any], dense: Mapping[Place, Any] | None) -> None:
        """Add the rows of one run of the model; nothing more once they did not fit."""
        if self._fits:
            try:
                self._adder.add(self._rows(values), None if dense is None else self._rows(dense))
            except ValueError:  # numpy's, for shapes that an operator has no use for
                self._fits = False

    def _rows(self, values: Mapping[Place, Any]) -> Rows:
        observation = self.job.observation
        return observation.unfold.rows([None if place is None else values[place] for place in observation.values])

    def result(self) -> tuple[Statistics | None, str]:
        """The sums, if they are of use, and what is to be said of them."""
        found = self._adder.result() if self._fits else None
        if found is None:
            return None, NOTHING if self._fits else UNFIT
        return (found, FINE) if found.finite else (None, NOT_FINITE)
