"""Pruning never holds a weight: the peak of memory stays far below the largest one."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.command import START

pytest.importorskip("resource", reason="the system tells no peak of memory")

SIDE = 5000
"""Of the largest weight: 25 M float32, 100 MB."""

WATCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10))
"""
"""Starts the command from a small process: on Linux the peak is never below that of the one that starts it."""


def peak(*words: object) -> int:
    """MiB that the command took at its peak."""
    command = [sys.executable, "-c", WATCH, sys.executable, "-c", START, *map(str, words)]
    code, mebibytes = map(int, subprocess.check_output(command, text=True).split())
    assert code == 0
    return mebibytes


def write_model(path: pathlib.Path, side: int, *, external: bool) -> None:
    """A MatMul with a weight of `side` x `side` and one of a fifth of that."""
    block = np.random.default_rng(2).standard_normal(1 << 16, np.float32)
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 17)])
    data = b""
    for index, rows in enumerate((side, side // 5)):
        values = np.resize(block, (rows, side)).tobytes()
        tensor = TensorProto(name=f"w{index}", dims=(rows, side), data_type=TensorProto.FLOAT)
        if external:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", len(data)), ("length", len(values))):
                tensor.external_data.add(key=key, value=str(value))
            data += values
        else:
            tensor.raw_data = values
        model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"y{index}"]))
        model.graph.input.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, [1, rows]))
        model.graph.output.append(helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [1, side]))
    path.write_bytes(model.SerializeToString())
    if external:
        path.with_name("weights.bin").write_bytes(data)


@pytest.mark.parametrize(("granularity", "limit"), [("unstructured", 3.0), ("row", 1.5)])
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_memory_stays_below_the_largest_weight(
    tmp_path: pathlib.Path, external: bool, granularity: str, limit: float
) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    options = ("-o", out, "-s", 0.5, "--min-elements", 0, "--granularity", granularity, "--quiet")
    write_model(path, 50, external=external)
    base = peak("prune", path, *options)
    write_model(path, SIDE, external=external)
    more = peak("prune", path, *options, "--force") - base
    # In bytes an element. Values that were held would add 4, and keys or scores of them 4 more. Measured are 2, of
    # which the mask is 1, and for rows 0.8; of both 0.8 is scratch, 20 MB, which does not grow with the weight.
    assert more << 20 < limit * SIDE * SIDE, f"{more} MiB above the {base} MiB of a tiny model"
    for file in tmp_path.iterdir():
        file.unlink()


def test_memory_of_pictures_and_of_a_comparison(tmp_path: pathlib.Path) -> None:
    """Neither holds a weight. Measured are 24 MiB, as without pictures, and 3."""
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    inspect = ("inspect", path, "--report", tmp_path / "report.html", "--quiet")
    compare = ("compare", path, out, "--quiet")
    bases = []
    for side in (50, SIDE):
        write_model(path, side, external=True)
        assert peak("prune", path, "-o", out, "-s", 0.5, "--min-elements", 0, "--force", "--quiet") > 0
        bases.append((peak(*inspect), peak(*compare)))
    more = [after - before for before, after in zip(*bases, strict=True)]
    assert more[0] < 45, more
    assert more[1] < 20, more
    for file in tmp_path.iterdir():
        file.unlink()
