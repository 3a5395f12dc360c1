"""Which observations are made in one run over the data, so that memory keeps within a bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx_tools.calibration.observed import Observation, ObservedWeight, Place
from onnx_tools.calibration.products import Products
from onnx_tools.calibration.sums import BLOCK
from oxiprune_gpu.errors import InvalidOption

Shapes = Mapping[Place, tuple[int, ...]]


@dataclass(frozen=True)
class Job:
    """An observation, for all weights that ask for the same: `name` is the first. `width`: bytes of an element."""

    name: str
    observation: Observation
    groups: int
    features: int
    width: int

    @property
    def places(self) -> list[Place]:
        """The values that are looked at."""
        return [place for place in self.observation.values if place is not None]

    def sums(self, *, hessian: bool) -> int:
        """Bytes that are taken until its group is done."""
        products = Products.kept(self.groups, self.features, self.width) if hessian else 0
        return 2 * 8 * self.groups * self.features + products

    def work(self, shapes: Shapes, *, hessian: bool) -> int:
        """Bytes that adding up takes for a while: what is copied of the value, a few blocks, and a product."""
        try:
            copied = self.width * self.observation.unfold.copied(shapes[self.places[0]])
        except ValueError:  # it is no shape for this operator, as will be said when it is run
            copied = 0
        product = Products.work(self.groups, self.features, self.width) if hessian else 0
        return copied + 3 * 8 * max(BLOCK, self.groups * self.features) + product


def jobs_of(weights: Iterable[ObservedWeight]) -> list[Job]:
    """The observations of weights, each once."""
    found: dict[object, Job] = {}
    for weight in weights:
        groups, _, features = weight.view.shape
        width = max(weight.weight.dtype.itemsize, 4)
        for each in weight.observations:
            found.setdefault(each.key, Job(weight.weight.name, each, groups, features, width))
    return list(found.values())


def in_groups(
    jobs: Sequence[Job], shapes: Shapes, memory: int, *, hessian: bool, models: int = 1, beside: int = 0
) -> list[list[Job]]:
    """Jobs in the given order, in groups that take `memory` bytes at most, where so many models are looked at at once.

    Counted are the values twice, as onnxruntime and as we hold them, the sums, the work on the largest, and `beside`.

    Raises `InvalidOption` for one that takes more by itself.
    """
    groups: list[_Group] = []
    for job in jobs:
        if groups and beside + models * groups[-1].taken(job, shapes, hessian=hessian) <= memory:
            groups[-1].add(job, shapes, hessian=hessian)
            continue
        groups.append(_Group())
        alone = beside + models * groups[-1].taken(job, shapes, hessian=hessian)
        if alone > memory:
            raise InvalidOption(
                f"weight '{job.name}': to observe its {job.features} inputs takes {alone:,} bytes, and {memory:,} are "
                "allowed: allow more memory, or give data in smaller batches"
            )
        groups[-1].add(job, shapes, hessian=hessian)
    return [group.jobs for group in groups]


class _Group:
    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._places: set[Place] = set()
        self._values = self._sums = self._work = 0

    def taken(self, job: Job, shapes: Shapes, *, hessian: bool) -> int:
        """Bytes that the group takes together with one more job."""
        work = max(self._work, job.work(shapes, hessian=hessian))
        return self._values + self._fresh(job, shapes) + self._sums + job.sums(hessian=hessian) + work

    def add(self, job: Job, shapes: Shapes, *, hessian: bool) -> None:
        """Take a job in."""
        self._values += self._fresh(job, shapes)
        self._sums += job.sums(hessian=hessian)
        self._work = max(self._work, job.work(shapes, hessian=hessian))
        self._places.update(job.places)
        self.jobs.append(job)

    def _fresh(self, job: Job, shapes: Shapes) -> int:
        return sum(2 * job.width * prod(shapes[place]) for place in set(job.places) - self._places)
