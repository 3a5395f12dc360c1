"""First-order Taylor metrics (Molchanov et al., 2019, "Importance estimation for neural network pruning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oxiprune_gpu.errors import InvalidOption, ShapeMismatch
from oxiprune_gpu.metrics.base import ImportanceMetric, Positions
from oxiprune_gpu.metrics.magnitude import L2Magnitude


@dataclass(frozen=True)
class TaylorProxy(L2Magnitude):
    """The reference's stand-in for Taylor importance without gradients: w*w, as if the gradient were the weight."""

    name: ClassVar[str] = "taylor"


@dataclass(frozen=True, eq=False)
class Taylor(ImportanceMetric):
    """Element score |w * g| with the gradient g of the loss; unit score sum |w * g|.

    Args:
        gradient: array of the weight's shape. It is read in the score dtype. NaN in it raises `NonFiniteWeight`.
    """

    gradient: ArrayLike
    name: ClassVar[str] = "taylor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gradient", _real_array(self.gradient))

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


def _real_array(gradient: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(gradient)
        array.astype(np.float64, casting="same_kind", copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"the gradient of metric taylor is no array of real numbers: {error}") from None
    return array
