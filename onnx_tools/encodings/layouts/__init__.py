"""The layouts of the packed encoding: one small file each, and the table.

Measured on a 2048 x 2048 float32 MatMul (benchmarks/bench_encodings.py): `bits` is the smallest at 50 %, `gaps4` from
two thirds of zeros on, `gaps8` from 96 % on and always the fastest to load. Of a 2:4 weight `2:4@AXIS` is the
smallest, and takes half of the time of `bits` to load (benchmarks/layout_candidates.py).
"""

from __future__ import annotations

import numpy as np

from onnx_tools.encodings.layouts.base import MOST_ELEMENTS, Chain, Kept, Layout, Pieces, Scattered
from onnx_tools.encodings.layouts.bitmap import Bitmap
from onnx_tools.encodings.layouts.blank import Blank
from onnx_tools.encodings.layouts.gaps import Gaps
from onnx_tools.encodings.layouts.nibbles import Nibbles
from onnx_tools.encodings.layouts.pairs import Pairs

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (Blank(), Bitmap(), Nibbles(), Gaps(np.uint8), Gaps(np.uint16), *map(Pairs, (-1, -2, -3, -4)))
}
"""Every layout by its name."""

__all__ = ["LAYOUTS", "MOST_ELEMENTS", "Chain", "Kept", "Layout", "Pieces", "Scattered"]
