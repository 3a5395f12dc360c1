"""The jobs that bench_calibration.py measures, each a command of its own, and what it asks about their results.

python benchmarks/calibration_jobs.py data FOLDER [--quick]            inputs of the model of onnx_jobs.py, in two files
python benchmarks/calibration_jobs.py layers FILE [--quick]            a model of four layers that reads the same inputs
python benchmarks/calibration_jobs.py oxiprune METHOD BEFORE DATA AFTER RULE [NAME...]
python benchmarks/calibration_jobs.py onnxsim METHOD BEFORE DATA AFTER RULE
python benchmarks/calibration_jobs.py run MODEL DATA                   onnxruntime alone on all the data
python benchmarks/calibration_jobs.py collect MODEL DATA MEMORY [hessian]
python benchmarks/calibration_jobs.py check BEFORE DATA AFTER RULE     fails unless Wanda's masks are right
python benchmarks/calibration_jobs.py drift MODEL DATA AFTER...        relative L2 of the outputs, as JSON

METHOD is wanda or sparsegpt; ours also with +once, where all layers see the inputs of the dense model, and +repair.
RULE is a sparsity like 0.5 or N:M like 2:4; NAMES are the weights that are pruned, all without any. Data is an .npz
with an array for each input.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RUNS, SCORED = 16, 4
BATCH = 16
Feed = dict[str, Any]


def data(folder: str, *quick: str) -> None:
    """Normals of which each feature has a scale of its own: without that, Wanda would be magnitude."""
    random = np.random.default_rng(5)
    width, channels = (64, 16) if quick else (1024, 512)
    scales = [random.lognormal(0, 1, size).astype(np.float32) for size in ((1, width), (1, channels, 1, 1))]
    for name, runs in (("calibrate", RUNS), ("score", SCORED)):
        shapes = {"tokens": (8 * runs, width), "image": (runs, channels, 14, 14)}
        arrays = zip(shapes.items(), scales, strict=True)
        np.savez(
            Path(folder, f"{name}.npz"), **{key: random.standard_normal(s, np.float32) * by for (key, s), by in arrays}
        )


def layers(path: str, *quick: str) -> None:
    """4.2 M parameters: onnxsim's SparseGPT takes hours for the model of onnx_jobs.py."""
    model = importlib.import_module("onnx_jobs").Builder()
    width, tokens = 64 if quick else 1024, "tokens"
    for number in range(4):
        tokens = model.matmul(tokens, f"layer{number}", width, width)
    model.save(path, [("tokens", [8, width])], [(tokens, [8, width])])


def oxiprune(method: str, before: str, given: str, after: str, rule: str, *names: str) -> None:
    from onnx_tools import DataMethod, Selection, prune_file
    from oxiprune_gpu import PruningConfig

    choice, *more = method.split("+")
    way = DataMethod(given, choice=choice, repair="repair" in more, order="once" if "once" in more else "")
    config = PruningConfig(granularity=rule) if ":" in rule else PruningConfig(float(rule))
    exact = tuple(name.replace("[", "[[]") for name in names)
    selection = Selection(exact, min_elements=0, depthwise=True) if names else Selection()
    prune_file(before, after, config=way.new_values(before, config, selection), selection=selection, force=True)


def onnxsim(method: str, before: str, given: str, after: str, rule: str) -> None:
    onnx, pruning = map(importlib.import_module, ("onnx", "onnxsim.pruning"))
    model = onnx.load(before)
    prune = getattr(pruning, f"apply_{method}_pruning")
    without_stored_inputs(model)
    onnx.save(prune(model, calibration_data=list(feeds(model, given)), **arguments(rule)), after)


def without_stored_inputs(model: Any) -> None:
    """Stored tensors of old models are inputs too, which onnxsim would ask for: they are stored tensors alone."""
    stored = {tensor.name for tensor in model.graph.initializer}
    kept = [each for each in model.graph.input if each.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)


def arguments(rule: str) -> dict[str, Any]:
    """A rule as onnxsim wants it."""
    return dict(zip("nm", map(int, rule.split(":")), strict=True)) if ":" in rule else {"sparsity": float(rule)}


def feeds(model: Any, given: str) -> Iterator[Feed]:
    """The data run by run: what a fixed first axis takes, or else 16 at once."""
    arrays = np.load(given)
    stored = {tensor.name for tensor in model.graph.initializer}
    first = {
        each.name: each.type.tensor_type.shape.dim[0].dim_value or BATCH
        for each in model.graph.input
        if each.name not in stored
    }
    runs = min(-(-len(arrays[name]) // size) for name, size in first.items())
    whole = {name: arrays[name] for name in first}
    for run in range(runs):
        yield {name: whole[name][run * size : (run + 1) * size] for name, size in first.items()}


def session(model: str | bytes) -> Any:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model, options)


def run(model: str, given: str) -> None:
    onnx: Any = importlib.import_module("onnx")
    runs = list(feeds(onnx.load(model, load_external_data=False), given))
    alone = session(model)
    for feed in runs:
        alone.run(None, feed)


def collect(model: str, given: str, memory: str, *hessian: str) -> None:
    from onnx_tools import Calibration

    Calibration.collect(model, given, hessian=bool(hessian), memory=int(memory))


def check(before: str, given: str, after: str, rule: str) -> None:
    """Two weights, whose inputs are those of the model, against Wanda written down plainly; of all the zeros."""
    onnx, jobs = map(importlib.import_module, ("onnx", "onnx_jobs"))
    to_array = importlib.import_module("onnx.numpy_helper").to_array
    old, new = ({node.name: to_array(t) for node, t in jobs.weights(onnx.load(path))} for path in (before, after))
    arrays = np.load(given)
    for name, values in old.items():
        zeros = np.count_nonzero(new[name] == 0) / values.size
        assert abs(zeros - float(rule)) < 0.001, f"{name}: {zeros:.2%} zeros"
        assert np.array_equal(np.where(new[name] == 0, 0, values), new[name]), f"{name}: what stays has changed"
    first = next(iter(old))
    squares = {first: (arrays["tokens"].astype(np.float64) ** 2).sum(axis=0), "conv0.sum": windows(arrays["image"])}
    for name, norms in squares.items():
        matrix, kept = old[name], new[name] != 0
        if name == first:
            matrix, kept = matrix.T, kept.T
        assert np.array_equal(kept.reshape(len(kept), -1), plainly(matrix.reshape(len(matrix), -1), norms, float(rule)))


def windows(image: Any) -> Any:
    """Sums of squares of what each element of a padded 3x3 kernel sees, channel by channel."""
    padded = np.pad(image.astype(np.float64) ** 2, [(0, 0), (0, 0), (1, 1), (1, 1)])
    high, wide = image.shape[2:]
    found = [padded[:, :, i : i + high, j : j + wide].sum(axis=(0, 2, 3)) for i in range(3) for j in range(3)]
    return np.stack(found, axis=1).reshape(-1)


def plainly(matrix: Any, squares: Any, sparsity: float) -> Any:
    """What Wanda keeps: in each output the lowest fall, of equal ones the first."""
    order = np.argsort(np.abs(matrix) * np.sqrt(squares).astype(np.float32), axis=1, kind="stable")
    kept = np.ones(matrix.shape, bool)
    np.put_along_axis(kept, order[:, : int(sparsity * matrix.shape[1])], False, axis=1)
    return kept


def drift(model: str, given: str, *after: str) -> None:
    """How far the outputs move, relative to their size, the mean of all outputs. Biases are raw data of one axis."""
    onnx: Any = importlib.import_module("onnx")
    runs = list(feeds(onnx.load(model, load_external_data=False), given))
    dense, *others = (outputs(path, runs) for path in (model, *after))
    print(json.dumps([float(np.mean(list(map(moved, dense, other)))) for other in others]))


def outputs(path: str, runs: list[Feed]) -> list[Any]:
    """Without the biases, which would be most of what comes out of layers that shrink their inputs."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 1:
            tensor.raw_data = bytes(len(tensor.raw_data))
    alone = session(model.SerializeToString())
    return [np.stack(each).astype(np.float64) for each in zip(*(alone.run(None, feed) for feed in runs), strict=True)]


def moved(dense: Any, other: Any) -> float:
    return float(np.linalg.norm(other - dense) / np.linalg.norm(dense))


JOBS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (data, layers, oxiprune, onnxsim, run, collect, check, drift)
}


def main() -> None:
    job, *rest = sys.argv[1:]
    JOBS[job](*rest)


if __name__ == "__main__":
    main()
