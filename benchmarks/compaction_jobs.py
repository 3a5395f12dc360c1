"""The jobs that bench_compaction.py measures, each a command of its own, and what it asks about their results.

python benchmarks/compaction_jobs.py onnxsim BEFORE AFTER       half of the channels leave
python benchmarks/compaction_jobs.py score IMAGES.npz MODEL...   parameters and accuracy, as JSON
python benchmarks/compaction_jobs.py check BEFORE AFTER          fails unless AFTER is smaller and right
python benchmarks/compaction_jobs.py latency ROUNDS MODEL...     milliseconds of each round, as JSON
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

PASSES = ("apply_structured_pruning", "apply_structured_pruning_qdq", "apply_attention_head_pruning")


def onnxsim(before: str, after: str) -> None:
    """The passes of onnxsim that cut channels of floats, of quantised weights and heads of attention, in this order."""
    onnx: Any = importlib.import_module("onnx")
    pruning: Any = importlib.import_module("onnxsim.pruning")
    model = onnx.load(before)
    for name in PASSES:
        model = getattr(pruning, name)(model, 0.5)
    onnx.save(model, after)


def score(images: str, *models: str) -> None:
    np, onnx, onnxruntime = map(importlib.import_module, ("numpy", "onnx", "onnxruntime"))
    data = np.load(images)
    rows = []
    for path in models:
        (logits,) = onnxruntime.InferenceSession(path).run(None, {"image": data["image"]})
        stored = onnx.load(path).graph.initializer
        right = float((logits.argmax(1) == data["labels"]).mean())
        rows.append({"parameters": sum(int(np.prod(tensor.dims)) for tensor in stored), "accuracy": right})
    print(json.dumps(rows))


def check(before: str, after: str) -> None:
    onnx, oracle = map(importlib.import_module, ("onnx", "compaction_oracle"))
    found = oracle.judged(onnx.load(before), onnx.load(after))
    if not found.endswith("%"):
        sys.exit(found)


def latency(rounds: str, *models: str) -> None:
    """Each model once a round, in turns, on one thread, after one round that is not kept."""
    oracle, onnxruntime = map(importlib.import_module, ("compaction_oracle", "onnxruntime"))
    onnx: Any = importlib.import_module("onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(path, options) for path in models]
    fed = oracle.feeds(onnx.load(models[0], load_external_data=False), 0, {})
    taken = [[milliseconds(session, fed) for session in sessions] for _ in range(int(rounds) + 1)]
    print(json.dumps(dict(zip(models, zip(*taken[1:], strict=True), strict=True))))


def milliseconds(session: Any, fed: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, fed)
    return 1000 * (time.perf_counter() - start)


JOBS: dict[str, Callable[..., None]] = {
    "onnxsim": onnxsim,
    "score": score,
    "check": check,
    "latency": latency,
}


def main() -> None:
    job, *rest = sys.argv[1:]
    JOBS[job](*rest)


if __name__ == "__main__":
    main()
