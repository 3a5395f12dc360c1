"""How near is pruning on a GPU to what its memory allows, and how far ahead of torch and CuPy?

First the bandwidth of a copy, out of cache; then every piece of work beside its floor (the bytes that must move, at
that bandwidth) and beside peers, by CUDA events, interleaved. Results are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import common
import gpu_floors
from common import Candidate, Figure, Result, Target
from gpu_floors import Floor

SPARSITY = 0.5
SIZES = (1 << 28, 1 << 30)
QUICK_SIZES = (1 << 22, 1 << 24)
BYTES_AN_ELEMENT = 30
"""Memory that a piece of work needs at most for each float32 element: source, work, mask, what peers sort."""


def parser() -> argparse.ArgumentParser:
    options = common.arguments(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--budget", type=float, default=420, help="seconds; work that does not fit is left out")
    options.add_argument("--elements", type=int, help="the only size, instead of 2^28 and 2^30")
    return options


def main() -> None:
    options = parser().parse_args()
    gpu = Gpu(options.rounds or (3 if options.quick else 9), time.monotonic() + options.budget)
    options.machine = options.machine or gpu.name
    sizes = sizes_for(options.elements, options.quick, gpu.free_memory())
    result = Result("gpu", {"gpu": gpu.name, "rounds": gpu.rounds, "sparsity": SPARSITY, "sizes": list(sizes)})
    for piece in pieces(gpu, sizes, result):
        if gpu.out_of_time():
            result.note("out of time: the rest was left out")
            break
        attempted(piece, result)
        gpu.free()
    common.finish(result, options)


def sizes_for(elements: int | None, quick: bool, free: int) -> tuple[int, ...]:
    """The sizes that fit into memory, each once."""
    wanted = (elements,) if elements else QUICK_SIZES if quick else SIZES
    need = 12  # source, work, mask, candidates; peers only run at the smaller size
    return tuple(sorted({gpu_floors.largest(size, need, free) for size in wanted}))


def pieces(gpu: Gpu, sizes: Sequence[int], result: Result) -> Iterator[Callable[[], None]]:
    for size in sizes:
        yield partial(measure_copy, gpu, size, result)
    small = sizes[0]
    yield partial(unstructured, gpu, small, "float32", ("bool", "bits"), 1.15, result)
    yield partial(peers, gpu, small, result)
    for size in sizes[1:]:
        yield partial(unstructured, gpu, size, "float32", ("bool", "bits"), 1.15, result)
    for dtype in ("float16", "bfloat16"):
        for size in sizes:
            yield partial(unstructured, gpu, size, dtype, ("bool", "bits"), 1.2, result)
    yield partial(hard_data, gpu, small, result)
    yield partial(two_of_four, gpu, small, result)
    yield partial(rows_and_columns, gpu, math.isqrt(small), result)
    yield partial(global_scope, gpu, sizes[-1], result)
    yield partial(small_tensors, gpu, result)


def attempted(piece: Callable[[], None], result: Result) -> None:
    """Do a piece of work; what can't be done is noted. A wrong result ends the benchmark."""
    try:
        piece()
    except AssertionError:
        raise
    except Exception as error:
        name = piece.func.__name__ if isinstance(piece, partial) else "?"
        result.note(f"{name} could not be measured: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


class Gpu:
    """The device, what times work on it, and the bandwidth of its copies."""

    def __init__(self, rounds: int, deadline: float) -> None:
        self.xp: Any = importlib.import_module("cupy")
        self.rounds = rounds
        self.bandwidth = 0.0
        self._deadline = deadline
        self._delay: Any = None
        name = self.xp.cuda.runtime.getDeviceProperties(0)["name"]
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def free_memory(self) -> int:
        return int(self.xp.cuda.runtime.memGetInfo()[0])

    def free(self) -> None:
        """Give memory back, also torch's, so that the next piece finds it."""
        self.xp.get_default_memory_pool().free_all_blocks()
        if "torch" in sys.modules:
            importlib.import_module("torch").cuda.empty_cache()

    def timed(self, candidate: Candidate) -> float:
        """Device seconds of a run. The device is kept busy meanwhile, so that the host runs ahead of it."""
        if candidate.prepare is not None:
            candidate.prepare()
        self.busy()
        start, stop = self.xp.cuda.Event(), self.xp.cuda.Event()
        start.record()
        candidate.run()
        stop.record()
        stop.synchronize()
        return float(self.xp.cuda.get_elapsed_time(start, stop)) / 1e3

    def busy(self) -> None:
        """About a millisecond of work that touches nothing."""
        if self._delay is None:
            self._delay = self.xp.zeros(1 << 30, "u1")
        for _ in range(3):
            self._delay.fill(0)

    def interleaved(self, candidates: Sequence[Candidate], rounds: int | None = None) -> dict[str, list[float | None]]:
        """As `common.interleaved`, by the device's clock; stops early when time is up."""
        seconds: dict[str, list[float | None]] = {candidate.name: [] for candidate in candidates}
        for number in range(-1, rounds or self.rounds):
            if number > 1 and self.out_of_time():
                break
            for candidate in candidates:
                took = self.timed(candidate) if number % candidate.every == 0 or number < 0 else None
                if number >= 0:
                    seconds[candidate.name].append(took)
        return seconds

    def normals(self, size: int, dtype: str = "float32") -> Any:
        """About normal, all magnitudes different enough; made without cuRAND, which may be missing."""
        np: Any = importlib.import_module("numpy")
        block = min(size, 1 << 22)
        base = self.xp.asarray(np.random.default_rng(0).standard_normal(block, np.float32))
        made = self.xp.empty(size, np.float32)
        for number, first in enumerate(range(0, size, block)):
            part = made[first : first + block]
            self.xp.multiply(base[: part.size], np.float32(1 + number / 997), out=part)
        return made if dtype == "float32" else made.astype(np.float16)


def over_floor(what: str, times: Sequence[float | None], floor: Floor, bandwidth: float) -> Figure:
    """A run in units of its floor."""
    known = [value / floor.seconds(bandwidth) for value in times if value is not None]
    quartiles = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    target = None if floor.limit is None else Target(floor.limit)
    return Figure(what, statistics.median(known), "floors", min(known), (quartiles[0], quartiles[2]), target)


def measure_copy(gpu: Gpu, size: int, result: Result) -> None:
    source, target = gpu.xp.ones(size, "float32"), gpu.xp.empty(size, "float32")
    times = gpu.interleaved([Candidate("copy", lambda: gpu.xp.copyto(target, source))])["copy"]
    result.raw[f"copy {size}"] = times
    gpu.bandwidth = max(gpu.bandwidth, gpu_floors.copy_bandwidth(size, 4, statistics.median(t for t in times if t)))
    result.figures.append(Figure(f"copy of {size} float32", gpu.bandwidth / 1e9, "GB/s"))


def config() -> Any:
    return importlib.import_module("oxiprune_gpu").PruningConfig(SPARSITY)


def weight_of(gpu: Gpu, data: Any, dtype: str) -> Any:
    """The array that is given to us: bfloat16 through torch, which every version of CuPy shares memory with."""
    if dtype != "bfloat16":
        return data
    torch: Any = importlib.import_module("torch")
    return torch.from_dlpack(data.view("int16")).view(torch.bfloat16)


def unstructured(gpu: Gpu, size: int, dtype: str, masks: Sequence[str], limit: float, result: Result) -> None:
    ox: Any = importlib.import_module("oxiprune_gpu")
    source = gpu.normals(size, "float32" if dtype == "float32" else "float16")
    if dtype == "bfloat16":
        source = (gpu.normals(size).view("uint32") >> 16).astype("uint16")
    work = source.copy()
    for mask in masks:
        plan = ox.prepare([weight_of(gpu, work, dtype)], config(), mask=mask)
        gpu.xp.copyto(work, source)
        masks_made = plan.run().masks
        check(gpu, source, work, plan.pruned)
        check_mask(gpu, work, masks_made[0], mask, plan.pruned)
        name = f"unstructured {dtype} {size}, mask {mask}"
        candidate = Candidate(name, partial(plan.run, check=False), partial(gpu.xp.copyto, work, source))
        times = gpu.interleaved([candidate])[name]
        plan.check()
        result.raw[name] = times
        floor = gpu_floors.unstructured(size, source.itemsize, "bits" if mask == "bits" else "bool", limit)
        result.figures.append(over_floor(name, times, floor, gpu.bandwidth))


def check(gpu: Gpu, source: Any, work: Any, pruned: int) -> None:
    """The right number fell, the lowest magnitudes fell, what stayed kept its bits."""
    unsigned = f"u{source.itemsize}"
    before, after = source.view(unsigned).reshape(-1), work.view(unsigned).reshape(-1)
    magnitudes = before & ((1 << (8 * source.itemsize - 1)) - 1)  # bits of magnitudes have their order
    fell = (after == 0) & (before != 0)
    assert bool((fell | (after == before)).all()), "a kept value changed"
    zeros = int((after << 1 == 0).sum())
    assert zeros >= pruned, f"{zeros} zeros, {pruned} were to fall"
    if int((magnitudes == 0).sum()) == 0:
        assert zeros == pruned, f"{zeros} fell, {pruned} were to fall"
    highest = gpu.xp.where(fell, magnitudes, 0).max()
    lowest = gpu.xp.where(fell | (after << 1 == 0), magnitudes.max(), magnitudes).min()
    assert int(highest) <= int(lowest), "a higher magnitude fell than one that stayed"


def check_mask(gpu: Gpu, work: Any, mask: Any, kind: str, pruned: int) -> None:
    """As many are unset as were to fall, and nothing is left where it is unset. `kind` is "bool" or "bits"."""
    if type(mask).__module__.startswith("torch"):
        mask = gpu.xp.from_dlpack(mask.view(importlib.import_module("torch").uint8))
    flags = mask.view("uint8").reshape(-1)
    kept = gpu.xp.unpackbits(flags, bitorder="little")[: work.size] if kind == "bits" else flags
    assert work.size - int(kept.sum()) == pruned, "the mask counts otherwise"
    assert not bool(((work.view(f"u{work.itemsize}") != 0) & (kept == 0)).any()), "a value is left outside the mask"


def hard_data(gpu: Gpu, size: int, result: Result) -> None:
    """What a bracket from a sample could be slow on, beside normal data in the same rounds."""
    ox: Any = importlib.import_module("oxiprune_gpu")
    xp, normals = gpu.xp, gpu.normals(size)
    kinds: dict[str, Callable[[], Any]] = {
        "constant": lambda: xp.full(size, 0.25, "float32"),
        "90 % zeros": lambda: normals * (xp.arange(size) % 10 == 0),
        "sorted": lambda: xp.arange(size, dtype="float32") / size,
        "16 values": lambda: xp.round(xp.clip(normals, -2, 2) * 4),
    }
    work = normals.copy()
    plan = ox.prepare([work], config())
    for kind, make in kinds.items():
        data = make().astype("float32")
        xp.copyto(work, data)
        plan.run()
        check(gpu, data, work, plan.pruned)
        both = {"normal": normals, kind: data}
        candidates = [
            Candidate(name, partial(plan.run, check=False), partial(xp.copyto, work, given))
            for name, given in both.items()
        ]
        times = gpu.interleaved(candidates, 5)
        result.raw[f"hard data: {kind}"] = times
        result.figures.append(common.ratio(f"{kind} / normal", times[kind], times["normal"], Target(1.3)))


def two_of_four(gpu: Gpu, size: int, result: Result) -> None:
    """2:4 without a mask of elements, the weight read once; and torch's expression for it."""
    source = gpu.normals(size)
    work = source.copy()
    restore = partial(gpu.xp.copyto, work, source)
    runs = {
        "2:4, known to be finite": two_of_four_plan(work, finite=True),
        "2:4, NaN looked for first": two_of_four_plan(work, finite=False),
    }
    for name, run in runs.items():
        restore()
        run()
        check_two_of_four(gpu, source, work, name)
    candidates = [Candidate(name, run, restore) for name, run in runs.items()]
    if common.installed("torch"):
        candidates.append(Candidate("torch 2:4", partial(torch_two_of_four, work), restore, every=3))
    times = gpu.interleaved(candidates)
    result.raw["2:4"] = times
    for name, limit in (("2:4, known to be finite", 1.08), ("2:4, NaN looked for first", None)):
        result.figures.append(over_floor(name, times[name], gpu_floors.groups(size, 4, limit), gpu.bandwidth))
    if "torch 2:4" in times:
        result.figures.append(common.ratio("torch 2:4 / ours", times["torch 2:4"], times["2:4, known to be finite"]))


def two_of_four_plan(work: Any, *, finite: bool) -> Callable[[], object]:
    """A plan. Unless the weight is known to be `finite` it is read twice: nothing is written where there is a NaN."""
    ox: Any = importlib.import_module("oxiprune_gpu")
    plan = ox.prepare([work], ox.PruningConfig(SPARSITY, "l1", "2:4"), mask=None, finite=finite)
    return partial(plan.run, check=False)


def check_two_of_four(gpu: Gpu, source: Any, work: Any, name: str) -> None:
    """Two of each four fell, none higher than one that stayed; what stayed kept its value."""
    before, after = source.reshape(-1, 4), work.reshape(-1, 4)
    fell, magnitudes = after == 0, gpu.xp.abs(before)
    assert bool((fell.sum(axis=1) == 2).all()), f"{name}: other than two of four fell"
    assert bool((fell | (after == before)).all()), f"{name}: a kept value changed"
    highest = gpu.xp.where(fell, magnitudes, 0).max(axis=1)
    lowest = gpu.xp.where(fell, float("inf"), magnitudes).min(axis=1)
    assert bool((highest <= lowest).all()), f"{name}: a higher magnitude fell than one that stayed"


def torch_two_of_four(work: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    weight = torch.from_dlpack(work).view(-1, 4)
    lowest = weight.abs().topk(2, dim=1, largest=False).indices
    return weight.scatter_(1, lowest, 0)


def rows_and_columns(gpu: Gpu, side: int, result: Result) -> None:
    """By L2, with a mask of units only.

    The error check, which waits for the device, is inside the time, since the block of `deferred_checks` ends there.
    Plans are timed without theirs.
    """
    ox: Any = importlib.import_module("oxiprune_gpu")
    source = gpu.normals(side * side).reshape(side, side)
    work = source.copy()
    backend = importlib.import_module("oxiprune_gpu.backends").backend_of(work)
    weight, metric = backend.adopt(work, source.dtype), ox.L2Magnitude()
    floors = {
        "row": gpu_floors.rows(side * side, 4, SPARSITY, 1.1),
        "column": gpu_floors.columns(side * side, 4, 1.15),
    }
    for axis, name in enumerate(floors):
        view = ox.Axis(axis).unit_view((side, side))

        def run(view: Any = view) -> None:
            with ox.deferred_checks():
                scores = backend.unit_scores(weight, view, metric, "w")
                backend.prune_units(weight, view, backend.kept_units(scores, side // 2))

        gpu.xp.copyto(work, source)
        run()
        assert int((work == 0).all(axis=1 - axis).sum()) == side // 2, name
        times = gpu.interleaved([Candidate(name, run, partial(gpu.xp.copyto, work, source))])[name]
        result.raw[f"{name} l2"] = times
        result.figures.append(
            over_floor(f"{name} l2, {side} x {side}, error check included", times, floors[name], gpu.bandwidth)
        )


def global_scope(gpu: Gpu, size: int, result: Result) -> None:
    """300 tensors that all compete."""
    ox: Any = importlib.import_module("oxiprune_gpu")
    source = gpu.normals(size)
    work, step = source.copy(), -(-size // 300 // 4) * 4
    tensors = [work[first : first + step] for first in range(0, size, step)]
    plan = ox.prepare(tensors, config(), scope="global", mask=None)
    launches = launches_of(plan.run)
    check(gpu, source, work, plan.pruned)
    candidate = Candidate("global", partial(plan.run, check=False), partial(gpu.xp.copyto, work, source))
    times = gpu.interleaved([candidate])["global"]
    result.raw["global"] = times
    floor = gpu_floors.unstructured(size, 4, None, 1.2)
    result.figures.append(over_floor(f"global, {len(tensors)} tensors, {size}", times, floor, gpu.bandwidth))
    result.figures.append(Figure("global, launches", launches, "", target=Target(11)))


def launches_of(run: Callable[[], object]) -> int:
    """How many of our kernels a run launches."""
    kind: Any = importlib.import_module("oxiprune_gpu.backends.kernels.loader")._NullForNone
    launch, count = kind.__call__, 0

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        launch(self, *arguments, **options)

    kind.__call__ = counted
    try:
        run()
    finally:
        kind.__call__ = launch
    return count


def small_tensors(gpu: Gpu, result: Result) -> None:
    """300 tensors of 4 K, each for itself: what a run costs when there is nearly nothing to move."""
    ox: Any = importlib.import_module("oxiprune_gpu")
    source = gpu.normals(300 * 4096)
    work = source.copy()
    plan = ox.prepare(list(work.reshape(300, 4096)), config())
    restore = partial(gpu.xp.copyto, work, source)
    plan.run()
    check_halves(source, work)
    _tell_micros(gpu, Candidate("300 small, a run", partial(plan.run, check=False), restore), 100, result)
    stream = gpu.xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        plan.run(check=False)
        graph = stream.end_capture()
        restore()
        graph.launch(stream)
        check_halves(source, work)
        _tell_micros(gpu, Candidate("300 small, graph", partial(graph.launch, stream), restore), 40, result)


def check_halves(source: Any, work: Any) -> None:
    """Half of each tensor of 4096 fell, and what stayed kept its value."""
    fell = work == 0
    assert bool((fell.reshape(-1, 4096).sum(axis=1) == 2048).all()), "other than half of a small tensor fell"
    assert bool((fell | (work == source)).all()), "a kept value changed"


def _tell_micros(gpu: Gpu, candidate: Candidate, limit: float, result: Result) -> None:
    times = gpu.interleaved([candidate], 30)[candidate.name]
    result.raw[candidate.name] = times
    micros = [value * 1e6 for value in times if value is not None]
    result.figures.append(Figure(candidate.name, statistics.median(micros), "us", min(micros), target=Target(limit)))


def peers(gpu: Gpu, size: int, result: Result) -> None:
    """The same exact work by what others have."""
    ox: Any = importlib.import_module("oxiprune_gpu")
    size = gpu_floors.largest(size, BYTES_AN_ELEMENT, gpu.free_memory())
    source = gpu.normals(size)
    work, k = source.copy(), int(size * SPARSITY)
    plan, restore = ox.prepare([work], config()), partial(gpu.xp.copyto, work, source)
    candidates = [Candidate("ours", partial(plan.run, check=False), restore)]
    for name, run in rivals(gpu, work, k, result).items():
        restore()
        try:
            run()
            gpu.xp.cuda.Device().synchronize()
            candidates.append(Candidate(name, run, restore, every=3))
        except Exception as error:
            result.note(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        gpu.free()
    times = gpu.interleaved(candidates)
    result.raw[f"peers {size}"] = times
    found = {name: common.ratio(f"{name} / ours", times[name], times["ours"]) for name in times if name != "ours"}
    result.figures += found.values()
    if found:
        best = min(figure.value for figure in found.values())
        result.figures.append(Figure("best peer / ours", best, target=Target(3, at_least=True)))


def rivals(gpu: Gpu, work: Any, k: int, result: Result) -> dict[str, Callable[[], object]]:
    xp = gpu.xp

    def cupy_argpartition() -> None:
        work[xp.argpartition(xp.abs(work), k - 1)[:k]] = 0

    def cupy_partition() -> None:
        scores = xp.abs(work)
        xp.multiply(work, scores > xp.partition(scores, k - 1)[k - 1], out=work)

    found: dict[str, Callable[[], object]] = {
        "cupy argpartition": cupy_argpartition,
        "cupy partition": cupy_partition,
    }
    if not common.installed("torch"):
        result.note("torch is not installed: not compared with it")
        return found
    torch: Any = importlib.import_module("torch")
    prune: Any = importlib.import_module("torch.nn.utils.prune")
    tensor = torch.from_dlpack(work)

    def torch_topk() -> None:
        tensor[torch.topk(tensor.abs(), k, largest=False).indices] = 0

    def torch_kthvalue() -> None:
        scores = tensor.abs()
        tensor.mul_(scores > torch.kthvalue(scores, k).values)

    def torch_prune() -> None:
        module = torch.nn.Module()
        module.register_parameter("weight", torch.nn.Parameter(tensor, requires_grad=False))
        prune.l1_unstructured(module, "weight", SPARSITY)

    return found | {"torch topk": torch_topk, "torch kthvalue": torch_kthvalue, "torch l1_unstructured": torch_prune}


if __name__ == "__main__":
    main()
