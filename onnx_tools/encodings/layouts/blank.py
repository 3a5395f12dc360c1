"""A weight of which nothing is stored: every element has the fill value."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from onnx_tools.encodings.layouts.base import Chain, Kept, Layout, Pieces, Scattered


class Blank(Layout):
    """ConstantOfShape alone."""

    name = "blank"
    roles: ClassVar[dict[str, tuple[str, int]]] = {}
    seconds_per_million = 0.0

    def first_opset(self, data_type: int) -> int:
        """As the other layouts; ConstantOfShape takes bfloat16 from 20 on."""
        return 20 if data_type == TensorProto.BFLOAT16 else 11

    def codes(self, kept: Kept) -> int | None:
        """None, if anything is stored."""
        return None if len(kept.places) else 0

    def payload(self, kept: Kept) -> int | None:
        """Nothing."""
        return self.codes(kept)

    def pack(self, kept: Kept) -> Pieces:
        """Nothing."""
        return {}

    def unpack(self, pieces: Pieces, dims: tuple[int, ...], fill: int, dtype: np.dtype[Any]) -> Scattered:
        """All fill."""
        return Scattered(np.empty(0, np.int64), np.empty(0, dtype), math.prod(dims), fill)

    def rebuild(self, chain: Chain, names: dict[str, str], dims: tuple[int, ...]) -> str:
        """One node."""
        return chain.filled(math.prod(dims))
