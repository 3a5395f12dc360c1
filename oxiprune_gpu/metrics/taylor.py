"""First-order Taylor metrics (Molchanov et al., 2019, "Importance estimation for neural network pruning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oxiprune_gpu.errors import InvalidOption, ShapeMismatch, UnsupportedArray
from oxiprune_gpu.metrics.base import ImportanceMetric, Positions
from oxiprune_gpu.metrics.magnitude import L2Magnitude
from oxiprune_gpu.tensor import DTYPES, to_numpy


@dataclass(frozen=True)
class TaylorProxy(L2Magnitude):
    """The reference's stand-in for Taylor importance without gradients: w*w, as if the gradient were the weight."""

    name: ClassVar[str] = "taylor"


@dataclass(frozen=True, eq=False)
class Taylor(ImportanceMetric):
    """Element score |w * g| with the gradient g of the loss; unit score sum |w * g|.

    Args:
        gradient: array of the weight's shape, of any library `WeightTensor` takes. It is read in the score dtype, and
            copied if it is not C-contiguous. NaN in it raises `NonFiniteWeight`.
    """

    gradient: ArrayLike
    name: ClassVar[str] = "taylor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gradient", _real_array(self.gradient))

    def count_nan(self) -> int:
        """See `ImportanceMetric.count_nan`."""
        return int(np.count_nonzero(np.isnan(self.flat_gradient)))

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
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
    def flat_gradient(self) -> NDArray[Any]:
        """The gradient, flattened in row-major order."""
        return np.asarray(self.gradient).reshape(-1)

    @property
    def text(self) -> str:
        """The metric as text."""
        return "taylor:gradient"


def _real_array(gradient: Any) -> NDArray[Any]:
    try:
        array = to_numpy(gradient, "gradient")
    except UnsupportedArray as error:
        raise InvalidOption(f"the gradient of metric taylor is no array: {error}") from None
    if array.dtype not in DTYPES and array.dtype.kind not in "biuf":
        raise InvalidOption(f"the gradient of metric taylor is no array of real numbers, but of {array.dtype}")
    return array if array.flags.c_contiguous else array.copy(order="C")
