"""What is in a model: its weights, their zeros by element, row, column and 2:4, and what else it stores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from onnx_tools.file_facts import facts_of, file_reports
from onnx_tools.model_file import ModelFile
from onnx_tools.payoff import payoff as judge_payoff
from onnx_tools.pictures import Album
from onnx_tools.report import InspectedWeight, InspectReport
from onnx_tools.report_parts import left_alone_reports, versions
from onnx_tools.rewrite import Progress
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights
from onnx_tools.zero_patterns import AxisView, Tally, ZeroBits, axis_view, satisfies, zero_counts, zero_units
from oxiprune_gpu import BlockSource


def inspect_file(
    path: str | os.PathLike[str],
    *,
    hashes: bool = False,
    compressed: bool = False,
    pictures: bool = False,
    payoff: bool = False,
    progress: Progress | None = None,
) -> InspectReport:
    """Look at a model without changing it.

    Every weight that could be pruned is listed, those that the defaults of pruning leave alone too.

    Args:
        path: the model; external data is found beside it.
        hashes: also the SHA-256 of every file.
        compressed: also what every file weighs after zstd at level 3.
        pictures: also pictures of the largest weights, for HTML.
        payoff: also what the zeros gain on each way of deploying, see `onnx_tools.payoff`.
        progress: told before each weight.

    Raises:
        PruningError: the model can't be read, see `onnx_tools.errors`.
    """
    model = ModelFile.open(path)
    found = find_weights(model.skeleton)
    files = [facts_of(f, hashes=hashes, compressed=compressed) for f in (model.path, *model.data_files())]
    total = sum(weight.elements for weight in found.weights)
    album = Album(found.weights if pictures else ())
    inspected, done = [], 0
    with WeightReader(model) as reader:
        for weight in found.weights:
            if progress is not None:
                progress(weight.name, done, total)
            source = reader.weight(weight, weight.shape)
            inspected.append(_inspected(weight, source))
            album.inspecting(weight, source)
            done += weight.elements
    described = file_reports(files, None)
    return InspectReport(
        input=model.path.name,
        versions=versions(),
        weights=tuple(inspected),
        left_alone=left_alone_reports(found.left_alone),
        files=described,
        warnings=_warnings(inspected),
        pictures=album.pictures,
        payoff=judge_payoff(inspected, described) if payoff else (),
    )


def _inspected(weight: Weight, source: BlockSource) -> InspectedWeight:
    bits = ZeroBits(source)
    rows = zero_units(bits, weight.rows) if weight.rows else None
    columns = zero_units(bits, weight.columns) if weight.columns else None
    summed = axis_view(weight.columns) if weight.columns else None
    groups, patterns = _along_reduction(bits, summed)
    axis, others = _other_axes(bits, weight.shape, summed)
    return InspectedWeight(
        name=weight.name,
        op_types=weight.op_types,
        consumers=weight.consumers,
        shape=weight.shape,
        dtype=weight.dtype_name,
        parameters=weight.elements,
        bytes=weight.bytes,
        zeros=bits.zeros,
        rows=rows.count if rows else None,
        zero_rows=rows.zero if rows else None,
        columns=columns.count if columns else None,
        zero_columns=columns.zero if columns else None,
        groups_2_4=groups.count if groups else None,
        satisfying_2_4=groups.zero if groups else None,
        depthwise=weight.depthwise,
        optional=weight.optional,
        reduction_axis=axis,
        reduction=summed.size if summed else None,
        patterns=patterns,
        other_axes_2_4=others,
    )


def _along_reduction(bits: ZeroBits, view: AxisView | None) -> tuple[Tally | None, tuple[str, ...]]:
    """Groups of four along the reduction axis, and the N:M patterns that every group of theirs satisfies."""
    if view is None or view.size < 4:
        return None, ()
    counts = zero_counts(bits, view, 4)
    groups = Tally(int(counts.sum()), int(counts[2:].sum()))
    holds = {
        "1:4": groups.count == counts[3:].sum(),
        "2:4": groups.count == groups.zero,
        "4:8": satisfies(bits, view, 4, 8),
    }
    return groups, tuple(name for name, held in holds.items() if held)


def _other_axes(bits: ZeroBits, shape: tuple[int, ...], summed: AxisView | None) -> tuple[int | None, tuple[str, ...]]:
    """Which stored axis is summed, if it is one; and along which other axes the weight is 2:4.

    Some tools group along a batch axis, or over input channels and kernel places as one axis.
    """
    views = {AxisView.of(shape, axis): f"axis {axis}" for axis in reversed(range(len(shape)))}
    axis = next((i for i in range(len(shape)) if AxisView.of(shape, i) == summed), None)
    if len(shape) > 2:
        views.setdefault(AxisView(shape[0], math.prod(shape[1:]), 1), f"axes 1 to {len(shape) - 1} as one")
    found = [name for view, name in views.items() if view != summed and satisfies(bits, view, 2, 4)]
    return axis, tuple(sorted(found))


def _warnings(weights: Iterable[InspectedWeight]) -> tuple[str, ...]:
    """What is pruned 2:4 in a way that no sparse tensor core reads."""
    wrong = [weight for weight in weights if weight.other_axes_2_4 and "2:4" not in weight.patterns]
    if not wrong:
        return ()
    first = wrong[0]
    summed = "" if first.reduction_axis is None else f" {first.reduction_axis}"
    others = f", and {len(wrong) - 1} more weights so" if len(wrong) > 1 else ""
    return (
        f"'{first.name}' is 2:4 along {first.other_axes_2_4[0]}, not along the reduction axis{summed}{others}: "
        "sparse tensor cores (TensorRT) won't use it",
    )
