"""Killed at any moment of an in-place prune, the old or the new model stands, whole."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = 25

FORKING = """
import os, sys
from onnx_tools import commands, weight_selection
from onnx_tools.cli import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["oxiprune", *line.split()]
        main()
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Importing takes longer than pruning: this imports once, and then each line on its input is a run in a child."""


class Runs:
    """Runs of the command that can be killed."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *words: str, kill_after: float | None = None) -> tuple[int, float]:
        """The exit code (-9 if killed) and the seconds it took."""
        assert self._parent.stdout is not None
        self._say(" ".join(words))
        child = int(self._parent.stdout.readline())
        start = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # its number is not free before the parent has been told to wait for it
        self._say("")
        return int(self._parent.stdout.readline()), time.perf_counter() - start

    def _say(self, line: str) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(line + "\n")
        self._parent.stdin.flush()

    def close(self) -> None:
        """Let the parent end."""
        self._parent.communicate()


@pytest.fixture
def runs() -> Iterator[Runs]:
    """Runs in children of one process."""
    runs = Runs()
    yield runs
    runs.close()


def make_model(path: pathlib.Path, count: int, *, external: bool) -> None:
    """A chain of `count` MatMul of 512 x 512 (1 MiB each)."""
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array(rng.standard_normal((512, 512), np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", convert_attribute=False)


def decoded(path: pathlib.Path) -> str:
    """A hash of all weights of a model that loads."""
    model = onnx.load(path)
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("count", "external"), [(4, False), (20, True)], ids=["inline", "external"])
def test_killed_at_any_moment_of_a_run(tmp_path: pathlib.Path, runs: Runs, count: int, external: bool) -> None:
    stash, folder = tmp_path / "stash", tmp_path / "work"
    stash.mkdir()
    make_model(stash / "model.onnx", count, external=external)
    shutil.copytree(stash, folder)
    model = folder / "model.onnx"
    words = ["prune", str(model), "--in-place", "-s", "0.5", "-q"]
    old = decoded(model)
    code, duration = runs.run(*words)
    new = decoded(model)
    assert (code, old != new) == (0, True)

    found = []
    for number, delay in enumerate(np.linspace(0, duration * 1.1, KILLS)):
        for file in stash.iterdir():  # the leavings of earlier kills stay
            shutil.copy(file, folder)
        code, _ = runs.run(*words, *(["--delete-old-data"] if number % 2 else []), kill_after=float(delay))
        assert code in (0, -signal.SIGKILL)
        now = decoded(model)
        assert now in (old, new), f"killed after {delay:.3f} s of {duration:.3f} s, the model is neither"
        assert code != 0 or now == new
        found.append((code, now == new))
    assert (-signal.SIGKILL, False) in found, "no run was killed before its commit"

    for file in stash.iterdir():
        shutil.copy(file, folder)
    assert runs.run(*words)[0] == 0
    assert decoded(model) == new
    result = run("verify", stash / "model.onnx", model, "--no-runtime", "-q")
    assert (result.exit_code, result.output) == (0, "")
    shutil.rmtree(folder)  # leavings of every kill
