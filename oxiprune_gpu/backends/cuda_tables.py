"""The tables that every kernel launch works on: tensors cut into tiles, and the scopes they compete in.

The fields stand in the order of the structs in kernels/tensors.cuh; all are 64-bit words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.errors import InvalidOption
from oxiprune_gpu.metrics import ImportanceMetric, L1Magnitude, L2Magnitude, Random, Taylor, TaylorProxy
from oxiprune_gpu.metrics.given import GivenScores

Words = NDArray[np.uint64]
Work = TypeVar("Work")

TILE_BYTES = 16384

METRIC_FUNCTORS: dict[type[ImportanceMetric], str] = {
    L1Magnitude: "L1",
    L2Magnitude: "L2",
    TaylorProxy: "L2",
    Taylor: "Gradient",
    Random: "Random",
    GivenScores: "L1",
}
"""Metric -> the functor of kernels/metrics.cuh that computes its keys."""

DTYPE_STRUCTS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""Dtype -> its struct in kernels/dtypes.cuh."""

FAMILIES = ("select", "apply", "elements", "units")
"""Files of kernels that are specialised by dtype and metric."""

TENSOR_FIELDS = ("data", "size", "first_tile", "scope", "gradient", "seed", "mask", "number", "scope_tile")

SCOPE_FIELDS = (
    *("k", "size", "first_tile", "tiles", "mode", "low", "high", "below", "at_low", "between", "at_high", "capacity"),
    *("candidates", "sample", "sampled", "first_rank", "last_rank", "rank", "threshold", "ties_fall", "ties", "done"),
    "last_tensor",
)

SEARCH, WHOLE = 0, 1
"""Modes in which a scope begins; kernels/scopes.cuh has them all."""

_SAMPLE_FROM = 1 << 20
"""Elements of a scope from which a sample pays."""

_SAMPLES = 1 << 15
_SLACK = 5.0
"""Sampled keys of a scope, and half the width of its bracket in standard errors of a sampled rank: a bracket misses
once in a million times, and costs as many reads as a key has digits."""


@dataclass(frozen=True)
class DeviceWeight:
    """A weight in device memory: its bits as a flat array of unsigned integers, C-contiguous, and what they mean."""

    bits: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def score_dtype(self) -> np.dtype[Any]:
        """Dtype of its scores: float64 for float64, else float32."""
        return np.dtype(np.float64 if self.dtype == np.float64 else np.float32)

    @property
    def key_dtype(self) -> np.dtype[Any]:
        """Unsigned integers as wide as its scores."""
        return np.dtype(f"u{self.score_dtype.itemsize}")


@dataclass(frozen=True)
class Member:
    """One tensor of a table, and the number of the scope it competes in.

    `gradient` is a device array in the score dtype, `mask` an array of bytes.
    """

    weight: DeviceWeight
    scope: int = 0
    gradient: Any = None
    seed: int = 0
    mask: Any = None


def defines(dtype: np.dtype[Any], metric: ImportanceMetric) -> dict[str, str]:
    """How the kernels of a family are specialised for a dtype and a metric.

    Raises:
        InvalidOption: there are no kernels for the metric.
    """
    if type(metric) not in METRIC_FUNCTORS:
        raise InvalidOption(
            f"metric {metric.text} has no kernels for a GPU: prune on the CPU, or add a functor (CONTRIBUTING.md)"
        )
    return {"DTYPE": DTYPE_STRUCTS[np.dtype(dtype).name], "METRIC": METRIC_FUNCTORS[type(metric)]}


def nan_defines(dtype: np.dtype[Any], metric: ImportanceMetric) -> dict[str, str]:
    """How a kernel is specialised that only asks which scores are NaN: random ones need not be made for that."""
    return defines(dtype, L1Magnitude() if isinstance(metric, Random) else metric)


def address(array: Any) -> int:
    """Where an array's first element lies; 0 for None."""
    if array is None:
        return 0
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def tiles_of(weight: DeviceWeight) -> int:
    """How many tiles a weight is cut into."""
    return -(-weight.size * weight.dtype.itemsize // TILE_BYTES)


class Place(NamedTuple):
    """Where a tensor stands among all that are pruned together: its number, its first tile among those of its scope."""

    number: int
    scope_tile: int


def places_of(members: Sequence[Member]) -> list[Place]:
    """The places of all tensors that are pruned together, whatever their dtypes."""
    places, held = [], dict.fromkeys((member.scope for member in members), 0)
    for number, member in enumerate(members):
        places.append(Place(number, held[member.scope]))
        held[member.scope] += tiles_of(member.weight)
    return places


def tensor_table(members: Sequence[Member], places: Sequence[Place] | None = None) -> Words:
    """The table of tensors, (members, fields). Its scopes are rows of the `scope_table` of the same members.

    `places` is needed where these are not all that are pruned together.
    """
    table = np.zeros((len(members), len(TENSOR_FIELDS)), np.uint64)
    rows = {scope: row for row, scope in enumerate(_scopes_of(members))}
    tile = 0
    for row, member, place in zip(table, members, places or places_of(members), strict=True):
        weight = member.weight
        row[:] = (
            *(address(weight.bits), weight.size, tile, rows[member.scope]),
            *(address(member.gradient), member.seed, address(member.mask), *place),
        )
        tile += tiles_of(weight)
    return table


def scope_table(
    members: Sequence[Member], counts: Sequence[int], places: Sequence[Place] | None = None, *, sampled: bool = True
) -> Words:
    """The table of the scopes of these members, (scopes, fields), when `counts[s]` elements of scope s are to fall.

    Scopes ascend. Without `sampled` their thresholds are looked for among all keys from the start.
    """
    scopes = _scopes_of(members)
    table = np.zeros((len(scopes), len(SCOPE_FIELDS)), np.uint64)
    sizes, tiles, last = (dict.fromkeys(scopes, 0) for _ in range(3))
    for member, place in zip(members, places or places_of(members), strict=True):
        sizes[member.scope] += member.weight.size
        tiles[member.scope] += tiles_of(member.weight)
        last[member.scope] = place.number
    first_tile = samples = candidates = 0
    for number, scope in enumerate(scopes):
        row = {"k": counts[scope], "size": sizes[scope], "first_tile": first_tile, "tiles": tiles[scope]}
        row |= {"last_tensor": last[scope]} | _start(counts[scope], sizes[scope], samples, candidates, sampled)
        table[number] = [row.get(field, 0) for field in SCOPE_FIELDS]
        first_tile += tiles[scope]
        samples += row["sampled"]
        candidates += row["capacity"]
    return table


def _scopes_of(members: Sequence[Member]) -> list[int]:
    return list(dict.fromkeys(member.scope for member in members))


def column(table: Words, field: str) -> Words:
    """One field of all scopes."""
    values: Words = table[:, SCOPE_FIELDS.index(field)]
    return values


def _start(k: int, size: int, sample: int, candidates: int, sampled: bool) -> dict[str, int]:
    """Where the threshold of a scope is looked for first. Until it is found one tie exists and none falls."""
    row = {"ties": 1, "sampled": 0, "capacity": 0}
    if size < _SAMPLE_FROM or k == 0 or not sampled:
        return row | {"mode": WHOLE, "rank": k}
    middle = k / size * _SAMPLES
    margin = _SLACK * math.sqrt(middle * (1 - k / size)) + 1
    first, last = max(0, math.floor(middle - margin)), math.ceil(middle + margin)
    expected = (min(last, _SAMPLES) - first) / _SAMPLES * size
    return row | {
        "mode": SEARCH,
        "sample": sample,
        "sampled": _SAMPLES,
        "first_rank": first,
        "last_rank": last,
        "candidates": candidates,
        "capacity": int(1.5 * expected) + 1024,
    }


class Tables(NamedTuple):
    """Members of one dtype, which one launch can work on, and their tables."""

    members: Sequence[Member]
    tensors: Words
    scopes: Words


def by_dtype(works: Sequence[Work], member_of: Callable[[Work], Member]) -> list[list[Work]]:
    """What is to be done with tensors, apart for each dtype among them."""
    parts: dict[np.dtype[Any], list[Work]] = {}
    for work in works:
        parts.setdefault(member_of(work).weight.dtype, []).append(work)
    return list(parts.values())


def tables_of(members: Sequence[Member], counts: Sequence[int]) -> list[Tables]:
    """The tables for each dtype among the members. A scope of several dtypes, which must be the only one, is shared."""
    placed = by_dtype(list(zip(members, places_of(members), strict=True)), lambda one: one[0])
    shared = scope_table(members, counts, sampled=False) if len(counts) == 1 and len(placed) > 1 else None
    tables = []
    for part in placed:
        own, own_places = [member for member, _ in part], [place for _, place in part]
        scopes = scope_table(own, counts, own_places) if shared is None else shared
        tables.append(Tables(own, tensor_table(own, own_places), scopes))
    return tables


def kernel_instances() -> Iterator[tuple[str, dict[str, str]]]:
    """Every family of kernels with the sets of defines that it is compiled with: the one list of them.

    Groups may have any length up to 32; those that are in use, and the ends, stand for the rest.
    """
    yield from (("losses", {"DTYPE": dtype}) for dtype in ("F32", "F64"))
    for dtype in DTYPE_STRUCTS.values():
        for metric in sorted(set(METRIC_FUNCTORS.values())):
            chosen = {"DTYPE": dtype, "METRIC": metric}
            yield from ((family, chosen) for family in FAMILIES)
            yield "units", chosen | {"TERM": "Deviation"}
            yield from (("groups", chosen | {"OF": str(length)}) for length in (2, 4, 5, 8, 16, 32))
