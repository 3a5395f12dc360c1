"""How fast is pruning an array in memory, beside copying it and beside torch?

2^26 float32 normals, 50 %: unstructured L1 in place with mask, rows and columns by L2 as 8192 x 8192; data that is hard
to select from; the memory it takes; and 1,000 elements, beside np.partition.
"""

from __future__ import annotations

import argparse
import importlib
import math
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import common
from common import Candidate, Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
SPARSITY = 0.5
SMALL = 1_000
REPEATS = 5


def main() -> None:
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)  # before numpy and torch are imported
    import numpy as np

    side = 512 if options.quick else 8192
    rounds = options.rounds or (3 if options.quick else 9)
    result = Result("arrays", {"elements": side * side, "rounds": rounds, "sparsity": SPARSITY})
    normals = np.random.default_rng(0).standard_normal((side, side), np.float32)
    check(normals)
    time_large(normals, rounds, options.threads, result)
    time_hard_data(normals, rounds, result)
    measure_memory(normals, result)
    time_small(normals.reshape(-1)[:SMALL].copy(), 5 if options.quick else 50, result)
    common.finish(result, options)


def configs() -> dict[str, Any]:
    from oxiprune_gpu import PruningConfig

    return {
        "unstructured l1": PruningConfig(SPARSITY, "l1", "unstructured"),
        "row l2": PruningConfig(SPARSITY, "l2", "row"),
        "column l2": PruningConfig(SPARSITY, "l2", "column"),
    }


def check(normals: Any) -> None:
    """Before anything is timed: the right number falls, the lowest fall, what stays keeps its bits."""
    import numpy as np

    from oxiprune_gpu import prune_tensor

    for name, config in configs().items():
        pruned, mask = prune_tensor(normals, config)
        units = {"unstructured l1": mask.reshape(-1), "row l2": mask.all(axis=1), "column l2": mask.all(axis=0)}[name]
        assert np.count_nonzero(~units) == math.floor(SPARSITY * units.size), name
        assert np.array_equal(pruned.view(np.uint32), np.where(mask, normals, np.float32(0)).view(np.uint32)), name
        scores = abs(normals) if name == "unstructured l1" else (normals.astype(float) ** 2).sum(int(name == "row l2"))
        assert scores.reshape(-1)[~units].max() <= scores.reshape(-1)[units].min(), name
    if common.installed("torch"):
        kept = np.count_nonzero(torch_prune(normals.copy(), "unstructured l1"))
        assert kept == normals.size - math.floor(SPARSITY * normals.size), f"torch keeps {kept}"


def torch_prune(array: Any, name: str) -> Any:
    """What torch.nn.utils.prune does to a module that holds the array: mask, and weight = original * mask."""
    module = torch_module(array)
    torch_run(module, name)
    return module.weight.detach().numpy()


def torch_module(array: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.from_numpy(array)))
    return module


def torch_run(module: Any, name: str) -> None:
    prune: Any = importlib.import_module("torch.nn.utils.prune")
    if name == "unstructured l1":
        prune.l1_unstructured(module, "weight", SPARSITY)
    else:
        prune.ln_structured(module, "weight", SPARSITY, n=2, dim=0 if name == "row l2" else 1)


def time_large(normals: Any, rounds: int, threads: int, result: Result) -> None:
    import numpy as np

    from oxiprune_gpu import prune_tensor_inplace

    work, target = normals.copy(), np.zeros_like(normals)

    def refill() -> None:
        np.copyto(work, normals)

    candidates = [Candidate("copy", lambda: np.copyto(target, normals), repeats=REPEATS)]
    for name, config in configs().items():
        candidates.append(
            Candidate(f"oxiprune {name}", partial(prune_tensor_inplace, work, config), refill, repeats=REPEATS)
        )
    candidates.append(Candidate("plain numpy l1", lambda: plain_numpy(work), refill, every=3))
    peers = torch_candidates(normals, threads, result)
    times = common.interleaved(candidates + peers, rounds)
    result.raw["large"] = times
    limits = {"unstructured l1": (2.5, 40.0), "row l2": (2.0, None), "column l2": (2.0, None)}
    result.figures.append(common.seconds("np.copyto", times["copy"]))
    for name, (copies, faster) in limits.items():
        mine = times[f"oxiprune {name}"]
        result.figures.append(common.ratio(f"{name}, in copies", mine, times["copy"], Target(copies)))
        if peers:
            goal = Target(faster, at_least=True) if faster else None
            result.figures.append(common.ratio(f"torch {name} / oxiprune", times[f"torch {name}"], mine, goal))
    numpy_times, mine = times["plain numpy l1"], times["oxiprune unstructured l1"]
    result.figures.append(common.ratio("plain numpy l1 / oxiprune", numpy_times, mine))


def plain_numpy(array: Any) -> Any:
    """The three lines one would write; not exact where values are equal."""
    import numpy as np

    scores = np.abs(array)
    mask = scores > np.partition(scores, int(SPARSITY * scores.size) - 1, axis=None)[int(SPARSITY * scores.size) - 1]
    array *= mask
    return mask


def torch_candidates(normals: Any, threads: int, result: Result) -> list[Candidate]:
    if not common.installed("torch"):
        result.note("torch is not installed: not compared with it")
        return []
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    holder: dict[str, Any] = {}

    def candidate(name: str, every: int) -> Candidate:
        def prepare() -> None:
            holder.clear()
            holder["module"] = torch_module(normals.copy())

        return Candidate(f"torch {name}", lambda: torch_run(holder["module"], name), prepare, every)

    return [candidate("unstructured l1", 3), candidate("row l2", 1), candidate("column l2", 1)]


def hard_data(normals: Any) -> Iterator[tuple[str, Any]]:
    """Data that a bracket from a sample could be slow on, each in the shape of `normals`."""
    import numpy as np

    shape = normals.shape
    rng = np.random.default_rng(1)
    yield "all equal", np.full(shape, 0.25, np.float32)
    yield "90 % zeros", np.where(rng.random(shape, np.float32) < 0.9, np.float32(0), normals)
    yield "ascending", np.sort(normals, axis=None).reshape(shape)
    yield "descending magnitude", np.sort(np.abs(normals), axis=None)[::-1].reshape(shape).copy()
    yield "16 distinct values", rng.integers(-8, 8, shape).astype(np.float32)
    yield "steps of 1/64", (np.round(normals * 64) / 64).astype(np.float32)


def time_hard_data(normals: Any, rounds: int, result: Result) -> None:
    import numpy as np

    from oxiprune_gpu import prune_tensor_inplace

    work, config = normals.copy(), configs()["unstructured l1"]

    def candidate(name: str, data: Any) -> Candidate:
        return Candidate(
            name, lambda: prune_tensor_inplace(work, config), lambda: np.copyto(work, data), repeats=REPEATS
        )

    for name, data in hard_data(normals):
        mask = prune_tensor_inplace(data.copy(), config)
        assert np.count_nonzero(mask) == normals.size - math.floor(SPARSITY * normals.size), name
        times = common.interleaved([candidate("normal", normals), candidate(name, data)], max(3, rounds // 2))
        result.raw[f"hard data: {name}"] = times
        result.figures.append(common.ratio(f"{name} / normal data", times[name], times["normal"], Target(2)))


def measure_memory(normals: Any, result: Result) -> None:
    """Peak of what is allocated beside the array itself, mask included; numpy reports to tracemalloc."""
    from oxiprune_gpu import prune_tensor_inplace

    for name, config in configs().items():
        work = normals.copy()
        peak = _peak_bytes(partial(prune_tensor_inplace, work, config))
        result.figures.append(
            common.Figure(f"{name}, extra memory", peak / normals.size, "B/element", target=Target(1.5))
        )


def _peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        kept = run()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


def time_small(small: Any, rounds: int, result: Result) -> None:
    """1,000 elements, many times over: what a call costs beside its work."""
    import numpy as np

    from oxiprune_gpu import prune_tensor, prune_tensor_inplace

    calls, work = 200, small.copy()
    every: dict[str, Callable[[], object]] = {"partition": lambda: np.partition(small, SMALL // 2)}
    for name, config in configs().items():
        shaped = small if name == "unstructured l1" else small.reshape(25, 40)
        every[f"prune_tensor {name}"] = partial(prune_tensor, shaped, config)
    unstructured = configs()["unstructured l1"]

    def in_place() -> None:
        np.copyto(work, small)
        prune_tensor_inplace(work, unstructured)

    every["in place unstructured l1"] = in_place

    def repeated(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                call()

        return run

    times = common.interleaved([Candidate(name, repeated(call)) for name, call in every.items()], rounds)
    partition = times.pop("partition")
    result.figures.append(
        common.seconds("np.partition of 1,000", [t / calls * 1e6 for t in partition if t is not None], "us")
    )
    result.raw["small"] = {"calls": calls, "partition": partition, **times}
    for name, mine in times.items():
        result.figures.append(common.ratio(f"1,000 elements, {name} / np.partition", mine, partition, Target(10)))


if __name__ == "__main__":
    main()
