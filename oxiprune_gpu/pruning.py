"""The verbs. All follow one rule: see docs/design.md, section 3.

Checks come in this order, and nothing has been written when one fails: dtype, sparsity, empty tensor, two dimensions
(row, column), `min_nonzero`, gradient shape, NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from oxiprune_gpu.allocation import Allocation, Bound, Uniform, counts_of_arrays, parse_allocation
from oxiprune_gpu.backends import Backend, NumpyBackend, backend_of, deferred_checks
from oxiprune_gpu.backends.choice import failures_told, goes_to_gpu, usable_cupy
from oxiprune_gpu.backends.transfer import download, upload
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.device_arrays import import_device_array, on_cuda_device
from oxiprune_gpu.errors import (
    GpuUnavailable,
    InvalidOption,
    ShapeMismatch,
    UnsupportedArray,
)
from oxiprune_gpu.importance import ImportanceScores, ScoreStats
from oxiprune_gpu.jobs import Job, check_source, job_for
from oxiprune_gpu.metrics import ImportanceMetric, Taylor, parse_metric
from oxiprune_gpu.outputs import check_apart, is_same_memory, mask_target, weight_target
from oxiprune_gpu.tensor import (
    DTYPES,
    Borrowed,
    Tensor,
    WeightTensor,
    announce_write,
    borrow,
    tensors_with_names,
    to_numpy,
)


@dataclass(frozen=True)
class PruneCounts:
    """What pruning did to a weight, in elements, and whether the CPU or a GPU did it.

    `refitted`: elements that were kept with another value, which only methods that repair a weight do.
    """

    total: int
    pruned: int
    nonzero_before: int
    nonzero_after: int
    backend: Literal["cpu", "cuda"] = "cpu"
    refitted: int = 0


def compute_importance(tensor: Tensor, metric: str | ImportanceMetric = "l1") -> ImportanceScores:
    """Score every element of a weight.

    Args:
        tensor: `WeightTensor` or array, any shape; float32, float16, bfloat16 or float64.
        metric: an `ImportanceMetric` or its text: `l1`, `l2`, `taylor`, `random:SEED`.

    Returns:
        Scores of the weight's shape, float32 (float64 for float64 weights), with threshold 0.

    Raises:
        UnsupportedDtype, ShapeMismatch (gradient), NonFiniteWeight, NonFiniteScore.
    """
    weight, metric = borrow(tensor), parse_metric(metric)
    metric.check(weight.name, weight.data.shape)
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        adopted = backend.adopt(weight.contiguous(), weight.dtype)
        return ImportanceScores(backend.element_scores(adopted, metric, weight.name))


def compute_mask(tensor: Tensor, config: PruningConfig, *, out: Any = None) -> Any:
    """Return the mask `prune_tensor` would apply: bool, True = kept, shaped as the weight.

    `out`, when given, takes the mask, as `mask_out` in `prune_tensor`. Errors as there.
    """
    weight = borrow(tensor)
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        job = job_for(weight.data.shape, config, weight.name)
        mask = _mask_array(backend, weight, config, out, None)
        job.run(backend, backend.adopt(weight.contiguous(), weight.dtype), mask=mask, write=False)
        return _mask_handed_back(weight, mask, out)


def apply_mask(tensor: Tensor, mask: Any, *, out: Any = None) -> Any:
    """Return a copy of a weight in which the elements where `mask` is False are +0.0; the others keep their bits.

    Args:
        tensor: `WeightTensor` or array.
        mask: bool (or numbers, nonzero = kept), the weight's shape.
        out: takes the result, as in `prune_tensor`; the weight itself to change it where it lies.

    Raises:
        ShapeMismatch: the mask or `out` has another shape.
        InvalidOption: the mask is no array of bools or numbers, or `out` does not fit.
    """
    weight = borrow(tensor)
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        kept = _as_mask(mask, weight)
        if kept.shape != weight.data.shape:
            shapes = f"{list(kept.shape)}, the weight {list(weight.data.shape)}"
            raise ShapeMismatch(f"mask of tensor '{weight.name}' has shape {shapes}: they must be equal")
        pruned = _copied(weight, None if out is None else weight_target(out, weight))
        backend.apply_mask(pruned, kept)
        return _handed_back(weight, pruned, out)


def prune_tensor(
    tensor: Tensor, config: PruningConfig, *, out: Any = None, mask_out: Any = None, count: int | None = None
) -> tuple[Any, Any]:
    """Prune a copy of a weight.

    Args:
        tensor: `WeightTensor` or array, float32, float16, bfloat16 or float64; any layout. It is not changed.
        config: how much, by which metric, in which units.
        out: takes the pruned weight, if given: C-contiguous, of its shape, dtype and device; the weight itself will do.
        mask_out: takes the mask, if given: bool, C-contiguous, of the weight's shape and device. After an error the
            values of `out` and `mask_out` mean nothing, except that a weight given as `out` is unchanged; errors that
            do not depend on values come before anything is written.
        count: how many units fall, in place of what the sparsity says; as in `prune_blocks`.

    Returns:
        (pruned, mask): `pruned` in the form the weight came in; the mask is bool, True = kept, the weight's shape.

    Raises:
        InvalidOption: `out`, `mask_out` or `count` does not fit.
        UnsupportedArray, UnsupportedDtype, InvalidSparsity, EmptyTensor, NotTwoDimensional, BelowMinNonzero,
        ShapeMismatch, DenormalsFlushed, NonFiniteWeight, NonFiniteScore.
    """
    weight = borrow(tensor)
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        job = job_for(weight.data.shape, config, weight.name, count)
        target = None if out is None else weight_target(out, weight)
        mask = _mask_array(backend, weight, config, mask_out, target)
        work = _copied(weight, target)
        job.run(backend, backend.adopt(work, weight.dtype), mask=mask)
        return _handed_back(weight, work, out), _mask_handed_back(weight, mask, mask_out)


def prune_tensor_inplace(
    tensor: Tensor, config: PruningConfig, *, mask_out: Any = None, count: int | None = None
) -> Any:
    """Prune a weight where it lies; return the mask. Arguments and errors as in `prune_tensor`.

    A view that is not C-contiguous is pruned in a contiguous copy and written back.

    Raises:
        ReadOnlyTarget: the weight can't be written.
    """
    weight = borrow(tensor)
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        weight.writable_data()
        job = job_for(weight.data.shape, config, weight.name, count)
        mask = _mask_array(backend, weight, config, mask_out, weight.data)
        work = weight.contiguous()
        job.run(backend, backend.adopt(work, weight.dtype), mask=mask)
        weight.write_back(work)
        weight.announce_write()
        return _mask_handed_back(weight, mask, mask_out)


@overload
def prune_model(
    tensors: Mapping[str, Any],
    config: PruningConfig,
    *,
    inplace: bool = False,
    allocation: str | Allocation = "uniform",
    floor: Bound = 0.0,
    ceiling: Bound = 1.0,
) -> dict[str, tuple[Any, Any]]: ...
@overload
def prune_model(
    tensors: Sequence[Tensor],
    config: PruningConfig,
    *,
    inplace: bool = False,
    allocation: str | Allocation = "uniform",
    floor: Bound = 0.0,
    ceiling: Bound = 1.0,
) -> list[tuple[Any, Any]]: ...
def prune_model(
    tensors: Sequence[Tensor] | Mapping[str, Any],
    config: PruningConfig,
    *,
    inplace: bool = False,
    allocation: str | Allocation = "uniform",
    floor: Bound = 0.0,
    ceiling: Bound = 1.0,
) -> list[tuple[Any, Any]] | dict[str, tuple[Any, Any]]:
    """Prune several weights by one config; a random metric starts anew for each.

    Args:
        tensors: a sequence of `WeightTensor` or arrays, or a mapping from name to array.
        config: how much, by which metric, in which units.
        inplace: prune the weights where they lie. The first error stops: earlier weights then stay pruned.
        allocation: how the sparsity is spread over the weights, an `Allocation` or its text. "uniform": each loses its
            own fraction. "erk", "global", "global:rms", "global:lamp": the sparsity is that of all together, exactly;
            see `allocate`. With the three global ones NaN in any weight is found before anything is written.
        floor: the sparsity that each weight has at least, as in `allocate`: a number, or one for each.
        ceiling: the sparsity that each weight has at most.

    Returns:
        (pruned, mask) of each weight: a list, or a dict when a mapping came in.

    Raises:
        InvalidOption: a global allocation of weights on a GPU (`prepare` has a global scope there).
        The errors of `allocate` and `prune_tensor`.
    """

    def prune(name: str, tensor: Tensor, count: int | None) -> tuple[Any, Any]:
        named = tensor if isinstance(tensor, WeightTensor) else WeightTensor(name, tensor)
        if inplace:
            return tensor, prune_tensor_inplace(named, config, count=count)
        pruned, mask = prune_tensor(named, config, count=count)
        return pruned if named is tensor else pruned.data, mask

    named = list(tensors_with_names(tensors))
    counts = _counts(named, config, parse_allocation(allocation), floor, ceiling)
    results = ((name, prune(name, tensor, count)) for (name, tensor), count in zip(named, counts, strict=True))
    return dict(results) if isinstance(tensors, Mapping) else [result for _, result in results]


def _counts(
    named: Sequence[tuple[str, Tensor]], config: PruningConfig, allocation: Allocation, floor: Bound, ceiling: Bound
) -> Sequence[int | None]:
    """How many units of each weight fall; None for what the sparsity says of it."""
    alone = allocation == Uniform() and isinstance(floor, float | int) and isinstance(ceiling, float | int)
    if not named or (alone and (floor, ceiling) == (0, 1)):
        return [None] * len(named)
    return counts_of_arrays([borrow(tensor, name) for name, tensor in named], config, allocation, floor, ceiling)


def prune_blocks(
    source: BlockSource, config: PruningConfig, name: str = "blocks", *, backend: str = "cpu", count: int | None = None
) -> PruneCounts:
    """Prune a weight that is read and written in blocks, in place: a tensor in a file, for instance.

    On the CPU unstructured pruning holds a mask, one byte an element; beside it a few megabytes are enough, whatever
    the size. On a GPU the weight lies in the GPU's memory, and this machine's needs a few megabytes.

    Args:
        source: see `BlockSource`.
        config: how much, by which metric, in which units; a granularity sees `source.shape`.
        name: for error texts.
        backend: "cpu"; "cuda", the current GPU; or "auto", the GPU where one is present, the weight is large enough to
            pay for the way there and fits into its free memory. What is stored is the same, to the bit.
            `resolve_backend` weighs a job of several weights.
        count: how many units fall (elements, where it is unstructured), in place of what the sparsity says;
            `min_nonzero` limits them all the same. Not for N:M.

    Returns:
        The counts of elements. Errors as in `prune_tensor`, GpuUnavailable, and InvalidOption where there are not so
        many units; nothing has been stored when one of them is raised.
    """
    check_source(source, name, writing=True)
    job = job_for(source.shape, config, name, count)
    if not goes_to_gpu(backend, source, config.metric):
        return _counted(job, NumpyBackend(), source, "cpu")
    try:
        with failures_told():
            bits, counts = _pruned_on_gpu(source, job)
    except (GpuUnavailable, MemoryError) as error:
        if backend == "auto":
            return _counted(job, NumpyBackend(), source, "cpu")
        if isinstance(error, GpuUnavailable):
            raise
        raise InvalidOption(
            f"tensor '{name}' does not fit into the GPU's free memory: use the backend auto or cpu"
        ) from error
    if job.k:
        download(usable_cupy(), bits, source)
    return counts


def count_nonzero_blocks(source: BlockSource) -> int:
    """Count the nonzeros of a weight that is read in blocks."""
    check_source(source, "blocks")
    return NumpyBackend().count_nonzero(source)


def score_stats_blocks(source: BlockSource, metric: str | ImportanceMetric, name: str = "blocks") -> ScoreStats:
    """Statistics of the element scores of a weight that is read in blocks, without holding the scores."""
    check_source(source, name)
    metric = parse_metric(metric)
    metric.check(name, source.shape)
    return ScoreStats(*NumpyBackend().statistics(source, metric, name))


def _counted(job: Job, backend: Backend, weight: Any, where: Literal["cpu", "cuda"]) -> PruneCounts:
    """Prune a weight in its backend's form, and count."""
    total = math.prod(weight.shape)
    before = backend.count_nonzero(weight)
    with deferred_checks():  # a block of the caller's would put the checks off until after the storing
        job.run(backend, weight)
    after = backend.count_nonzero(weight) if job.k else before
    return PruneCounts(total, job.elements, before, after, where)


def _pruned_on_gpu(source: BlockSource, job: Job) -> tuple[Any, PruneCounts]:
    """Prune a copy of a weight on the GPU; return its bits there, and the counts."""
    bits = upload(usable_cupy(), source)
    backend = backend_of(bits)
    return bits, _counted(job, backend, backend.adopt(bits, source.dtype), "cuda")


def _mask_array(backend: Backend, weight: Borrowed, config: PruningConfig, mask_out: Any, target: Any) -> Any:
    """The array that takes the mask. What is written, to it and to `target`, must not be read as the gradient."""
    mask = None if mask_out is None else mask_target(mask_out, weight)
    gradient = config.metric.gradient if isinstance(config.metric, Taylor) else None
    check_apart(weight.name, {"mask_out": mask, "out": target, "gradient": gradient})
    return backend.empty_mask(weight.data.shape) if mask is None else mask


def _mask_handed_back(weight: Borrowed, mask: Any, mask_out: Any) -> Any:
    """The mask in the form of the weight's library, or `mask_out`."""
    if mask_out is None:
        return weight.export(mask)
    announce_write(mask_out, mask)
    return mask_out


def _copied(weight: Borrowed, target: Any) -> Any:
    """A C-contiguous copy of a weight, in `target` when it is given."""
    if target is None:
        return weight.copied()
    if not is_same_memory(target, weight.data):
        target[...] = weight.data if weight.is_in_place() else weight.copied()
    return target


def _handed_back(weight: Borrowed, pruned: Any, out: Any) -> Any:
    """A result in the form the weight came in."""
    if out is None:
        return weight.give_back(pruned)
    announce_write(out, pruned)
    return WeightTensor(weight.name, out) if weight.named else out


def _as_mask(mask: Any, weight: Borrowed) -> Any:
    """The mask as a C-contiguous bool array where the weight lies."""
    if on_cuda_device(mask):
        if isinstance(weight.data, np.ndarray):
            raise InvalidOption(
                f"mask of tensor '{weight.name}' lies on a GPU, the weight does not: bring them together"
            )
        array, dtype, _, _ = import_device_array(mask, "mask")
        if dtype != np.bool_:
            raise InvalidOption(
                f"mask of tensor '{weight.name}' has dtype {dtype}: on a GPU it must be bool, True = kept"
            )
        return array.copy(order="C")
    try:
        array = to_numpy(mask, "mask")
    except UnsupportedArray as error:
        raise InvalidOption(f"mask of tensor '{weight.name}' is no array: {error}") from None
    if (array.dtype.kind in "biuf" or array.dtype in DTYPES) and not np.isnan(array).any():
        return backend_of(weight.data).own_mask(np.not_equal(array, 0))
    raise InvalidOption(
        f"mask of tensor '{weight.name}' must be an array of bools, True = kept (or of numbers, 0 = pruned)"
    )
