"""How long each layer takes in onnxruntime before and after: what its profiler says, in sessions of their own."""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_tools.compaction.costs.kernels import by_label, kernel_times, name_nodes
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.verification.feeds import one_line
from onnx_tools.verification.referring import FOLDER, common_folder, referring
from onnx_tools.verification.runtime_check import Shapes, feeds_for, session_options

_RUNS = 15
_MOST_SECONDS = 10.0
"""For all runs: fewer are made of a model that takes long, but never fewer than three."""
_MOST_BYTES = 1 << 28
"""Of a profile that is read: a loop has an event for each kernel in each of its turns."""


@dataclass(frozen=True)
class LayerTimes:
    """Microseconds of the kernels of a node in one run, by its label, before and after: those that are known."""

    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Profiled:
    """A model whose layers are timed."""

    model: ModelFile
    index: GraphIndex


def measure_layers(
    before: Profiled, after: Profiled, data: pathlib.Path | None, seed: int, shapes: Shapes | None = None
) -> LayerTimes | str:
    """Profile both models in turns on the input of `measure_latency`, on one thread; a text says why it can't be.

    Profiling takes time itself, so that the figures of layers add up to more than an unprofiled run. Optimisations are
    those of `ORT_ENABLE_BASIC`: with all of them kernels can't be told apart by the nodes that they come from.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="oxiprune-") as folder:
            profiles, runs = _profiles((before, after), pathlib.Path(folder), data, seed, shapes)
            if max(profile.stat().st_size for profile in profiles) > _MOST_BYTES:
                return f"latency of layers not measured: a profile has more than {_MOST_BYTES:,} bytes"
            found = [kernel_times(json.loads(profile.read_bytes()), runs) for profile in profiles]
    except Exception as error:  # onnxruntime's errors share no base but Exception
        return f"latency of layers not measured: {one_line(error, before.model.path, after.model.path)}"
    return LayerTimes(by_label(found[0], before.index.nodes), by_label(found[1], after.index.nodes))


def _profiles(
    models: Sequence[Profiled], folder: pathlib.Path, data: pathlib.Path | None, seed: int, shapes: Shapes | None
) -> tuple[list[pathlib.Path], int]:
    """The profiles of the models, and how many of their last runs count: the first ones warm up."""
    sessions: list[Any] = []
    try:
        for number, model in enumerate(models):
            sessions.append(_session(model, folder / str(number)))
        feed, _ = next(iter(feeds_for(sessions[0], data, seed, shapes)))
        start = time.perf_counter()
        for session in sessions:
            session.run(None, feed)
        runs = max(3, min(_RUNS, int(_MOST_SECONDS / (time.perf_counter() - start))))
        for number in range(runs):
            for session in sessions if number % 2 == 0 else reversed(sessions):
                session.run(None, feed)
    finally:  # a session that is forgotten writes its profile later, to a folder that is gone
        written = [pathlib.Path(session.end_profiling()) for session in sessions]
    return written, runs


def _session(given: Profiled, prefix: pathlib.Path) -> Any:
    import onnxruntime

    data = common_folder(given.model)
    model = referring(given.model, data)
    name_nodes(model, given.index.nodes)
    options = session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(FOLDER, str(data))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
