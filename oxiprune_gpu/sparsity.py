"""Sparsity reports of weights and of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from oxiprune_gpu.backends import backend_of
from oxiprune_gpu.tensor import Borrowed, Tensor, borrow, tensors_with_names


@dataclass(frozen=True)
class SparsityReport:
    """How sparse one weight is. An element is nonzero when `x != 0`: NaN counts, -0.0 does not.

    Fractions are float32, as the reference computes them: `sparsity = 1 - float32(nonzero) / float32(total)`.
    """

    name: str
    total_params: int
    nonzero_params: int
    shape: tuple[int, ...]

    @classmethod
    def compute(cls, tensor: Tensor) -> Self:
        """Count the nonzeros of a `WeightTensor` or array."""
        return cls(*_counted(borrow(tensor)))

    @property
    def sparsity(self) -> float:
        """Fraction of zeros; 0 when there are no elements."""
        return _sparsity(self.total_params, self.nonzero_params)

    @property
    def zero_fraction(self) -> float:
        """The same as `sparsity`."""
        return self.sparsity

    @property
    def density(self) -> float:
        """1 - sparsity."""
        return float(np.float32(1) - np.float32(self.sparsity))

    def summary(self) -> str:
        """One line, fractions with four decimals."""
        return (
            f"tensor='{self.name}' shape={list(self.shape)} total={self.total_params} "
            f"nonzero={self.nonzero_params} sparsity={self.sparsity:.4f}"
        )


@dataclass(frozen=True)
class ModelSparsitySummary:
    """How sparse a list of weights is."""

    layers: tuple[SparsityReport, ...]

    @classmethod
    def from_model(cls, tensors: Iterable[Tensor] | Mapping[str, Any]) -> Self:
        """Count the nonzeros of each `WeightTensor` or array of a sequence, or of a mapping from name to array."""
        return cls(tuple(_report(borrow(tensor, name)) for name, tensor in tensors_with_names(tensors)))

    @property
    def total_params(self) -> int:
        """Elements of all weights."""
        return sum(layer.total_params for layer in self.layers)

    @property
    def total_nonzero(self) -> int:
        """Nonzero elements of all weights."""
        return sum(layer.nonzero_params for layer in self.layers)

    @property
    def overall_sparsity(self) -> float:
        """Fraction of zeros over all weights, float32; 0 when there are none."""
        return _sparsity(self.total_params, self.total_nonzero)

    def summary(self) -> str:
        """One line, fractions with four decimals."""
        return (
            f"layers={len(self.layers)} total_params={self.total_params} "
            f"total_nonzero={self.total_nonzero} overall_sparsity={self.overall_sparsity:.4f}"
        )


def model_sparsity_report(tensors: Iterable[Tensor] | Mapping[str, Any]) -> ModelSparsitySummary:
    """Return the sparsity of each weight and of all together."""
    return ModelSparsitySummary.from_model(tensors)


def _report(weight: Borrowed) -> SparsityReport:
    return SparsityReport(*_counted(weight))


def _counted(weight: Borrowed) -> tuple[str, int, int, tuple[int, ...]]:
    backend = backend_of(weight.data)
    with backend.device_of(weight.data):
        nonzero = backend.count_nonzero(backend.adopt(weight.contiguous(), weight.dtype))
    return weight.name, weight.data.size, nonzero, weight.data.shape


def _sparsity(total: int, nonzero: int) -> float:
    if total == 0:
        return 0.0
    return float(np.float32(1) - np.float32(nonzero) / np.float32(total))
