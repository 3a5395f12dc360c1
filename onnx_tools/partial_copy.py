"""Copies of files in which every byte is written once: by whoever changes it, or else from the original."""

from __future__ import annotations

import os
import pathlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_tools.errors import InvalidModelFile
from onnx_tools.file_blocks import FileBlocks, read_at, write_at
from onnx_tools.temporaries import Stamp, Temporary, write_rope
from onnx_tools.wire import Rope, Span


class PartialCopy:
    """A copy of the file `source` in `temporary`, which is empty. Parts of it may be changed before the rest is copied.

    What is read is the original, and in its place what was written. Threads may read and write at the same time where
    their parts do not overlap.
    """

    def __init__(self, source: pathlib.Path, temporary: Temporary) -> None:
        try:
            self._source = source.open("rb", buffering=0)
        except OSError as error:
            raise InvalidModelFile(f"{source}: cannot be read: {error.strerror}") from error
        self.temporary = temporary
        self._written = _Ranges()
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from `offset` on. Errors as in `read_at`."""
        stop = offset + len(buffer)
        with self._lock:
            written = list(self._written.within(offset, stop))
        if written != [(offset, stop)]:
            read_at(self._source.fileno(), buffer, offset)
        for start, end in written:
            read_at(self.temporary.descriptor, buffer[start - offset : end - offset], start)

    def write(self, data: memoryview, offset: int) -> None:
        """Put `data` (bytes) at `offset`."""
        write_at(self.temporary.descriptor, data, offset)
        with self._lock:
            self._written.add(offset, offset + len(data))

    def complete(self, rope: Rope | None = None) -> Stamp:
        """Copy what was not written, and return size and modification time of the original; once is enough.

        `rope`: what to make of the original instead, if nothing was written. Its spans lie there.

        Real copies, never shared extents.
        """
        if self._stamp is None:
            source, target = self._source.fileno(), self.temporary.descriptor
            if rope is None:
                for start, stop in list(self._written.missing(os.fstat(source).st_size)):
                    write_rope(source, [Span(start, stop - start)], target, start)
            else:
                write_rope(source, rope, target)
            status = os.fstat(source)
            self._stamp = status.st_size, status.st_mtime_ns
            self.close()
        return self._stamp

    def close(self) -> None:
        """Close the original."""
        self._source.close()


class CopiedBlocks(FileBlocks):
    """A weight inside a partial copy; see `FileBlocks`."""

    def __init__(self, copy: PartialCopy, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(copy.temporary.descriptor, offset, shape, dtype)
        self._copy = copy

    def _read(self, buffer: memoryview, offset: int) -> None:
        self._copy.read(buffer, offset)

    def _write(self, data: memoryview, offset: int) -> None:
        self._copy.write(data, offset)


class _Ranges:
    """Ranges (start, stop) of numbers, joined where they touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Add one, in time that grows with the number of ranges that don't touch."""
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of start..stop that lie in one."""
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        for begin, end in zip(self._starts[first:last], self._stops[first:last], strict=True):
            yield max(begin, start), min(end, stop)

    def missing(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of 0..size that lie in none."""
        for start, stop in zip([0, *self._stops], [*self._starts, size], strict=True):
            if start < stop:
                yield start, stop
