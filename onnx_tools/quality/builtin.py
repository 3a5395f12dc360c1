"""The qualities that come along: top-1 accuracy, and how far outputs are from those of a reference."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.data import Feeds
from onnx_tools.quality.labels import correct
from onnx_tools.quality.measured import Measured, mean_of
from onnx_tools.quality.running import Loaded, Reference
from onnx_tools.verification.drift import DriftMeter
from oxiprune_gpu.errors import InvalidOption

Cases = NDArray[np.float64]
Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Top1:
    """The share of cases whose label the first output has. `labels`: the array of labels in the feeds."""

    text: str
    feeds: Feeds
    labels: str

    def measure(self, model: pathlib.Path) -> Measured:
        """Run a model over the data; a case each label."""
        loaded = Loaded(model)
        where = f"{model}: its output '{loaded.outputs[0]}'"
        found = [
            correct(np.asarray(feed[self.labels]), loaded.run(feed, self.feeds.source)[0], where) for feed in self.feeds
        ]
        return mean_of(np.concatenate(found))


@dataclass(frozen=True, eq=False)
class Drift:
    """Minus the relative L2 distance of outputs from the reference's, over all data: of the worst output, or of one.

    It is minus infinity where it can't be told, as for NaN or another shape. No mean over cases.
    """

    text: str
    reference: Reference
    output: int | None

    def measure(self, model: pathlib.Path) -> Measured:
        """Run a model over the data."""
        names = self.reference.model.outputs
        chosen = range(len(names)) if self.output is None else (self.output,)
        meters = {index: DriftMeter(names[index]) for index in chosen}
        for before, after in self.reference.pairs(model):
            for index, meter in meters.items():
                meter.add(before[index], after[index])
        return Measured(0.0 - max((meter.excess() for meter in meters.values()), default=0.0), None)


@dataclass(frozen=True, eq=False)
class Likeness:
    """The mean over cases of how like an output is to the reference's: `of`(before, after), rows (cases, ..., last).

    `along_last`: whether it compares along the last axis, else each case as a whole.
    """

    text: str
    reference: Reference
    output: int
    of: Callable[[Rows, Rows], Cases]
    along_last: bool

    def measure(self, model: pathlib.Path) -> Measured:
        """Run a model over the data."""
        name = self.reference.model.outputs[self.output]
        where = f"{model}: its output '{name}'"
        return mean_of(
            np.concatenate(
                [
                    self.of(*_rows(before[self.output], after[self.output], where, along_last=self.along_last))
                    for before, after in self.reference.pairs(model)
                ]
            )
        )


def cosine(before: Rows, after: Rows) -> Cases:
    """The cosine of the angle between both rows: 1 for equal ones, 0 if one is zero, -1 if one is not finite."""
    old, new = before.reshape(len(before), -1), after.reshape(len(after), -1)
    with np.errstate(all="ignore"):
        scale = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        found = np.clip((old * new).sum(axis=1) / scale, -1.0, 1.0)
    found[scale == 0] = 0.0
    found[~np.isfinite(found)] = -1.0
    found[(old == new).all(axis=1)] = 1.0
    cases: Cases = found
    return cases


def minus_kl(before: Rows, after: Rows) -> Cases:
    """Minus the Kullback-Leibler divergence, in nats, of the softmax of logits from that of the reference's logits.

    Along the last axis, the mean over further axes; minus infinity for a case with NaN.

    Source: S. Kullback, R. A. Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22, 1951.
    """
    old, new = _log_softmax(before), _log_softmax(after)
    share = np.exp(old)
    with np.errstate(all="ignore"):
        terms = np.where(share == 0, 0.0, share * (old - new))
    found = terms.sum(axis=-1).reshape(len(before), -1).mean(axis=1)
    cases: Cases = 0.0 - np.where(np.isnan(found), np.inf, np.maximum(found, 0.0))
    return cases


def _log_softmax(logits: Rows) -> Rows:
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        found: Rows = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _rows(before: Any, after: Any, where: str, *, along_last: bool) -> tuple[Rows, Rows]:
    """Both outputs of one run as float64 with a case a row."""
    arrays = isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    if not arrays or before.dtype.kind not in "fiubV" or before.shape != after.shape or not before.size:
        shapes = f"shape {after.shape}, the reference's {before.shape}" if arrays else "no array"
        raise InvalidOption(f"{where} has {shapes}: its cases can't be compared; measure with drift or module:function")
    rows = before.shape if before.ndim > 1 else (before.size, 1)
    if (rows[-1] if along_last else before.size // rows[0]) == 1:
        raise InvalidOption(
            f"{where} has shape {after.shape}: one number alone has no direction and no distribution; measure with "
            "drift, top1 or module:function"
        )
    return before.astype(np.float64).reshape(rows), after.astype(np.float64).reshape(rows)
