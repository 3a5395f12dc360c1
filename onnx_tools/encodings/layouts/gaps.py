"""Places as gaps: the distance of each stored element from the one before, in one or two bytes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.encodings.layouts.base import Chain, Kept, Layout, Pieces, Scattered


class Gaps(Layout):
    """Gaps of one unsigned type. Cast, CumSum: places; ScatterElements puts the values there.

    Where a gap is too wide for the type, a fill value is stored on the way. The fastest to load.
    """

    roles: ClassVar[dict[str, tuple[str, int]]] = {"places": ("Cast", 0), "values": ("ScatterElements", 2)}
    seconds_per_million = 0.012

    def __init__(self, dtype: type[np.unsignedinteger[Any]]) -> None:
        self._dtype = np.dtype(dtype)
        self._widest = int(np.iinfo(dtype).max)
        self.name = f"gaps{8 * self._dtype.itemsize}"  # type: ignore[misc]

    def first_opset(self, data_type: int) -> int:
        """CumSum and ScatterElements came with 11; ConstantOfShape takes bfloat16 from 20 on."""
        return 20 if data_type == TensorProto.BFLOAT16 else 11

    def codes(self, kept: Kept) -> int | None:
        """One a stored element, and one a filler."""
        return len(kept.places) + int(self._fillers(_gaps(kept)).sum()) if len(kept.places) else None

    def payload(self, kept: Kept) -> int | None:
        """A gap and a value each."""
        codes = self.codes(kept)
        return None if codes is None else codes * (self._dtype.itemsize + kept.bits.itemsize)

    def pack(self, kept: Kept) -> Pieces:
        """Store the gaps with the fillers in front."""
        gaps = _gaps(kept)
        fillers = self._fillers(gaps)
        at = np.cumsum(fillers + 1) - 1
        count = len(gaps) + int(fillers.sum())
        codes = np.full(count, self._widest, self._dtype)
        codes[at] = gaps - fillers * self._widest
        values = np.full(count, kept.fill, kept.bits.dtype)
        values[at] = kept.values
        return {"values": values, "places": codes}

    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """Sum the gaps up."""
        places = np.cumsum(pieces["places"].view(self._dtype), dtype=np.int64)
        return Scattered(places, pieces["values"].view(dtype), math.prod(dims), fill)

    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """Four nodes."""
        places = chain.node("CumSum", chain.cast(names["places"]), chain.constant(0))
        return chain.node("ScatterElements", chain.filled(math.prod(dims)), places, names["values"], axis=0)

    def _fillers(self, gaps: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many fillers each gap needs; only the first gap can be 0."""
        return np.maximum(gaps - 1, 0) // self._widest


def _gaps(kept: Kept) -> NDArray[np.int64]:
    return np.diff(kept.places, prepend=0)
