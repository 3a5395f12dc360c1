"""What the weights of LSTM, GRU and RNN are multiplied with: the inputs, and the hidden states of the step before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_tools.calibration.rows import Array, Rows, Unfold


@dataclass(frozen=True)
class InputRows(Unfold):
    """X at each step, the same for each direction. The values are X and the lengths of the sequences.

    `batch_first`: the attribute `layout`, X then is (batch, steps, features).
    """

    directions: int
    batch_first: bool

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        value, lengths = values
        assert value is not None
        value = np.moveaxis(value, 0, 1) if self.batch_first else value
        return _lasting(np.broadcast_to(value, (self.directions, *value.shape)), lengths)

    def copied(self, shape: tuple[int, ...]) -> int:
        """See `Unfold.copied`."""
        return self.directions * prod(shape)


@dataclass(frozen=True)
class HiddenRows(Unfold):
    """The hidden state before each step. The values are Y, the initial state and the lengths of the sequences.

    `reverse`: for each direction, whether it goes from the last step to the first.
    """

    reverse: tuple[bool, ...]
    batch_first: bool

    def rows(self, values: Sequence[Array | None]) -> Rows:
        """See `Unfold.rows`."""
        hidden, initial, lengths = values
        assert hidden is not None
        hidden = hidden.transpose(2, 1, 0, 3) if self.batch_first else np.moveaxis(hidden, 1, 0)
        before = np.zeros(hidden.shape, hidden.dtype)
        if initial is not None and self.batch_first:
            initial = np.moveaxis(initial, 1, 0)
        for direction, backward in enumerate(self.reverse):
            first = np.zeros((), hidden.dtype) if initial is None else initial[direction]
            _shift(hidden[direction], before[direction], first, lengths if backward else None, backward=backward)
        return _lasting(before, lengths)

    def copied(self, shape: tuple[int, ...]) -> int:
        """See `Unfold.copied`."""
        return 2 * prod(shape)


def _shift(hidden: Array, before: Array, first: Array, lengths: Array | None, *, backward: bool) -> None:
    """Write the states before each step into `before`; both are (steps, batch, features)."""
    steps = len(hidden)
    if not backward:
        before[1:] = hidden[:-1]
        before[:1] = first
        return
    before[:-1] = hidden[1:]
    batch = np.arange(hidden.shape[1])
    last = np.full(len(batch), steps) if lengths is None else lengths
    started = last > 0
    before[last[started] - 1, batch[started]] = np.broadcast_to(first, before.shape[1:])[started]


def _lasting(value: Array, lengths: Array | None) -> Rows:
    """The steps of (directions, steps, batch, features) that belong to the sequences."""
    if lengths is None:
        return Rows(value, 1, 1)
    lasting = np.arange(value.shape[1])[:, None] < lengths[None]
    return Rows(value[:, lasting], 1, 1)
