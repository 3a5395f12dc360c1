"""Which layout a weight gets: the smallest, or the fastest to load, of those that are smaller than the dense weight."""

from __future__ import annotations

from typing import Literal

from onnx_tools.encodings.layouts import LAYOUTS, Kept, Layout

Prefer = Literal["size", "load"]
"""What decides between layouts that pay: bytes in the file, or time until onnxruntime has rebuilt the weight."""

_SECONDS_PER_BYTE = 1e-9
"""Of reading a file that lies in memory."""


def candidates(data_type: int, opset: int, *, external: bool) -> list[Layout]:
    """The layouts whose operators the opset has for a data type.

    `external`: in a data file something must be stored, so that decoding finds the weight's place there.
    """
    layouts = [layout for layout in LAYOUTS.values() if layout.roles or not external]
    return [layout for layout in layouts if layout.first_opset(data_type) <= opset]


def choose(kept: Kept, layouts: list[Layout], prefer: Prefer, most: float) -> Layout | None:
    """The layout preferred among those whose payload is at most `most` bytes; None if there is none."""
    paying = [(layout, size) for layout in layouts if (size := layout.payload(kept)) is not None and size <= most]
    if not paying:
        return None
    if prefer == "size":
        return min(paying, key=lambda pair: pair[1])[0]
    return min(paying, key=lambda pair: _seconds(pair[0], kept, pair[1]))[0]


def _seconds(layout: Layout, kept: Kept, size: int) -> float:
    """How long it about takes to read and rebuild a weight; it only ranks layouts."""
    return layout.seconds_per_million * (layout.codes(kept) or 0) / 1e6 + _SECONDS_PER_BYTE * size
