"""What a search for the most pruned model found: plain data, as in `onnx_tools.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_tools.report import ConditionOutcome, FileReport, Versions


@dataclass(frozen=True)
class Score:
    """The quality of a model on some cases; `cases` None: all of them, one number for all.

    `drop`: of the original's quality on the same cases minus this. `low`, `high`: of the drop, with 95 % confidence,
    from the differences case by case; None where there is one number only.
    """

    quality: float
    drop: float
    low: float | None
    high: float | None
    cases: int | None


@dataclass(frozen=True)
class TrialReport:
    """A model that was made and measured.

    `key`: SHA-256 of all that decides it, as in the log. `allocation`: how the sparsity was dealt out; "climb": step by
    step. `asked`: the sparsity that was asked for, None in a climb. `sparsity`: fraction of the selected weights'
    elements that are zero, or of all parameters that are gone. `bytes`: of its files, encoded or compacted; `macs`:
    multiply-accumulates; None where they were not counted. `searched`, `held_out`: its quality on the cases that are
    searched with, and on others. `passed`: whether `searched` is within the bar, with the
    confidence that was asked for.
    """

    number: int
    key: str
    allocation: str
    asked: float | None
    sparsity: float
    bytes: int | None
    macs: int | None
    searched: Score
    held_out: Score | None
    passed: bool


@dataclass(frozen=True)
class WeightSparsity:
    """How much of a weight (or of several of one name) became zero in the answer."""

    name: str
    parameters: int
    kept: int


@dataclass(frozen=True)
class SearchSettings:
    """What was searched with what. `data`: the names of files and functions. `quality`, `method`: in words.

    `held_out`: fraction of the cases that are not searched with. `resolution`: of the sparsities that are asked for.
    `most_trials`: none are begun beyond. `climb`: whether the best allocation is climbed from. `confidence`: how sure
    it must be that a drop is within the bar; None: the drop on the cases searched with is compared with it.
    """

    model_sha256: str
    data: tuple[str, ...]
    data_sha256: str
    quality: str
    max_drop: float
    objective: str
    allocations: tuple[str, ...]
    granularity: str
    metric: str
    method: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_elements: int
    depthwise: bool
    embeddings: bool
    linear_models: bool
    held_out: float
    seed: int
    resolution: float
    most_trials: int
    climb: bool
    confidence: float | None


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """One run of `search`. `input`, `output`: file names without folders.

    `original`: the quality of the input. `trials`: in the order in which they were asked for; `answer`: the number of
    the one that `output` is, `confirmed` its quality, measured again. `policy`: TOML that makes it again with
    `reproduce`, a command; "" for channels. `weights`: of the answer.
    """

    derived: ClassVar[tuple[str, ...]] = ("best",)

    schema_version: Literal[1] = 1
    command: Literal["search"] = "search"
    input: str
    output: str
    settings: SearchSettings
    versions: Versions
    original: Score
    original_held_out: Score | None
    trials: tuple[TrialReport, ...]
    answer: int
    confirmed: Score
    confirmed_held_out: Score | None
    policy: str
    reproduce: str
    weights: tuple[WeightSparsity, ...]
    files: tuple[FileReport, ...]
    warnings: tuple[str, ...] = ()
    conditions: tuple[ConditionOutcome, ...] = ()

    @property
    def best(self) -> TrialReport:
        """The trial that is the answer."""
        return next(trial for trial in self.trials if trial.number == self.answer)
