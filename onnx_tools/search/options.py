"""What a search is asked for."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnx_tools.calibration.data import Feeds
from onnx_tools.calibration.methods import DataMethod
from onnx_tools.calibration.splitting import PART
from onnx_tools.compaction.mapping.shapes import InputShapes
from onnx_tools.model_file import ModelFile
from onnx_tools.quality import Quality
from onnx_tools.search.digests import digest_of, model_digest
from onnx_tools.search.lines import Pruning
from onnx_tools.search_report import SearchSettings
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import InvalidOption

OBJECTIVES = ("sparsity", "bytes", "macs")
"""What a search makes much, or little, of."""


@dataclass(frozen=True)
class Search:
    """What is searched, and how far.

    Args:
        quality: what must be kept; higher is better.
        max_drop: how much less of it than the original has is within the bar.
        confidence: how sure it must be that the drop of a trial is within the bar, 0.5 to less than 1, from the
            differences case by case: the upper bound of a one-sided interval is compared with `max_drop`. None: the
            drop itself.
        data: what names the data that `quality` reads, and its function: files and module:function. Their content is a
            part of what identifies a trial, so that other data is not taken for the same.
        allocations: ways to deal out a sparsity, each bisected; none: those that fit the granularity.
        granularity, metric: as in `Policy`; granularity "channel": whole channels leave, see `compact_file`.
        objective: "sparsity"; "bytes", of the files, encoded without zeros or compacted; or "macs", with channels.
        method: what looks at data; None: the metric alone chooses. With order "once" all trials share its statistics.
            Data that it does not get by name is to be named in `data`, or as feeds, which know what they hold.
        selection: which weights.
        input_shapes: sizes that the model leaves open, with channels.
        held_out, seed: fraction of the cases that are not searched with but reported too, and the seed that chooses
            them.
        resolution: of the sparsities that are bisected.
        most_trials: at most so many models are made.
        climb: from the best allocation on, let more fall of single weights; not with channels.
        log: file of the trials; None: `OUTPUT.search.jsonl`. What it has is not made again.
        backend: as in `prune_file`.
        notes: what a reader of the report must know of the data.
    """

    quality: Quality
    max_drop: float
    data: Sequence[str] = ()
    allocations: Sequence[str] = ()
    granularity: str = "unstructured"
    metric: str = "l1"
    objective: str = "sparsity"
    method: DataMethod | None = None
    selection: Selection = field(default_factory=Selection)
    input_shapes: InputShapes = field(default_factory=dict)
    held_out: float = 0.3
    seed: int = 0
    resolution: float = 0.01
    most_trials: int = 100
    climb: bool = True
    log: pathlib.Path | None = None
    backend: str = "auto"
    confidence: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def pruning(self) -> Pruning:
        """How weights are pruned, but for how much."""
        return Pruning(self.granularity, self.metric)

    @property
    def packed(self) -> bool:
        """Whether models are encoded without their zeros, so that zeros save bytes."""
        return self.objective == "bytes" and not self.pruning.channels

    def check(self) -> None:
        """Raise `InvalidOption` for what makes no sense."""
        self.pruning.check()
        if self.method is not None and self.method.choice is not None and self.pruning.channels:
            raise InvalidOption(
                f"{self.method.choice} chooses elements, no channels: leave it out; a repair goes with channels"
            )
        if self.objective not in OBJECTIVES:
            raise InvalidOption(f"objective {self.objective!r} must be one of {', '.join(OBJECTIVES)}")
        if self.objective == "macs" and not self.pruning.channels:
            raise InvalidOption("objective macs: zeros save no operations; give granularity channel")
        for name, value, least, most in (
            ("held_out", self.held_out, 0, 0.9),
            ("resolution", self.resolution, 0.0001, 0.5),
        ):
            if not least <= value <= most:
                raise InvalidOption(f"{name} {value!r} must be a fraction, {least} to {most}")
        if not self.max_drop >= 0 or self.max_drop == float("inf"):
            raise InvalidOption(f"max_drop {self.max_drop!r} must be a number, 0 or more")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise InvalidOption(f"confidence {self.confidence!r} must be 0.5 or more, and less than 1")
        if self.most_trials < 1:
            raise InvalidOption(f"most_trials {self.most_trials!r} must be 1 or more")

    @property
    def named_data(self) -> tuple[str, ...]:
        """What names data and functions; the data of the method too, if it is named."""
        given = self.method.data if self.method is not None else None
        named = (os.fspath(given),) if isinstance(given, str | os.PathLike) else ()
        return tuple(dict.fromkeys((*self.data, *named)))

    def settings(self, model: ModelFile) -> SearchSettings:
        """What was asked for, for reports; it decides every trial."""
        chosen = self.selection
        return SearchSettings(
            model_sha256=model_digest(model),
            data=tuple(map(os.path.basename, self.named_data)),
            data_sha256=digest_of(self.named_data),
            quality=self.quality.text,
            max_drop=self.max_drop,
            objective=self.objective,
            allocations=tuple(self.allocations) or self.pruning.allocations(),
            granularity=self.granularity,
            metric=self.metric,
            method=method_text(self.method),
            include=chosen.include,
            exclude=chosen.exclude,
            min_elements=chosen.min_elements,
            depthwise=chosen.depthwise,
            embeddings=chosen.embeddings,
            linear_models=chosen.linear_models,
            held_out=self.held_out,
            seed=self.seed,
            resolution=self.resolution,
            most_trials=self.most_trials,
            climb=self.climb and not self.pruning.channels,
            confidence=self.confidence,
        )


def method_text(method: DataMethod | None) -> str:
    """A method in words; equal texts and equal data make equal models."""
    if method is None:
        return "magnitude"
    steps = [*([method.choice] if method.choice else []), *method.repairs]
    return f"{' + '.join(steps)}, order {method.order}, damping {method.damping:g}, on {_named(method.data)}"


def with_shared_statistics(method: DataMethod | None, folder: pathlib.Path) -> DataMethod | None:
    """The method with a place for the statistics that all trials need; of order "layers" they differ."""
    if method is None or method.order != "once" or method.cache is not None:
        return method
    return replace(method, cache=folder / "statistics")


def _named(data: object) -> str:
    """Data in words. The path to a file does not matter, and its content is in the digest of the data."""
    if isinstance(data, Feeds):
        return f"{os.path.basename(data.source)} ({data.digest[:16]})"
    return without_folder(data) if isinstance(data, str | os.PathLike) else "data of the caller"


def without_folder(data: str | os.PathLike[str]) -> str:
    """A name of data that does not say where it is."""
    text = os.fspath(data)
    part = text[: text.index(":", len(PART)) + 1] if text.startswith(PART) else ""
    return part + os.path.basename(text.removeprefix(part))
