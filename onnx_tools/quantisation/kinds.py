"""The narrow types that weights are stored in: integers of 2 to 16 bits, floats of 4 and 8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.model_file import DTYPES

Codes = NDArray[Any]
"""The bits of elements as uint8 or uint16, an element each."""


@dataclass(frozen=True)
class Kind:
    """A stored type. `bits` of an element; elements narrower than a byte fill it from the low bits up.

    `dtype` of an element that has a byte (or two) for itself. `negative_zero`: the code of -0.0 where there is one.
    """

    name: str
    bits: int
    dtype: np.dtype[Any]
    negative_zero: int | None = None

    @property
    def is_float(self) -> bool:
        """Whether zero is not an integer but a float's zero."""
        return self.name.startswith("float")

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Dtype of its codes."""
        return np.dtype(np.uint16 if self.bits > 8 else np.uint8)

    @property
    def per_byte(self) -> int:
        """Elements that share a byte."""
        return max(8 // self.bits, 1)

    def bytes_for(self, elements: int) -> int:
        """Bytes that so many elements take."""
        return (elements * self.bits + 7) // 8

    @cached_property
    def _numbers(self) -> NDArray[np.float32]:
        return np.arange(1 << self.bits, dtype=np.uint8).view(self.dtype).astype(np.float32)

    def numbers(self, codes: Codes) -> NDArray[np.float32]:
        """What codes stand for, exactly."""
        if self.is_float:
            return self._numbers.take(codes)
        if self.name.startswith("uint"):
            return codes.astype(np.float32)
        signed = codes.view(f"i{codes.itemsize}")
        if self.bits < 8:
            sign = np.int8(1 << (self.bits - 1))
            signed = (signed ^ sign) - sign
        return signed.astype(np.float32)

    def unpacked(self, data: NDArray[np.uint8]) -> Codes:
        """The codes in bytes; of a last byte that is not full, what fills it too."""
        if self.bits >= 8:
            return data.view(self.code_dtype)
        codes = np.empty(len(data) * self.per_byte, np.uint8)
        for place in range(self.per_byte):
            codes[place :: self.per_byte] = (data >> np.uint8(place * self.bits)) & np.uint8((1 << self.bits) - 1)
        return codes

    def packed(self, codes: Codes) -> NDArray[np.uint8]:
        """The reverse of `unpacked`."""
        if self.bits >= 8:
            return codes.view(np.uint8)
        data = codes[:: self.per_byte].copy()
        for place in range(1, self.per_byte):
            data |= codes[place :: self.per_byte] << np.uint8(place * self.bits)
        return data


_INTEGERS: dict[int, Kind] = {
    TensorProto.UINT8: Kind("uint8", 8, np.dtype(np.uint8)),
    TensorProto.INT8: Kind("int8", 8, np.dtype(np.int8)),
    TensorProto.UINT16: Kind("uint16", 16, np.dtype(np.uint16)),
    TensorProto.INT16: Kind("int16", 16, np.dtype(np.int16)),
    TensorProto.UINT4: Kind("uint4", 4, np.dtype(ml_dtypes.uint4)),
    TensorProto.INT4: Kind("int4", 4, np.dtype(ml_dtypes.int4)),
}
_FLOATS: dict[int, Kind] = {
    TensorProto.FLOAT8E4M3FN: Kind("float8e4m3fn", 8, np.dtype(ml_dtypes.float8_e4m3fn), 0x80),
    TensorProto.FLOAT8E4M3FNUZ: Kind("float8e4m3fnuz", 8, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    TensorProto.FLOAT8E5M2: Kind("float8e5m2", 8, np.dtype(ml_dtypes.float8_e5m2), 0x80),
    TensorProto.FLOAT8E5M2FNUZ: Kind("float8e5m2fnuz", 8, np.dtype(ml_dtypes.float8_e5m2fnuz)),
}
_NEWER = {
    "FLOAT4E2M1": Kind("float4e2m1", 4, np.dtype(ml_dtypes.float4_e2m1fn), 0x8),
    "UINT2": Kind("uint2", 2, np.dtype(ml_dtypes.uint2)),
    "INT2": Kind("int2", 2, np.dtype(ml_dtypes.int2)),
}
"""Types that not every onnx knows."""

KINDS: dict[int, Kind] = {
    **_INTEGERS,
    **_FLOATS,
    **{getattr(TensorProto, name): kind for name, kind in _NEWER.items() if hasattr(TensorProto, name)},
}
"""By TensorProto's data type. float8e8m0 is not among them: it has no zero."""

PACKED = {2: Kind("uint2", 2, np.dtype(np.uint8)), 4: Kind("uint4", 4, np.dtype(np.uint8)), 8: KINDS[TensorProto.UINT8]}
"""Unsigned codes packed into a tensor of uint8, by their bits."""

_POWERS = {"FLOAT8E8M0": np.dtype(ml_dtypes.float8_e8m0fnu)}
SCALE_DTYPES: dict[int, np.dtype[Any]] = {
    **DTYPES,
    **{getattr(TensorProto, name): dtype for name, dtype in _POWERS.items() if hasattr(TensorProto, name)},
}
"""Data types of scales."""
