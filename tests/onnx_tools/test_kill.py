"""Killed at any moment of a run, the old or the new model stands, whole."""

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
import itertools, os, signal, sys
from onnx_tools import commands, weight_selection
from onnx_tools.cli import main

def dying(function, events, last):
    def call(*args, **options):
        if next(events) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        if next(events) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for line in sys.stdin:
    child = os.fork()
    if not child:
        last, *words = line.split()
        events = itertools.count()
        for name in ("link", "replace", "unlink"):
            setattr(os, name, dying(getattr(os, name), events, int(last)))
        sys.argv = ["oxiprune", *words]
        main()
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Importing takes longer than pruning: this imports once, and then each line on its input is a run in a child.

The first word of a line is the moment when the run kills itself, before or after a rename, link or deletion: 0 is
before the first of them, 1 after it, 2 before the second, and so on; -1 is never.
"""


class Runs:
    """Runs of the command that can be killed."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *words: str, kill_after: float | None = None, kill_at: int = -1) -> tuple[int, float]:
        """The exit code (-9 if killed) and the seconds it took."""
        assert self._parent.stdout is not None
        self._say(" ".join([str(kill_at), *words]))
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


@pytest.fixture
def stash(tmp_path: pathlib.Path, runs: Runs) -> pathlib.Path:
    """A folder with a model that has external data, and an output made from it, with external data too."""
    stash = tmp_path / "stash"
    stash.mkdir()
    make_model(stash / "model.onnx", 4, external=True)
    words = ["prune", str(stash / "model.onnx"), "-o", str(stash / "out.onnx"), "-s", "0.3", "-q"]
    assert runs.run(*words)[0] == 0
    assert sorted(os.listdir(stash)) == ["model.onnx", "out.onnx", "out.onnx.data", "weights.bin"]
    return stash


def renewed(stash: pathlib.Path, *, without: tuple[str, ...] = ()) -> pathlib.Path:
    """A copy of the stash in which nothing is left of earlier runs."""
    folder = stash.with_name("work")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stash, folder, ignore=shutil.ignore_patterns(*without))
    return folder


def is_clean(folder: pathlib.Path) -> bool:
    """Whether every file is one that a model there uses."""
    names = {"model.onnx", "weights.bin", "out.onnx", "out.onnx.data", "model.onnx.data"}
    return names.issuperset(os.listdir(folder))


def test_killed_while_overwriting_an_output(stash: pathlib.Path, runs: Runs) -> None:
    folder = renewed(stash)
    output, source = folder / "out.onnx", decoded(stash / "model.onnx")
    words = ["prune", str(folder / "model.onnx"), "-o", str(output), "--force", "-s", "0.5", "-q"]
    old = decoded(output)
    code, duration = runs.run(*words)
    new = decoded(output)
    assert (code, old != new) == (0, True)
    found = []
    for delay in np.linspace(0, duration * 1.1, KILLS):
        renewed(stash)
        code, _ = runs.run(*words, kill_after=float(delay))
        now = decoded(output)
        assert now in (old, new), f"killed after {delay:.3f} s of {duration:.3f} s, the output is neither"
        assert code != 0 or now == new
        assert decoded(folder / "model.onnx") == source
        found.append((code, now == new))
    assert (-signal.SIGKILL, False) in found, "no run was killed before its commit"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("out.onnx", ["-o", "out.onnx", "--force"]),
        ("out.onnx", ["-o", "out.onnx"]),
        ("model.onnx", ["--in-place"]),
        ("model.onnx", ["--in-place", "--delete-old-data"]),
    ],
    ids=["by force", "new output", "in place", "old data deleted"],
)
def test_killed_at_every_step_of_the_commit(stash: pathlib.Path, runs: Runs, target: str, options: list[str]) -> None:
    """Before and after every rename, link and deletion."""
    is_new = "-o" in options and "--force" not in options
    absent = ("out.onnx", "out.onnx.data") if is_new else ()
    folder = renewed(stash, without=absent)
    model = folder / target
    words = ["prune", str(folder / "model.onnx"), *(str(model) if word == target else word for word in options)]
    words += ["-s", "0.5", "-q"]
    old = decoded(model) if model.exists() else None
    assert runs.run(*words)[0] == 0
    assert is_clean(folder)
    new, seen = decoded(model), []
    for step in range(100):
        renewed(stash, without=absent)
        code, _ = runs.run(*words, kill_at=step)
        now = decoded(model) if model.exists() else None
        seen.append(now)
        assert now in (old, new), f"killed at step {step}, the model is neither the old nor the new one"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen[-1] == new
    assert set(seen) == {old, new}
    assert seen == sorted(seen, key=lambda found: found == new), "the old model came back"
    assert len(seen) > 4
    shutil.rmtree(folder)
