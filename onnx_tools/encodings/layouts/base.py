"""What a layout is: how nonzero values and their places are stored, and by which operators they become dense again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_tools.errors import InvalidTensor

_BLOCK = 1 << 20
"""Elements of a weight that are made dense at once."""

MOST_ELEMENTS = (1 << 31) - 1
"""Places are int32 where they are summed up."""


@dataclass(frozen=True)
class Kept:
    """The elements of a weight that are stored: those whose bits differ from `fill`.

    `bits`: all elements, flat, as unsigned integers; `places`: int64 indices of the stored ones, ascending; `dims`: the
    shape of the weight.
    """

    bits: NDArray[Any]
    fill: int
    places: NDArray[np.int64]
    dims: tuple[int, ...]

    @classmethod
    def of(cls, bits: NDArray[Any], fill: int, dims: tuple[int, ...] | None = None) -> Kept:
        """Find what is stored. -0.0 differs from 0.0, and NaNs are compared by their bits."""
        places = np.flatnonzero(bits != bits.dtype.type(fill))
        return cls(bits, fill, places, (bits.size,) if dims is None else dims)

    @property
    def values(self) -> NDArray[Any]:
        """The stored elements, as unsigned integers."""
        return self.bits[self.places]


@dataclass(frozen=True)
class Scattered:
    """A weight as what is stored of it: `values` (unsigned) lie at `places`, int64, ascending, and `fill` elsewhere.

    It is made dense block by block: `elements` may be far more than the file that it comes from has bytes.
    Raises `InvalidTensor` if places and values are not as many, or places do not ascend within the weight.
    """

    places: NDArray[np.int64]
    values: NDArray[Any]
    elements: int
    fill: int

    def __post_init__(self) -> None:
        places, count = self.places, len(self.values)
        fits = len(places) == count and bool((places[1:] >= places[:-1]).all())
        if not fits or (count and not 0 <= places[0] <= places[-1] < self.elements):
            raise InvalidTensor(f"{count} stored values have places outside a weight of {self.elements} elements")

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Its elements, flat, in order."""
        for start in range(0, self.elements, _BLOCK):
            stop = min(start + _BLOCK, self.elements)
            block = np.full(stop - start, self.fill, self.values.dtype)
            first, last = np.searchsorted(self.places, (start, stop))
            block[self.places[first:last] - start] = self.values[first:last]
            yield block


Pieces = dict[str, NDArray[Any]]
"""What a layout stores: "values", unsigned integers of the weight's width, and "places"."""


class Chain:
    """The nodes that rebuild one weight, and their small constants, while they are put together.

    All names start with `prefix`, which no other name of the model does. `data_type`: that of the weight.
    """

    def __init__(self, prefix: str, data_type: int, fill: bytes) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix
        self._fill = TensorProto(dims=[1], data_type=data_type, raw_data=fill)
        self._made = 0

    def name(self) -> str:
        """A new name."""
        self._made += 1
        return f"{self._prefix}.{self._made}"

    def constant(self, values: Any, dtype: type = np.int32) -> str:
        """Store a small constant; return its name."""
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        name = self.name()
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def cast(self, name: str) -> str:
        """Append a cast to int32."""
        return self.node("Cast", name, to=onnx.TensorProto.INT32)

    def flat(self, name: str) -> str:
        """Append a reshape to one axis."""
        return self.node("Reshape", name, self.constant([-1], np.int64))

    def filled(self, *dims: int) -> str:
        """Append a tensor of fill values."""
        return self.node("ConstantOfShape", self.constant(dims, np.int64), value=self._fill)


class Layout(ABC):
    """A way to store places. `roles`: the operator and its input by which each of the `Pieces` is read.

    `seconds_per_million`: how long onnxruntime takes to rebuild a million stored codes, as measured
    (benchmarks/bench_encodings.py); it only ranks layouts.
    """

    name: ClassVar[str]
    roles: ClassVar[dict[str, tuple[str, int]]]
    seconds_per_million: ClassVar[float]

    @abstractmethod
    def first_opset(self, data_type: int) -> int:
        """The first opset whose operators can rebuild a weight of an ONNX data type."""

    @abstractmethod
    def codes(self, kept: Kept) -> int | None:
        """How many codes are stored; None if the layout cannot hold the weight."""

    @abstractmethod
    def payload(self, kept: Kept) -> int | None:
        """Bytes of the pieces; None if the layout cannot hold the weight."""

    @abstractmethod
    def pack(self, kept: Kept) -> Pieces:
        """Store a weight that the layout can hold."""

    @abstractmethod
    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """Find values and places again, of a weight of shape `dims`; `dtype` is unsigned.

        Raises `InvalidTensor` for pieces that don't fit.
        """

    @abstractmethod
    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """Append the nodes that rebuild the elements, in order, from the pieces called `names`; return their name."""
