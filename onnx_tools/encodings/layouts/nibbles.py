"""Places as gaps of four bits: the smallest between two thirds and 95 % of zeros."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.encodings.layouts.base import Chain, Kept, Layout, Pieces, Scattered
from onnx_tools.errors import InvalidTensor

_SKIP = 15
"""A code that stands for 15 elements which are not stored; any other for that many, and then a stored one."""


class Nibbles(Layout):
    """Two codes a byte, the first in the low bits. A code of 15 takes no value, so wide gaps cost half a byte each.

    Cast, Mod, Div, Concat take the codes out; the sum of their steps gives the places, the sum of those that have
    a value gives its number, and Gather fetches it: number 0 is the fill, which the skips write on their way.
    """

    name = "gaps4"
    roles: ClassVar[dict[str, tuple[str, int]]] = {"places": ("Cast", 0), "values": ("Gather", 0)}
    seconds_per_million = 0.04

    def first_opset(self, data_type: int) -> int:
        """CumSum and ScatterElements came with 11; ConstantOfShape takes bfloat16 from 20 on."""
        return 20 if data_type == TensorProto.BFLOAT16 else 11

    def codes(self, kept: Kept) -> int | None:
        """One a stored element, one a skip, and an even number of them."""
        places = _even(kept.places)
        return None if places is None else _count(_zeros_before(places))

    def payload(self, kept: Kept) -> int | None:
        """Half a byte a code, and the values after a fill."""
        places = _even(kept.places)
        if places is None:
            return None
        return _count(_zeros_before(places)) // 2 + (len(places) + 1) * kept.bits.itemsize

    def pack(self, kept: Kept) -> Pieces:
        """Store the codes in pairs."""
        places = _even(kept.places)
        assert places is not None
        zeros = _zeros_before(places)
        codes = np.full(_count(zeros), _SKIP, np.uint8)
        codes[np.cumsum(zeros // _SKIP + 1) - 1] = zeros % _SKIP
        values = np.concatenate([np.array([kept.fill], kept.bits.dtype), kept.bits[places]])
        return {"values": values, "places": (codes[0::2] | codes[1::2] << 4).reshape(-1, 1)}

    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """Sum the steps up."""
        packed, values = pieces["places"].view(np.uint8).reshape(-1), pieces["values"].view(dtype)
        codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
        stored = codes != _SKIP
        ends = np.cumsum(codes + stored, dtype=np.int64) - 1
        if not len(values) or values[0] != fill:
            raise InvalidTensor("the first stored value is not the fill")
        return Scattered(ends[stored], values[1:], math.prod(dims), fill)

    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """Fifteen nodes."""
        one, axis = chain.constant(1), chain.constant(0)
        codes = _unpacked(chain, names["places"])
        stored = chain.node("Sub", one, chain.node("Div", codes, chain.constant(_SKIP)))
        ends = chain.node("CumSum", chain.node("Add", codes, stored), axis)
        number = chain.node("Mul", chain.node("CumSum", stored, axis), stored)
        values = chain.node("Gather", names["values"], number, axis=0)
        return chain.node(
            "ScatterElements", chain.filled(math.prod(dims)), chain.node("Sub", ends, one), values, axis=0
        )


def _unpacked(chain: Chain, packed: str) -> str:
    """The codes of bytes that lie in one column."""
    sixteen, pair = chain.constant(16), chain.cast(packed)
    low, high = chain.node("Mod", pair, sixteen), chain.node("Div", pair, sixteen)
    return chain.flat(chain.node("Concat", low, high, axis=1))


def _zeros_before(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(places, prepend=-1) - 1


def _count(zeros: NDArray[np.int64]) -> int:
    return len(zeros) + int((zeros // _SKIP).sum())


def _even(places: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The places, with one element more that has the fill value if the codes would not fill whole bytes.

    It is the neighbour of a stored element, where that takes exactly one code more. None where there is none.
    """
    zeros = _zeros_before(places)
    if _count(zeros) % 2 == 0:
        return places if len(places) else None
    at = int(np.argmax(zeros % _SKIP > 0))
    return np.insert(places, at, places[at] - 1) if zeros[at] % _SKIP > 0 else None
