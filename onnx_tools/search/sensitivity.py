"""`measure_sensitivity`: what each weight costs when it alone is pruned."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnx_tools.calibration.methods import DataMethod
from onnx_tools.errors import NothingSelected
from onnx_tools.model_file import ModelFile
from onnx_tools.plain import plain_value
from onnx_tools.policy import Policy, Rule
from onnx_tools.policy_file import pattern_of, policy_text
from onnx_tools.quality import Measured, Quality, interval
from onnx_tools.report import WeightReport
from onnx_tools.report_parts import runtime_version, versions
from onnx_tools.rewrite import Progress, prune_file
from onnx_tools.search.digests import digest_of, model_digest
from onnx_tools.search.options import method_text, with_shared_statistics
from onnx_tools.search.trial_log import TrialLog
from onnx_tools.sensitivity_report import CurvePoint, SensitivityReport, SensitivitySettings, WeightCurve
from onnx_tools.temporaries import writing
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import InvalidOption, parse_granularity, parse_metric

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""Those that are measured where none are given."""

_SHOWN = 1_000_000
"""What a point is in the numbers of a progress bar, which counts elements."""


@dataclass(frozen=True)
class Sensitivity:
    """What is measured.

    Args:
        quality: higher is better; measured of each model.
        sparsities: of each weight, one after the other, while all others are dense; none with N:M, which says it.
        granularity, metric: how a weight is pruned, as in `Policy`.
        method: what looks at data; None: the metric alone chooses. With order "once" all points share its statistics.
        selection: which weights.
        data: what names the data that `quality` and `method` read, and a function: files and module:function. Their
            content is a part of what identifies a point in the log.
        log: a file that keeps what was measured, so that a run that was stopped goes on; None: nothing is kept.
        backend: as in `prune_file`.
        notes: what a reader of the report must know of the data.
    """

    quality: Quality
    sparsities: Sequence[float] = SPARSITIES
    granularity: str = "unstructured"
    metric: str = "l1"
    method: DataMethod | None = None
    selection: Selection = field(default_factory=Selection)
    data: Sequence[str] = ()
    log: pathlib.Path | None = None
    backend: str = "auto"
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `InvalidOption` or `InvalidSparsity` for what makes no sense."""
        for level in self.levels:
            Policy((), level, self.metric, self.granularity).check()
        if not self.levels:
            raise InvalidOption("no sparsities to measure: give some, as in 0.3,0.5,0.7")

    @property
    def levels(self) -> tuple[float | None, ...]:
        """The sparsities in order, each once; None alone where the granularity says it."""
        if parse_granularity(self.granularity).sparsity is not None:
            return (None,)
        return tuple(sorted(set(self.sparsities)))


def single_rule_policy(name: str, level: float | None, granularity: str, metric: str) -> Policy:
    """The policy that prunes the weight of this name, and no other."""
    return Policy([rule_of(name, level, granularity)], None, metric)


def rule_of(name: str, level: float | None, granularity: str) -> Rule:
    """The rule that gives the weight of this name a sparsity."""
    return Rule((pattern_of(name),), sparsity=level, granularity=granularity)


def measure_sensitivity(
    path: str | os.PathLike[str], asked: Sensitivity, *, progress: Progress | None = None
) -> SensitivityReport:
    """Prune one weight after the other, each to several sparsities, and measure each model.

    A model for each point is written to a temporary folder and deleted again.

    Args:
        path: the model; external data is found beside it.
        asked: what is measured.
        progress: told before each point.

    Raises:
        NothingSelected: no weight is selected.
        EvaluationFailed, InvalidOption: a model can't be measured, or an option makes no sense.
        PruningError: as `prune_file`.
    """
    asked.check()
    model = ModelFile.open(path)
    settings = _settings(model, asked)
    whole = Policy((), asked.levels[0], asked.metric, asked.granularity)
    weights = prune_file(path, config=whole, selection=asked.selection, dry_run=True).weights
    by_name: dict[str, list[WeightReport]] = {}
    for weight in weights:
        by_name.setdefault(weight.name, []).append(weight)
    with writing(pathlib.Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="oxiprune-") as folder:
        points = _Points(model, asked, settings, pathlib.Path(folder), len(by_name) * len(asked.levels), progress)
        curves = tuple(points.curve(name, found) for name, found in by_name.items())
    if not any(curve.points for curve in curves):
        raise NothingSelected(f"no selected weight was measured: {points.warnings()[0]}")
    return SensitivityReport(
        input=model.path.name,
        settings=settings,
        versions=versions(runtime_version()),
        quality=points.dense.value,
        cases=None if points.dense.cases is None else points.dense.cases.size,
        curves=curves,
        warnings=(*asked.notes, *points.warnings()),
    )


def _settings(model: ModelFile, asked: Sensitivity) -> SensitivitySettings:
    granularity, metric = parse_granularity(asked.granularity).text, parse_metric(asked.metric).text
    what = (asked.quality.text, granularity, metric, method_text(asked.method))
    names = tuple(text.rpartition(os.sep)[2] for text in asked.data)
    return SensitivitySettings(model_digest(model), names, digest_of(asked.data), *what, **asdict(asked.selection))


class _Points:
    """Points of curves: from the log, or made and measured. `dense`: the model as it is."""

    def __init__(
        self,
        model: ModelFile,
        asked: Sensitivity,
        settings: SensitivitySettings,
        folder: pathlib.Path,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._asked = asked
        self._settings = plain_value(settings)
        self._folder = folder
        self._total = total
        self._done = 0
        self._progress = progress
        self._log = TrialLog(asked.log) if asked.log is not None else None
        self._unseen: dict[str, str] = {}
        self.dense = asked.quality.measure(model.path)

    def curve(self, name: str, weights: Sequence[WeightReport]) -> WeightCurve:
        """The curve of a weight, or of all that have this name."""
        return WeightCurve(
            name,
            tuple(dict.fromkeys(op_type for weight in weights for op_type in weight.op_types)),
            sum(weight.parameters for weight in weights),
            sum(weight.zeros_before for weight in weights),
            self._curve(name),
        )

    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of weights without points, and of the log."""
        unseen = [f"'{name}' was not measured, its curve has no points: {why}" for name, why in self._unseen.items()]
        if self._log is not None and self._log.damaged:
            unseen.append(f"{self._log.path}: {self._log.damaged} lines could not be read and were passed over")
        return tuple(unseen)

    def _curve(self, name: str) -> tuple[CurvePoint, ...]:
        """The points of a weight; none if its method can't see it."""
        before = self._done
        try:
            return tuple(self._point(name, level) for level in self._asked.levels)
        except NothingSelected as error:
            self._unseen[name] = str(error)
            self._done = before + len(self._asked.levels)
            return ()

    def _point(self, name: str, level: float | None) -> CurvePoint:
        if self._progress is not None:
            shown = name if level is None else f"{level:g} of {name}"
            self._progress(shown, self._done * _SHOWN, self._total * _SHOWN)
        self._done += 1
        policy = single_rule_policy(name, level, self._asked.granularity, self._asked.metric)
        key = hashlib.sha256(json.dumps([self._settings, policy_text(policy)]).encode()).hexdigest()
        logged = self._log.get(key) if self._log is not None else None
        point = point_of(logged) if logged is not None else None
        if point is None:
            point = self._made(name, policy, level)
            if self._log is not None:
                self._log.add(key, "trial", plain_value(point))
        return point

    def _made(self, name: str, policy: Policy, level: float | None) -> CurvePoint:
        """Prune one weight, measure, and delete the model."""
        asked, path = self._asked, self._model.path
        method = with_shared_statistics(asked.method, self._folder)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            output = pathlib.Path(folder) / path.name
            how = policy if method is None else method.new_values(path, policy, asked.selection)
            report = prune_file(path, output, config=how, selection=asked.selection, backend=asked.backend)
            measured = asked.quality.measure(output)
        drop = self._drop(measured)
        low, high = interval(drop) or (None, None)
        zeros = sum(weight.zeros_after for weight in report.weights if weight.name == name)
        return CurvePoint(level, zeros, measured.value, drop.value, low, high)

    def _drop(self, measured: Measured) -> Measured:
        """How much less than the dense model's a quality is, case by case where there are cases."""
        before, after = self.dense.cases, measured.cases
        if before is None or after is None:
            return Measured(self.dense.value - measured.value, None)
        if before.shape != after.shape:
            raise InvalidOption(
                f"{self._asked.quality.text}: {after.size:,} cases of a pruned model, {before.size:,} of "
                f"{self._model.path}: the function that measures must look at the same cases each time"
            )
        with np.errstate(invalid="ignore"):
            return Measured(self.dense.value - measured.value, before - after)


def point_of(plain: Mapping[str, Any]) -> CurvePoint | None:
    """A point as JSON has it; None if it is none."""
    try:
        numbers = [float(plain[key]) for key in ("quality", "drop")]
        others = [None if plain[key] is None else float(plain[key]) for key in ("sparsity", "low", "high")]
        return CurvePoint(others[0], int(plain["zeros"]), *numbers, *others[1:])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
