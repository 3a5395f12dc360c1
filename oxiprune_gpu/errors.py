"""Every error a caller can meet.

::

    PruningError
    ├── InvalidSparsity        sparsity outside [0, 1), or not the one that N:M has
    ├── InvalidOption          a metric, granularity or option that does not exist
    ├── EmptyTensor            a weight without elements
    ├── NotTwoDimensional      row or column pruning of a weight without exactly two axes, blocks of one with fewer
    ├── BelowMinNonzero        min_nonzero is larger than the weight, or than what N:M keeps of it
    ├── NonFiniteWeight        NaN in a weight or a gradient
    ├── NonFiniteScore         NaN born in a score (infinity times zero)
    ├── DenormalsFlushed       the processor is set to flush denormal numbers
    ├── ShapeMismatch          a shape, mask or gradient that does not fit the data
    ├── NotTwoOfFour           what is to be compressed is not 2:4, or its metadata names no two places of four
    ├── UnsupportedDtype       not float16, bfloat16, float32 or float64
    ├── UnsupportedArray       not an array, or one on a device that no backend serves
    ├── GpuUnavailable         CuPy, NVRTC, the driver or the GPU is missing or does not work
    └── ReadOnlyTarget         pruning in place something that can't be written

The texts of the first group (invalid sparsity, empty, not two-dimensional, below min_nonzero) are the reference's,
letter by letter. The weight it is about has not been changed when one of these is raised.
"""

from __future__ import annotations

from collections.abc import Sequence


class PruningError(Exception):
    """Base of every error of oxiprune."""


class InvalidSparsity(PruningError, ValueError):
    """Sparsity is not a number in [0, 1), or not the one that the granularity has."""

    def __init__(self, sparsity: object, must: str = "must be in [0.0, 1.0)") -> None:
        self.sparsity = sparsity
        super().__init__(f"sparsity {_as_float32_text(sparsity)} {must}")


class InvalidOption(PruningError, ValueError):
    """A metric, granularity or other option has a value that does not exist."""


class EmptyTensor(PruningError, ValueError):
    """The weight has no elements."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"empty tensor: '{name}'")


class NotTwoDimensional(PruningError, ValueError):
    """Row and column pruning need exactly two axes, blocks two at least."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        super().__init__(f"structured pruning requires 2D tensor, got shape {list(self.shape)}")


class BelowMinNonzero(PruningError, ValueError):
    """`min_nonzero` asks for more elements than the weight has, or than a granularity that fixes the sparsity keeps."""

    def __init__(self, min_nonzero: int, total: int, why: str = "") -> None:
        self.min_nonzero = min_nonzero
        self.total = total
        super().__init__(f"cannot prune below min_nonzero={min_nonzero} with {total} total elements{why}")


class NonFiniteWeight(PruningError, ValueError):
    """NaN in a weight, in the gradient that goes with it, or in what it shall become; there infinity too.

    `why`: the text, where the usual one does not say it.
    """

    def __init__(self, name: str, count: int, what: str = "weight", why: str = "") -> None:
        self.name = name
        self.count = count
        super().__init__(
            why
            or f"{what} of tensor '{name}' holds {count} NaN: NaN has no importance; "
            "repair the model or leave this tensor out"
        )


class NonFiniteScore(PruningError, ValueError):
    """NaN born in a score: an infinite weight times a zero gradient, or the other way round."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        super().__init__(
            f"{count} scores of tensor '{name}' are NaN (infinity times zero): "
            "clip the weight or the gradient, or use another metric"
        )


class DenormalsFlushed(PruningError):
    """The processor is set to treat denormal numbers as zero: scores would not be what they are elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"can't score tensor '{name}': denormal numbers are flushed to zero in this thread, so masks would differ "
            "from those of other machines; call torch.set_flush_denormal(False), or look for a library built with "
            "-ffast-math"
        )


class ShapeMismatch(PruningError, ValueError):
    """A shape, mask or gradient does not fit the data it goes with."""


class NotTwoOfFour(PruningError, ValueError):
    """A group of four neighbours has more than two values, or metadata that does not name two of its places.

    Attributes:
        row, group: the first such group; its columns are 4 * group and the three after.
    """

    def __init__(self, what: str, row: int, group: int, why: str) -> None:
        self.row, self.group = row, group
        super().__init__(f"{what}: row {row}, group {group} (columns {4 * group} to {4 * group + 3}) {why}")


class UnsupportedDtype(PruningError, TypeError):
    """The weight is not float16, bfloat16, float32 or float64."""

    def __init__(self, name: str, dtype: object) -> None:
        self.name = name
        self.dtype = dtype
        order = " in this machine's byte order" if getattr(dtype, "isnative", True) is False else ""
        super().__init__(
            f"tensor '{name}' has dtype {dtype}: supported are float16, bfloat16 (ml_dtypes), float32 and float64"
            f"{order}; convert it first"
        )


class UnsupportedArray(PruningError, TypeError):
    """The weight is not an array, or lies on a device that no backend serves."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"can't read tensor '{name}': {why}")


class GpuUnavailable(PruningError, RuntimeError):
    """CuPy, NVRTC, the CUDA headers, the driver or the GPU is missing, or does not work.

    `missing`: it is something that one of the extras installs.
    """

    def __init__(self, why: str, *, missing: bool = True) -> None:
        install = "For CUDA 12: pip install 'oxiprune-gpu[gpu]'; for CUDA 13: pip install 'oxiprune-gpu[gpu-cuda13]'; "
        super().__init__(f"{why}. {install if missing else ''}`oxiprune doctor` shows what stands in the way")


class ReadOnlyTarget(PruningError, ValueError):
    """Pruning in place was asked for something that can't be written."""

    def __init__(self, name: str, why: str = "the array is read-only") -> None:
        self.name = name
        super().__init__(f"can't prune tensor '{name}' in place: {why}; use prune_tensor, which returns a new array")


def _as_float32_text(sparsity: object) -> str:
    """Shortest decimal of the float32 nearest to `sparsity`, never with an exponent; other objects as they are."""
    import numpy as np

    if not isinstance(sparsity, int | float | np.number):
        return repr(sparsity)
    with np.errstate(over="ignore"):
        value = np.float32(float(sparsity))
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "inf" if value > 0 else "-inf"
    return np.format_float_positional(value, unique=True, trim="-")
