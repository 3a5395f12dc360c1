"""Pictures in reports: a PNG of the mask, and the lines and bars of SVG drawings."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_tools.pictures import Histogram, MaskPicture
from onnx_tools.renderers import text
from onnx_tools.report import ComparedTensor, InspectedWeight, WeightReport, format_fraction, fraction

Weighed = WeightReport | InspectedWeight | ComparedTensor
MOST_BARS = 400
_INK = bytes((20, 148, 130))
"""Of the mask: seen on a light page and on a dark one."""
_HEIGHT = 100


@dataclass(frozen=True)
class Bar:
    """A bar of the sparsity chart: heights in percent, and what is said where the pointer rests."""

    before: float
    after: float
    title: str


@dataclass(frozen=True)
class Bars:
    """Sparsity in model order. `together`: weights a bar stands for, where there are too many for a bar each."""

    bars: tuple[Bar, ...]
    together: int


def bars_of(weights: Sequence[Weighed]) -> Bars:
    """A bar a weight, or one for a few neighbours, as fraction of all their elements."""
    together = max(1, math.ceil(len(weights) / MOST_BARS))
    groups = [weights[start : start + together] for start in range(0, len(weights), together)]
    return Bars(tuple(_bar(group) for group in groups), together)


def mask_png(mask: MaskPicture) -> str:
    """A mask as data URL of a PNG (ISO/IEC 15948) with a palette of one colour, the more of it the more nonzeros."""
    rows = (mask.shades[start : start + mask.width] for start in range(0, len(mask.shades), mask.width))
    header = struct.pack(">IIBBBBB", mask.width, mask.height, 8, 3, 0, 0, 0)
    pieces = [
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", _INK * 256),
        _chunk(b"tRNS", bytes(range(256))),
        _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)),
        _chunk(b"IEND", b""),
    ]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(pieces)).decode()


def histogram_path(histogram: Histogram, highest: int) -> str:
    """The outline of a histogram as SVG path, a unit a bin wide; `highest` count is 100 high."""
    steps = [f"V{_HEIGHT - _HEIGHT * count / max(highest, 1):.5g}H{place + 1}" for place, count in _places(histogram)]
    return f"M0 {_HEIGHT}{''.join(steps)}V{_HEIGHT}Z"


def _places(histogram: Histogram) -> list[tuple[int, int]]:
    return list(enumerate(histogram.counts))


def _bar(weights: Sequence[Weighed]) -> Bar:
    total = sum(weight.parameters for weight in weights)
    befores, afters = (sum(counts) for counts in zip(*map(_zeros, weights), strict=True))
    name = text.printable(weights[0].name)
    name += f" and {len(weights) - 1} more" if len(weights) > 1 else ""
    shown = (format_fraction(befores, total), format_fraction(afters, total))
    figures = shown[1] if shown[0] == shown[1] else " -> ".join(shown)
    return Bar(100 * fraction(befores, total), 100 * fraction(afters, total), f"{name}: {figures}")


def _zeros(weight: Weighed) -> tuple[int, int]:
    if isinstance(weight, InspectedWeight):
        return weight.zeros, weight.zeros
    return weight.zeros_before or 0, weight.zeros_after or 0


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
