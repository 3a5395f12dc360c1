"""Methods that look at data: from how a model is to be pruned to the new values of its tensors."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.collect import CPU, MEMORY, Calibration
from onnx_tools.calibration.data import Data
from onnx_tools.calibration.layers import Seen, layers_of
from onnx_tools.calibration.solving import Problem, Solved, check_granularity, repaired, sparsegpt, wanda
from onnx_tools.calibration.view import MatrixView
from onnx_tools.dealing import dealt
from onnx_tools.errors import NothingSelected
from onnx_tools.masks import How, MaskedWeight, how_of, plan_for
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewTensor, NewValues
from onnx_tools.plan import Gradients, Plan, PlannedWeight
from onnx_tools.policy import Policy
from onnx_tools.report import CalibrationChoice
from onnx_tools.report_parts import configuration
from onnx_tools.rewrite import Progress
from onnx_tools.temporaries import writing
from onnx_tools.weight_selection import Selection
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import find_weights
from onnx_tools.wire import Path
from oxiprune_gpu import ArrayBlocks, InvalidOption, PruningConfig, prune_blocks

METHODS = ("wanda", "sparsegpt")
"""Methods that choose by data what falls; without one, the metric of the policy or the masks say it."""
ORDERS = ("layers", "once")
"""Each layer with the inputs that the pruned layers before it give, or all with those of the dense model."""

_DEFAULT = Selection()


@dataclass(frozen=True)
class DataMethod:
    """How a model is pruned by what its inputs are.

    Args:
        data: what the model is run on; as in `Calibration.collect`.
        choice: what chooses the elements that fall: "wanda" (|w| * ||x||, in each output; Sun et al., 2024),
            "sparsegpt" (Frantar and Alistarh, 2023; what is kept makes up for what falls), or None: what is asked for
            chooses without data, and `repair` is left to do.
        repair: fit what is kept of each weight by least squares to what the dense layer gives.
        order: "layers": each weight sees the inputs that the pruned model gives it, one after the other; "once": all
            see those of the dense model, which takes one pass over the data.
        damping: times the mean of its diagonal is added to the Hessian.
        cache: a folder for statistics of the dense model, for order "once".
        memory, providers: as in `Calibration.collect`.
    """

    data: Data
    choice: str | None = "sparsegpt"
    repair: bool = False
    order: str = "layers"
    damping: float = 0.01
    cache: str | os.PathLike[str] | None = None
    memory: int = MEMORY
    providers: Sequence[str] = CPU

    def __post_init__(self) -> None:
        if self.choice is not None and self.choice not in METHODS:
            raise InvalidOption(f"unknown method '{self.choice}': use {', '.join(METHODS)}")
        if self.order not in ORDERS:
            raise InvalidOption(f"unknown order '{self.order}': use {' or '.join(ORDERS)}")
        if self.choice is None and not self.repair:
            raise InvalidOption("data does nothing without a method that looks at it, or a repair: choose one")

    @property
    def hessian(self) -> bool:
        """Whether products of features are needed."""
        return self.repair or self.choice == "sparsegpt"

    def new_values(
        self,
        path: str | os.PathLike[str],
        config: PruningConfig | How,
        selection: Selection = _DEFAULT,
        gradients: Gradients | None = None,
        progress: Progress | None = None,
    ) -> NewValues:
        """What `prune_file` is to make of the model at `path`; give it as its `config`.

        A weight whose inputs can't be seen is left alone, with the reason; if masks or a metric without data choose, it
        loses what they say, and is not repaired. Quantised weights lose what wanda says, and are not repaired.

        Args:
            path: the model.
            config: how much falls of which weight: as `config` of `prune_file`.
            selection: as in `prune_file`.
            gradients: as in `prune_file`.
            progress: told what is done next, how many steps are done, and of how many.

        Raises:
            InvalidOption: the data does not fit; a granularity that the method does not know.
            NothingSelected: no selected weight was observed.
            PruningError: as `prune_file` and `Calibration.collect`.
        """
        how, model = how_of(config), ModelFile.open(path)
        plan = _plan(model, how, selection, gradients)
        job = _Job(self, model, plan)
        choice = CalibrationChoice(*job.run(progress), self.order, self.repair, self.damping)
        asked = configuration(how, selection, gradients)
        if self.choice is not None:
            asked = replace(asked, metric=self.choice)
        return NewValues(plan, job.tensors, replace(asked, calibration=choice), job.reasons)


def _plan(model: ModelFile, how: How, selection: Selection, gradients: Gradients | None) -> Plan:
    plan = plan_for(model.skeleton, how, selection, gradients)
    if not isinstance(how, Policy):
        return plan
    with WeightReader(model) as reader:
        return dealt(plan, how, lambda item: reader.weight(item.weight, item.shape))


class _Job:
    """The work on one model: `tensors` and `reasons` are what comes of it. Results lie in files, and go with it."""

    def __init__(self, method: DataMethod, model: ModelFile, plan: Plan) -> None:
        self._method = method
        self._model = model
        self._items = {item.weight.name: item for item in plan.planned}
        weights = {weight.name for weight in find_weights(model.skeleton).weights}
        self._weights = [name for name in self._items if name in weights]
        self._spool = _Spool()
        self._changed: dict[Path, NDArray[Any]] = {}
        self.tensors: dict[str, NewTensor] = {}
        self.reasons: dict[str, str] = {}
        if method.choice is not None:
            for item in plan.planned:
                check_granularity(item.weight.name, item.config)

    def run(self, progress: Progress | None) -> tuple[str, int]:
        """Do all weights; where the data is from, and how often the model is run to go through it."""
        self._take_blind(name for name in self._items if name not in self._weights)
        found = self._once(progress) if self._method.order == "once" else self._in_layers(progress)
        self._take_blind(name for name in self._weights if name not in self.tensors)
        if not self.tensors:
            why = "; ".join(dict.fromkeys(self.reasons.values()))
            raise NothingSelected(f"no selected weight was observed: {why}")
        return found

    def _once(self, progress: Progress | None) -> tuple[str, int]:
        method = self._method
        calibration = Calibration.collect(
            self._model.path,
            method.data,
            only=self._weights,
            hessian=method.hessian,
            cache=method.cache,
            memory=method.memory,
            providers=method.providers,
            progress=progress,
        )
        self.reasons.update(calibration.unobserved)
        for name in calibration.weights:
            self._take(name, calibration.view(name), Seen(calibration.statistics(name), ""))
        return calibration.source, calibration.runs

    def _in_layers(self, progress: Progress | None) -> tuple[str, int]:
        method = self._method
        with layers_of(
            self._model.path,
            method.data,
            only=self._weights,
            hessian=method.hessian,
            memory=method.memory,
            providers=method.providers,
        ) as run:
            self.reasons.update(run.unobserved)
            self._take_blind(run.unobserved)
            for number, step in enumerate(run.steps):
                seen = run.look(number, self._changed, progress)
                for weight in step:
                    self._take(weight.weight.name, weight.view, seen[weight.weight.name])
            return run.feeds.source, run.feeds.count

    def _take_blind(self, names: Iterable[str]) -> None:
        """What is chosen without data falls, whether its inputs can be seen or not."""
        for name in names if self._method.choice is None else ():
            self._take(name, None, None)

    def _take(self, name: str, view: MatrixView | None, seen: Seen | None) -> None:
        """Solve one weight, and keep what comes of it."""
        item = self._items[name]
        if seen is not None and seen.reason:
            self.reasons[name] = seen.reason
        blind = view is None or seen is None or seen.statistics is None
        if blind and self._method.choice is not None:
            return
        stored = self._values(item)
        fixed = None if self._method.choice is not None else self._without_data(item, stored)
        if blind or (item.weight.quantisation is not None and fixed is not None):
            assert fixed is not None
            kept, values = fixed, None
        else:
            assert view is not None
            assert seen is not None
            kept, values = self._solved(item, view, seen, stored, fixed)
        self.tensors[name] = self._spool.add(kept, values)
        if item.weight.quantisation is None:
            self._changed[item.weight.path] = np.where(kept, stored if values is None else values, 0).astype(
                stored.dtype
            )

    def _solved(
        self, item: PlannedWeight, view: MatrixView, seen: Seen, stored: NDArray[Any], fixed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.bool_], NDArray[Any] | None]:
        matrices = view.matrices(stored)
        mask = None if fixed is None else view.matrices(fixed)
        problem = Problem(item.weight.name, matrices, view.neighbours, _told(item))
        solved = self._solve(problem, seen, mask, quantised=item.weight.quantisation is not None)
        shape = item.weight.shape
        values = None if solved.values is None else view.stored(solved.values).reshape(shape)
        return view.stored(solved.kept).reshape(shape), values

    def _solve(self, problem: Problem, seen: Seen, mask: NDArray[Any] | None, *, quantised: bool) -> Solved:
        method, statistics = self._method, seen.statistics
        assert statistics is not None
        if mask is not None:
            return repaired(problem, mask, statistics, method.damping)
        if method.choice == "wanda" or quantised:
            solved = wanda(problem, statistics)
        else:
            solved = sparsegpt(problem, statistics, method.damping)
        if method.repair and not quantised:
            return repaired(problem, solved.kept, statistics, method.damping)
        return solved

    def _values(self, item: PlannedWeight) -> NDArray[Any]:
        """The values of a weight, in its shape."""
        with WeightReader(self._model) as reader:
            source = reader.weight(item.weight, item.weight.shape)
            values = np.empty(item.weight.elements, source.dtype)
            values[:] = source.load(0, item.weight.elements, values)
        return values.reshape(item.weight.shape)

    def _without_data(self, item: PlannedWeight, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """What stays by a mask, or by the metric of the policy."""
        if isinstance(item, MaskedWeight):
            return item.mask()
        pruned = stored.copy().reshape(item.shape)
        prune_blocks(ArrayBlocks(pruned), item.config, item.weight.name, count=item.count)
        kept: NDArray[np.bool_] = pruned.reshape(item.weight.shape) != 0
        return kept


def _told(item: PlannedWeight) -> PruningConfig:
    """How a weight is pruned as a matrix; where all weights decided how much of it falls, its sparsity is that."""
    config = item.config
    below = float(np.nextafter(1.0, 0.0))
    sparsity = config.sparsity if item.count is None else min(item.count / item.weight.elements, below)
    return PruningConfig(sparsity, config.metric, item.granularity, config.min_nonzero)


class _Spool:
    """Arrays in temporary files, which go with this object."""

    def __init__(self) -> None:
        with writing(pathlib.Path(tempfile.gettempdir())):
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="oxiprune-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count = 0

    def add(self, kept: NDArray[np.bool_], values: NDArray[Any] | None) -> NewTensor:
        """Keep what becomes of a tensor; what is returned reads it."""
        read = [None if array is None else partial(self._load, self._save(array)) for array in (kept, values)]
        return NewTensor(*read)

    def _save(self, array: NDArray[Any]) -> tuple[pathlib.Path, np.dtype[Any]]:
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        with writing(path):
            np.save(path, array)
        return path, array.dtype

    def _load(self, saved: tuple[pathlib.Path, np.dtype[Any]]) -> NDArray[Any]:
        found: NDArray[Any] = np.load(saved[0], mmap_mode="r").view(saved[1])  # numpy saves bfloat16 as bytes
        return found
