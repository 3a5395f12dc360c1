"""How small do encodings make a pruned model, and how long does it load then? Beside COO, zstd and gzip.

A MatMul of 2048 x 2048 and a chain of convolutions, float32, at 50, 80 and 90 % of zeros. Every layout of the packed
encoding alone, then the choices of `--prefer`; bytes against the dense file, and the time to make an onnxruntime
session against that of the dense file, in turns, on one thread. zstd-3 and gzip of the dense file are what a download
would weigh; they do not load.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import onnxruntime
import zstandard
from common import Candidate, Figure, Result, Target
from onnx import helper, numpy_helper

from onnx_tools import encode_file, prune_file
from oxiprune_gpu import PruningConfig

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
WAYS: dict[str, dict[str, Any]] = {
    **{name: {"layouts": [name]} for name in ("bits", "gaps4", "gaps8")},
    "packed, prefer size": {},
    "packed, prefer load": {"prefer": "load"},
    "sparse (COO)": {"encoding": "sparse"},
}
LOADS = 7

SIZE_TARGETS = {50: 0.532, 80: 0.231, 90: 0.125}
"""The smallest files of the first trials, by percent of zeros."""

LOAD_TARGETS = {50: 4.0, 80: 3.0, 90: 2.0}
"""Load time of the fastest layout against the dense file, as in the first trials: 0.12 to 0.06 s beside 0.03 s."""


def main() -> None:
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)
    rounds = options.rounds or (1 if options.quick else LOADS)
    size = 256 if options.quick else 2048
    result = Result("encodings", {"rounds": rounds, "size": size})
    with tempfile.TemporaryDirectory(prefix="oxiprune-bench-") as folder:
        for name, model in (("matmul", matmul(size)), ("convolutions", convolutions(size // 8))):
            path = Path(folder) / f"{name}.onnx"
            onnx.save(model, path)
            for percent in (50, 80, 90):
                bench(name, path, percent, rounds, result)
    common.finish(result, options)


def matmul(size: int) -> onnx.ModelProto:
    return model_of([("MatMul", (size, size), {})], [1, size])


def convolutions(channels: int) -> onnx.ModelProto:
    """Eight layers of 3 x 3, as in a residual network."""
    layer = ("Conv", (channels, channels, 3, 3), {"pads": [1, 1, 1, 1]})
    return model_of([layer] * 8, [1, channels, 8, 8])


def model_of(layers: list[tuple[str, tuple[int, ...], dict[str, Any]]], shape: list[int]) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for i, (operator, dims, attributes) in enumerate(layers):
        nodes.append(helper.make_node(operator, [f"h{i}", f"w{i}"], [f"h{i + 1}"], **attributes))
        weights.append(numpy_helper.from_array(random.standard_normal(dims).astype(np.float32), f"w{i}"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("h0", f"h{len(layers)}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def bench(name: str, model: Path, percent: int, rounds: int, result: Result) -> None:
    dense = model.with_name(f"dense-{percent}.onnx")
    prune_file(model, dense, config=PruningConfig(percent / 100), force=True)
    label, files = f"{name} {percent} %", {"dense": dense}
    for way, wanted in WAYS.items():
        files[way] = dense.with_name("".join(filter(str.isalnum, way)) + ".onnx")
        encode_file(dense, files[way], force=True, verify=False, **wanted)
    bytes_of(label, files, percent if name == "matmul" else 0, result)
    times = common.interleaved([Candidate(way, partial(load, file)) for way, file in files.items()], rounds)
    result.raw[f"{label} load"] = times
    result.figures.append(common.seconds(f"{label} load, dense", times["dense"]))
    for way in WAYS:
        target = Target(LOAD_TARGETS[percent]) if name == "matmul" and way == "packed, prefer load" else None
        result.figures.append(common.ratio(f"{label} load, {way} / dense", times[way], times["dense"], target))


def bytes_of(label: str, files: dict[str, Path], percent: int, result: Result) -> None:
    dense = files["dense"].read_bytes()
    limit = SIZE_TARGETS.get(percent)
    for way in WAYS:
        target = Target(limit) if limit is not None and way == "packed, prefer size" else None
        add_size(result, f"{label} bytes, {way}", files[way].stat().st_size, len(dense), target)
    squeezed = {"zstd-3 of dense": dense, "zstd-3 of packed, prefer size": files["packed, prefer size"].read_bytes()}
    for way, data in squeezed.items():
        add_size(result, f"{label} bytes, {way}", len(zstandard.compress(data, 3)), len(dense), None)
    add_size(result, f"{label} bytes, gzip of dense", len(gzip.compress(dense, 6)), len(dense), None)


def add_size(result: Result, what: str, size: int, dense: int, target: Target | None) -> None:
    result.figures.append(Figure(what, round(size / dense, 4), "of dense", target=target))


def load(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
