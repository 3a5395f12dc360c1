"""Reading and writing parts of open files: at positions, never through the shared file position, in bounded memory."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.errors import InvalidModelFile, WriteFailed
from onnx_tools.wire import Data
from oxiprune_gpu import BlockSource

_SMALL_FILE = 1 << 20
"""Files below this are read, not mapped: cheaper."""

_SEEK_LOCK = threading.Lock()
"""Where the system has no positioned reads and writes (Windows), the file position is shared by all threads."""


@contextlib.contextmanager
def contents(descriptor: int, size: int) -> Iterator[Data]:
    """Give the `size` bytes of an open file, without reading a large one."""
    if size < _SMALL_FILE:
        data = bytearray(size)
        read_at(descriptor, memoryview(data), 0)
        yield data
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def read_at(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` (bytes) from `offset` of an open file; `InvalidModelFile` if the file ends before."""
    done = 0
    while done < len(buffer):
        count = _read_some(descriptor, buffer[done:], offset + done)
        if count == 0:
            raise InvalidModelFile(f"the file ended at byte {offset + done}: it was truncated while being read")
        done += count


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` (bytes) at `offset` of an open file."""
    done = 0
    while done < len(data):
        done += _write_some(descriptor, data[done:], offset + done)


def _read_some(descriptor: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    with _SEEK_LOCK:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write_some(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _SEEK_LOCK:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def write_failed(error: OSError, where: object) -> WriteFailed:
    """Return the error that says in a plain sentence why writing to `where` failed."""
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", None)}:
        reason = "the disk is full; free some space, or write to another disk"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        reason = f"{reason}; make the folder writable, or write to another one"
    return WriteFailed(f"{where}: cannot be written: {reason}")


class FileBlocks(BlockSource):
    """A weight inside an open file, as `oxiprune_gpu.blocks.BlockSource`.

    `descriptor` is open for reading and, if blocks are to be stored, writing, and stays open as long as this is used.
    The values lie from byte `offset` on, little-endian, at any alignment.
    """

    def __init__(self, descriptor: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._dtype = dtype
        self._descriptor = descriptor
        self._offset = offset

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weight."""
        return self._dtype

    def load(self, start: int, stop: int, scratch: NDArray[Any]) -> NDArray[Any]:
        """See `BlockSource.load`. Raises `InvalidModelFile` if the file cannot be read."""
        block = scratch[: stop - start]
        try:
            self._read(block.view(np.uint8).data, self._offset + start * self.dtype.itemsize)
        except OSError as error:
            raise InvalidModelFile(f"the weights cannot be read: {error.strerror}; nothing was changed") from error
        return block

    def store(self, start: int, block: NDArray[Any]) -> None:
        """See `BlockSource.store`. Raises `WriteFailed`, for instance when the disk is full."""
        try:
            self._write(block.view(np.uint8).data, self._offset + start * self.dtype.itemsize)
        except OSError as error:
            raise write_failed(error, "the temporary copy") from error

    def put(self, start: int, values: NDArray[Any]) -> None:
        """See `BlockSource.put`; what lay there is not read. Raises as `store`."""
        self.store(start, values)

    def _read(self, buffer: memoryview, offset: int) -> None:
        read_at(self._descriptor, buffer, offset)

    def _write(self, data: memoryview, offset: int) -> None:
        write_at(self._descriptor, data, offset)
