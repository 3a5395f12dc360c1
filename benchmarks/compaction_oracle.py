"""Does a model that lost channels compute what the original does with these channels zeroed? Judged without our code.

Which channels left is read from the stored weights (compaction_matching.py). The masked model is the original with
zeros there; both models then run in onnxruntime, without its optimisations, on the same random inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from compaction_matching import Unmatched, elements, masked
from onnx import helper

RELATIVE = 2e-4
"""What rounding may do to outputs, relative to the largest of an output: sums come in another order."""

Given = Mapping[str, Any]
"""Inputs by name that are not drawn at random: where a model takes certain values only."""


def difference(one: onnx.ModelProto, other: onnx.ModelProto, given: Given | None = None, runs: int = 3) -> float:
    """The largest difference of an output, relative to the largest value of that output, over random inputs."""
    sessions = [session(model) for model in (one, other)]
    worst = 0.0
    for seed in range(runs):
        fed = feeds(one, seed, given or {})
        for some, others in zip(*(session.run(None, fed) for session in sessions), strict=True):
            worst = max(worst, apart(some, others))
    return worst


def apart(some: Any, others: Any) -> float:
    """The largest difference of two outputs, relative to the largest value."""
    if not isinstance(some, np.ndarray) or some.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(np.asarray(some), np.asarray(others)) else np.inf
    if some.shape != others.shape:
        return float(np.inf)
    one, other = some.astype(np.float64), others.astype(np.float64)
    gap = np.abs(one - other).max(initial=0)
    return float(gap / (np.abs(one).max(initial=0) or 1.0)) if np.isfinite(gap) else float(np.inf)


def session(model: onnx.ModelProto, threads: int = 1) -> Any:
    """A session without optimisations: they may round differently in the two models."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(model: onnx.ModelProto, seed: int, given: Given) -> dict[str, Any]:
    """Random values for each input that is not given; sizes that are left open are 2."""
    random, found = np.random.default_rng(seed), {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in stored:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
            drawn = random.standard_normal(shape) if kind.kind == "f" else random.integers(0, 2, shape)
            found[value.name] = given.get(value.name, drawn.astype(kind))
    return found


def judged(before: onnx.ModelProto, after: onnx.ModelProto, given: Given | None = None) -> str:
    """What became of a model, in words that tables count: "NN %" of its elements are left, or why that is wrong."""
    if complaint(before, given or {}):
        return "can't be run before either"
    if said := complaint(after, given or {}):
        return f"does not run: {said}"
    try:
        far = difference(masked(before, after), after, given)
    except Unmatched as error:
        return f"wrong: {error}"
    share = elements(after) / elements(before)
    if far > RELATIVE:
        return f"wrong: differs by {far:.2g} from the masked model"
    return f"{share:.0%}" if share < 1 else "unchanged"


def complaint(model: onnx.ModelProto, given: Given) -> str:
    """What onnxruntime has against a model; "" if it runs."""
    try:
        session(model).run(None, feeds(model, 0, given))
    except Exception as error:  # onnxruntime's errors share no base
        return last_line(str(error))
    return ""


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:120]
