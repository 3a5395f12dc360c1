"""Random scores from a 64-bit linear congruential generator, reproducible on every backend.

The stream starts at `state = seed`. Each element advances it, `state = state * MULTIPLIER + INCREMENT (mod 2**64)`
(Knuth's constants), and takes the upper 32 bits: score = float32(state >> 32) * 2**-32. The state after n steps is
`state * MULTIPLIER**n + INCREMENT * (MULTIPLIER**n - 1) / (MULTIPLIER - 1)`, so any element can be reached directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.metrics.base import ImportanceMetric, Positions

MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407
_MASK = 2**64 - 1
_RUN = 1 << 12


@dataclass(frozen=True)
class Random(ImportanceMetric):
    """Uniform scores in [0, 1], the same for the same seed on every machine.

    Element i takes output i of the stream that starts at `seed`; unit u takes the first output of `seed + u`. Scores
    are float32 values whatever the dtype of the weight. They are rounded, so ties are common, and 1.0 can occur.

    Args:
        seed: integer, 0 <= seed < 2**64.
    """

    seed: int
    name: ClassVar[str] = "random"
    reads_weight: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", _checked_seed(self.seed))

    def score(self, values: NDArray[Any], positions: Positions, out: NDArray[Any]) -> None:
        """See `ImportanceMetric.score`."""
        if isinstance(positions, slice):
            self._score_run(int(positions.start), out)
        else:
            out[...] = _to_score(_advance(np.uint64(self.seed), positions.astype(np.uint64) + np.uint64(1)))

    def unit_scores(self, units: int, sum_scores: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """See `ImportanceMetric.unit_scores`."""
        seeds = np.arange(units, dtype=np.uint64) + np.uint64(self.seed)
        states = seeds * np.uint64(MULTIPLIER) + np.uint64(INCREMENT)
        return _to_score(states).astype(np.float64)

    @classmethod
    def from_text(cls, argument: str | None) -> Self:
        """Return `Random(SEED)` for the text `random:SEED`."""
        if not argument or not argument.isascii() or not argument.isdigit():
            raise InvalidOption(f"metric random needs a seed, as in random:42; got '{argument or ''}'")
        return cls(int(argument))

    @property
    def text(self) -> str:
        """The metric as text, with its seed."""
        return f"random:{self.seed}"

    def _score_run(self, start: int, out: NDArray[Any]) -> None:
        factors, offsets = _run_table()
        for first in range(0, len(out), _RUN):
            stop = min(first + _RUN, len(out))
            state = np.uint64(_jump(self.seed, start + first))
            out[first:stop] = _to_score(state * factors[: stop - first] + offsets[: stop - first])


def _checked_seed(seed: object) -> int:
    if not isinstance(seed, int | np.integer):
        raise InvalidOption(f"seed {seed!r} of metric random must be an integer")
    if not 0 <= int(seed) <= _MASK:
        raise InvalidOption(f"seed {seed} of metric random must be in [0, 2**64)")
    return int(seed)


def _jump(seed: int, steps: int) -> int:
    """State after `steps` steps from `seed`."""
    # The geometric sum is exact when taken modulo (MULTIPLIER - 1) * 2**64 before the division.
    power = pow(MULTIPLIER, steps, (MULTIPLIER - 1) << 64)
    return (seed * power + INCREMENT * ((power - 1) // (MULTIPLIER - 1))) & _MASK


@cache
def _run_table() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Factors and offsets that take one state to the states 1, 2, ... `_RUN` steps later."""
    one, zero = np.uint64(1), np.uint64(0)
    steps = np.arange(1, _RUN + 1, dtype=np.uint64)
    offsets = _advance(zero, steps)
    return _advance(one, steps) - offsets, offsets


def _advance(state: np.uint64, steps: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """States after each number of `steps` from `state`, by repeated doubling of the step."""
    states = np.full(steps.shape, state, np.uint64)
    factor, offset = np.uint64(MULTIPLIER), np.uint64(INCREMENT)
    with np.errstate(over="ignore"):
        for bit in range(int(steps.max(initial=0)).bit_length()):
            odd = (steps >> np.uint64(bit)) & np.uint64(1) == 1
            states[odd] = states[odd] * factor + offset
            factor, offset = factor * factor, (factor + np.uint64(1)) * offset
    return states


def _to_score(states: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Upper half of each state as a float32 in [0, 1]: one rounding, to nearest even."""
    return (states >> np.uint64(32)).astype(np.uint32).astype(np.float32) * np.float32(2.0**-32)
