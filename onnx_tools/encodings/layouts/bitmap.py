"""Places as one bit an element: the smallest below two thirds of zeros."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from onnx_tools.encodings.layouts.base import Chain, Kept, Layout, Pieces, Scattered
from onnx_tools.errors import InvalidTensor


class Bitmap(Layout):
    """Bits in bytes, the first element lowest. Cast, Div, Mod take them out; CumSum numbers the stored elements.

    Gather then fetches each element by its number; number 0 is the fill. A byte holds as many bits, 8 at most, as
    divide the number of elements, so that no byte is half full.
    """

    name = "bits"
    roles: ClassVar[dict[str, tuple[str, int]]] = {"places": ("Cast", 0), "values": ("Gather", 0)}
    seconds_per_million = 0.016

    def first_opset(self, data_type: int) -> int:
        """CumSum came with 11; Gather takes bfloat16 from 13 on."""
        return 13 if data_type == TensorProto.BFLOAT16 else 11

    def codes(self, kept: Kept) -> int | None:
        """One an element."""
        return kept.bits.size

    def payload(self, kept: Kept) -> int | None:
        """The bytes, and the values after a fill."""
        return kept.bits.size // _bits_a_byte(kept.bits.size) + (len(kept.places) + 1) * kept.bits.itemsize

    def pack(self, kept: Kept) -> Pieces:
        """Store the bits in a column of bytes."""
        width = _bits_a_byte(kept.bits.size)
        mask = (kept.bits != kept.bits.dtype.type(kept.fill)).reshape(-1, width)
        values = np.concatenate([np.array([kept.fill], kept.bits.dtype), kept.values])
        return {"values": values, "places": np.packbits(mask, axis=1, bitorder="little")}

    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """Take the bits out."""
        packed, values = pieces["places"].view(np.uint8).reshape(-1, 1), pieces["values"].view(dtype)
        elements = math.prod(dims)
        width = _bits_a_byte(elements)
        mask = np.unpackbits(packed, axis=1, count=width, bitorder="little").reshape(-1).view(np.bool_)
        if mask.size != elements or not len(values) or values[0] != fill or np.count_nonzero(mask) != len(values) - 1:
            raise InvalidTensor(f"the bits of the places and {len(values)} values do not make {elements} elements")
        return Scattered(np.flatnonzero(mask), values[1:], elements, fill)

    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """Seven nodes."""
        powers = chain.constant(1 << np.arange(_bits_a_byte(math.prod(dims))).reshape(1, -1))
        shifted = chain.node("Div", chain.cast(names["places"]), powers)
        mask = chain.flat(chain.node("Mod", shifted, chain.constant(2)))
        number = chain.node("Mul", chain.node("CumSum", mask, chain.constant(0)), mask)
        return chain.node("Gather", names["values"], number, axis=0)


def _bits_a_byte(elements: int) -> int:
    return next(width for width in range(8, 0, -1) if elements % width == 0)
