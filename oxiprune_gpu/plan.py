"""Plans: many tensors pruned again and again, prepared once.

A plan holds the arrays, their masks and all memory the pruning needs. On a GPU a run is a handful of launches, however
many tensors there are, allocates nothing, and waits for the device only to ask whether there was an error; with
`check=False` it does not wait at all, and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from oxiprune_gpu.backends import Backend, Plan, PlanMember, backend_of
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.device_arrays import device_name, order_after, order_before
from oxiprune_gpu.errors import EmptyTensor, InvalidOption, ReadOnlyTarget
from oxiprune_gpu.granularity import Unstructured
from oxiprune_gpu.jobs import check_config, job_for
from oxiprune_gpu.metrics import Taylor
from oxiprune_gpu.selection import units_to_prune
from oxiprune_gpu.tensor import Borrowed, Tensor, borrow, count_write, tensors_with_names

SCOPES = ("tensor", "global")
MASKS = ("bool", "bits", None)


@dataclass(frozen=True)
class PlanResult:
    """What a run leaves behind. The arrays belong to the plan, and its next run writes them again.

    Attributes:
        masks: one for each tensor, as a list, or a dict when a mapping came in; None without masks. An array of the
            tensor's own library: bool of the tensor's shape, True = kept; or as bits, uint8 of shape (ceil(n / 8),),
            the first element in the lowest bit.
        nonzero: how many elements of each tensor are not zero, int64, in their order, where the tensors lie.
    """

    masks: list[Any] | dict[str, Any] | None
    nonzero: Any


class PrunePlan:
    """Prepared pruning of several tensors where they lie; made by `prepare`.

    Attributes:
        pruned: how many elements fall in a run, of all tensors together.
    """

    def __init__(
        self, weights: Sequence[Borrowed], backend: Backend, work: Plan, result: PlanResult, pruned: int
    ) -> None:
        self.pruned = pruned
        self._weights = weights
        self._backend = backend
        self._work = work
        self._result = result

    def run(self, *, check: bool = True) -> PlanResult:
        """Prune the tensors by the values they have now. A second run on pruned tensors changes nothing.

        Args:
            check: ask at the end whether there was an error, which waits for a GPU. Without, `check()` tells.

        Raises:
            NonFiniteWeight, NonFiniteScore: as `prune_model` in place: tensors before the one that holds NaN are
                pruned, that one and those after it are as they were. With scope "global" all are as they were. Masks
                and counts of tensors that were not pruned mean nothing.
        """
        with self._backend.device_of(self._weights[0].data):
            origins = {type(weight.origin): weight.origin for weight in self._weights}.values()
            for origin in origins:
                order_before(origin)
            self._work.run()
            for origin in origins:
                order_after(origin)
            for weight in self._weights:
                count_write(weight.origin)
            if check:
                self._work.check_when_due()
        return self._result

    def check(self) -> None:
        """Raise the error of the last run, if there was one. Waits for a GPU."""
        with self._backend.device_of(self._weights[0].data):
            self._work.check()


def prepare(
    tensors: Sequence[Tensor] | Mapping[str, Any],
    config: PruningConfig,
    *,
    scope: str = "tensor",
    mask: str | None = "bool",
    finite: bool = False,
) -> PrunePlan:
    """Make a plan that prunes several tensors in place. All checks that do not need their values are made here.

    Args:
        tensors: a sequence of `WeightTensor` or arrays, or a mapping from name to array; C-contiguous, all on one
            device, no two in the same memory. The plan keeps them: change their values, but do not free or replace
            their memory.
        config: how much, by which metric, in which units; a random metric starts anew for each tensor.
        scope: what competes. "tensor": each tensor loses its own fraction, as in `prune_model`. "global": all elements
            of all tensors compete, and k and `min_nonzero` count them all; of equal scores those of the first tensor
            fall first. Unstructured only. Scores of float32, float16 and bfloat16 tensors are float32; beside float64
            tensors they are compared in float64.
        mask: which masks a run writes: "bool" (a byte an element), "bits" (a bit an element) or None.
        finite: the tensors are known to hold no NaN. N:M on a GPU then reads each once, not twice; where one holds NaN
            all the same, the run raises, but the tensors have been written by then. Nothing else changes.

    Returns:
        The plan. On a GPU, global ones of float64 beside other dtypes allocate and wait in every run.

    Raises:
        InvalidOption: unknown scope or mask, the metric `Taylor`, a global scope of units, no tensors, or tensors on
            several devices or in the same memory.
        ReadOnlyTarget: a tensor that can't be written where it lies, or is not C-contiguous.
        The errors of `prune_tensor` that do not depend on values.
    """
    _check_options(config, scope, mask)
    named = {name: borrow(tensor, name) for name, tensor in tensors_with_names(tensors)}
    weights = list(named.values())
    backend = _check_places(weights)
    with backend.device_of(weights[0].data):
        masks = [_mask_for(backend, weight, mask) for weight in weights]
        work, pruned = _work(backend, weights, masks, config, joint=scope == "global")
        work.finite = finite
        result = PlanResult(_exported(named, masks, isinstance(tensors, Mapping)), weights[0].export(work.nonzero))
    return PrunePlan(weights, backend, work, result, pruned)


def _check_options(config: PruningConfig, scope: str, mask: str | None) -> None:
    check_config(config)
    if scope not in SCOPES:
        raise InvalidOption(f"unknown scope {scope!r}: use 'tensor' or 'global'")
    if mask not in MASKS:
        raise InvalidOption(f"unknown kind of mask {mask!r}: use 'bool', 'bits' or None")
    if isinstance(config.metric, Taylor):
        raise InvalidOption(
            "a plan has one config for all tensors, and one gradient can't fit them all: prune with Taylor tensor by "
            "tensor, each with a config of its own"
        )
    if scope == "global" and not isinstance(config.granularity, Unstructured):
        raise InvalidOption(
            f"granularity {config.granularity.text} can't have a global scope: units of different tensors have "
            "different sizes; use 'unstructured', or the scope 'tensor'"
        )


def _check_places(weights: Sequence[Borrowed]) -> Backend:
    """Check that all weights can be written where they lie, by one backend."""
    if not weights:
        raise InvalidOption("a plan needs at least one tensor")
    first = weights[0]
    for weight in weights:
        data = weight.writable_data()
        if not weight.is_in_place():
            raise ReadOnlyTarget(
                weight.name, "a plan prunes arrays where they lie, and this one is not C-contiguous, or not aligned"
            )
        if device_name(data) != device_name(first.data):
            raise InvalidOption(
                f"tensor '{weight.name}' lies on {device_name(data)}, '{first.name}' on {device_name(first.data)}: "
                "make a plan for each device"
            )
    by_place = sorted(weights, key=_extent)
    for low, high in pairwise(by_place):
        if _extent(low)[1] > _extent(high)[0]:
            raise InvalidOption(
                f"tensors '{low.name}' and '{high.name}' share memory: give a weight that is used twice once"
            )
    return backend_of(first.data)


def _extent(weight: Borrowed) -> tuple[int, int]:
    """Addresses of the first byte of a C-contiguous array and of the one after its last."""
    array = weight.data
    first = int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
    return first, first + int(array.nbytes)


def _mask_for(backend: Backend, weight: Borrowed, mask: str | None) -> Any:
    if mask is None:
        return None
    if mask == "bool":
        return backend.empty_array(weight.data.shape, np.dtype(np.bool_))
    words = backend.empty_array((-(-weight.data.size // 32),), np.dtype(np.uint32))  # kernels write whole words
    return words.view(np.uint8)[: -(-weight.data.size // 8)]


def _exported(named: Mapping[str, Borrowed], masks: Sequence[Any], by_name: bool) -> Any:
    """The masks in the form the tensors came in."""
    if masks[0] is None:
        return None
    exported = {name: weight.export(mask) for (name, weight), mask in zip(named.items(), masks, strict=True)}
    return exported if by_name else list(exported.values())


def _work(
    backend: Backend, weights: Sequence[Borrowed], masks: Sequence[Any], config: PruningConfig, *, joint: bool
) -> tuple[Plan, int]:
    """The backend's plan, and how many elements fall in it."""
    adopted = [backend.adopt(weight.data, weight.dtype) for weight in weights]
    if joint:
        k = _joint_k(weights, config)
        members = [
            PlanMember(own, weight.name, 0, mask) for own, weight, mask in zip(adopted, weights, masks, strict=True)
        ]
        return backend.plan(members, config.metric, k), k
    jobs = [job_for(weight.data.shape, config, weight.name) for weight in weights]
    members = [
        PlanMember(own, job.name, job.k, mask, job.view) for own, job, mask in zip(adopted, jobs, masks, strict=True)
    ]
    return backend.plan(members, config.metric), sum(job.elements for job in jobs)


def _joint_k(weights: Sequence[Borrowed], config: PruningConfig) -> int:
    """How many elements fall when all compete."""
    for weight in weights:
        if weight.data.size == 0:
            raise EmptyTensor(weight.name)
        config.metric.check(weight.name, weight.data.shape)
    return units_to_prune(config.sparsity, sum(weight.data.size for weight in weights), 1, config.min_nonzero)
