"""The work of a method on one model: weight by weight, and what goes with the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.layers import Seen
from onnx_tools.calibration.norms import estimated_again
from onnx_tools.calibration.notes import Outcome
from onnx_tools.calibration.shifts import Norm, Shift
from onnx_tools.calibration.solving import Problem, Recipe, check_granularity, shift_of
from onnx_tools.calibration.spool import Spool
from onnx_tools.calibration.sums import Statistics
from onnx_tools.calibration.view import MatrixView
from onnx_tools.masks import MaskedWeight
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewTensor, rounded
from onnx_tools.plan import Plan, PlannedWeight
from onnx_tools.shared_bytes import twins
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path
from oxiprune_gpu import ArrayBlocks, InvalidOption, PruningConfig, prune_blocks

Values = NDArray[Any]
Kept = NDArray[np.bool_]


class ModelWork:
    """What becomes of the tensors of one model. Results lie in files, which go with what reads them.

    `weights`: the names of those that are to be seen. `tensors`, `reasons`: what comes of it, by name. `changed`: the
    new values of floats, by path. `damping`: the most that was added to a Hessian, relative to its mean diagonal.
    """

    def __init__(self, recipe: Recipe, shifts: dict[str, Shift], model: ModelFile, plan: Plan) -> None:
        self._recipe = recipe
        self._shifts = shifts
        self._model = model
        self._items = {item.weight.name: item for item in plan.planned}
        self._spool = Spool()
        found = find_weights(model.skeleton)
        self._by_path = {weight.path: weight for weight in found.weights}
        self._twins = twins(model)
        known = {weight.name for weight in found.weights}
        self.weights = [name for name in self._items if name in known]
        self.changed: dict[Path, Values] = {}
        self.tensors: dict[str, NewTensor] = {}
        self.reasons: dict[str, str] = {}
        self.damping = 0.0
        self._grown: dict[str, float] = {}
        if recipe.choice is not None:
            for item in plan.planned:
                check_granularity(item.weight.name, item.config)
                _check_rule(item, recipe.choice)
        self._take_masks(name for name in self._items if name not in known)

    def take(self, name: str, view: MatrixView, seen: Seen) -> None:
        """Solve one weight, and keep what comes of it."""
        if seen.statistics is None:
            self.leave({name: seen.reason})
            return
        item, stored = self._items[name], self._values(self._items[name].weight)
        problem = self._problem(item, view, stored)
        solved = self._recipe.solve(problem, seen.statistics)
        self.damping = max(self.damping, solved.damping)
        if solved.damping > self._recipe.damping:
            self._grown[name] = solved.damping
        shape = item.weight.shape
        values = None if solved.values is None else view.stored(solved.values).reshape(shape)
        metric = "wanda" if problem.rigid and self._recipe.choice is not None else self._recipe.choice
        self._keep(item.weight, view.stored(solved.kept).reshape(shape), values, stored, metric or "")
        if problem.shifted:
            new = problem.matrices if solved.values is None else solved.values
            self._shift(self._shifts[name], shift_of(problem, np.where(solved.kept, new, 0), seen.statistics))

    def leave(self, reasons: Mapping[str, str]) -> None:
        """Weights that can't be seen lose what is chosen without data, or stay dense for their reason."""
        self.reasons.update(reasons)
        self._take_masks(reasons)

    def estimate(self, norm: Norm, statistics: Statistics | None) -> None:
        """Move the statistics of a normalisation with what it reads, if that changed."""
        if statistics is None or statistics.dense_squares is None:
            return
        mean, variance = (self._current(tensor) for tensor in (norm.mean, norm.variance))
        # A mean that made up for a layer's shift has moved already: what was stored is what moves here.
        found = estimated_again(self._values(norm.mean), variance, statistics)
        for tensor, values, old in ((norm.mean, found.mean, mean), (norm.variance, found.variance, variance)):
            self._keep(tensor, self._mask(tensor), values.reshape(tensor.shape), old)

    def notes(self, *, refits: bool) -> tuple[str, ...]:
        """What reports must say. `refits`: whether kept elements were to change."""
        items = [self._items[name] for name in self.weights]
        outcome = Outcome(items, self.tensors, self.reasons, self._grown)
        return outcome.notes(self._recipe.damping, refits=refits)

    def _take_masks(self, names: Iterable[str]) -> None:
        """What is chosen without data falls, whether inputs can be seen or not."""
        for name in names if self._recipe.choice is None else ():
            item = self._items[name]
            stored = self._values(item.weight)
            self._keep(item.weight, self._without_data(item, stored), None, stored)

    def _problem(self, item: PlannedWeight, view: MatrixView, stored: Values) -> Problem:
        fixed = None if self._recipe.choice is not None else view.matrices(self._without_data(item, stored))
        rigid, matrices = item.weight.quantisation is not None, view.matrices(stored)
        shift = self._shifts.get(item.weight.name)
        outputs = matrices.shape[0] * matrices.shape[1]
        shifted = shift is not None and shift.tensor.elements == outputs and not rigid
        return Problem(item.weight.name, matrices, view.neighbours, _told(item), fixed, shifted, rigid)

    def _shift(self, shift: Shift, amount: NDArray[np.float64]) -> None:
        """Add to what is added to a layer's outputs."""
        old = self._current(shift.tensor)
        new = old.astype(np.float64) + shift.sign * amount.reshape(shift.tensor.shape)
        self._keep(shift.tensor, self._mask(shift.tensor), new, old)

    def _keep(self, weight: Weight, kept: Kept | None, values: Values | None, stored: Values, metric: str = "") -> None:
        """Keep what becomes of a tensor, and let later layers see it. `metric`: what chose, where that is data."""
        mask = None if kept is None else self._spool.keep(kept)
        if weight.quantisation is not None:
            self.tensors[weight.name] = NewTensor(mask, None, metric)
            return
        new = stored if values is None else rounded(weight.name, values, stored.dtype)
        read = self._spool.keep(new if kept is None else np.where(kept, new, 0).astype(stored.dtype))
        for each in (weight, *self._on_the_same_bytes(weight)):
            self.changed[each.path] = read().reshape(each.shape)
            found = None if values is None else _shaped(read, each)
            self.tensors[each.name] = NewTensor(None if mask is None else _shaped(mask, each), found, metric)

    def _on_the_same_bytes(self, weight: Weight) -> Iterator[Weight]:
        for path in self._twins.get(weight.path, ()):
            if path != weight.path and path in self._by_path:
                yield self._by_path[path]

    def _mask(self, weight: Weight) -> Kept | None:
        """What a mask keeps of a tensor that goes with weights."""
        known = self.tensors.get(weight.name)
        return None if known is None or known.kept is None else known.kept()

    def _current(self, weight: Weight) -> Values:
        found = self.changed.get(weight.path)
        return self._values(weight) if found is None else found

    def _values(self, weight: Weight) -> Values:
        """The stored values of a tensor, in its shape."""
        with WeightReader(self._model) as reader:
            source = reader.weight(weight, weight.shape)
            values = np.empty(weight.elements, source.dtype)
            values[:] = source.load(0, weight.elements, values)
        return values.reshape(weight.shape)

    def _without_data(self, item: PlannedWeight, stored: Values) -> Kept:
        """What stays by a mask, or by the metric of the policy."""
        if isinstance(item, MaskedWeight):
            return item.mask()
        pruned = stored.copy().reshape(item.shape)
        prune_blocks(ArrayBlocks(pruned), item.config, item.weight.name, count=item.count)
        kept: Kept = pruned.reshape(item.weight.shape) != 0
        return kept


def _shaped(read: Callable[[], Values], weight: Weight) -> Callable[[], Values]:
    """What gives an array in the shape of a weight."""
    return lambda: read().reshape(weight.shape)


def _check_rule(item: PlannedWeight, choice: str) -> None:
    if isinstance(item, MaskedWeight):
        raise InvalidOption(f"weight '{item.weight.name}': masks say what falls, and {choice} chooses: leave one out")
    if item.rule is not None and item.rule.metric is not None:
        raise InvalidOption(
            f"the policy's rule '{item.rule.label}' gives the metric {item.rule.metric.text}, but {choice} chooses in "
            "all weights: leave one of the two out"
        )


def _told(item: PlannedWeight) -> PruningConfig:
    """How a weight is pruned as a matrix: its sparsity is what all weights decided, or what `min_nonzero` leaves."""
    config, elements = item.config, item.weight.elements
    sparsity = config.sparsity if item.count is None else item.count / elements
    if item.granularity.sparsity is None:
        sparsity = min(sparsity, 1 - config.min_nonzero / elements, float(np.nextafter(1.0, 0.0)))
    return PruningConfig(sparsity, config.metric, item.granularity, config.min_nonzero)
