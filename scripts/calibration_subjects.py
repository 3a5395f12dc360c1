"""Models with labels, the data that calibrates each, and the other cases that score it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED, FRACTION, MOST_CALIBRATING = 0, 0.2, 512
DIGITS = ("digits_cnn_bn", "digits_resnet_ext", "digits_resnet_fp16", "digits_vit")
"""Those whose calibration data is drawn from the training images, which share no source with the images that score."""
OTHERS = ("magika_v3_3", "mnist_cntk", "basic_pitch")
"""Those whose evaluation data is split: a seeded part calibrates, the rest scores."""


@dataclass(frozen=True)
class Subject:
    """A model. `feeds`: inputs of the cases that score; `answers`: what is right for each, in the form of its task.

    `calibrating`: inputs that calibrate. `measure`: "accuracy", or "F1" of frames.
    """

    name: str
    model: Path
    calibrating: dict[str, NDArray[Any]]
    feeds: dict[str, NDArray[Any]]
    answers: NDArray[Any]
    outputs: list[str]
    batch: int
    measure: str = "accuracy"
    names: NDArray[Any] | None = None
    threshold: float = 0.5

    def cases(self, model: Path) -> NDArray[np.float64]:
        """For each case what counts: 1 for right, 0 for wrong; or hits, and all that was said or should have been."""
        given = self._run(model)
        if self.measure == "F1":
            said = given > self.threshold
            hits = (said & self.answers).sum(axis=(1, 2))
            return np.stack([2 * hits, said.sum(axis=(1, 2)) + self.answers.sum(axis=(1, 2))]).astype(np.float64)
        chosen = given.reshape(len(given), -1).argmax(axis=1)
        right = chosen if self.names is None else self.names[chosen]
        return (right == self.answers).astype(np.float64)

    def _run(self, model: Path) -> NDArray[Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        count = len(self.answers)
        parts = []
        for start in range(0, count, self.batch):
            feed = {name: array[start : start + self.batch] for name, array in self.feeds.items()}
            parts.append(session.run(self.outputs, feed)[0])
        return np.concatenate(parts)


def subjects() -> Iterator[Subject]:
    """The bundled model, and the corpus' models with labels."""
    yield _bundled()
    corpus = Path(os.environ["OXIPRUNE_CORPUS"]) / "models"
    images = np.load(corpus / "digits16_data.npz")
    for name in DIGITS:
        yield _digits(corpus / name, images)
    for name in OTHERS:
        yield _split(corpus / name)


def _drawn(count: int, most: int = MOST_CALIBRATING) -> NDArray[np.intp]:
    """The seeded numbers of the cases that calibrate, ascending."""
    wanted = min(max(round(count * FRACTION), 1), most)
    return np.sort(np.random.default_rng(SEED).permutation(count)[:wanted])


def _bundled() -> Subject:
    data = np.load("demo/digits_eval.npz")
    labels = np.load("demo/digits_labels.npy")
    (name,) = data.files
    chosen = _drawn(len(labels))
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    model = Path("demo/digits_cnn.onnx")
    return Subject(
        "demo", model, {name: data[name][chosen]}, {name: data[name][rest]}, labels[rest], _outputs(model), 64
    )


def _digits(folder: Path, images: Any) -> Subject:
    meta, data = _read(folder)
    ((name, spec),) = meta["inputs"].items()
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(images["x_train"]))[:MOST_CALIBRATING])
    calibrating = {name: _scaled(images["x_train"][chosen], spec)}
    model, feeds = folder / meta["file"], {name: _scaled(data[spec["key"]], spec)}
    return Subject(folder.name, model, calibrating, feeds, data["y"], meta["outputs"][:1], meta["batch"])


def _split(folder: Path) -> Subject:
    meta, data = _read(folder)
    feeds = {name: _scaled(data[spec["key"]], spec) for name, spec in meta["inputs"].items()}
    count = len(next(iter(feeds.values())))
    chosen = _drawn(count)
    rest = np.setdiff1d(np.arange(count), chosen)
    calibrating = {name: array[chosen] for name, array in feeds.items()}
    scoring = {name: array[rest] for name, array in feeds.items()}
    more: dict[str, Any] = {}
    answers, outputs = data["y"] if "y" in data else data["labels"], meta["outputs"][:1]
    if meta["task"] == "classify_labels":
        plain = meta["normalise"]
        answers, names = (np.array([plain.get(str(n), str(n)) for n in data[key]]) for key in ("labels", "label_names"))
        more = {"names": names}
    elif meta["task"] == "pitch":
        outputs = [meta["outputs"][meta["note_index"]]]
        answers, more = answers.astype(bool), {"measure": "F1", "threshold": meta["threshold"]}
    model = folder / meta["file"]
    return Subject(folder.name, model, calibrating, scoring, answers[rest], outputs, meta["batch"], **more)


def _read(folder: Path) -> tuple[Any, Any]:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return meta, np.load(folder / meta["eval"])


def _scaled(array: NDArray[Any], spec: dict[str, Any]) -> NDArray[Any]:
    found = array.astype(spec["dtype"]) if spec.get("dtype") else array
    found = (found * np.array(spec.get("scale", 1), found.dtype)).astype(found.dtype)
    return (found + np.array(spec.get("shift", 0), found.dtype)).astype(found.dtype)


def _outputs(model: Path) -> list[str]:
    import onnx

    return [onnx.load(model, load_external_data=False).graph.output[0].name]
