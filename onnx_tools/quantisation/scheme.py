"""How a stored tensor is quantised: real value = (code - zero point) * scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnx_tools.graph_parts import Path
from onnx_tools.quantisation.kinds import Kind


@dataclass(frozen=True)
class Grid:
    """Which scale (or zero point) belongs to which element, elements numbered as they are stored.

    Along an axis of `size` entries, `after` elements apart, each entry has its own; with `block` so many neighbours
    along the axis share one, and every place beside the axis has its own. No size: one for all.
    """

    size: int = 0
    after: int = 1
    block: int = 0

    def indices(self, start: int, stop: int) -> NDArray[np.intp] | int:
        """The index of the scale for each of the elements start..stop."""
        if not self.size or start == stop:
            return 0
        rows = np.arange(start // self.after, (stop - 1) // self.after + 1)
        if not self.block:
            return self._spread(rows % self.size, start, stop)
        blocks = rows // self.size * -(-self.size // self.block) + rows % self.size // self.block
        if self.after == 1:
            return blocks
        return self._spread((blocks - rows) * self.after, start, stop) + np.arange(start, stop)

    def _spread(self, of_rows: NDArray[np.intp], start: int, stop: int) -> NDArray[np.intp]:
        """A number for each row of `after` elements, as many times as elements of the row are in start..stop."""
        if self.after == 1:
            return of_rows
        counts = np.full(len(of_rows), self.after)
        counts[0] -= start % self.after
        counts[-1] -= -stop % self.after
        return np.repeat(of_rows, counts)


@dataclass(frozen=True)
class Parameter:
    """A stored tensor of scales or zero points. `codes`: how many codes lie in a row of packed ones; 0: not packed."""

    path: Path
    data_type: int
    grid: Grid
    packed_row: int = 0


@dataclass(frozen=True)
class Quantisation:
    """How a weight is stored. `scale` None: it is 1.

    `shape` is that of the weight, whose last axis may be stored with padding: `pitch` elements a line. `zero_code`:
    the zero point where none is stored. `unscaled`: there is a scale, but where is not plain to see; the weight is
    scored by |code - zero point|.
    """

    kind: Kind
    shape: tuple[int, ...]
    scale: Parameter | None = None
    zero_point: Parameter | None = None
    zero_code: int = 0
    pitch: int = 0
    unscaled: bool = False

    @property
    def line(self) -> int:
        """Elements of a line of the weight, without padding."""
        return self.shape[-1] if self.pitch else prod(self.shape)

    @property
    def stored_elements(self) -> int:
        """Elements that are stored, padding included."""
        return prod(self.shape[:-1]) * self.pitch if self.pitch else prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all elements."""
        return self.kind.bytes_for(self.stored_elements)
