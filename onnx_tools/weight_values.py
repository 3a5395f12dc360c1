"""The values of the weights that were found: floats as they are, quantised ones as the real values they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.model_file import tensor_at
from onnx_tools.quantisation.blocks import weight_values
from onnx_tools.quantisation.codes import ReadBytes
from onnx_tools.values import ValueReader, decode
from onnx_tools.weights import Weight
from oxiprune_gpu import ArrayBlocks, BlockSource


class WeightReader(ValueReader):
    """Reads the weights of a model file, as a context manager that keeps its files open."""

    def weight(self, weight: Weight, shape: tuple[int, ...]) -> BlockSource:
        """The values of a weight, seen in `shape`, for reading only."""
        stored = self.blocks(weight.path, *weight.stored_as(shape))
        return self.values_in(stored, weight, shape)

    def values_in(self, stored: BlockSource, weight: Weight, shape: tuple[int, ...]) -> BlockSource:
        """The values of a weight that lies in `stored`, in the form of `Weight.stored_as`; to be pruned there."""
        return weight_values(weight.quantisation, stored, shape, weight.name, self.small)


def values_in_tensor(
    tensor: onnx.TensorProto, weight: Weight, shape: tuple[int, ...], read: ReadBytes
) -> tuple[NDArray[Any], BlockSource]:
    """A copy of the values inside a `TensorProto`, as `decode` gives it, and the weight that lies in the copy.

    `read` gives the bytes of its scales and zero points.
    """
    stored = decode(tensor)
    blocks = ArrayBlocks(stored.reshape(weight.stored_as(shape)[0]))
    return stored, weight_values(weight.quantisation, blocks, shape, weight.name, read)


def reads_from(model: onnx.ModelProto) -> ReadBytes:
    """Reads the small tensors of a model in memory."""
    return lambda path: decode(tensor_at(model, path)).reshape(-1).view(np.uint8)
