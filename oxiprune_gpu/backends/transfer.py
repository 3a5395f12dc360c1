"""A weight on its way to the GPU and back, piece by piece: the file is read while the piece before is copied.

The pieces pass through two page-locked buffers, which the GPU reads and writes by itself; so this machine's memory
holds a few megabytes, whatever the size of the weight. Everything is ordered on CuPy's current stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.parallel import Span, cut
from oxiprune_gpu.blocks import BlockSource

PIECE_BYTES = 4 << 20
"""Bytes of a buffer: a copy of 0.2 ms over PCIe, against some microseconds to start it."""


def upload(cupy: Any, source: BlockSource) -> Any:
    """Return the bits of a weight as an array of unsigned integers on the current device, in the weight's shape."""
    bits = cupy.empty(math.prod(source.shape), f"u{source.dtype.itemsize}")
    with _two_lanes(cupy) as lanes:
        for lane, (start, stop) in zip(cycle(lanes), _pieces(source), strict=False):
            lane.wait()
            room = lane.room(stop - start, source.dtype)
            block = source.load(start, stop, room)
            if not np.may_share_memory(block, room):
                room[:] = block
            lane.send(bits[start:stop])
    return bits.reshape(source.shape)


def download(cupy: Any, bits: Any, source: BlockSource) -> None:
    """Make a weight equal to what `upload` returned for it."""
    flat = bits.reshape(-1)
    arriving: tuple[_Lane, Span] | None = None
    with _two_lanes(cupy) as lanes:
        for lane, span in zip(cycle(lanes), _pieces(source), strict=False):
            lane.fetch(flat[slice(*span)])  # what this lane brought before has been stored
            if arriving is not None:
                _store(source, *arriving)
            arriving = lane, span
        if arriving is not None:
            _store(source, *arriving)


class _Lane:
    """A page-locked buffer and the event that says when the GPU is done with it. All that is CuPy's own is in here."""

    def __init__(self, cupy: Any) -> None:
        self._bytes: NDArray[np.uint8] = np.frombuffer(
            cupy.cuda.alloc_pinned_memory(PIECE_BYTES), np.uint8, PIECE_BYTES
        )
        self._stream = cupy.cuda.get_current_stream()
        self._done = cupy.cuda.Event(disable_timing=True)

    def room(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The first `size` elements of the buffer."""
        return self._bytes[: size * dtype.itemsize].view(dtype)

    def send(self, piece: Any) -> None:
        """Begin to copy the buffer into an array on the device."""
        piece.set(self.room(piece.size, piece.dtype), self._stream)
        self._done.record(self._stream)

    def fetch(self, piece: Any) -> None:
        """Begin to copy an array on the device into the buffer."""
        piece.get(self._stream, out=self.room(piece.size, piece.dtype), blocking=False)
        self._done.record(self._stream)

    def wait(self) -> None:
        """Wait until the copy has ended; at once where none was begun."""
        self._done.synchronize()


@contextmanager
def _two_lanes(cupy: Any) -> Iterator[list[_Lane]]:
    """Two lanes that the GPU has left, also after an error, when CuPy takes the buffers back."""
    lanes = [_Lane(cupy), _Lane(cupy)]
    try:
        yield lanes
    finally:
        for lane in lanes:
            lane.wait()


def _pieces(source: BlockSource) -> list[Span]:
    return cut((0, math.prod(source.shape)), PIECE_BYTES // source.dtype.itemsize)


def _store(source: BlockSource, lane: _Lane, span: Span) -> None:
    lane.wait()
    start, stop = span
    source.put(start, lane.room(stop - start, source.dtype))
