"""What each weight of a model costs when it alone is pruned: plain data, as in `onnx_tools.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_tools.report import Versions


@dataclass(frozen=True)
class CurvePoint:
    """A weight at one sparsity, all others dense. `sparsity`: as asked for; None where the granularity says it.

    `zeros`: elements of it that are zero then. `drop`: of the dense model's quality minus `quality`. `low`, `high`: of
    the drop, with 95 % confidence, from the differences case by case; None where there is one number only.
    """

    sparsity: float | None
    zeros: int
    quality: float
    drop: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class WeightCurve:
    """A weight (or several of one name) at several sparsities. `zeros`: elements that were zero before."""

    name: str
    op_types: tuple[str, ...]
    parameters: int
    zeros: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class SensitivitySettings:
    """What was measured with what. `data`: the names of files and functions. `quality`, `method`: in words."""

    model_sha256: str
    data: tuple[str, ...]
    data_sha256: str
    quality: str
    granularity: str
    metric: str
    method: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_elements: int
    depthwise: bool
    embeddings: bool
    linear_models: bool


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """One run of `sensitivity`. `input`: a file name without folders. `quality`: of the dense model.

    `cases`: how many cases the quality is the mean of; None where it is one number.
    """

    schema_version: Literal[1] = 1
    command: Literal["sensitivity"] = "sensitivity"
    input: str
    settings: SensitivitySettings
    versions: Versions
    quality: float
    cases: int | None
    curves: tuple[WeightCurve, ...]
    warnings: tuple[str, ...] = ()
