"""How a stored tensor is quantised: real value = (code - zero point) * scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

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

    def spread(self, parameters: NDArray[Any], start: int, stop: int) -> Any:
        """The one of `parameters` for each of the elements start..stop, or one for all."""
        if not self.size or start == stop:
            return parameters[0]
        length = self._run
        rows = np.arange(start // length, (stop - 1) // length + 1)
        table = parameters.reshape(-1, self._width)
        places = self._places(rows)
        skipped, count = start - int(rows[0]) * length, stop - start
        if len(rows) > 2:
            return np.broadcast_to(table[places], (len(rows), length)).reshape(-1)[skipped : skipped + count]
        lines = [np.broadcast_to(table[place], (length,)) for place in places.tolist()]
        if len(lines) == 1:
            return lines[0][skipped : skipped + count]
        return np.concatenate((lines[0][skipped:], lines[1][: skipped + count - length]))

    @property
    def _run(self) -> int:
        """Elements of a row, the runs that parameters are dealt to."""
        if self.after > 1 or not self.block:
            return self.after if self.after > 1 else self.size
        return 1 if self.size % self.block else self.block

    @property
    def _width(self) -> int:
        """Parameters of a row: one, or one for each element."""
        return 1 if (self.after > 1) != bool(self.block) else self._run

    def _places(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which line of a table of parameters, `_width` wide, belongs to each row."""
        if not self.block:
            return rows % self.size if self.after > 1 else np.zeros_like(rows)
        if self.after == 1 and self._run == self.block:
            return rows
        places: NDArray[np.intp] = rows // self.size * -(-self.size // self.block) + rows % self.size // self.block
        return places


@dataclass(frozen=True)
class Parameter:
    """A stored tensor of scales or zero points.

    `packed_row`: how many codes lie in a row of packed ones, of which it has `elements` bytes; 0: not packed.
    """

    path: Path
    data_type: int
    elements: int
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
