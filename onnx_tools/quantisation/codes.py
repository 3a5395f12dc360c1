"""Stored codes of a weight and the real values they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.errors import InvalidTensor
from onnx_tools.graph_parts import Path
from onnx_tools.quantisation.kinds import SCALE_DTYPES, Codes, Kind
from onnx_tools.quantisation.scheme import Parameter, Quantisation

ReadBytes = Callable[[Path], NDArray[np.uint8]]
"""Gives the bytes of the values of the stored tensor at a path."""

_SMALLEST = np.float32(np.finfo(np.float32).smallest_subnormal)


class WeightCodes:
    """The codes of one weight with its scales and zero points; elements are numbered as they are stored.

    The real value is `(code - zero point) * scale`: the difference is exact in float32, the product is rounded to
    float32 once. It is +0.0 for the zero point and for nothing else: another code whose product is too small, or whose
    scale is 0, has the smallest float there is, so that it counts and falls first. Raises `InvalidTensor` if a scale is
    NaN or infinite, or a zero point NaN. Scales may be negative: onnxruntime writes such.
    """

    def __init__(self, quantisation: Quantisation, name: str, read: ReadBytes) -> None:
        self.kind: Kind = quantisation.kind
        self._quantisation = quantisation
        self._scales = _scales(quantisation.scale, name, read)
        self._zeros = _zero_codes(quantisation, name, read)
        self._zero_numbers = self.kind.numbers(self._zeros)
        # An integer times a scale, neither of them zero, is not zero: no float is smaller than the smallest scale.
        self._plain = not self.kind.is_float and bool(self._scales.all())

    def zero_codes(self, start: int, stop: int) -> Any:
        """The codes that stand for zero at the elements start..stop: an array, or one code for all."""
        return self._spread(self._zeros, self._quantisation.zero_point, start, stop)

    def values(self, codes: Codes, start: int) -> NDArray[np.float32]:
        """The real values of `codes`, which are the elements from `start` on."""
        stop = start + len(codes)
        values = self.kind.numbers(codes)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values -= self._spread(self._zero_numbers, self._quantisation.zero_point, start, stop)
            differs = None if self._plain else values != 0
            values *= self._spread(self._scales, self._quantisation.scale, start, stop)
        if differs is None:
            values += 0.0  # a negative scale has made -0.0 of zeros
            return values
        lost = values == 0
        values[lost & differs] = _SMALLEST
        values[lost & ~differs] = -0.0
        values[codes == self.zero_codes(start, stop)] = 0.0
        return values

    @staticmethod
    def _spread(parameters: NDArray[Any], parameter: Parameter | None, start: int, stop: int) -> Any:
        return parameters[0] if parameter is None else parameter.grid.spread(parameters, start, stop)

    def are_zero_points(self, codes: Codes, start: int) -> NDArray[np.bool_]:
        """Which of `codes`, stored from element `start` on, are an element's zero point; what pads lines never is."""
        quantisation = self._quantisation
        stop = min(start + len(codes), quantisation.stored_elements)
        zero = np.zeros(len(codes), np.bool_)
        zero[: stop - start] = codes[: stop - start] == self.zero_codes(start, stop)
        if quantisation.pitch:
            zero &= np.arange(start, start + len(codes)) % quantisation.pitch < quantisation.line
        return zero


def _scales(scale: Parameter | None, name: str, read: ReadBytes) -> NDArray[np.float32]:
    if scale is None:
        return np.ones(1, np.float32)
    with np.errstate(over="ignore"):
        scales: NDArray[np.float32] = read(scale.path).view(SCALE_DTYPES[scale.data_type]).astype(np.float32)
    bad = ~np.isfinite(scales)
    if bad.any():
        raise InvalidTensor(
            f"weight {name!r}: scale {int(bad.argmax())} is {scales[bad][0]}: a quantised weight needs finite scales; "
            "quantise the model again, or leave the weight out with --exclude"
        )
    return scales


def _zero_codes(quantisation: Quantisation, name: str, read: ReadBytes) -> Codes:
    kind, zero_point = quantisation.kind, quantisation.zero_point
    if zero_point is None:
        return np.array([quantisation.zero_code], kind.code_dtype)
    codes = kind.unpacked(read(zero_point.path))
    if zero_point.packed_row:
        rows = codes.reshape(-1, -(-zero_point.packed_row // kind.per_byte) * kind.per_byte)
        codes = rows[:, : zero_point.packed_row].reshape(-1)
    else:
        codes = codes[: zero_point.elements]
    if kind.is_float and np.isnan(kind.numbers(codes)).any():
        raise InvalidTensor(f"weight {name!r}: a zero point is NaN; quantise the model again, or use --exclude")
    return codes
