"""Parts of a report, made from what was planned and done."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import onnx

from onnx_tools.mask_file import Masks
from onnx_tools.plan import Gradients, PlannedWeight
from onnx_tools.report import Configuration, LeftAloneReport, Versions, WeightReport
from onnx_tools.weight_selection import Selection
from onnx_tools.weights import LeftAlone
from oxiprune_gpu import PruneCounts, PruningConfig, ScoreStats, __version__


def versions(onnxruntime: str | None = None) -> Versions:
    """Versions of what does the work."""
    return Versions(__version__, platform.python_version(), np.__version__, onnx.__version__, onnxruntime)


def runtime_version() -> str | None:
    """Version of onnxruntime where a check has used it."""
    return getattr(sys.modules.get("onnxruntime"), "__version__", None)


def left_alone_reports(tensors: Iterable[LeftAlone]) -> tuple[LeftAloneReport, ...]:
    """What is left alone, for a report."""
    return tuple(LeftAloneReport(t.name, t.shape, t.dtype_name, t.elements, t.reason, t.zeros) for t in tensors)


def changes(counts: Iterable[PruneCounts]) -> bool:
    """Whether a value differs from the input."""
    return any(count.nonzero_after != count.nonzero_before for count in counts)


def warnings(planned: Sequence[PlannedWeight], counts: list[PruneCounts], equality: str = "") -> tuple[str, ...]:
    """What a reader must know; `equality`: what to say of an output that was written although nothing changed."""
    return (*_unscaled(planned), *_unchanged(counts, equality))


def _unscaled(planned: Sequence[PlannedWeight]) -> tuple[str, ...]:
    """That quantised weights are not scored by their real values."""
    weights = [item.weight for item in planned if item.weight.quantisation and item.weight.quantisation.unscaled]
    if not weights:
        return ()
    which = f"'{weights[0].name}' is" if len(weights) == 1 else f"'{weights[0].name}' and {len(weights) - 1} more are"
    behind = " and ".join(dict.fromkeys(op_type for weight in weights for op_type in weight.op_types))
    return (f"{which} scored by |code - zero point|: no stored scale was found behind {behind}",)


def _unchanged(counts: list[PruneCounts], equality: str) -> tuple[str, ...]:
    if changes(counts):
        return ()
    falls = any(count.pruned for count in counts)
    why = "all that would fall is zero already" if falls else "at this sparsity no element falls"
    return (f"nothing changed: {why}{equality}",)


def equality_text(data: Sequence[object]) -> str:
    """What to say of an output in which nothing changed; `data`: its data files."""
    if not data:
        return "; the output equals the input"
    names = "name of its data file" if len(data) == 1 else "names of its data files"
    return f"; the output equals the input but for the {names}"


def configuration(config: PruningConfig | Masks, selection: Selection, gradients: Gradients | None) -> Configuration:
    """What was asked for."""
    metric = "" if gradients is None else "taylor:gradients"
    if isinstance(config, Masks):
        config, metric = PruningConfig(config.sparsity, min_nonzero=0), "masks"
    return Configuration(
        sparsity=config.sparsity,
        metric=metric or config.metric.text,
        granularity=config.granularity.text,
        min_nonzero=config.min_nonzero,
        include=selection.include,
        exclude=selection.exclude,
        min_elements=selection.min_elements,
        depthwise=selection.depthwise,
        embeddings=selection.embeddings,
        linear_models=selection.linear_models,
    )


def weight_report(item: PlannedWeight, counts: PruneCounts, stats: ScoreStats | None) -> WeightReport:
    """One weight that was pruned."""
    weight = item.weight
    return WeightReport(
        name=weight.name,
        op_types=weight.op_types,
        consumers=weight.consumers,
        shape=weight.shape,
        dtype=weight.dtype_name,
        parameters=weight.elements,
        bytes=weight.bytes,
        nonzero_before=counts.nonzero_before,
        nonzero_after=counts.nonzero_after,
        pruned=counts.pruned,
        target_sparsity=item.config.sparsity,
        backend=counts.backend,
        scores=stats,
    )


def metadata_text(
    config: PruningConfig | Masks, selection: Selection, gradients: Gradients | None, counts: list[PruneCounts]
) -> str:
    """One compact line about the pruning: no time, path or hash, so equal input and arguments give equal bytes."""
    entry = {
        "version": __version__,
        **asdict(configuration(config, selection, gradients)),
        "weights": len(counts),
        "parameters": sum(count.total for count in counts),
        "zeros_before": sum(count.total - count.nonzero_before for count in counts),
        "zeros_after": sum(count.total - count.nonzero_after for count in counts),
    }
    return json.dumps(entry, separators=(",", ":"), sort_keys=True)
