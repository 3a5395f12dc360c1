"""Methods that look at data: from how a model is to be pruned to the new values of its tensors."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnx_tools.calibration.collect import CPU, MEMORY, Calibration
from onnx_tools.calibration.data import Data
from onnx_tools.calibration.layers import Seen, layers_of
from onnx_tools.calibration.notes import few
from onnx_tools.calibration.shifts import Additions, Norm
from onnx_tools.calibration.solving import Device, Recipe
from onnx_tools.calibration.work import ModelWork
from onnx_tools.dealing import dealt
from onnx_tools.errors import NothingSelected
from onnx_tools.masks import How, apart, how_of, plan_for
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewValues
from onnx_tools.plan import Gradients, Plan
from onnx_tools.policy import Policy
from onnx_tools.report import CalibrationChoice
from onnx_tools.report_parts import configuration
from onnx_tools.rewrite import Progress
from onnx_tools.shared_bytes import sharing
from onnx_tools.weight_selection import Selection
from onnx_tools.weight_values import WeightReader
from oxiprune_gpu import InvalidOption, PruningConfig, usable_cupy

METHODS = ("wanda", "sparsegpt")
"""Methods that choose by data what falls; without one, the metric of the policy or the masks say it."""
ORDERS = ("layers", "once")
"""Each layer with the inputs that the pruned layers before it give, or all with those of the dense model."""
REPAIRS = ("least-squares", "bias", "batch-norm")
"""What a repair may do, see `DataMethod`."""
_USUAL = ("least-squares", "bias")
BACKENDS = ("cpu", "cuda")
"""What works on matrices."""

_DEFAULT = Selection()


@dataclass(frozen=True)
class DataMethod:
    """How a model is pruned by what its inputs are.

    Args:
        data: what the model is run on; as in `Calibration.collect`.
        choice: what chooses the elements that fall: "wanda" (|w| * ||x||, in each output; Sun et al., 2024),
            "sparsegpt" (Frantar and Alistarh, 2023; what is kept makes up for what falls), or None: what is asked for
            chooses without data, and `repair` is left to do.
        repair: what makes up for what fell, any of: "least-squares" (what is kept of each weight is fitted to what the
            dense layer gives), "bias" (the bias of a layer, or the mean of a normalisation behind it, is moved so that
            the mean of each output stays), "batch-norm" (the statistics of batch normalisations move with what they
            read). True for the first two.
        order: "layers": each weight sees the inputs that the pruned model gives it, one after the other; "once": all
            see those of the dense model, which takes one pass over the data. Without it, the better one: "layers"
            where least squares can make up for what layers before lost, else "once", see `docs/results.md`.
        damping: times the mean of its diagonal is added to the Hessian, which keeps new values near the old where the
            data says little. The paper's SparseGPT adds 0.01; with few cases 0.1 is better, see `docs/results.md`.
        cache: a folder for statistics of the dense model, for order "once".
        memory, providers: as in `Calibration.collect`.
        backend: "cpu", or "cuda": matrices are worked on by CuPy on a GPU, where sums are rounded in another order, so
            that values, and masks where scores are nearly equal, are not those of the CPU. `providers` says what runs
            the model.
    """

    data: Data
    choice: str | None = "sparsegpt"
    repair: bool | Sequence[str] = False
    order: str = ""
    damping: float = 0.1
    cache: str | os.PathLike[str] | None = None
    memory: int = MEMORY
    providers: Sequence[str] = CPU
    backend: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if not self.order:
            order = "layers" if "least-squares" in self.repairs else "once"
            object.__setattr__(self, "order", order)  # the dataclass is frozen
        if self.choice is not None and self.choice not in METHODS:
            raise InvalidOption(f"unknown method '{self.choice}': use {', '.join(METHODS)}")
        if self.order not in ORDERS:
            raise InvalidOption(f"unknown order '{self.order}': use {' or '.join(ORDERS)}")
        unknown = [each for each in self.repairs if each not in REPAIRS]
        if unknown:
            raise InvalidOption(f"unknown repair '{unknown[0]}': use {', '.join(REPAIRS)}")
        if self.backend not in BACKENDS:
            raise InvalidOption(f"unknown backend '{self.backend}': use {' or '.join(BACKENDS)}")
        if self.choice is None and not self.repairs:
            raise InvalidOption("data does nothing without a method that looks at it, or a repair: choose one")

    @property
    def repairs(self) -> tuple[str, ...]:
        """What makes up for what fell, in the order of `REPAIRS`."""
        if isinstance(self.repair, bool):
            return _USUAL if self.repair else ()
        asked = (self.repair,) if isinstance(self.repair, str) else tuple(self.repair)
        return tuple(sorted(dict.fromkeys(asked), key=lambda each: REPAIRS.index(each) if each in REPAIRS else -1))

    @property
    def hessian(self) -> bool:
        """Whether products of features are needed."""
        return "least-squares" in self.repairs or self.choice == "sparsegpt"

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
            GpuUnavailable: the backend is "cuda", and no GPU can be used.
            PruningError: as `prune_file` and `Calibration.collect`.
        """
        device = Device(usable_cupy() if self.backend == "cuda" else None)
        how, model = how_of(config), ModelFile.open(path)
        plan = _plan(model, how, selection, gradients)
        additions = Additions(model.skeleton, sharing(model).keys())
        recipe = Recipe(self.choice, "least-squares" in self.repairs, self.damping, device)
        work = ModelWork(recipe, additions.shifts if "bias" in self.repairs else {}, model, plan)
        norms = additions.norms if "batch-norm" in self.repairs else ()
        run = self._at_once if self.order == "once" else self._in_layers
        source, count = run(model, work, norms, progress)
        if not work.tensors:
            raise NothingSelected(f"no selected weight was observed: {few(work.reasons.values())}")
        name = pathlib.Path(source).name or source
        choice = CalibrationChoice(name, count, self.order, self.repairs, self.damping, work.damping, self.backend)
        asked = configuration(how, selection, gradients)
        if self.choice is not None:
            asked = replace(asked, metric=self.choice)
        notes = work.notes(refits=bool(self.repairs) or self.choice == "sparsegpt")
        return NewValues(plan, work.tensors, replace(asked, calibration=choice), work.reasons, notes)

    def _at_once(
        self, model: ModelFile, work: ModelWork, norms: Sequence[Norm], progress: Progress | None
    ) -> tuple[str, int]:
        """All weights by the inputs that the dense model gives them; where the data is from, and its runs."""
        calibration = Calibration.collect(
            model.path,
            self.data,
            only=work.weights,
            hessian=self.hessian,
            cache=self.cache,
            memory=self.memory,
            providers=self.providers,
            progress=progress,
        )
        work.leave(calibration.unobserved)
        for name in calibration.weights:
            work.take(name, calibration.view(name), Seen(calibration.statistics(name), ""))
        if norms:
            self._walk(model, work, (), norms, progress)
        return calibration.source, calibration.runs

    def _in_layers(
        self, model: ModelFile, work: ModelWork, norms: Sequence[Norm], progress: Progress | None
    ) -> tuple[str, int]:
        """The same by the inputs that the pruned layers before each give it."""
        return self._walk(model, work, work.weights, norms, progress)

    def _walk(
        self,
        model: ModelFile,
        work: ModelWork,
        only: Sequence[str],
        norms: Sequence[Norm],
        progress: Progress | None,
    ) -> tuple[str, int]:
        with layers_of(
            model.path,
            self.data,
            only=only,
            norms=norms,
            hessian=self.hessian,
            memory=self.memory,
            providers=self.providers,
        ) as run:
            work.leave(run.unobserved)
            for number, step in enumerate(run.steps):
                if step.norm is not None:
                    work.estimate(step.norm, run.look_at_norm(number, work.changed, progress).statistics)
                    continue
                seen = run.look(number, work.changed, progress)
                for weight in step.weights:
                    work.take(weight.weight.name, weight.view, seen[weight.weight.name])
            return run.feeds.source, run.feeds.count


def _plan(model: ModelFile, how: How, selection: Selection, gradients: Gradients | None) -> Plan:
    """What `prune_file` would prune. Weights that lie on the same bytes are one, as there, and counted as there."""
    whole = plan_for(model.skeleton, how, selection, gradients)
    plan, _ = apart(model, whole)
    if isinstance(how, Policy):
        with WeightReader(model) as reader:
            plan = dealt(plan, how, lambda item: reader.weight(item.weight, item.shape))
    return replace(plan, model_elements=whole.model_elements)  # those that are one are found again where it is written
