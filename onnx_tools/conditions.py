"""Conditions that fail a run, like "sparsity<0.5": a figure of the report, a comparison, a number.

A figure is of the whole report, or, after "weight.", of each weight: the condition is met if it is for any. A figure
that is not known, or not a number, meets every condition: what can't be said must not pass.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_tools.report import ConditionOutcome, OutputDrift, WeightReport

Number = float | None

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_FORM = re.compile(r"\s*([a-z_.0-9]+)\s*(<=|>=|==|!=|<|>)\s*([-+.0-9eE]+)\s*")
_MOST_LETTERS = 200

VERIFY = "--verify, and not in a dry run"
COMPRESSED = "--compressed-sizes"
WRITTEN = "--compressed-sizes and an output, not in a dry run or with --encoding"
RUNTIME = "onnxruntime, without --no-runtime"
OUTPUT = "an output, not in a dry run or with --encoding"
DENSE = "--encoding dense"
LATENCY = "--latency, and not in a dry run"
CHECKED = "a check of the outputs, not with --no-verify or in a dry run"
COMPACTED = "an output, not in a dry run"


@dataclass(frozen=True)
class Figure:
    """What a name in a condition stands for. `needs`: what must be asked for, or the figure is not known."""

    meaning: str
    of: Callable[[Any], Number]
    needs: str = ""


def _ratio(after: int | None, before: int | None) -> Number:
    return None if after is None or not before else after / before


def _drift(drifts: Sequence[OutputDrift]) -> Number:
    return max((drift.excess for drift in drifts), default=None)


def _max_abs(drifts: Sequence[OutputDrift]) -> Number:
    incomparable = any(math.isinf(drift.excess) for drift in drifts)
    return math.inf if incomparable else max((drift.max_abs or 0.0 for drift in drifts), default=None)


def _of_outputs(measure: Callable[[Sequence[OutputDrift]], Number]) -> Callable[[Any], Number]:
    """A measure of the outputs, for a report of pruning; 0 for a model that stays as it is and is not run."""

    def of(report: Any) -> Number:
        drifts = report.verification.drifts if report.verification else ()
        return measure(drifts) if drifts or report.changed else 0.0

    return of


_PRUNE = {
    "sparsity": Figure("fraction of zeros in the selected weights, after", lambda r: r.totals.sparsity_after),
    "sparsity_before": Figure("fraction of zeros in the selected weights, before", lambda r: r.totals.sparsity_before),
    "zeros": Figure("zeros in the selected weights, after", lambda r: r.totals.zeros_after),
    "zeros_before": Figure("zeros in the selected weights, before", lambda r: r.totals.zeros_before),
    "newly_zero": Figure("how many more zeros there are than before", lambda r: r.totals.newly_zero),
    "parameters": Figure("elements of the selected weights", lambda r: r.totals.parameters),
    "model_parameters": Figure("elements of everything stored", lambda r: r.totals.model_parameters),
    "weights": Figure("weights selected", lambda r: r.totals.weights),
    "left_alone": Figure("tensors left alone", lambda r: r.totals.left_alone),
    "bytes": Figure("bytes of the files, after", lambda r: r.totals.bytes_after, OUTPUT),
    "bytes_before": Figure("bytes of the files, before", lambda r: r.totals.bytes_before),
    "bytes_ratio": Figure(
        "bytes of the files, after / before", lambda r: _ratio(r.totals.bytes_after, r.totals.bytes_before), OUTPUT
    ),
    "compressed_ratio": Figure(
        "compressed bytes, after / before",
        lambda r: _ratio(r.totals.compressed_after, r.totals.compressed_before),
        WRITTEN,
    ),
    "drift": Figure("what --max-drift limits, of the worst output", _of_outputs(_drift), VERIFY),
    "max_abs": Figure("largest difference of an output's value", _of_outputs(_max_abs), VERIFY),
    "refitted": Figure("elements kept with another value", lambda r: sum(each.refitted for each in r.weights)),
    "warnings": Figure("warnings of the report", lambda r: len(r.warnings), DENSE),
    "weight.sparsity": Figure("fraction of zeros in a weight, after", lambda w: w.sparsity_after),
    "weight.sparsity_before": Figure("fraction of zeros in a weight, before", lambda w: w.sparsity_before),
    "weight.refitted": Figure("elements of a weight kept with another value", lambda w: w.refitted),
    "weight.nonzero": Figure("nonzeros in a weight, after", lambda w: w.nonzero_after),
    "weight.parameters": Figure("elements of a weight", lambda w: w.parameters),
}
_INSPECT = {
    "sparsity": Figure("fraction of zeros in the weights", lambda r: r.totals.sparsity),
    "zeros": Figure("zeros in the weights", lambda r: r.totals.zeros),
    "parameters": Figure("elements of the weights", lambda r: r.totals.parameters),
    "model_parameters": Figure("elements of everything stored", lambda r: r.totals.model_parameters),
    "weights": Figure("weights that could be pruned", lambda r: r.totals.weights),
    "left_alone": Figure("other tensors", lambda r: r.totals.left_alone),
    "bytes": Figure("bytes of the files", lambda r: r.totals.bytes),
    "compressed": Figure("bytes of the files, compressed", lambda r: r.totals.compressed, COMPRESSED),
    "warnings": Figure("warnings of the report", lambda r: len(r.warnings)),
    "weight.sparsity": Figure("fraction of zeros in a weight", lambda w: w.sparsity),
    "weight.nonzero": Figure("nonzeros in a weight", lambda w: w.parameters - w.zeros),
    "weight.parameters": Figure("elements of a weight", lambda w: w.parameters),
}
_VERIFY = {
    "drift": Figure("what --max-drift limits, of the worst output", lambda r: _drift(r.drifts), RUNTIME),
    "max_abs": Figure("largest difference of an output's value", lambda r: _max_abs(r.drifts), RUNTIME),
    "warnings": Figure(
        "checks that could not be made", lambda r: sum(check.outcome == "warning" for check in r.checks)
    ),
}
_COMPARE = {
    "sparsity": Figure("fraction of zeros in the weights of B", lambda r: r.totals.sparsity_after),
    "sparsity_before": Figure("fraction of zeros in the weights of A", lambda r: r.totals.sparsity_before),
    "newly_zero": Figure("elements that are zero in B only", lambda r: r.totals.newly_zero),
    "newly_nonzero": Figure("elements that are zero in A only", lambda r: r.totals.newly_nonzero),
    "changed": Figure("elements that are nonzero in both, and differ", lambda r: r.totals.changed),
    "max_abs": Figure("largest difference of those", lambda r: r.totals.max_abs),
    "weights": Figure("weights in either model", lambda r: r.totals.weights),
    "differing": Figure("weights that differ", lambda r: r.totals.weights - r.totals.equal),
    "others_differing": Figure("other tensors that differ", lambda r: r.totals.others_changed),
    "only_before": Figure("weights only in A", lambda r: r.totals.only_before),
    "only_after": Figure("weights only in B", lambda r: r.totals.only_after),
    "bytes": Figure("bytes of the files of B", lambda r: r.totals.bytes_after),
    "bytes_before": Figure("bytes of the files of A", lambda r: r.totals.bytes_before),
    "bytes_ratio": Figure("bytes of the files, B / A", lambda r: _ratio(r.totals.bytes_after, r.totals.bytes_before)),
    "weight.sparsity": Figure("fraction of zeros in a weight of B", lambda w: w.sparsity_after),
    "weight.sparsity_before": Figure("fraction of zeros in a weight of A", lambda w: w.sparsity_before),
    "weight.newly_nonzero": Figure("elements of a weight that are zero in A only", lambda w: w.newly_nonzero),
    "weight.max_abs": Figure("largest difference of a weight's nonzeros", lambda w: w.max_abs),
}
_COMPACT = {
    "parameters": Figure("elements of everything stored, after", lambda r: r.totals.parameters_after),
    "parameters_ratio": Figure(
        "stored elements, after / before", lambda r: _ratio(r.totals.parameters_after, r.totals.parameters_before)
    ),
    "macs": Figure("multiply-accumulates, after", lambda r: r.totals.macs_after),
    "macs_ratio": Figure(
        "multiply-accumulates, after / before", lambda r: _ratio(r.totals.macs_after, r.totals.macs_before)
    ),
    "removed": Figure("channels removed", lambda r: r.totals.removed),
    "bytes": Figure("bytes of the files, after", lambda r: r.totals.bytes_after, COMPACTED),
    "bytes_ratio": Figure(
        "bytes of the files, after / before", lambda r: _ratio(r.totals.bytes_after, r.totals.bytes_before), COMPACTED
    ),
    "latency_ratio": Figure("time of a run, after / before", lambda r: r.latency and r.latency.ratio, LATENCY),
    "drift": Figure("what --max-drift limits, of the worst output", _of_outputs(_drift), CHECKED),
    "max_abs": Figure("largest difference of an output's value", _of_outputs(_max_abs), CHECKED),
    "warnings": Figure("warnings of the report", lambda r: len(r.warnings)),
}
FIGURES: dict[str, Mapping[str, Figure]] = {
    "prune": _PRUNE,
    "inspect": _INSPECT,
    "verify": _VERIFY,
    "compare": _COMPARE,
    "compact": _COMPACT,
}
"""What the conditions of each command may name."""


@dataclass(frozen=True)
class Condition:
    """One condition. `text`: as it was given; make one with `read_condition`."""

    text: str
    name: str
    comparison: str
    limit: float
    figure: Figure

    def outcome(self, report: Any) -> ConditionOutcome:
        """Whether the condition is met, and by which value, of a weight by which weight first."""
        if not self.name.startswith("weight."):
            value = self.figure.of(report)
            return ConditionOutcome(self.text, self._is_met(value), value, None)
        for weight in _judged(report.weights):
            value = self.figure.of(weight)
            if self._is_met(value):
                return ConditionOutcome(self.text, True, value, weight.name)
        return ConditionOutcome(self.text, False, None, None)

    def _is_met(self, value: Number) -> bool:
        return value is None or math.isnan(value) or _COMPARISONS[self.comparison](value, self.limit)


def _judged(weights: Iterable[Any]) -> Iterator[Any]:
    """What conditions on weights are about: not what was refitted beside them."""
    return (weight for weight in weights if not isinstance(weight, WeightReport) or weight.selected)


def pruning_conditions(
    texts: Iterable[str], *, verify: bool, compressed: bool, dry_run: bool, encoded: bool
) -> tuple[Condition, ...]:
    """The conditions of `prune`, for what it is asked to do; raises as `read_conditions`."""
    written = not (dry_run or encoded)
    known = {VERIFY: verify and not dry_run, OUTPUT: written, WRITTEN: written and compressed, DENSE: not encoded}
    return read_conditions(texts, "prune", [need for need, given in known.items() if not given])


def one_step_conditions(
    texts: Iterable[str], *, verify: bool, compressed: bool, latency: bool
) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """The conditions of `prune --compact`: those of the pruning, and those that name figures of the compaction only."""
    parted: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        found = _FORM.fullmatch(text[:_MOST_LETTERS])
        name = found[1] if found is not None else ""
        of_compaction = name in _COMPACT and (name not in _PRUNE or _PRUNE[name].needs == OUTPUT)
        parted[of_compaction].append(text)
    pruning = pruning_conditions(parted[0], verify=verify, compressed=compressed, dry_run=False, encoded=True)
    return pruning, compaction_conditions(parted[1], verify=True, latency=latency, dry_run=False)


def compaction_conditions(texts: Iterable[str], *, verify: bool, latency: bool, dry_run: bool) -> tuple[Condition, ...]:
    """The conditions of `compact`, for what it is asked to do; raises as `read_conditions`."""
    known = {CHECKED: verify and not dry_run, LATENCY: latency and not dry_run, COMPACTED: not dry_run}
    return read_conditions(texts, "compact", [need for need, given in known.items() if not given])


def read_conditions(texts: Iterable[str], command: str, missing: Iterable[str] = ()) -> tuple[Condition, ...]:
    """The conditions of a command. `missing`: what was not asked for, of what figures may need.

    Raises `InvalidOption` for what is no condition, a name that is not known, and a figure that will not be.
    """
    return tuple(_read(text, command, frozenset(missing)) for text in texts)


def _read(text: str, command: str, missing: frozenset[str]) -> Condition:
    from oxiprune_gpu import InvalidOption  # brings numpy, which the command starts without

    found = _FORM.fullmatch(text) if len(text) <= _MOST_LETTERS else None
    limit = _number(found[3]) if found else None
    if found is None or limit is None:
        raise InvalidOption(
            f"--fail-if {text[:_MOST_LETTERS]!r}: must be a name, one of {' '.join(_COMPARISONS)}, and a number, like "
            f"'{next(iter(FIGURES[command]))}<0.5'"
        )
    figure = FIGURES[command].get(found[1])
    if figure is None:
        raise InvalidOption(f"--fail-if {text!r}: unknown name '{found[1]}'; use {', '.join(FIGURES[command])}")
    if figure.needs in missing:
        raise InvalidOption(f"--fail-if {text!r}: '{found[1]}' is known only with {figure.needs}")
    return Condition(text.strip(), found[1], found[2], limit, figure)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def outcomes_of(conditions: Iterable[Condition], report: Any) -> tuple[ConditionOutcome, ...]:
    """What the conditions say of a report."""
    return tuple(condition.outcome(report) for condition in conditions)
