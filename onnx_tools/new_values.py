"""Other values for stored tensors: what methods that repair a model hand to `prune_file`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.errors import NothingSelected
from onnx_tools.plan import Plan, PlannedWeight
from onnx_tools.report import Configuration
from onnx_tools.weights import FoundWeights, LeftAlone, find_weights
from oxiprune_gpu import (
    BlockSource,
    InvalidOption,
    NonFiniteWeight,
    PruneCounts,
    PruningConfig,
    ShapeMismatch,
    Unstructured,
)

_SLAB = 1 << 20
"""Elements worked on at a time."""


@dataclass(frozen=True, eq=False)
class NewTensor:
    """What becomes of a stored tensor; both give arrays in its shape, each time they are asked.

    `kept`: bool, True where an element stays, the others become +0.0; None keeps all. `values`: finite floats, what
    the kept elements become, in the dtype of the tensor or one that is rounded to it; None where they keep their bits.
    `metric`: what chose, as reports name it; "" for the metric that the plan has.
    """

    kept: Callable[[], NDArray[np.bool_]] | None = None
    values: Callable[[], NDArray[Any]] | None = None
    metric: str = ""


@dataclass(frozen=True, eq=False)
class NewValues:
    """What becomes of the tensors of a model, by name: weights, and biases and normalisations that go with them.

    `plan`: made from the same model; how its weights are pruned, for reports. `configuration`: what was asked for.
    `reasons`: why weights of the plan that are not in `tensors` are left alone. `notes`: warnings for the report.
    """

    plan: Plan
    tensors: Mapping[str, NewTensor]
    configuration: Configuration
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def refitted(self) -> list[str]:
        """The names of tensors whose kept elements may change, sorted."""
        return sorted(name for name, tensor in self.tensors.items() if tensor.values is not None)


@dataclass(frozen=True, kw_only=True)
class RewrittenWeight(PlannedWeight):
    """A tensor that gets other values, whatever its `config`."""

    tensor: NewTensor

    @property
    def metric(self) -> str:
        """What chose the elements that fall."""
        return self.tensor.metric or super().metric

    def prune(self, source: BlockSource) -> PruneCounts:
        """Write the new values. `source`: the tensor.

        Raises:
            ShapeMismatch, NonFiniteWeight: the new values don't fit the tensor, or are not finite in its dtype.
        """
        size = self.weight.elements
        kept = None if self.tensor.kept is None else self._flat(self.tensor.kept())
        values = None if self.tensor.values is None else self._flat(self.tensor.values())
        scratch = np.empty(min(size, _SLAB), source.dtype)
        before = after = refitted = 0
        for start in range(0, size, _SLAB):
            part = slice(start, min(start + _SLAB, size))
            block = source.load(start, part.stop, scratch)
            before += int(np.count_nonzero(block))
            if values is not None:
                refitted += self._put(block, values[part], None if kept is None else kept[part])
            if kept is not None:
                block[~kept[part]] = 0
            after += int(np.count_nonzero(block))
            source.store(start, block)
        return PruneCounts(
            size, 0 if kept is None else size - int(np.count_nonzero(kept)), before, after, "cpu", refitted
        )

    def _put(self, block: NDArray[Any], values: NDArray[Any], kept: NDArray[np.bool_] | None) -> int:
        """Put values into a block; how many of the kept ones are others than before."""
        new = rounded(self.weight.name, values, block.dtype)
        changed = new != block
        block[...] = new
        return int(np.count_nonzero(changed if kept is None else changed & kept))

    def _flat(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.shape != self.weight.shape:
            raise ShapeMismatch(
                f"new values of '{self.weight.name}' have shape {list(array.shape)}, it has {list(self.weight.shape)}"
            )
        return array.reshape(-1)


def rounded(name: str, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """New values of a tensor in its dtype; -0.0 becomes +0.0. Raises `NonFiniteWeight` if that is not finite."""
    with np.errstate(over="ignore"):
        found = values.astype(dtype) + np.zeros((), dtype)
    bad = int(np.count_nonzero(~np.isfinite(found)))
    if bad:
        raise NonFiniteWeight(
            name,
            bad,
            why=f"{bad} new values of tensor '{name}' are NaN, or too large for {dtype}: nothing was written; leave "
            "this tensor out, or do without a repair",
        )
    return found


def refits(item: PlannedWeight) -> bool:
    """Whether elements that a weight keeps may change."""
    return isinstance(item, RewrittenWeight) and item.tensor.values is not None


def plan_values(model: onnx.ModelProto, how: NewValues) -> Plan:
    """The plan that gives tensors of a model their new values; every other weight is left alone.

    Raises:
        InvalidOption: there is no such tensor of floats, or it is quantised and gets other values than zeros.
        NothingSelected: nothing gets new values.
    """
    found = find_weights(model)
    if not how.tensors:
        why = "; ".join(dict.fromkeys(how.reasons.values())) or "nothing was observed"
        raise NothingSelected(f"no tensor gets new values, nothing was written: {why}")
    known = {item.weight.name: item for item in how.plan.planned} | _others(found, how)
    _check(known, how.tensors)
    planned = tuple(_rewritten(item, how.tensors[name]) for name, item in known.items() if name in how.tensors)
    paths = {item.weight.path for item in planned}
    dense = (item.weight for item in how.plan.planned if item.weight.path not in paths)
    left_alone = (
        *(
            LeftAlone(
                weight.name,
                weight.path,
                weight.shape,
                weight.dtype_name,
                weight.elements,
                how.reasons.get(weight.name, "it gets no new values"),
            )
            for weight in dense
        ),
        *(item for item in how.plan.left_alone if item.path not in paths),
    )
    return replace(how.plan, planned=planned, left_alone=left_alone)


def _others(found: FoundWeights, how: NewValues) -> dict[str, PlannedWeight]:
    """Tensors beside the weights of the plan: biases, normalisations, weights that are not pruned."""
    planned = {item.weight.name for item in how.plan.planned}
    dense = PruningConfig(0.0, min_nonzero=0)
    return {
        name: PlannedWeight(weight, weight.shape, dense, Unstructured())
        for name, weight in found.maskable().items()
        if name in how.tensors and name not in planned
    }


def _check(known: Mapping[str, PlannedWeight], tensors: Mapping[str, NewTensor]) -> None:
    for name, tensor in tensors.items():
        if name not in known:
            raise InvalidOption(f"new values for '{name}': the model stores no floats under this name")
        if tensor.values is not None and known[name].weight.quantisation is not None:
            raise InvalidOption(f"new values for '{name}': it is quantised, and can only lose elements")


def _rewritten(item: PlannedWeight, tensor: NewTensor) -> RewrittenWeight:
    given = {name: getattr(item, name) for name in PlannedWeight.__dataclass_fields__}
    return RewrittenWeight(**given, tensor=tensor)
