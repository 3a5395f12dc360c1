"""The least that must move through a GPU's memory for each piece of work, and what that takes at the measured speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mask = Literal["bool", "bits"] | None

GIB = 1 << 30


@dataclass(frozen=True)
class Floor:
    """Bytes that must move, and the most that a run may take in units of the time this needs."""

    bytes: float
    limit: float | None = None

    def seconds(self, bandwidth: float) -> float:
        """The least seconds at `bandwidth` bytes a second, read and written bytes alike."""
        return self.bytes / bandwidth


def copy_bandwidth(elements: int, itemsize: int, seconds: float) -> float:
    """Bytes a second of a copy, which reads and writes each byte once."""
    return 2 * elements * itemsize / seconds


def mask_bytes(elements: int, mask: Mask) -> int:
    """Bytes of a mask."""
    return {"bool": elements, "bits": -(-elements // 8), None: 0}[mask]


def unstructured(elements: int, itemsize: int, mask: Mask, limit: float | None = None) -> Floor:
    """Read to count, read to prune, write; and the mask. Exact selection can't decide in one pass."""
    return Floor(3 * elements * itemsize + mask_bytes(elements, mask), limit)


def groups(elements: int, itemsize: int, limit: float | None = None) -> Floor:
    """Read once, write once."""
    return Floor(2 * elements * itemsize, limit)


def rows(elements: int, itemsize: int, sparsity: float, limit: float | None = None) -> Floor:
    """Read all, write only the rows that fall, which are not read again."""
    return Floor((1 + sparsity) * elements * itemsize, limit)


def columns(elements: int, itemsize: int, limit: float | None = None) -> Floor:
    """Read all, write all: columns that fall lie in every line of memory."""
    return Floor(2 * elements * itemsize, limit)


def largest(wanted: int, bytes_an_element: float, free: int) -> int:
    """The largest size, `wanted` or a half, a quarter ... of it, whose arrays fit into nine tenths of free memory."""
    while wanted > 1 << 16 and wanted * bytes_an_element > 0.9 * free:
        wanted //= 2
    return wanted
