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
from onnx_tools.masks import How
from onnx_tools.new_values import NewValues
from onnx_tools.plan import Gradients, Plan, PlannedWeight
from onnx_tools.policy import Policy, Rule
from onnx_tools.report import (
    Configuration,
    InspectedWeight,
    LeftAloneReport,
    RuleReport,
    Versions,
    WeightReport,
    fraction,
)
from onnx_tools.slice_masks import SliceMasks
from onnx_tools.weight_selection import Selection
from onnx_tools.weights import LeftAlone, Weight
from onnx_tools.zero_patterns import axis_view
from oxiprune_gpu import PruneCounts, ScoreStats, __version__


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
    return any(count.nonzero_after != count.nonzero_before or count.refitted for count in counts)


def warnings(planned: Sequence[PlannedWeight], counts: list[PruneCounts], equality: str = "") -> tuple[str, ...]:
    """What a reader must know; `equality`: what to say of an output that was written although nothing changed."""
    return (*_unscaled(planned), *_unchanged(planned, counts, equality), *_dense_remainders(planned))


def shadowed_rules(plan: Plan) -> tuple[str, ...]:
    """Warnings about rules of the policy that nothing follows."""
    return tuple(
        f"the policy's rule '{rule.label}' decides about no weight: earlier rules match all that it does; put it first"
        for rule in plan.shadowed
    )


def _unscaled(planned: Sequence[PlannedWeight]) -> tuple[str, ...]:
    """That quantised weights are not scored by their real values."""
    weights = [item.weight for item in planned if item.weight.quantisation and item.weight.quantisation.unscaled]
    if not weights:
        return ()
    which = f"'{weights[0].name}' is" if len(weights) == 1 else f"'{weights[0].name}' and {len(weights) - 1} more are"
    behind = " and ".join(dict.fromkeys(op_type for weight in weights for op_type in weight.op_types))
    return (f"{which} scored by |code - zero point|: no stored scale was found behind {behind}",)


def _unchanged(planned: Sequence[PlannedWeight], counts: list[PruneCounts], equality: str) -> tuple[str, ...]:
    if changes(counts):
        return ()
    falls = any(count.pruned for count in counts)
    none = "at this sparsity no element falls"
    if any(item.granularity.text == "channel" for item in planned):
        none = "what was asked for, and what must stay of each layer, let no channel fall"
    why = "all that would fall is zero already" if falls else none
    return (f"nothing changed: {why}{equality}",)


def _dense_remainders(planned: Sequence[PlannedWeight]) -> tuple[str, ...]:
    """N:M weights whose reduction axis does not divide."""
    dense = [item for item in planned if item.dense_remainder]
    if not dense:
        return ()
    granularity = dense[0].granularity.text
    elements = sum(item.dense_remainder for item in dense)
    weights = f"'{dense[0].weight.name}'" + (f" and {len(dense) - 1} more" if len(dense) > 1 else "")
    prunable = any(item.padding_prunes for item in dense)
    hint = f"; granularity {granularity}+pad prunes them as if zeros followed" if prunable else ""
    return (f"{elements:,} elements of {weights} fill no group of {granularity} and stay dense{hint}",)


def equality_text(data: Sequence[object]) -> str:
    """What to say of an output in which nothing changed; `data`: its data files."""
    if not data:
        return "; the output equals the input"
    names = "name of its data file" if len(data) == 1 else "names of its data files"
    return f"; the output equals the input but for the {names}"


def configuration(how: How, selection: Selection, gradients: Gradients | None) -> Configuration:
    """What was asked for."""
    if isinstance(how, SliceMasks | NewValues):
        return how.configuration
    metric = "" if gradients is None else "taylor:gradients"
    policy = Policy(sparsity=how.sparsity, min_nonzero=0) if isinstance(how, Masks) else how
    if isinstance(how, Masks):
        metric = "masks"
    return Configuration(
        sparsity=policy.granularity.sparsity if policy.sparsity is None else policy.sparsity,
        metric=metric or policy.metric.text,
        granularity=policy.granularity.text,
        min_nonzero=policy.min_nonzero,
        include=selection.include,
        exclude=selection.exclude,
        min_elements=selection.min_elements,
        depthwise=selection.depthwise,
        embeddings=selection.embeddings,
        linear_models=selection.linear_models,
        allocation=policy.allocation.text,
        floor=policy.floor,
        ceiling=policy.ceiling,
        target=policy.target,
        rules=tuple(map(_rule_report, policy.rules)),
    )


def _rule_report(rule: Rule) -> RuleReport:
    metric = None if rule.metric is None else rule.metric.text
    granularity = None if rule.granularity is None else rule.granularity.text
    return RuleReport(rule.match, rule.prune, rule.sparsity, metric, granularity, rule.min_nonzero)


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
        target_sparsity=item.config.sparsity if item.count is None else fraction(counts.pruned, counts.total),
        metric=item.metric,
        granularity=item.granularity.text,
        rule=None if item.rule is None else item.rule.label,
        dense_remainder=item.dense_remainder,
        backend=counts.backend,
        refitted=counts.refitted,
        scores=stats,
    )


def weights_2_4(planned: Sequence[PlannedWeight], counts: Sequence[PruneCounts]) -> tuple[InspectedWeight, ...]:
    """The weights of granularity 2:4 as they would be inspected, as far as that follows from how they are pruned."""
    pairs = zip(planned, counts, strict=True)
    return tuple(_weight_2_4(item.weight, count) for item, count in pairs if item.granularity.text == "2:4")


def _weight_2_4(weight: Weight, count: PruneCounts) -> InspectedWeight:
    assert weight.columns is not None  # or it has no such groups
    length = axis_view(weight.columns).size
    groups = weight.elements // length * (length // 4)
    return InspectedWeight(
        name=weight.name,
        op_types=weight.op_types,
        consumers=weight.consumers,
        shape=weight.shape,
        dtype=weight.dtype_name,
        parameters=weight.elements,
        bytes=weight.bytes,
        zeros=count.total - count.nonzero_after,
        rows=weight.rows.units if weight.rows else None,
        columns=weight.columns.units,
        groups_2_4=groups,
        satisfying_2_4=groups,
        depthwise=weight.depthwise,
        reduction=length,
    )


def metadata_text(how: How, selection: Selection, gradients: Gradients | None, counts: list[PruneCounts]) -> str:
    """One compact line about the pruning: no time, path or hash, so equal input and arguments give equal bytes."""
    entry = {
        "version": __version__,
        **asdict(configuration(how, selection, gradients)),
        "weights": len(counts),
        "parameters": sum(count.total for count in counts),
        "zeros_before": sum(count.total - count.nonzero_before for count in counts),
        "zeros_after": sum(count.total - count.nonzero_after for count in counts),
    }
    if isinstance(how, NewValues) and how.refitted:
        entry["refitted"] = how.refitted
    return json.dumps(entry, separators=(",", ":"), sort_keys=True)
