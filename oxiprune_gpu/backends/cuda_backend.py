"""The CUDA backend: the primitives of `Backend`, launching the kernels of `kernels/`.

It is given its array module and its kernel loader: CuPy and NVRTC on a GPU; numpy and a compiler for the CPU in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.base import Backend, Plan, PlanMember, Statistics
from oxiprune_gpu.backends.cuda_group_plans import GroupsPlan
from oxiprune_gpu.backends.cuda_groups import prune_groups
from oxiprune_gpu.backends.cuda_plans import Checks, DevicePlan, ScoresPlan, SelectionPlan, mask_kind_of
from oxiprune_gpu.backends.cuda_selection import BOOLS, NO_MASK, NO_NAN, THREADS, Selection
from oxiprune_gpu.backends.cuda_tables import DTYPE_STRUCTS, DeviceWeight, Member, address, defines, tensor_table
from oxiprune_gpu.backends.cuda_unit_plans import UnitsPlan
from oxiprune_gpu.backends.cuda_units import Units
from oxiprune_gpu.backends.deferred import check_later
from oxiprune_gpu.backends.kernels import Kernel, KernelLoader
from oxiprune_gpu.device_arrays import aligned
from oxiprune_gpu.errors import NonFiniteScore, NonFiniteWeight, UnsupportedArray
from oxiprune_gpu.granularity import GroupView, UnitView
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude, Random, Taylor

_OUTPUTS = 64
"""Threads of a block of `spread_losses`, as in kernels/losses.cu."""


class CudaBackend(Backend):
    """Works on device arrays, as `DeviceWeight`.

    Args:
        xp: the array module: `cupy`.
        kernels: where kernels come from.
        blocks: blocks of a launch at most; a few for each multiprocessor.
    """

    name: ClassVar[str] = "cuda"
    few_features: ClassVar[int] = 32

    def __init__(self, xp: Any, kernels: KernelLoader, blocks: int) -> None:
        self._xp = xp
        self._kernels = kernels
        self._blocks = blocks
        self._units = Units(xp, kernels.kernel, blocks)

    def adopt(self, array: Any, dtype: np.dtype[Any] | None = None) -> DeviceWeight:
        """See `Backend.adopt`."""
        if address(array) % array.dtype.itemsize:
            raise UnsupportedArray("array", "its elements are not aligned; use a copy")
        bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
        return DeviceWeight(bits, tuple(array.shape), np.dtype(dtype or array.dtype))

    def empty_mask(self, shape: tuple[int, ...]) -> Any:
        """See `Backend.empty_mask`."""
        return self._xp.empty(shape, np.bool_)

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """See `Backend.empty_array`."""
        return self._xp.empty(shape, dtype)

    def own_mask(self, mask: NDArray[np.bool_]) -> Any:
        """See `Backend.own_mask`."""
        return self._xp.ascontiguousarray(self._xp.asarray(mask))

    def packed_mask(self, mask: Any) -> Any:
        """See `Backend.packed_mask`."""
        return self._xp.packbits(mask.reshape(-1), bitorder="little")

    def device_of(self, array: Any) -> AbstractContextManager[object]:
        """See `Backend.device_of`."""
        if isinstance(array, np.ndarray):
            return nullcontext()
        device: AbstractContextManager[object] = array.device
        return device

    def element_scores(self, weight: DeviceWeight, metric: ImportanceMetric, name: str) -> Any:
        """See `Backend.element_scores`."""
        scores = self._xp.empty(weight.size, weight.score_dtype)
        if weight.size:
            self._scan_scores(weight, metric, name, scores)
        return scores.reshape(weight.shape)

    def unit_scores(self, weight: DeviceWeight, view: UnitView, metric: ImportanceMetric, name: str) -> Any:
        """See `Backend.unit_scores`."""
        scores, nan = self._units.unit_scores(self._member(weight, metric), view, metric)
        self._check(nan[0], weight, metric, name)
        return scores

    def prune_units(
        self, weight: DeviceWeight, view: UnitView, kept: Any, *, mask: Any = None, write: bool = True
    ) -> None:
        """See `Backend.prune_units`."""
        self._units.prune_units(weight, view, kept, mask=mask, write=write)

    def prune_groups(
        self,
        weight: DeviceWeight,
        view: GroupView,
        metric: ImportanceMetric,
        name: str,
        *,
        mask: Any = None,
        write: bool = True,
    ) -> None:
        """See `Backend.prune_groups`."""
        member = self._member(weight, metric, mask=mask)
        header = prune_groups(self._xp, self._kernels.kernel, self._blocks, member, view, metric, write=write)
        self._check(header[0], weight, metric, name, none=NO_NAN)

    def kept_units(self, scores: Any, k: int) -> Any:
        """See `Backend.kept_units`."""
        kept = self._xp.ones(scores.size, np.bool_)
        if k:  # a NaN among them keeps all, and is the error of the call that computed them
            members = [self._member(self.adopt(scores), L1Magnitude(), mask=kept)]
            self._select(members, [k], L1Magnitude()).apply(BOOLS, write=False)
        return kept

    def prune_elements(
        self,
        weight: DeviceWeight,
        metric: ImportanceMetric,
        k: int,
        name: str,
        *,
        mask: Any = None,
        write: bool = True,
    ) -> None:
        """See `Backend.prune_elements`."""
        if not weight.size:
            return
        if k == 0:
            self._scan_scores(weight, metric, name, None)
            if mask is not None:
                mask[...] = True
            return
        selection = self._select([self._member(weight, metric, mask=mask)], [k], metric)
        selection.apply(NO_MASK if mask is None else BOOLS, write=write)
        self._check(selection.header[0].copy(), weight, metric, name, none=NO_NAN)

    def plan(self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int | None = None) -> Plan:
        """See `Backend.plan`."""
        if k is not None and len({member.weight.score_dtype for member in members}) > 1:
            return ScoresPlan(self._xp, self, members, metric, k, self._convert)
        plan = self._device_plan(members, metric, k)
        self._wait()  # a run may be on another stream than the uploads
        return plan

    def _device_plan(self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int | None) -> DevicePlan:
        def raise_error(number: int) -> None:
            self._raise_nan(members[number].weight, metric, members[number].name)

        device, checks = (self._xp, self._kernels.kernel, self._blocks), Checks(raise_error, self._here)
        scopes = range(len(members)) if k is None else [0] * len(members)
        rows = [
            self._member(member.weight, metric, scope, member.mask)
            for member, scope in zip(members, scopes, strict=True)
        ]
        counts = [member.k for member in members] if k is None else [k]
        units = [member.view for member in members if isinstance(member.view, UnitView)]
        groups = [member.view for member in members if isinstance(member.view, GroupView)]
        mask_kind = mask_kind_of(members)
        if units:
            return UnitsPlan(*device, rows, units, counts, metric, mask_kind, checks)
        if groups:
            return GroupsPlan(*device, rows, groups, metric, mask_kind, checks)
        return SelectionPlan(Selection(*device, rows, counts, metric, repeatable=True), mask_kind, checks)

    def spread_losses(
        self, left: Any, fallen: Any, lost: Any, shares: Any, diagonal: Any, groups: GroupView | None, name: str
    ) -> None:
        """See `Backend.spread_losses`. Nothing is waited for; a score that is NaN ranks above all others."""
        features, outputs = left.shape
        rule = (0, 0, 0) if groups is None else (groups.of, groups.keep, groups.falls(features % groups.of))
        kernel = self._kernels.kernel("losses", "spread_losses", {"DTYPE": DTYPE_STRUCTS[np.dtype(left.dtype).name]})
        inputs = [self._xp.ascontiguousarray(array) for array in (shares, diagonal)]
        sizes = np.uint32(features), np.uint64(outputs)
        kernel((-(-outputs // _OUTPUTS),), (_OUTPUTS,), (left, fallen, lost, *inputs, *sizes, *map(np.uint32, rule)))

    def apply_mask(self, weight: Any, mask: Any) -> None:
        """See `Backend.apply_mask`."""
        bits = self.adopt(weight).bits
        if bits.size:  # only the width matters, and bfloat16 comes as its bits
            kernel = self._kernel("elements", "apply_mask", np.dtype(f"f{bits.dtype.itemsize}"))
            self._launch(kernel, bits.size, (bits, mask.reshape(-1), np.uint64(bits.size)))

    def count_nonzero(self, weight: DeviceWeight) -> int:
        """See `Backend.count_nonzero`."""
        return int(self._count("count_nonzero", weight))

    def statistics(self, weight: DeviceWeight, metric: ImportanceMetric, name: str) -> Statistics:
        """See `Backend.statistics`."""
        if not weight.size:
            return Statistics(0.0, 0.0, 0.0, 0.0, 0.0)
        member = self._member(weight, metric)
        keys, nan = self._units.extremes(member, metric)
        if int(nan[0]):
            self._raise_nan(weight, metric, name)
        low, high = (float(_score(weight, int(key))) for key in keys)
        scalar = weight.score_dtype.type
        with np.errstate(all="ignore"):
            mean = scalar(float(self._units.ordered_sum(member, metric)[0][0]) / weight.size)
            variance = float(self._units.squared_deviation_sum(member, metric, mean)[0]) / weight.size
            deviation = float(scalar(np.sqrt(variance)))
            return Statistics(low, high, float(mean), self._median(member, metric), deviation)

    def _median(self, member: Member, metric: ImportanceMetric) -> float:
        """The middle score, or half the sum of the two in the middle. Both are looked for at once."""
        weight = member.weight
        ranks = [weight.size // 2 + 1] if weight.size % 2 else [weight.size // 2, weight.size // 2 + 1]
        members = [replace(member, scope=scope) for scope in range(len(ranks))]
        thresholds = self._select(members, ranks, metric).thresholds()
        middle = [_score(weight, int(key)) for key in thresholds]
        if len(middle) == 1:
            return float(middle[0])
        return float((middle[0] + middle[1]) / weight.score_dtype.type(2))

    def _member(self, weight: DeviceWeight, metric: ImportanceMetric, scope: int = 0, mask: Any = None) -> Member:
        gradient = None
        if isinstance(metric, Taylor):
            gradient = self._gradient(metric.flat_gradient, weight.score_dtype)
        return Member(weight, scope, gradient, metric.seed if isinstance(metric, Random) else 0, mask)

    def _gradient(self, gradient: Any, dtype: np.dtype[Any]) -> Any:
        """A gradient in the score dtype. CuPy's own conversions flush denormal numbers, so they are not used."""
        if isinstance(gradient, np.ndarray):
            with np.errstate(all="ignore"):
                return self._xp.asarray(gradient.astype(dtype, copy=False))
        gradient = aligned(gradient, "gradient")
        if gradient.dtype == dtype or np.dtype(gradient.dtype).name not in DTYPE_STRUCTS:
            return self._xp.asarray(gradient, dtype=dtype)
        converted = self._xp.empty(gradient.size, dtype)
        self._convert(gradient, converted)
        return converted

    def _convert(self, values: Any, out: Any) -> None:
        """Write floating-point numbers to a flat array of float32 or float64, each rounded once, none flushed."""
        flat = self.adopt(values)
        outputs = (out, None) if out.dtype == np.float32 else (None, out)
        kernel = self._kernel("elements", "convert", flat.dtype)
        self._launch(kernel, flat.size, (flat.bits, np.uint64(flat.size), *outputs))

    def _select(self, members: Sequence[Member], counts: Sequence[int], metric: ImportanceMetric) -> Selection:
        """Find the threshold of every scope; nothing is waited for."""
        selection = Selection(self._xp, self._kernels.kernel, self._blocks, members, counts, metric)
        selection.find()
        return selection

    def _scan_scores(self, weight: DeviceWeight, metric: ImportanceMetric, name: str, scores: Any) -> None:
        """Compute all scores, keep them when there is an array for them, and raise if one is NaN."""
        self._check(self._count_nan_scores(weight, metric, scores), weight, metric, name)

    def _check(self, word: Any, weight: DeviceWeight, metric: ImportanceMetric, name: str, *, none: int = 0) -> None:
        """Raise the right error, now or later, unless a word on the device says that there is none."""

        def check() -> None:
            if int(word) != none:
                self._raise_nan(weight, metric, name)

        check_later(self._here(check))

    def _wait(self) -> None:
        """Wait until the current stream has done what it was given."""
        if hasattr(self._xp, "cuda"):
            self._xp.cuda.get_current_stream().synchronize()

    def _here(self, check: Callable[[], None]) -> Callable[[], None]:
        """The same check, made on the device and stream that are current now."""
        cuda = getattr(self._xp, "cuda", None)
        if cuda is None:
            return check
        device, stream = cuda.Device(), cuda.get_current_stream()

        def check_there() -> None:
            with device, stream:
                check()

        return check_there

    def _count_nan_scores(self, weight: DeviceWeight, metric: ImportanceMetric, scores: Any = None) -> Any:
        """Compute all scores, keep them when there is an array for them, and count the NaN among them."""
        nan = self._xp.zeros(1, np.uint64)
        member = self._member(weight, metric)  # lives until the kernel has read what it points to
        kernel = self._kernel("elements", "scan_scores", weight.dtype, metric)
        self._launch(kernel, weight.size, (self._xp.asarray(tensor_table([member])), scores, nan))
        return nan[0]

    def _raise_nan(self, weight: DeviceWeight, metric: ImportanceMetric, name: str) -> None:
        """Raise the right error for a weight with a NaN score."""
        if in_weight := int(self._count("count_nan", weight)):
            raise NonFiniteWeight(name, in_weight)
        if in_gradient := metric.count_nan():
            raise NonFiniteWeight(name, in_gradient, "gradient")
        if in_scores := int(self._count_nan_scores(weight, metric)):
            raise NonFiniteScore(name, in_scores)
        raise NonFiniteWeight(name, 1, "what was pruned") from None  # it has been overwritten since

    def _count(self, kernel: str, weight: DeviceWeight) -> Any:
        """What a counting kernel finds, as an array of one word on the device."""
        found = self._xp.zeros(1, np.uint64)
        if weight.size:
            arguments = (weight.bits, np.uint64(weight.size), found)
            self._launch(self._kernel("elements", kernel, weight.dtype), weight.size, arguments)
        return found[0]

    def _kernel(self, family: str, name: str, dtype: np.dtype[Any], metric: ImportanceMetric | None = None) -> Kernel:
        return self._kernels.kernel(family, name, defines(dtype, metric or L1Magnitude()))

    def _launch(self, kernel: Kernel, work: int, arguments: tuple[Any, ...]) -> None:
        """Launch with a thread for each piece of work, or fewer that take several."""
        blocks = min(self._blocks, -(-work // THREADS))
        kernel((max(1, blocks),), (THREADS,), arguments)


def _score(weight: DeviceWeight, key: int) -> Any:
    """The score that has this key."""
    return np.array(key, weight.key_dtype).view(weight.score_dtype)[()]
