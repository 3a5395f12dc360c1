"""What happened to a model, or what is in it: plain data that every renderer shows and none adds to.

Counts are exact integers; what follows from them is a property, and those named in `derived` are in `to_dict` too.
The JSON schema of the result lies beside this file, in `report.schema.json`; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnx_tools.plain import keys_of, plain_value

if TYPE_CHECKING:  # at run time they would bring numpy, which the command starts without
    from onnx_tools.pictures import WeightPictures
    from oxiprune_gpu import ScoreStats

Outcome = Literal["passed", "failed", "skipped", "warning", "measured"]


def fraction(part: int, total: int) -> float:
    """`part / total`, 0 for no total; 1.0 only if they are equal."""
    if total == 0:
        return 0.0
    # Above 2^53 the quotient of different numbers can round to 1.
    return min(part / total, math.nextafter(1.0, 0.0)) if part < total else 1.0


def format_fraction(part: int, total: int) -> str:
    """Four decimals; 1.0000 only if all, 0.0000 only if none; otherwise 0.9999 and 0.0001 at the ends."""
    if total == 0 or part in (0, total):
        return "1.0000" if total and part == total else "0.0000"
    rounded = (2 * part * 10_000 + total) // (2 * total)
    return f"0.{min(max(rounded, 1), 9_999):04d}"


@dataclass(frozen=True)
class Versions:
    """What did the work; `onnxruntime` is None where it was not used."""

    oxiprune: str
    python: str
    numpy: str
    onnx: str
    onnxruntime: str | None = None


@dataclass(frozen=True)
class RuleReport:
    """A rule of the policy; None where it leaves the decision to the rest of the configuration."""

    match: tuple[str, ...]
    prune: bool
    sparsity: float | None
    metric: str | None
    granularity: str | None
    min_nonzero: int | None


@dataclass(frozen=True)
class ChannelChoice:
    """How channels were chosen, see `onnx_tools.ChannelConfig`."""

    group_score: str
    min_channels: int
    round_to: int


@dataclass(frozen=True)
class CalibrationChoice:
    """How a calibration decided, see `onnx_tools.DataMethod`. `data`: where it is from; `runs`: of the model on it.

    `most_damping`: what `damping` grew to where a Hessian was not positive definite; 0 where none was needed.
    `backend`: what worked on the matrices; "cuda" rounds in another order than "cpu".
    """

    data: str
    runs: int
    order: str
    repair: tuple[str, ...]
    damping: float
    most_damping: float
    backend: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Configuration:
    """What was asked for, defaults included, as far as it decides the values: not the backend.

    `sparsity`: None where rules and granularities alone say it. `metric`: like "random:7", "taylor:gradients";
    `granularity`: "row". `allocation`, `floor`, `ceiling`, `target`, `rules`: see `onnx_tools.Policy`. `channels`: None
    for other granularities. `calibration`: None where no data was looked at.
    """

    sparsity: float | None
    metric: str
    granularity: str
    min_nonzero: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_elements: int
    depthwise: bool
    embeddings: bool = False
    linear_models: bool = False
    allocation: str = "uniform"
    floor: float = 0.0
    ceiling: float = 1.0
    target: str = "weights"
    rules: tuple[RuleReport, ...] = ()
    channels: ChannelChoice | None = None
    calibration: CalibrationChoice | None = None


@dataclass(frozen=True)
class WeightReport:
    """A weight that was selected, or a tensor that was refitted beside such weights.

    `pruned`: elements that the selection let fall, some may have been zero before.
    `op_types`, `consumers`: the nodes that read it. `bytes`: of its values as stored. `metric`, `granularity`: how it
    was pruned, by which `rule` of the policy (None: by none). `dense_remainder`: elements that fill no N:M group and
    were kept. `backend`: what pruned it, a GPU for "cuda"; the values are the same. `refitted`: elements that were kept
    with another value, by a method that repairs. `scores`: None if not asked for.
    """

    derived: ClassVar[tuple[str, ...]] = ("sparsity_before", "sparsity_after")

    name: str
    op_types: tuple[str, ...]
    consumers: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    bytes: int
    nonzero_before: int
    nonzero_after: int
    pruned: int
    target_sparsity: float
    metric: str
    granularity: str
    rule: str | None = None
    dense_remainder: int = 0
    backend: Literal["cpu", "cuda"] = "cpu"
    refitted: int = 0
    scores: ScoreStats | None = None

    @property
    def selected(self) -> bool:
        """Whether nodes read it as a weight, or some of it fell; else it was refitted beside weights, as biases are."""
        return bool(self.consumers or self.pruned)

    @property
    def zeros_before(self) -> int:
        """Elements that were zero already."""
        return self.parameters - self.nonzero_before

    @property
    def zeros_after(self) -> int:
        """Elements that are zero now."""
        return self.parameters - self.nonzero_after

    @property
    def sparsity_before(self) -> float:
        """Fraction of zeros; 0 without elements."""
        return fraction(self.zeros_before, self.parameters)

    @property
    def sparsity_after(self) -> float:
        """Fraction of zeros; 0 without elements."""
        return fraction(self.zeros_after, self.parameters)


@dataclass(frozen=True)
class LeftAloneReport:
    """Stored data that was not touched, and why. `zeros`: of a tensor that is stored sparse, else None."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    reason: str
    zeros: int | None = None


@dataclass(frozen=True)
class LeftAloneGroup:
    """All that is left alone for one reason."""

    reason: str
    members: tuple[LeftAloneReport, ...]

    @property
    def parameters(self) -> int:
        """Elements of all members."""
        return _parameters(self.members)

    @property
    def zeros(self) -> int | None:
        """Zeros of the members that are stored sparse; None if none is."""
        known = [member.zeros for member in self.members if member.zeros is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class FileReport:
    """A file of the model, by its name without folders. What is after is None where nothing was written.

    A data file in which nothing is left has no name after, and 0 bytes. `sha256_*` and `compressed_*` (bytes, zstd
    level 3) are None where they were not asked for.
    """

    role: Literal["model", "data"]
    name_before: str
    name_after: str | None
    bytes_before: int
    bytes_after: int | None
    sha256_before: str | None = None
    sha256_after: str | None = None
    compressed_before: int | None = None
    compressed_after: int | None = None


@dataclass(frozen=True)
class Check:
    """One check of the result.

    `warning`: it could not be made, or failed before the pruning too; `measured`: no limit was given to hold it to.
    """

    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class OutputDrift:
    """How far an output of the model moved; None where that can't be said, and `note` says why.

    `excess`: the number that is held against a limit: the relative L2; of text the share that differs; infinity where
    before and after can't be compared.
    """

    output: str
    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    note: str = ""
    excess: float = math.inf


@dataclass(frozen=True)
class VerificationReport:
    """The checks of a result, in the order in which they were made, and the drift of its outputs."""

    derived: ClassVar[tuple[str, ...]] = ("failed",)

    checks: tuple[Check, ...] = ()
    drifts: tuple[OutputDrift, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(check.outcome == "failed" for check in self.checks)


@dataclass(frozen=True)
class ConditionOutcome:
    """A condition of --fail-if, and whether it was met, which fails the run.

    `value`: of the figure it names, None where that is not known, which meets every condition. If it is about each
    weight: value and name of the first that met it, None if none did.
    """

    condition: str
    met: bool
    value: float | None
    weight: str | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over the selected weights, the model (`model_parameters`: all that is stored) and its files.

    `weights_on_gpu`: those of the selected weights that a GPU pruned. Bytes are None where they are not known of every
    file.
    """

    derived: ClassVar[tuple[str, ...]] = ("sparsity_before", "sparsity_after")

    weights: int
    weights_on_gpu: int
    parameters: int
    pruned: int
    zeros_before: int
    zeros_after: int
    left_alone: int
    model_parameters: int
    bytes_before: int | None
    bytes_after: int | None
    compressed_before: int | None
    compressed_after: int | None

    @property
    def sparsity_before(self) -> float:
        """Fraction of zeros in the selected weights."""
        return fraction(self.zeros_before, self.parameters)

    @property
    def newly_zero(self) -> int:
        """How many more zeros the selected weights have."""
        return self.zeros_after - self.zeros_before

    @property
    def sparsity_after(self) -> float:
        """Fraction of zeros in the selected weights."""
        return fraction(self.zeros_after, self.parameters)


@dataclass(frozen=True)
class ModelEncoding:
    """All files of the model written one way. `compressed`: their bytes after zstd at level 3.

    `load_ratio`: time until an onnxruntime session is made against that of the dense model; None if not measured.
    """

    encoding: str
    prefer: str
    bytes: int
    compressed: int
    load_ratio: float | None


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """One run of `prune`. `input`, `output`: file names without folders; a dry run has no output.

    `changed`: whether a value differs from the input; in a dry run, would differ. `pictures`: of the largest weights,
    where they were asked for; they are shown in HTML only. A condition that is met leaves no output.
    `payoff`: what that gains where the model is deployed, in a sentence. `encodings`: what the pruned model takes in
    each, where that was asked for.
    """

    derived: ClassVar[tuple[str, ...]] = ("totals",)
    unlisted: ClassVar[tuple[str, ...]] = ("pictures",)

    schema_version: Literal[1] = 1
    command: Literal["prune"] = "prune"
    input: str
    output: str | None
    dry_run: bool
    changed: bool
    configuration: Configuration
    versions: Versions
    weights: tuple[WeightReport, ...]
    left_alone: tuple[LeftAloneReport, ...]
    files: tuple[FileReport, ...]
    verification: VerificationReport | None = None
    warnings: tuple[str, ...] = ()
    conditions: tuple[ConditionOutcome, ...] = ()
    pictures: tuple[WeightPictures, ...] = ()
    payoff: str = ""
    encodings: tuple[ModelEncoding, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether a condition was met, so that nothing was written."""
        return any(condition.met for condition in self.conditions)

    @property
    def totals(self) -> Totals:
        """The sums."""
        weights = [weight for weight in self.weights if weight.selected]
        return Totals(
            weights=len(weights),
            weights_on_gpu=sum(weight.backend == "cuda" for weight in weights),
            parameters=_parameters(weights),
            pruned=sum(weight.pruned for weight in weights),
            zeros_before=sum(weight.zeros_before for weight in weights),
            zeros_after=sum(weight.zeros_after for weight in weights),
            left_alone=len(self.left_alone),
            model_parameters=_parameters(self.weights) + _parameters(self.left_alone),
            bytes_before=sum_known(file.bytes_before for file in self.files),
            bytes_after=sum_known(file.bytes_after for file in self.files),
            compressed_before=sum_known(file.compressed_before for file in self.files),
            compressed_after=sum_known(file.compressed_after for file in self.files),
        )


@dataclass(frozen=True)
class InspectedWeight:
    """A weight that could be pruned, and its zeros: by element, whole row (output channel) and column (input channel).

    `groups_2_4`: groups of four neighbours along the reduction axis; `satisfying_2_4`: those with two zeros or more.
    None where the weight has no such axis. `reduction_axis`: the stored axis that is summed, None where that is no
    single one; `reduction`: how many neighbours one sum has along it. `patterns`: of "1:4", "2:4" and "4:8" what holds
    for every group along it. `other_axes_2_4`: other axes of the stored shape along which every group is 2:4, in words.
    `optional`: "embedding" or "linear model" if it is pruned only where that is asked for.
    """

    derived: ClassVar[tuple[str, ...]] = ("sparsity", "is_2_4", "remainder_2_4")

    name: str
    op_types: tuple[str, ...]
    consumers: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    bytes: int
    zeros: int
    rows: int | None = None
    zero_rows: int | None = None
    columns: int | None = None
    zero_columns: int | None = None
    groups_2_4: int | None = None
    satisfying_2_4: int | None = None
    depthwise: bool = False
    optional: str = ""
    reduction_axis: int | None = None
    reduction: int | None = None
    patterns: tuple[str, ...] = ()
    other_axes_2_4: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of zeros; 0 without elements."""
        return fraction(self.zeros, self.parameters)

    @property
    def is_2_4(self) -> bool | None:
        """Whether every group of four has two zeros; None if it has no groups."""
        return self.satisfying_2_4 == self.groups_2_4 if self.groups_2_4 else None

    @property
    def remainder_2_4(self) -> int | None:
        """Neighbours at the end of the reduction axis that fill no group of four; they are not looked at."""
        return None if self.reduction is None else self.reduction % 4


@dataclass(frozen=True)
class WeightVerdict:
    """Whether a weight's zeros gain something on a way of deploying; `reason`: why not."""

    weight: str
    pays: bool
    reason: str


@dataclass(frozen=True)
class PayoffReport:
    """What zeros gain on one way of deploying, by a `rule` from pages at `sources`."""

    way: str
    pays: Literal["yes", "partly", "no"]
    verdict: str
    rule: str
    sources: tuple[str, ...]
    weights: tuple[WeightVerdict, ...]


@dataclass(frozen=True)
class InspectTotals:
    """Sums over the weights, the model and its files, as in `Totals`."""

    derived: ClassVar[tuple[str, ...]] = ("sparsity",)

    weights: int
    parameters: int
    zeros: int
    left_alone: int
    model_parameters: int
    bytes: int | None
    compressed: int | None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the weights."""
        return fraction(self.zeros, self.parameters)


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    """One run of `inspect`. `input`: a file name without folders; its `files` have no after.

    `payoff`: what the zeros gain on each way of deploying; `encodings`: what the model takes in each; empty if not
    asked for. `pictures`: as of `prune`.
    """

    derived: ClassVar[tuple[str, ...]] = ("totals",)
    unlisted: ClassVar[tuple[str, ...]] = ("pictures",)

    schema_version: Literal[1] = 1
    command: Literal["inspect"] = "inspect"
    input: str
    versions: Versions
    weights: tuple[InspectedWeight, ...]
    left_alone: tuple[LeftAloneReport, ...]
    files: tuple[FileReport, ...]
    warnings: tuple[str, ...] = ()
    conditions: tuple[ConditionOutcome, ...] = ()
    pictures: tuple[WeightPictures, ...] = ()
    payoff: tuple[PayoffReport, ...] = ()
    encodings: tuple[ModelEncoding, ...] = ()

    @property
    def totals(self) -> InspectTotals:
        """The sums."""
        return InspectTotals(
            weights=len(self.weights),
            parameters=_parameters(self.weights),
            zeros=sum(weight.zeros for weight in self.weights),
            left_alone=len(self.left_alone),
            model_parameters=_parameters(self.weights) + _parameters(self.left_alone),
            bytes=sum_known(file.bytes_before for file in self.files),
            compressed=sum_known(file.compressed_before for file in self.files),
        )


@dataclass(frozen=True)
class ComparedTensor:
    """A tensor of two models, matched by name; what one of them lacks is None.

    `kind`: "weight" if it could be pruned in either. Zeros are None where the values are no numbers that can be
    compared, the other counts and `max_abs` also where it is not in both, or in other shapes. `changed`: nonzero in
    both and different; `max_abs`: the largest difference of those. `equal`: type, shape and every bit.
    """

    derived: ClassVar[tuple[str, ...]] = ("sparsity_before", "sparsity_after", "verdict")

    name: str
    kind: Literal["weight", "other"]
    op_types: tuple[str, ...]
    shape_before: tuple[int, ...] | None
    shape_after: tuple[int, ...] | None
    dtype_before: str | None
    dtype_after: str | None
    parameters: int
    zeros_before: int | None
    zeros_after: int | None
    newly_zero: int | None
    newly_nonzero: int | None
    changed: int | None
    max_abs: float | None
    equal: bool

    @property
    def sparsity_before(self) -> float | None:
        """Fraction of zeros; None where that is not known."""
        return _fraction_of(self.zeros_before, self.shape_before)

    @property
    def sparsity_after(self) -> float | None:
        """Fraction of zeros; None where that is not known."""
        return _fraction_of(self.zeros_after, self.shape_after)

    @property
    def verdict(self) -> str:
        """How it changed, in words."""
        if self.dtype_before is None or self.dtype_after is None:
            return "only before" if self.dtype_after is None else "only after"
        if self.shape_before != self.shape_after:
            return "other shape"
        if self.dtype_before != self.dtype_after:
            return "other type"
        if self.equal:
            return "equal"
        kinds = (bool(self.newly_zero), bool(self.newly_nonzero), bool(self.changed))
        return {(True, False, False): "more zeros", (False, True, False): "fewer zeros"}.get(kinds, "other values")


@dataclass(frozen=True)
class ComparedFile:
    """A file of one of two models; `sha256` and `compressed` as in `FileReport`."""

    model: Literal["before", "after"]
    role: Literal["model", "data"]
    name: str
    bytes: int
    sha256: str | None
    compressed: int | None


@dataclass(frozen=True)
class Difference:
    """Something besides tensors and files that differs, as text; None where it is not there."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class CompareTotals:
    """Sums over the weights that are in both models or in one, and over the files."""

    derived: ClassVar[tuple[str, ...]] = ("sparsity_before", "sparsity_after")

    weights: int
    equal: int
    only_before: int
    only_after: int
    parameters_before: int
    parameters_after: int
    zeros_before: int
    zeros_after: int
    newly_zero: int
    newly_nonzero: int
    changed: int
    max_abs: float
    others_changed: int
    bytes_before: int | None
    bytes_after: int | None

    @property
    def sparsity_before(self) -> float:
        """Fraction of zeros in the weights of the first model."""
        return fraction(self.zeros_before, self.parameters_before)

    @property
    def sparsity_after(self) -> float:
        """Fraction of zeros in the weights of the second model."""
        return fraction(self.zeros_after, self.parameters_after)


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """One run of `compare`. `before`, `after`: file names without folders. `others`: those that differ."""

    derived: ClassVar[tuple[str, ...]] = ("totals",)

    schema_version: Literal[1] = 1
    command: Literal["compare"] = "compare"
    before: str
    after: str
    versions: Versions
    weights: tuple[ComparedTensor, ...]
    others: tuple[ComparedTensor, ...]
    equal_others: int
    metadata: tuple[Difference, ...]
    files: tuple[ComparedFile, ...]
    warnings: tuple[str, ...] = ()
    conditions: tuple[ConditionOutcome, ...] = ()

    @property
    def totals(self) -> CompareTotals:
        """The sums."""
        weights = self.weights
        return CompareTotals(
            weights=len(weights),
            equal=sum(weight.equal for weight in weights),
            only_before=sum(weight.dtype_after is None for weight in weights),
            only_after=sum(weight.dtype_before is None for weight in weights),
            parameters_before=sum(_elements(weight.shape_before) for weight in weights),
            parameters_after=sum(_elements(weight.shape_after) for weight in weights),
            zeros_before=sum(weight.zeros_before or 0 for weight in weights),
            zeros_after=sum(weight.zeros_after or 0 for weight in weights),
            newly_zero=sum(weight.newly_zero or 0 for weight in weights),
            newly_nonzero=sum(weight.newly_nonzero or 0 for weight in weights),
            changed=sum(weight.changed or 0 for weight in weights),
            max_abs=max((weight.max_abs or 0.0 for weight in weights), default=0.0),
            others_changed=len(self.others),
            bytes_before=sum_known(file.bytes for file in self.files if file.model == "before"),
            bytes_after=sum_known(file.bytes for file in self.files if file.model == "after"),
        )


Report = PruneReport | InspectReport


def left_alone_groups(tensors: Iterable[LeftAloneReport]) -> tuple[LeftAloneGroup, ...]:
    """Group what is left alone by its reason, most parameters first, then in model order."""
    groups: dict[str, list[LeftAloneReport]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.reason, []).append(tensor)
    made = [LeftAloneGroup(reason, tuple(members)) for reason, members in groups.items()]
    return tuple(sorted(made, key=lambda group: -group.parameters))


def to_dict(report: Any) -> dict[str, Any]:
    """A report as JSON can hold it, keys in a fixed order. See `onnx_tools.plain` for what JSON has no form for."""
    return {key: plain_value(getattr(report, key)) for key in keys_of(type(report))}


def _parameters(tensors: Iterable[WeightReport | InspectedWeight | LeftAloneReport]) -> int:
    return sum(int(tensor.parameters) for tensor in tensors)  # numpy's integers would overflow


def _elements(shape: tuple[int, ...] | None) -> int:
    return 0 if shape is None else math.prod(shape)


def _fraction_of(zeros: int | None, shape: tuple[int, ...] | None) -> float | None:
    return None if zeros is None else fraction(zeros, _elements(shape))


def sum_known(sizes: Iterable[int | None]) -> int | None:
    """The sum; None if there are none, or one is not known."""
    known = list(sizes)
    return sum(size for size in known if size is not None) if known and None not in known else None
