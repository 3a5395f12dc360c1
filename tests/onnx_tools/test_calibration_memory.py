"""What calibration takes stays within the memory that it is allowed, beside what onnxruntime takes."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.onnx_tools.test_memory import WATCH

pytest.importorskip("resource", reason="the system tells no peak of memory")
pytest.importorskip("onnxruntime")

LAYERS, CHANNELS, SIDE, IMAGES = 8, 32, 96, 32
RUN = """
import sys
import numpy as np
from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.model_file import ModelFile
x = np.ones((16, 32, 96, 96), np.float32)
tapped = Tapped(ModelFile.open(sys.argv[1]), [], ("CPUExecutionProvider",))
tapped._session.run(None, {"x": x})
"""
COLLECT = """
import sys
import numpy as np
from onnx_tools import Calibration
def data():
    for seed in range(2):
        yield {"x": np.random.default_rng(seed).standard_normal((16, 32, 96, 96), np.float32)}
runs = set()
found = Calibration.collect(
    sys.argv[1], data(), hessian=True, memory=int(sys.argv[2]) << 20, progress=lambda name, done, total: runs.add(total)
)
assert len(found.weights) == 8 and min(runs) > 2, (found.unobserved, runs)
"""


def peak(script: str, *words: object) -> int:
    """MiB that a script took at its peak."""
    command = [sys.executable, "-c", WATCH, sys.executable, "-c", script, *map(str, words)]
    code, mebibytes = map(int, subprocess.check_output(command, text=True).split())
    assert code == 0
    return mebibytes


def write(path: pathlib.Path) -> None:
    """Convolutions one behind the other: each reads 18 MiB a batch of 16, 162 MiB as windows."""
    nodes, weights = [], []
    for layer in range(LAYERS):
        name = "x" if not layer else f"h{layer}"
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"h{layer + 1}"], pads=[1, 1, 1, 1]))
        value = np.random.default_rng(layer).standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32) / 17
        weights.append(numpy_helper.from_array(value, f"w{layer}"))
    inputs = [helper.make_tensor_value_info("x", 1, ["n", CHANNELS, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info(f"h{LAYERS}", 1, ["n", CHANNELS, SIDE, SIDE])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@pytest.mark.slow
def test_memory_stays_below_the_bound(tmp_path: pathlib.Path) -> None:
    """All values at once would take 288 MiB, as onnxruntime and as we hold them, and one layer's windows 162."""
    path = tmp_path / "model.onnx"
    write(path)
    alone, allowed = peak(RUN, path), 160
    more = peak(COLLECT, path, allowed) - alone
    assert more < allowed, f"{more} MiB above the {alone} MiB of the model alone"
