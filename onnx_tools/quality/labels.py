"""Labels beside the inputs of a model: where they are in the data, and how many cases a model gets right."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.data import Data
from onnx_tools.verification.feeds import InputSpec
from oxiprune_gpu.errors import InvalidOption

LABELS = ("labels", "y")
"""Names of the array of labels, where none is given."""


def label_spec(name: str, data: Data, inputs: Sequence[InputSpec]) -> InputSpec:
    """The labels as one more array that data must have: integers or texts, along the first axis of the inputs.

    `name`: "" for the first of `LABELS` that is there. Of data that code gives, which can't be looked into before it is
    read, the labels are int64, one a case, under `name` or the first of `LABELS`.

    Raises `InvalidOption` if there are none, or they are of another type.
    """
    taken = [each.name for each in inputs]
    if name in taken:
        raise InvalidOption(f"top1:{name}: '{name}' is an input of the model, not the labels")
    first = next((each.shape[0] for each in inputs if each.shape), None)
    wanted = [name] if name else [each for each in LABELS if each not in taken]
    looked = _looked_into(data, wanted)
    if looked is None:
        return InputSpec(wanted[0], "tensor(int64)", (first,))
    found, labels = looked.labels
    if labels is None:
        raise InvalidOption(_no_labels(data, wanted, looked.names - {*taken}))
    if labels.dtype.kind not in "iubUS" or labels.ndim == 0:
        raise InvalidOption(
            f"{_source(data)}: the labels '{found}' are {labels.dtype.name} of shape {labels.shape}; give integers or "
            "texts, one a case"
        )
    kind = "string" if labels.dtype.kind in "US" else labels.dtype.name
    return InputSpec(found, f"tensor({kind})", (first, *[None] * (labels.ndim - 1)))


def correct(labels: NDArray[Any], output: Any, where: str) -> NDArray[np.float64]:
    """1.0 for each label that an output has, else 0.0.

    An output of integers or texts is compared with the labels; of other numbers the largest of each case counts, the
    first of equal ones; a case with NaN is wrong. `where` names the output and the model in errors.
    """
    if isinstance(output, np.ndarray) and output.dtype.kind in "iubOUS" and output.size == labels.size:
        return _equal(labels.ravel(), output.ravel())
    rows = _class_rows(labels, output, where)
    given = labels.ravel()
    classes = rows.shape[1]
    if given.dtype.kind not in "iub" or int(given.min()) < 0 or int(given.max()) >= classes:
        wrong = given[0] if given.dtype.kind not in "iub" else next(each for each in given if not 0 <= each < classes)
        raise InvalidOption(f"{where} has {classes} classes: the label {str(wrong)!r} is none of 0 to {classes - 1}")
    sound = ~np.isnan(rows).any(axis=1)
    return np.asarray((rows.argmax(axis=1) == given) & sound, np.float64)


def _equal(labels: NDArray[Any], output: NDArray[Any]) -> NDArray[np.float64]:
    texts = labels.dtype.kind in "US" or output.dtype.kind in "OUS"
    same = labels.astype(str) == output.astype(str) if texts else labels == output
    return np.asarray(same, np.float64)


def _class_rows(labels: NDArray[Any], output: Any, where: str) -> NDArray[Any]:
    """The output as a row of classes for each label."""
    wide = isinstance(output, np.ndarray) and labels.size and output.size % labels.size == 0
    classes = output.size // labels.size if wide else 0
    squeezed = [size for size in output.shape if size != 1] if wide else []
    if classes < 2 or squeezed != [size for size in (*labels.shape, classes) if size != 1]:
        found = f"has shape {output.shape}" if isinstance(output, np.ndarray) else "is no array"
        raise InvalidOption(
            f"{where} {found}, the labels {labels.shape}: top1 wants a number a class for each label, two classes or "
            "more; measure with module:function"
        )
    rows: NDArray[Any] = output.reshape(labels.size, classes).astype(np.float64)
    return rows


class _Looked(NamedTuple):
    """The names of all arrays, and the labels, if they are there."""

    names: set[str]
    labels: tuple[str, NDArray[Any] | None]


def _looked_into(data: Data, wanted: Sequence[str]) -> _Looked | None:
    """Look for labels; None where data must be read to see, or can't be, which reading it tells."""
    if isinstance(data, Mapping):
        return _found(data, wanted)
    if not isinstance(data, str | os.PathLike):
        return None
    path = pathlib.Path(data)
    try:
        if path.is_dir():
            mapped = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in path.glob("*.npy")}
            return _found(mapped, wanted)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _found(arrays, wanted)
    except Exception:  # numpy, zipfile and zlib each raise their own for damaged files
        return None


def _found(arrays: Mapping[str, Any], wanted: Sequence[str]) -> _Looked:
    name = next((each for each in wanted if each in arrays), "")
    return _Looked(set(arrays), (name, np.asarray(arrays[name]) if name else None))


def _no_labels(data: Data, wanted: Sequence[str], others: Collection[str]) -> str:
    names = " or ".join(f"'{name}'" for name in wanted)
    there = ", ".join(f"'{name}'" for name in sorted(map(str, others))) or "none"
    return (
        f"{_source(data)}: top1 wants labels: no array {names}; beside the inputs there are: {there}. Name it, as in "
        "top1:NAME"
    )


def _source(data: Data) -> str:
    return os.fspath(data) if isinstance(data, str | os.PathLike) else "the data given"
