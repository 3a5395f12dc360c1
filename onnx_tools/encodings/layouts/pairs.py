"""Places of a 2:4 weight: which two of four, three groups a byte. Smaller than bits; no sum runs over it."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.encodings.layouts.base import Chain, Kept, Layout, Pieces, Scattered
from onnx_tools.errors import InvalidTensor

_PAIRS = np.array(list(itertools.combinations(range(4), 2)))
"""Places in a group, by code."""
_GROUPS, _VALUES = 3, 6
"""Groups of a byte, and the values that it stands for."""
_PAYS_FROM = 1 << 18
"""Elements from which it saves more than its table takes, beside one bit an element."""
_WEIGHTS = np.array([36, 6, 1], np.uint8)
"""Of the three codes of a byte."""


class Pairs(Layout):
    """Groups of four along `axis`, counted from the end, of which at most two are stored; each stores two.

    A table has for each byte where its twelve elements are among its six values; the seventh is the fill. Cast, Gather,
    GatherElements fetch them; Slice drops what fills the last byte, and Transpose puts the groups along their axis.
    """

    roles: ClassVar[dict[str, tuple[str, int]]] = {"places": ("Cast", 0), "values": ("Concat", 0)}
    seconds_per_million = 0.0075

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self.name = f"2:4@{axis}"  # type: ignore[misc]

    def first_opset(self, data_type: int) -> int:
        """GatherElements came with 11; ConstantOfShape takes bfloat16 from 20 on."""
        return 20 if data_type == TensorProto.BFLOAT16 else 11

    def codes(self, kept: Kept) -> int | None:
        """One an element."""
        return kept.bits.size if self._fits(kept) else None

    def payload(self, kept: Kept) -> int | None:
        """The bytes, and six values each."""
        return _rows(kept.bits.size) * (1 + _VALUES * kept.bits.itemsize) if self._fits(kept) else None

    def pack(self, kept: Kept) -> Pieces:
        """Store the codes of the groups, and the values of each byte in a row."""
        groups = self._groups(kept.bits, kept.dims)
        stored = groups != kept.bits.dtype.type(kept.fill)
        codes = _code_of_pattern()[(stored << np.arange(4)).sum(axis=1)]
        values = np.take_along_axis(groups, _PAIRS[codes], axis=1)
        more = _rows(kept.bits.size) * _GROUPS - len(codes)
        codes = np.concatenate([codes, np.zeros(more, np.uint8)]).reshape(-1, _GROUPS)
        values = np.concatenate([values, np.full((more, 2), kept.fill, values.dtype)])
        return {"values": values.reshape(-1, _VALUES), "places": (codes * _WEIGHTS).sum(axis=1, dtype=np.uint8)}

    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """Take the codes apart."""
        elements, packed, values = math.prod(dims), pieces["places"].view(np.uint8), pieces["values"].view(dtype)
        whole = self._divides(dims) and len(packed) == _rows(elements) and values.size == _VALUES * len(packed)
        if not whole or packed.max(initial=0) >= _PAIRS.shape[0] ** _GROUPS:
            raise InvalidTensor(
                f"{len(packed)} bytes of groups and {values.size} values do not make {elements} elements"
            )
        codes = (packed[:, None] // _WEIGHTS % np.uint8(6)).reshape(-1)[: elements // 4]
        numbers = self._groups(np.arange(elements), dims)
        places = np.take_along_axis(numbers, _PAIRS[codes], axis=1).reshape(-1)
        order = np.argsort(places, kind="stable")
        return Scattered(places[order], values.reshape(-1)[: places.size][order], elements, fill)

    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """Seven nodes or eight."""
        elements, inner = math.prod(dims), math.prod(dims[len(dims) + self._axis + 1 :])
        rows = chain.node("Gather", chain.constant(_table()), chain.cast(names["places"]), axis=0)
        with_fill = chain.node("Concat", names["values"], chain.filled(_rows(elements), 1), axis=1)
        flat = chain.flat(chain.node("GatherElements", with_fill, rows, axis=1))
        if elements % (4 * _GROUPS):
            ends = (chain.constant([at], np.int64) for at in (0, elements))
            flat = chain.node("Slice", flat, *ends)
        groups = chain.node("Reshape", flat, chain.constant([elements // 4 // inner, inner, 4], np.int64))
        return chain.node("Transpose", groups, perm=[0, 2, 1])

    def _divides(self, dims: tuple[int, ...]) -> bool:
        return len(dims) >= -self._axis and dims[self._axis] % 4 == 0

    def _fits(self, kept: Kept) -> bool:
        half = 0 < 2 * len(kept.places) <= kept.bits.size
        if kept.bits.size < _PAYS_FROM or not half or not self._divides(kept.dims):
            return False
        stored = self._groups(kept.bits != kept.bits.dtype.type(kept.fill), kept.dims)
        return bool(stored.sum(axis=1, dtype=np.uint8).max() <= 2)

    def _groups(self, elements: NDArray[Any], dims: tuple[int, ...]) -> NDArray[Any]:
        """(groups, 4), those that lie beside each other first."""
        inner = math.prod(dims[len(dims) + self._axis + 1 :])
        return elements.reshape(-1, 4, inner).transpose(0, 2, 1).reshape(-1, 4)


def _rows(elements: int) -> int:
    return -(-elements // (4 * _GROUPS))


def _code_of_pattern() -> NDArray[np.uint8]:
    """By the bits of what is stored of a group: the first pair that has room for it."""
    found = np.zeros(16, np.uint8)
    for code, pair in reversed(list(enumerate(_PAIRS))):
        for taken in itertools.product((0, 1), repeat=2):
            found[(np.array(taken) << pair).sum()] = code
    return found


def _table() -> NDArray[np.int32]:
    """(216, 12): from which of a byte's values each element comes, `_VALUES` for the fill."""
    table = np.full((6**_GROUPS, 4 * _GROUPS), _VALUES, np.int32)
    for row, codes in enumerate(itertools.product(range(6), repeat=_GROUPS)):
        for group, code in enumerate(codes):
            table[row, 4 * group + _PAIRS[code]] = 2 * group + np.arange(2)
    return table
