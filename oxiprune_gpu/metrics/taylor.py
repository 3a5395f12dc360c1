"""First-order Taylor metrics (Molchanov et al., 2019, "Importance estimation for neural network pruning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oxiprune_gpu.errors import InvalidOption, ShapeMismatch, UnsupportedArray
from oxiprune_gpu.metrics.base import ImportanceMetric, Positions
from oxiprune_gpu.metrics.magnitude import L2Magnitude
from oxiprune_gpu.tensor import DTYPES, see_array


@dataclass(frozen=True)
class TaylorProxy(L2Magnitude):
    """The reference's stand-in for Taylor importance without gradients: w*w, as if the gradient were the weight."""

    name: ClassVar[str] = "taylor"


@dataclass(frozen=True, eq=False)
class Taylor(ImportanceMetric):
    """Element score |w * g| with the gradient g of the loss; unit score sum |w * g|.

    Args:
        gradient: array of the weight's shape, of any library `WeightTensor` takes. It is read in the score dtype, and
            copied if it is not C-contiguous. NaN in it raises `NonFiniteWeight`. One on a GPU goes with weights there;
            one in this machine's memory is copied to the weight's device.
    """

    gradient: ArrayLike
    name: ClassVar[str] = "taylor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gradient", _real_array(self.gradient))

    def count_nan(self) -> int:
        """See `ImportanceMetric.count_nan`."""
        gradient = self.flat_gradient
        return int((gradient != gradient).sum())  # noqa: PLR0124 - NaN, on the CPU and on a GPU

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
        if not isinstance(self.gradient, np.ndarray):
            raise InvalidOption("the gradient of metric taylor lies on a GPU, the weight does not: bring them together")
        gradient = self.flat_gradient[positions]
        np.multiply(values, gradient.astype(out.dtype, copy=False), out=out)
        np.absolute(out, out=out)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """See `ImportanceMetric.check`."""
        got = np.shape(self.gradient)
        if got != shape:
            raise ShapeMismatch(
                f"gradient of tensor '{name}' has shape {list(got)}, the weight {list(shape)}: they must be equal"
            )

    @property
    def flat_gradient(self) -> Any:
        """The gradient, flattened in row-major order: a numpy or CuPy array."""
        gradient: Any = self.gradient
        return gradient.reshape(-1)

    @property
    def text(self) -> str:
        """The metric as text."""
        return "taylor:gradient"


def _real_array(gradient: Any) -> Any:
    """The gradient as a C-contiguous numpy or CuPy array of real numbers."""
    try:
        array, dtype, _ = see_array(gradient, "gradient")
    except UnsupportedArray as error:
        raise InvalidOption(f"the gradient of metric taylor is no array: {error}") from None
    if dtype not in DTYPES and dtype.kind not in "biuf":
        raise InvalidOption(f"the gradient of metric taylor is no array of real numbers, but of {dtype}")
    if dtype != array.dtype:  # bits of bfloat16: the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array if array.flags.c_contiguous else array.copy(order="C")
