"""What onnxruntime makes of an encoded model; it is imported only here and only when asked for."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import onnx

from onnx_tools.encodings.found import find_encoded
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_file import ModelFile
from onnx_tools.report import Check
from onnx_tools.verification.feeds import one_line
from onnx_tools.verification.runtime_check import check_runtime, is_unmeasured, too_large

_FATAL = 4
_LOADS = 5


def check_in_runtime(before: pathlib.Path, after: pathlib.Path) -> Iterator[Check]:
    """Compare both models in onnxruntime, and look whether it rebuilds the weights when it makes the session.

    The checks "runtime", "drift" (outputs on random inputs; any difference fails) and, if any is encoded, "folded".
    """
    large = too_large(before, ModelFile.open(before).data_files())
    if large is not None:
        yield large
        return
    checks, _ = check_runtime(before, after, None, 0.0, 0)
    for check in checks:
        yield Check(check.name, "warning", check.detail) if is_unmeasured(check) else check
    if checks[0].outcome == "passed" and find_encoded(ModelFile.open(after)):
        yield _folded(after)


def _folded(path: pathlib.Path) -> Check:
    try:
        left = unfolded(path)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        return Check("folded", "warning", f"could not see whether onnxruntime folds the weights: {one_line(error)}")
    if not left:
        return Check("folded", "passed", "onnxruntime rebuilds all weights when the session is made")
    names = ", ".join(repr(name) for name in left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    return Check("folded", "warning", f"onnxruntime would rebuild {names} at every run, which is slow")


def unfolded(path: pathlib.Path) -> list[str]:
    """The encoded weights that this onnxruntime does not make dense when it makes a session, all optimisations on."""
    found = find_encoded(ModelFile.open(path))
    if not any(item.values_inside for item in found):
        return []
    with tempfile.TemporaryDirectory() as folder:
        optimized = pathlib.Path(folder, "optimized.onnx")
        _session(path, optimized)
        index = GraphIndex(onnx.load(optimized, load_external_data=False))
    left = {name for node in index.nodes for name in node.proto.output}
    return [item.name for item in found if left.intersection(item.values_inside)]


def load_ratio(before: pathlib.Path, after: pathlib.Path) -> float | None:
    """How much longer onnxruntime takes to make a session, medians of several, in turns; None if it can't."""
    times: dict[pathlib.Path, list[float]] = {before: [], after: []}
    try:
        for _ in range(_LOADS):
            for path, taken in times.items():
                start = time.perf_counter()
                _session(path)
                taken.append(time.perf_counter() - start)
    except Exception:  # not installed, or it refuses the model: the checks say which
        return None
    return statistics.median(times[after]) / statistics.median(times[before])


def _session(path: pathlib.Path, optimized: pathlib.Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
