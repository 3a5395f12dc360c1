"""What compaction did to a model: plain data, as in `onnx_tools.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_tools.report import (
    CompareReport,
    ConditionOutcome,
    FileReport,
    PruneReport,
    Report,
    VerificationReport,
    Versions,
    sum_known,
)
from onnx_tools.search_report import SearchReport


@dataclass(frozen=True)
class LayerReport:
    """A node that multiplies, or reads stored data that has channels.

    `channels_*`: of its result, as far as they were followed (heads times width, where both can leave); None where they
    were not. `parameters_*`, `bytes_*`: stored elements that it reads. `macs_*`: multiply-accumulates of one run, None
    where a shape is not known, or the operator has no formula; with `open_sizes` a size of its result is not known
    either, and counts as 1. `microseconds_*`: time of its kernels in one run in onnxruntime's profiler, on one thread
    with the optimisations of ORT_ENABLE_BASIC, a median; None where it was not measured, no kernel has its name (it was
    fused into another layer, or is in a function), or it left.
    """

    name: str
    op_type: str
    channels_before: int | None
    channels_after: int | None
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    macs_before: int | None
    macs_after: int | None
    open_sizes: bool = False
    microseconds_before: float | None = None
    microseconds_after: float | None = None

    @property
    def changed(self) -> bool:
        """Whether it got smaller."""
        after = (self.channels_after, self.parameters_after, self.macs_after)
        return after != (self.channels_before, self.parameters_before, self.macs_before)


@dataclass(frozen=True)
class ChannelNote:
    """Channels of `layers`, which go together, that stay for one `reason`, or left at a price.

    `channels`: groups of them; `unused`: how many of these would leave but for the reason.
    """

    reason: str
    layers: tuple[str, ...]
    channels: int
    unused: int


@dataclass(frozen=True)
class LatencyReport:
    """Time of one run in onnxruntime on one thread, both models in turns: medians of `rounds`, in milliseconds.

    `ratio`: after against before, the median over rounds; `low`, `high`: its quartiles. `inputs`: what was run on.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    rounds: int
    inputs: str


@dataclass(frozen=True)
class CompactTotals:
    """Sums over the model and its files.

    `channels`: groups of channels that layers make, one for all that go together; `removed`: those that left.
    `parameters_*`, `weight_bytes_*`: of everything stored. `macs_*`: of the layers where they are known;
    `unknown_macs`: how many layers they are not known of. Bytes of files are None where they are not known.
    """

    layers: int
    channels: int
    removed: int
    parameters_before: int
    parameters_after: int
    weight_bytes_before: int
    weight_bytes_after: int
    macs_before: int
    macs_after: int
    unknown_macs: int
    bytes_before: int | None
    bytes_after: int | None
    compressed_before: int | None
    compressed_after: int | None


@dataclass(frozen=True)
class Stored:
    """Everything that a model stores, before and after: elements, and their bytes."""

    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True)
class CompactReport:
    """One run of `compact`. `input`, `output`: file names without folders; a dry run has no output.

    `channels`, `removed`, `stored`: what `totals` is made of.
    `pruning`: the report of the pruning that went before, in one step (`prune --compact`); files and their sizes are
    then those before the pruning. `constants`: "keep" or "drop", what was asked for. `open_inputs`: sizes of inputs
    that the model leaves open and that count as 1. `staying`: why channels stay; `dropped`: channels that left although
    they left something behind.
    """

    derived: ClassVar[tuple[str, ...]] = ("changed", "totals")
    unlisted: ClassVar[tuple[str, ...]] = ("stored", "channels", "removed")

    schema_version: Literal[1] = 1
    command: Literal["compact"] = "compact"
    input: str
    output: str | None
    dry_run: bool
    constants: str
    versions: Versions
    channels: int
    removed: int
    layers: tuple[LayerReport, ...]
    stored: Stored
    staying: tuple[ChannelNote, ...]
    dropped: tuple[ChannelNote, ...]
    open_inputs: tuple[str, ...]
    files: tuple[FileReport, ...]
    latency: LatencyReport | None = None
    verification: VerificationReport | None = None
    warnings: tuple[str, ...] = ()
    conditions: tuple[ConditionOutcome, ...] = ()
    pruning: PruneReport | None = None

    @property
    def changed(self) -> bool:
        """Whether channels left."""
        return self.removed > 0

    @property
    def layers_timed(self) -> bool:
        """Whether the time of any layer was measured."""
        return any((layer.microseconds_before, layer.microseconds_after) != (None, None) for layer in self.layers)

    @property
    def refused(self) -> bool:
        """Whether a condition was met, so that nothing was written."""
        return any(condition.met for condition in self.conditions)

    @property
    def totals(self) -> CompactTotals:
        """The sums."""
        return CompactTotals(
            layers=len(self.layers),
            channels=self.channels,
            removed=self.removed,
            parameters_before=self.stored.parameters_before,
            parameters_after=self.stored.parameters_after,
            weight_bytes_before=self.stored.bytes_before,
            weight_bytes_after=self.stored.bytes_after,
            macs_before=sum(layer.macs_before or 0 for layer in self.layers),
            macs_after=sum(layer.macs_after or 0 for layer in self.layers),
            unknown_macs=sum(layer.macs_before is None for layer in self.layers),
            bytes_before=sum_known(file.bytes_before for file in self.files),
            bytes_after=sum_known(file.bytes_after for file in self.files),
            compressed_before=sum_known(file.compressed_before for file in self.files),
            compressed_after=sum_known(file.compressed_after for file in self.files),
        )


AnyReport = Report | CompareReport | CompactReport | SearchReport
"""What the renderers show."""
