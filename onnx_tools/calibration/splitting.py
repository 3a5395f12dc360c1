"""One data set in two parts that have no case in common: one to calibrate with, one to score on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from onnx_tools.calibration.data import BATCH, Feeds, looked_through
from onnx_tools.verification.feeds import Feed, InputSpec, sliced
from oxiprune_gpu.errors import InvalidOption

PART = "part:"
"""Begins the name of what of some data calibrates: part:SEED:DATA."""

CALIBRATING = 0.2
"""The fraction that calibrates, where none is given."""


_MOST_DIGITS = 18


def split(feeds: Feeds, fraction: float = CALIBRATING, seed: int = 0) -> tuple[Feeds, Feeds]:
    """Split data into `fraction` of its cases, rounded, and the rest; both have one at least.

    A case is an entry along the first axis of all inputs where the model leaves that open, otherwise what is fed in one
    run. Cases are drawn without replacement by numpy's PCG64 with this seed, and stay in their order. Copies of a case
    inside the data are cases of their own.

    Raises `InvalidOption` for a fraction that is not between 0 and 1, and for fewer than two cases.
    """
    if not 0 < fraction < 1:
        raise InvalidOption(f"split {fraction}: a fraction between 0 and 1 calibrates")
    count = sum(1 for _ in _cases(feeds))
    if count < 2:
        raise InvalidOption(f"{feeds.source}: {count} case can't be split into calibration and evaluation; give more")
    chosen = min(max(round(count * fraction), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return _part(feeds, order[:chosen], "to calibrate"), _part(feeds, order[chosen:], "to score")


def read_part(text: str, read: Callable[[str], Feeds]) -> Feeds:
    """What calibrates of the data that part:SEED:DATA names; `read` reads DATA. Raises `InvalidOption`, as `split`."""
    seed, _, data = text.removeprefix(PART).partition(":")
    if not seed.isascii() or not seed.isdigit() or len(seed) > _MOST_DIGITS or not data:
        raise InvalidOption(f"{text}: a part of data is part:SEED:DATA, as in part:0:data.npz")
    return split(read(data), seed=int(seed))[0]


def shared(one: Feeds, other: Feeds) -> int:
    """How many cases of `one` are in `other` too, with the same values of all inputs that both have."""
    names = [spec.name for spec in one.inputs if any(spec.name == each.name for each in other.inputs)]
    known = {_digest(case, names) for case in _cases(other)}
    return sum(_digest(case, names) in known for case in _cases(one))


def _digest(case: Feed, names: Sequence[str]) -> bytes:
    digest = hashlib.sha256()
    for name in names:
        array = np.asarray(case[name])
        digest.update(f"{array.dtype}:{array.shape};".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes())
    return digest.digest()


def _part(feeds: Feeds, numbers: Sequence[int] | np.ndarray, purpose: str) -> Feeds:
    wanted = frozenset(int(number) for number in numbers)

    def again() -> Iterator[Feed]:
        return _batches(feeds, wanted)

    return looked_through(f"{feeds.source}, {len(wanted)} cases {purpose}", again(), again, feeds.inputs)


def _cases(feeds: Feeds) -> Iterator[Feed]:
    for feed in feeds:
        yield from sliced(feed, feeds.inputs, 1)


def _batches(feeds: Feeds, wanted: Collection[int]) -> Iterator[Feed]:
    """The cases with these numbers, joined up to `BATCH` where that is possible."""
    waiting: list[Feed] = []
    for number, case in enumerate(_cases(feeds)):
        if number not in wanted:
            continue
        if waiting and (len(waiting) == BATCH or not _go_together(waiting[0], case, feeds.inputs)):
            yield _joined(waiting)
            waiting = []
        waiting.append(case)
    if waiting:
        yield _joined(waiting)


def _go_together(one: Feed, other: Feed, inputs: Sequence[InputSpec]) -> bool:
    """Whether two cases can be fed in one run: entries along an open first axis, and all else the same."""
    for spec in inputs:
        first, second = one[spec.name], other[spec.name]
        if first.ndim == 0:
            if not np.array_equal(first, second):
                return False
        elif not spec.shape or isinstance(spec.shape[0], int) or first.shape != second.shape or len(first) != 1:
            return False
    return True


def _joined(cases: Sequence[Feed]) -> Feed:
    if len(cases) == 1:
        return cases[0]
    return {
        name: array if array.ndim == 0 else np.concatenate([case[name] for case in cases])
        for name, array in cases[0].items()
    }
