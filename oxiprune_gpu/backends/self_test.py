"""Do the kernels of this machine's GPU give what numpy gives, bit for bit? Asked by `oxiprune doctor`.

Every family of kernels is run for every dtype and metric, on small data that is awkward: ties, zeros of both signs,
denormal numbers, infinities, NaN that must be refused. The first GPU that nobody here has seen is somebody's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from oxiprune_gpu.backends.base import Backend, PlanMember
from oxiprune_gpu.backends.cuda_tables import METRIC_FUNCTORS
from oxiprune_gpu.backends.numpy_backend import NumpyBackend
from oxiprune_gpu.errors import NonFiniteScore, NonFiniteWeight
from oxiprune_gpu.granularity import NM, GroupView, UnitView
from oxiprune_gpu.metrics import ImportanceMetric, Random, Taylor
from oxiprune_gpu.metrics.given import GivenScores

Array = NDArray[Any]

DTYPES: tuple[type[Any], ...] = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
METRICS = {functor.lower(): kind for kind, functor in reversed(METRIC_FUNCTORS.items()) if kind is not GivenScores}
"""Name of a functor -> a metric that is computed by it."""

LARGE = (1 << 20) + 4099
"""Elements of the largest weight: enough for the selection to begin with a sample."""

_CHUNK = 1 << 14
"""Terms of a chunk of a sum, in the documented order."""


@dataclass(frozen=True)
class Outcome:
    """What came of testing one family of kernels, for one dtype and one metric. `problem`: nothing when all is well."""

    family: str
    dtype: str
    metric: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether every result was numpy's."""
        return not self.problem


class _Different(Exception):
    """A result is not numpy's."""


_Prune = Callable[[Backend, Any, ImportanceMetric, Any, bool], None]
"""Prunes a weight: backend, the weight in its form, metric, mask or None, whether the weight is written."""


def run(backend: Backend, xp: Any, *, dtypes: Sequence[type[Any]] = DTYPES, large: int = LARGE) -> Iterator[Outcome]:
    """Test the kernels of a CUDA backend against numpy.

    Args:
        backend: the backend on trial.
        xp: its array module: `cupy`.
        dtypes: of the weights.
        large: elements of the largest weight.

    Yields:
        The outcome of each family, dtype and metric, as soon as it is known. Errors are outcomes too.
    """
    for dtype in dtypes:
        for metric in METRICS:
            for family, check in _FAMILIES.items():
                trial = _Trial(backend, xp, np.dtype(dtype), metric, large)
                yield Outcome(family, np.dtype(dtype).name, metric, _problem(check, trial))


def _problem(check: Callable[[_Trial], None], trial: _Trial) -> str:
    try:
        check(trial)
    except _Different as difference:
        return str(difference)
    except Exception as error:  # whatever a driver, a compiler or a kernel raises
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


@dataclass(frozen=True)
class _Trial:
    """One dtype and metric on trial."""

    backend: Backend
    xp: Any
    dtype: np.dtype[Any]
    metric_name: str
    large: int

    def metric(self, size: int | tuple[int, ...]) -> ImportanceMetric:
        """The metric, with a gradient of this shape where it needs one."""
        kind = METRICS[self.metric_name]
        if kind is Taylor:
            return Taylor(np.random.default_rng(3).standard_normal(size).astype(np.float32))
        return Random(12345) if kind is Random else kind()

    def weights(self, sizes: Iterable[int]) -> Iterator[tuple[str, Array]]:
        """Weights of every kind and size, each with what it is."""
        for size in sizes:
            for kind, make in _KINDS.items():
                with np.errstate(all="ignore"):
                    yield f"{size} elements, {kind}", make(size, self.dtype)

    def upload(self, weight: Array) -> Any:
        """The bits of a weight as an array of the device."""
        return self.xp.asarray(weight.view(f"u{weight.dtype.itemsize}").copy())

    def adopt(self, bits: Any) -> Any:
        """Bits on the device as the backend takes them."""
        return self.backend.adopt(bits, self.dtype)

    def mask(self, shape: tuple[int, ...]) -> Any:
        """An array on the device for a mask of weights of this shape."""
        return self.backend.empty_mask(shape)


def _check_elements(trial: _Trial) -> None:
    """Element scores, counting, applying a mask."""
    reference = NumpyBackend()
    for what, weight in trial.weights((1, 1000, 3 * _CHUNK + 5)):
        metric, bits = trial.metric(weight.size), trial.upload(weight)
        expected = reference.element_scores(reference.adopt(weight), metric, "w")
        _same(f"scores of {what}", expected, trial.backend.element_scores(trial.adopt(bits), metric, "w"))
        nonzero = reference.count_nonzero(reference.adopt(weight))
        _same(f"nonzeros of {what}", np.array(nonzero), np.array(trial.backend.count_nonzero(trial.adopt(bits))))
        kept = np.arange(weight.size) % 3 != 0
        trial.backend.apply_mask(bits, trial.xp.asarray(kept))
        reference.apply_mask(weight, kept)
        _same(f"a mask applied to {what}", weight, bits)


def _check_refusals(trial: _Trial) -> None:
    """NaN in a weight, and NaN born in a score, raise; nothing is written."""
    weight = np.ones(1000, trial.dtype)
    weight[-1] = np.nan
    _refuses(trial, weight, trial.metric(weight.size), NonFiniteWeight)
    if trial.metric_name == "gradient":
        weight[-1] = np.inf
        _refuses(trial, weight, Taylor(np.zeros(weight.size, np.float32)), NonFiniteScore)


def _refuses(trial: _Trial, weight: Array, metric: ImportanceMetric, error: type[Exception]) -> None:
    bits = trial.upload(weight)
    try:
        trial.backend.prune_elements(trial.adopt(bits), metric, weight.size // 2, "w")
    except error:
        _same("a weight that was refused", weight, bits)
        return
    raise _Different(f"{error.__name__} was not raised")


def _check_selection(trial: _Trial) -> None:
    """Pruning the k lowest elements: mask, data, data that must stay; what holds NaN is refused."""
    for what, weight in trial.weights((1, 1000, trial.large)):
        counts = {0, 1, weight.size // 3, weight.size - 1, weight.size}
        for k in sorted(counts if weight.size < trial.large else {weight.size // 3}):
            _check_pruning(f"{k} of {what}", trial, weight, _elements(k))
    _check_refusals(trial)


def _check_units(trial: _Trial) -> None:
    """Scores of units, which are lowest, pruning them; statistics, which are sums and extremes."""
    reference = NumpyBackend()
    for view in _views(trial.large):
        size = view.count * view.unit_size
        weight = _normal(size, trial.dtype)
        metric, device = trial.metric(size), trial.adopt(trial.upload(weight))
        expected = reference.unit_scores(reference.adopt(weight), view, metric, "w")
        scores = trial.backend.unit_scores(device, view, metric, "w")
        _same(f"unit scores of {view.shape}", expected, scores)
        kept = reference.kept_units(expected, view.count // 2)
        _same(f"kept units of {view.shape}", kept, trial.backend.kept_units(scores, view.count // 2))
        _check_pruning(f"units of {view.shape}", trial, weight, _units(view, kept, trial.xp.asarray(kept)))
    _check_statistics(trial)


def _check_statistics(trial: _Trial) -> None:
    reference = NumpyBackend()
    for what, weight in trial.weights((1, 2, 1000, 2 * _CHUNK + 5)):
        metric = trial.metric(weight.size)
        with np.errstate(all="ignore"):
            expected = reference.statistics(reference.adopt(weight), metric, "w")
            got = trial.backend.statistics(trial.adopt(trial.upload(weight)), metric, "w")
        for field, value in expected._asdict().items():
            _same(f"{field} of {what}", np.array(value), np.array(getattr(got, field)))


def _check_groups(trial: _Trial) -> None:
    """N:M in every way a weight can lie."""
    for groups, shape in _GROUPS if trial.metric_name == "l1" else _GROUPS[:5]:
        view = groups.group_view(shape)
        for make in (_normal, _ties, _denormals):
            weight = make(math.prod(shape), trial.dtype)
            _check_pruning(f"{groups.text} of {shape}", trial, weight, _groups(view))


def _check_plans(trial: _Trial) -> None:
    """Plans of elements, units and groups: data, masks of bits, counts; two weights each."""
    reference, metric = NumpyBackend(), trial.metric(_PLANNED)
    for view in _PLANNED_VIEWS:
        k = view.count // 2 if isinstance(view, UnitView) else _PLANNED // 3
        pruned = [make(_PLANNED, trial.dtype) for make in (_normal, _ties)]
        bits = [trial.upload(weight) for weight in pruned]
        expected = [PlanMember(reference.adopt(weight), "w", k, _bits(reference), view) for weight in pruned]
        members = [PlanMember(trial.adopt(one), "w", k, _bits(trial.backend), view) for one in bits]
        counts = [_run(backend, own, metric) for backend, own in ((reference, expected), (trial.backend, members))]
        for number, (weight, one) in enumerate(zip(pruned, bits, strict=True)):
            what = f"plan of {view}, weight {number}"
            _same(f"{what}: data", weight, one)
            _same(f"{what}: mask", expected[number].mask, members[number].mask)
        _same(f"plan of {view}: nonzeros", *counts)


def _check_losses(trial: _Trial) -> None:
    """SparseGPT's inner loop, in the dtype that it computes in."""
    dtype = np.dtype(np.float64 if trial.dtype == np.float64 else np.float32)
    random = np.random.default_rng(5)
    for groups in _LOSSES:
        left = random.standard_normal((29, 130)).astype(dtype)
        fallen, lost = np.asarray(random.random(left.shape) < 0.5), np.empty_like(left)
        shares = random.standard_normal((29, 29)).astype(dtype)
        diagonal = random.uniform(0.5, 2, 29).astype(dtype)
        view = None if groups is None else groups.group_view(left.shape)
        expected: list[Array] = [left, fallen, lost, shares, diagonal]
        got = [trial.xp.asarray(array.copy()) for array in expected]
        NumpyBackend().spread_losses(left, fallen, lost, shares, diagonal, view, "w")
        trial.backend.spread_losses(got[0], got[1], got[2], got[3], got[4], view, "w")
        for what, ours, theirs in zip(("left", "fallen", "lost"), expected, got, strict=False):
            _same(f"{what} of losses, {groups and groups.text}", ours, theirs)


def _bits(backend: Backend) -> Any:
    """A mask of bits."""
    return backend.empty_array((_PLANNED // 32,), np.dtype(np.uint32)).view(np.uint8)


def _run(backend: Backend, members: Sequence[PlanMember], metric: ImportanceMetric) -> Any:
    """Run a plan, and give its counts."""
    plan = backend.plan(members, metric)
    plan.run()
    plan.check()
    return plan.nonzero


def _elements(k: int) -> _Prune:
    def prune(backend: Backend, weight: Any, metric: ImportanceMetric, mask: Any, write: bool) -> None:
        backend.prune_elements(weight, metric, k, "w", mask=mask, write=write)

    return prune


def _units(view: UnitView, kept: Array, kept_on_device: Any) -> _Prune:
    def prune(backend: Backend, weight: Any, metric: ImportanceMetric, mask: Any, write: bool) -> None:
        own = kept if isinstance(backend, NumpyBackend) else kept_on_device
        backend.prune_units(weight, view, own, mask=mask, write=write)

    return prune


def _groups(view: GroupView) -> _Prune:
    def prune(backend: Backend, weight: Any, metric: ImportanceMetric, mask: Any, write: bool) -> None:
        backend.prune_groups(weight, view, metric, "w", mask=mask, write=write)

    return prune


def _check_pruning(what: str, trial: _Trial, weight: Array, prune: _Prune) -> None:
    """Prune by numpy and on the device: with a mask, without one, and the mask alone."""
    reference, metric = NumpyBackend(), trial.metric(weight.size)
    pruned, kept = weight.copy(), np.empty(weight.size, np.bool_)
    prune(reference, reference.adopt(pruned), metric, kept, True)
    for with_mask, write in ((True, True), (False, True), (True, False)):
        bits = trial.upload(weight)
        mask = trial.mask(weight.shape) if with_mask else None
        prune(trial.backend, trial.adopt(bits), metric, mask, write)
        _same(f"{what}: data", pruned if write else weight, bits)
        if mask is not None:
            _same(f"{what}: mask", kept, mask)


def _same(what: str, expected: Array, got: Any) -> None:
    """Raise `_Different`, with the first place that differs, unless all bits are equal."""
    host = np.asarray(got.get() if hasattr(got, "get") else got)
    wanted, found = np.atleast_1d(expected), np.atleast_1d(host)
    if wanted.size != found.size or wanted.dtype.itemsize != found.dtype.itemsize:
        raise _Different(f"{what}: {found.size} of {found.dtype} instead of {wanted.size} of {wanted.dtype}")
    bits = f"u{wanted.dtype.itemsize}"
    wrong = np.flatnonzero(wanted.reshape(-1).view(bits) != found.reshape(-1).view(bits))
    if wrong.size:
        first = wrong[0]
        values = wanted.reshape(-1)[first], found.reshape(-1).view(wanted.dtype)[first]
        raise _Different(
            f"{what}: {wrong.size} of {wanted.size} differ; number {first} is {values[1]}, by numpy {values[0]}"
        )


def _normal(size: int, dtype: np.dtype[Any]) -> Array:
    return np.random.default_rng(size).standard_normal(size).astype(dtype)


def _ties(size: int, dtype: np.dtype[Any]) -> Array:
    """A few magnitudes, zeros of both signs among them."""
    values = np.random.default_rng(size + 1).integers(-3, 4, size).astype(np.float64)
    return np.copysign(values, np.random.default_rng(size).standard_normal(size)).astype(dtype)


def _denormals(size: int, dtype: np.dtype[Any]) -> Array:
    """The smallest numbers there are, of both signs; the squares of others are as small."""
    unsigned = f"u{dtype.itemsize}"
    bits = np.random.default_rng(size + 2).integers(0, 60, size).astype(unsigned)
    bits[::2] |= np.array(1, unsigned) << np.array(8 * dtype.itemsize - 1, unsigned)
    return bits.view(dtype)


def _small_squares(size: int, dtype: np.dtype[Any]) -> Array:
    """Numbers whose squares are denormal."""
    tiny = np.finfo(np.float64 if dtype.itemsize == 8 else np.float32).smallest_normal
    scaled: Array = _normal(size, np.dtype(np.float64)) * math.sqrt(tiny)
    return scaled.astype(dtype)


def _infinities(size: int, dtype: np.dtype[Any]) -> Array:
    values = _normal(size, dtype)
    values[::7] = -np.inf
    return values


_KINDS: dict[str, Callable[[int, np.dtype[Any]], Array]] = {
    "normal": _normal,
    "ties": _ties,
    "denormal": _denormals,
    "small squares": _small_squares,
    "infinities": _infinities,
}
"""What a weight holds -> what makes it."""


def _views(large: int) -> list[UnitView]:
    """Views that take every way of adding: runs, columns wide and narrow, scattered units, more than one chunk."""
    shapes = (
        *((1, 1, 5, 7), (1, 5, 7, 1), (1, 1, 40, 500), (1, 500, 40, 1), (3, 50, 7, 9), (2, 1, 9, 130), (2, 30, 11, 1)),
        *((1, 1, 3, _CHUNK + 300), (1, _CHUNK + 300, 3, 1), (1, 2, 2, _CHUNK + 1), (1, 6, large // 6, 1)),
    )
    return [UnitView(*shape) for shape in shapes]


_GROUPS: Sequence[tuple[NM, tuple[int, ...]]] = (
    (NM(2, 4), (37, 64)),  # in a row
    (NM(2, 4), (7, 67)),  # a remainder in every row
    (NM(2, 4, 0), (67, 16)),  # wide, with a remainder
    (NM(2, 4, 1), (5, 33, 9)),
    (NM(2, 4, 0, pad=True), (67, 9)),
    (NM(4, 8), (37, 64)),
    (NM(1, 3), (64, 33)),
    (NM(5, 32, 0), (64, 8)),
    (NM(31, 32), (3, 128)),
)
"""The first five share their kernels, so every metric takes them."""

_PLANNED = 9_600
"""Elements of the weights of plans; a multiple of 32, so that masks of bits are whole words."""

_PLANNED_VIEWS: Sequence[UnitView | GroupView | None] = (
    None,
    *(UnitView(*shape) for shape in ((1, 1, 40, 240), (1, 240, 40, 1), (2, 16, 30, 10), (1, 1, 1, _PLANNED))),
    *(NM(2, 4, axis).group_view(shape) for axis, shape in ((1, (40, 240)), (0, (240, 40)), (0, (25, 384)))),
)

_LOSSES = (None, NM(2, 4, axis=0), NM(3, 5, axis=0, pad=True))
"""What says which features fall: a mask, or groups; the features fill no whole number of them."""

_FAMILIES: dict[str, Callable[[_Trial], None]] = {
    "elements": _check_elements,
    "select and apply": _check_selection,
    "units": _check_units,
    "groups": _check_groups,
    "plans": _check_plans,
    "losses": _check_losses,
}
"""The work that kernels do -> what tests it."""
