"""Accuracy of the labelled models of the corpus that OXIPRUNE_CORPUS names, pruned with the same data by each tool.

python benchmarks/calibration_corpus.py TABLE.json METHOD... [--quick]

What calibrates is never scored: the images of digits16_data.npz that models were trained on, or else a seeded fifth of
a model's own evaluation data. Ours prunes the weights that onnxsim prunes, so that both have the same zeros; and once
those that it chooses by itself. All look at the inputs of the dense model, but for repair, which goes layer by layer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from calibration_jobs import feeds, session
from commands import program
from sparse_masks import changed, weights

MODELS = ("digits_cnn_bn", "digits_resnet_ext", "digits_vit", "mnist_cntk")
RULES = ("0.5", "0.7", "2:4")
QUICK = ("mnist_cntk",), ("0.7",)
WAYS = ("", "+repair")
"""Ours: by the inputs of the dense model, and with repair, layer by layer."""
OWN = "oxiprune, own weights"
MOST = 512
"""Cases that calibrate."""


class Labelled(NamedTuple):
    """A model in a folder of its own, what calibrates it, and inputs with the label of each, as the model says it."""

    model: Path
    given: Path
    inputs: dict[str, Any]
    labels: Any
    answers: Any
    output: str


def labelled(name: str, root: Path, folder: Path) -> Labelled:
    """Copies of what the corpus has."""
    meta = json.loads((root / name / "meta.json").read_text(encoding="utf-8"))
    for file in (root / name).glob("model.onnx*"):
        shutil.copyfile(file, folder / file.name)
    stored = dict(np.load(root / name / meta["eval"]))
    order = np.random.default_rng(0).permutation(len(stored["x"]))
    if name.startswith("digits_"):
        training = np.load(root / "digits16_data.npz")["x_train"]
        calibrating = {"x": training[np.random.default_rng(0).permutation(len(training))]}
    else:
        calibrating, order = {"x": stored["x"][order[: len(order) // 5]]}, order[len(order) // 5 :]
    np.savez(folder / "given.npz", **{key: each[:MOST] for key, each in prepared(calibrating, meta).items()})
    labels, answers = truth(stored, meta)
    scored = prepared({"x": stored["x"][order]}, meta)
    return Labelled(folder / "model.onnx", folder / "given.npz", scored, labels[order], answers, meta["outputs"][0])


def prepared(stored: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """The inputs of the model from what is stored."""
    return {
        name: (stored[how["key"]].astype(how["dtype"]) * np.asarray(how.get("scale", 1), how["dtype"]))
        for name, how in meta["inputs"].items()
    }


def truth(stored: dict[str, Any], meta: dict[str, Any]) -> tuple[Any, Any]:
    """The label of each case, and the label that each place of the output stands for; None if it is its number."""
    if meta["task"] == "classify":
        return stored["y"], None
    same = meta["normalise"]
    labels, answers = ([same.get(str(each), str(each)) for each in stored[key]] for key in ("labels", "label_names"))
    return np.array(labels), np.array(answers)


def accuracy(case: Labelled, model: Path) -> float:
    """The share of cases that a model is right in."""
    np.savez(scored := model.with_name("scored.npz"), **case.inputs)
    alone = session(str(model))
    runs = feeds(onnx.load(model, load_external_data=False), str(scored))
    found = np.concatenate([alone.run([case.output], feed)[0].reshape(-1, outputs_of(alone, case)) for feed in runs])
    best = found.argmax(axis=1)
    return float(((best if case.answers is None else case.answers[best]) == case.labels).mean())


def outputs_of(alone: Any, case: Labelled) -> int:
    return int(next(each.shape[-1] for each in alone.get_outputs() if each.name == case.output))


def rows_of(name: str, case: Labelled, methods: Sequence[str], rules: Sequence[str]) -> Iterator[dict[str, Any]]:
    before, dense = weights(onnx.load(case.model)), accuracy(case, case.model)
    for method in methods:
        for rule in rules:
            theirs = pruned(case, "onnxsim", method, rule)
            after = weights(onnx.load(theirs))
            names = [old[1] for old, new in zip(before, after, strict=True) if changed(old[2], new[2])]
            row = {"model": name, "cases": len(case.labels), "method": method, "rule": rule, "dense": dense}
            row["onnxsim"] = score(case, theirs, names)
            for way in WAYS:
                row[f"oxiprune{way}"] = score(case, pruned(case, "oxiprune", method + way, rule, *names), names)
            row[OWN] = score(case, pruned(case, "oxiprune", method, rule), names)
            yield row


def score(case: Labelled, model: Path, names: list[str]) -> dict[str, float]:
    """Accuracy; and the sparsity, in the model that was pruned, of the weights of these names, and of all."""
    before, after = weights(onnx.load(case.model)), [new[2] for new in weights(onnx.load(model))]
    found = [new for old, new in zip(before, after, strict=True) if old[1] in names]
    return {"accuracy": accuracy(case, model), "sparsity": zeros_of(found), "of all weights": zeros_of(after)}


def zeros_of(arrays: Sequence[Any]) -> float:
    return float(1 - sum(map(np.count_nonzero, arrays)) / sum(each.size for each in arrays))


def pruned(case: Labelled, tool: str, method: str, rule: str, *names: str) -> Path:
    """The model that a tool makes."""
    output = case.model.with_name(f"{tool}.onnx")
    command = program("calibration_jobs", tool, method, case.model, case.given, output, rule, *names)
    subprocess.run(command, check=True, capture_output=True, text=True)
    return output


def main() -> None:
    path, *words = sys.argv[1:]
    root = Path(os.environ.get("OXIPRUNE_CORPUS", "nowhere"), "models")
    models, rules = QUICK if "--quick" in words else (MODELS, RULES)
    methods = [word for word in words if word != "--quick"]
    rows: list[dict[str, Any]] = []
    for name in models if root.is_dir() else ():
        with tempfile.TemporaryDirectory(prefix="oxiprune-corpus-") as folder:
            rows += rows_of(name, labelled(name, root, Path(folder)), methods, rules)
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
