"""A quantised weight as blocks of real values, which are pruned like those of a float weight."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.quantisation.codes import ReadBytes, WeightCodes
from onnx_tools.quantisation.kinds import Codes
from onnx_tools.quantisation.scheme import Quantisation
from oxiprune_gpu import BlockSource

_FLOAT32 = np.dtype(np.float32)


def weight_values(
    quantisation: Quantisation | None, stored: BlockSource, shape: tuple[int, ...], name: str, read: ReadBytes
) -> BlockSource:
    """A weight in `shape` by its values. `stored`: its bytes, flat, if it is quantised, else the values themselves.

    `read` gives the bytes of scales and zero points; `name` is for errors, see `WeightCodes`.
    """
    if quantisation is None:
        return stored
    return QuantisedBlocks(stored, quantisation, shape, WeightCodes(quantisation, name, read))


class QuantisedBlocks(BlockSource):
    """The real values of a quantised weight. Stored back, +0.0 becomes the zero point, all else keeps its bits."""

    def __init__(
        self, stored: BlockSource, quantisation: Quantisation, shape: tuple[int, ...], codes: WeightCodes
    ) -> None:
        self._stored = stored
        self._shape = shape
        self._codes = codes
        self._kind = quantisation.kind
        self._line = quantisation.line
        self._padding = (quantisation.pitch or self._line) - self._line
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape the weight is seen in."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        return _FLOAT32

    def load(self, start: int, stop: int, scratch: NDArray[Any]) -> NDArray[Any]:
        """See `BlockSource.load`."""
        block = scratch[: stop - start]
        if start < stop:
            first, end = self._extent(start, stop)
            codes = self._wanted(self._read(first, end), first, end)
            block[:] = self._codes.values(codes, first)[self._unpadded(start, stop)]
        return block

    def store(self, start: int, block: NDArray[Any]) -> None:
        """See `BlockSource.store`."""
        stop = start + len(block)
        if start == stop:
            return
        first, end = self._extent(start, stop)
        # Elements at either end may share their byte with those of a block that another thread stores.
        shared = first % self._kind.per_byte or end % self._kind.per_byte
        with self._lock if shared else nullcontext():
            codes = self._read(first, end)
            wanted = self._wanted(codes, first, end)
            pruned = np.zeros(len(wanted), np.bool_)
            pruned[self._unpadded(start, stop)] = block.view(np.uint32) == 0
            np.copyto(wanted, self._codes.zero_codes(first, end), where=pruned)
            self._stored.put(self._byte(first), self._kind.packed(codes))

    def put(self, start: int, values: NDArray[Any]) -> None:
        """See `BlockSource.put`: as `store`, since only the file knows the bits of what is kept."""
        self.store(start, values)

    def _extent(self, start: int, stop: int) -> tuple[int, int]:
        """The stored elements that hold start..stop, with the padding between them."""
        padding, last = self._padding, stop - 1
        return start + start // self._line * padding, last + last // self._line * padding + 1

    def _unpadded(self, start: int, stop: int) -> slice | NDArray[np.intp]:
        """Where start..stop lie among the stored elements of their extent."""
        if not self._padding:
            return slice(None)
        elements = np.arange(start, stop)
        lines = elements // self._line
        places: NDArray[np.intp] = elements - start + (lines - lines[0]) * self._padding
        return places

    def _byte(self, element: int) -> int:
        """The byte that a stored element begins in."""
        return element * self._kind.bits // 8

    def _read(self, first: int, end: int) -> Codes:
        """The codes of all bytes that hold the stored elements first..end."""
        start, stop = self._byte(first), self._kind.bytes_for(end)
        return self._kind.unpacked(self._stored.load(start, stop, np.empty(stop - start, np.uint8)))

    def _wanted(self, codes: Codes, first: int, end: int) -> Codes:
        """The elements first..end of what `_read` gave, as a view."""
        skipped = first % self._kind.per_byte
        return codes[skipped : skipped + end - first]
