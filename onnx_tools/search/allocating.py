"""One sparsity for a whole model, dealt out by measured curves: the allocation "sensitivity"."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_tools.errors import InvalidPolicy
from onnx_tools.policy import Policy, Rule
from onnx_tools.policy_file import pattern_of
from onnx_tools.search.knapsack import Option, cheapest
from onnx_tools.search.sensitivity import point_of, rule_of
from onnx_tools.sensitivity_report import CurvePoint, SensitivityReport, WeightCurve
from oxiprune_gpu import InvalidOption, InvalidSparsity

CURVES = "sensitivity:"
"""How an allocation by curves is named: the file of the report follows."""

_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Curves:
    """Measured curves of the weights of a model, and how the weights were pruned for them."""

    curves: tuple[WeightCurve, ...]
    granularity: str
    metric: str

    @classmethod
    def of(cls, report: SensitivityReport) -> Curves:
        """Those of a report."""
        return cls(report.curves, report.settings.granularity, report.settings.metric)


def sensitivity_policy(curves: Curves, sparsity: float) -> Policy:
    """The policy, with a rule for each weight, that reaches a sparsity at the lowest predicted loss of quality.

    The prediction is the sum of the measured drops of all weights, as if they did not influence each other. Each weight
    gets one of the sparsities that were measured, or stays dense, at no loss. Among all such choices whose weights
    together lose `sparsity` of their elements or more, none has a lower sum: see `knapsack.cheapest`. Each weight
    counts with the sparsity asked for, so that the whole has it to the rounding of each weight; with N:M, with its
    zeros. Points whose quality is not finite are not chosen.

    Raises:
        InvalidSparsity: not 0 <= sparsity < 1. InvalidOption: more than the measured sparsities can reach.
    """
    if not 0 <= sparsity < 1:
        raise InvalidSparsity(f"sparsity {sparsity} must be in [0.0, 1.0)")
    choices = [_choices(curve) for curve in curves.curves]
    groups = [[_option(curve, point) for point in points] for curve, points in zip(curves.curves, choices, strict=True)]
    parameters = sum(curve.parameters for curve in curves.curves)
    need = math.ceil(sparsity * parameters * (1 - 1e-12))
    most = sum(max(option.covered for option in group) for group in groups)
    if need > most:
        raise InvalidOption(
            f"sparsity {sparsity:g} is more than was measured: with the highest sparsity of each weight whose quality "
            f"is finite, {most / max(parameters, 1):.4g} is reached; measure higher ones"
        )
    chosen = [points[index] for points, index in zip(choices, cheapest(groups, need), strict=True)]
    pairs = zip(curves.curves, chosen, strict=True)
    return Policy([_rule(curves, curve, point) for curve, point in pairs], None, curves.metric)


def predicted_drop(curves: Curves, policy: Policy) -> float:
    """The sum of the measured drops of what a policy of `sensitivity_policy` chose."""
    rules = {rule.match[0]: rule for rule in policy.rules}
    return math.fsum(
        point.drop
        for curve in curves.curves
        for point in curve.points
        if rules[pattern_of(curve.name)].prune and rules[pattern_of(curve.name)].sparsity == point.sparsity
    )


def read_curves(path: str | os.PathLike[str]) -> Curves:
    """Read the curves of a report in JSON. Raises `InvalidPolicy`, which names the file, if there are none."""
    where = os.fspath(path)
    try:
        with pathlib.Path(path).open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        content = json.loads(text) if len(text) <= _MOST_BYTES else None
        return _curves(content)
    except OSError as error:
        raise InvalidPolicy(f"{where}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError):
        raise InvalidPolicy(f"{where}: is no report of `oxiprune sensitivity` in JSON") from None


def policy_by_curves(allocation: str, settings: Mapping[str, Any]) -> Policy:
    """The policy for an allocation like "sensitivity:curves.json" and other settings, which may be `sparsity` only.

    Raises `InvalidOption` for other settings, which the curves have, and as `read_curves` and `sensitivity_policy`.
    """
    others = [name for name in settings if name not in ("sparsity", "allocation")]
    if others:
        raise InvalidOption(f"allocation {allocation}: leave out {others[0]}, which the curves have")
    if settings.get("sparsity") is None:
        raise InvalidOption(f"allocation {allocation} deals out a sparsity: give one")
    return sensitivity_policy(read_curves(allocation.removeprefix(CURVES)), settings["sparsity"])


def _curves(content: Any) -> Curves:
    settings = content["settings"]
    if content["command"] != "sensitivity":
        raise ValueError(content["command"])
    return Curves(tuple(map(_curve, content["curves"])), str(settings["granularity"]), str(settings["metric"]))


def _curve(plain: Mapping[str, Any]) -> WeightCurve:
    points = [point_of(point) for point in plain["points"]]
    parameters, zeros = int(plain["parameters"]), int(plain["zeros"])
    if None in points or not 0 < parameters < 1 << 62 or not 0 <= zeros <= parameters:
        raise ValueError(plain["name"])
    found = tuple(point for point in points if point is not None and 0 <= point.zeros <= parameters)
    return WeightCurve(str(plain["name"]), (), parameters, zeros, found)


def _choices(curve: WeightCurve) -> Sequence[CurvePoint | None]:
    return [None, *(point for point in curve.points if math.isfinite(point.drop))]


def _option(curve: WeightCurve, point: CurvePoint | None) -> Option:
    if point is None:
        return Option(curve.zeros, 0.0)
    asked = 0 if point.sparsity is None else math.ceil(point.sparsity * curve.parameters)
    return Option(max(point.zeros, min(asked, curve.parameters)), point.drop)


def _rule(curves: Curves, curve: WeightCurve, point: CurvePoint | None) -> Rule:
    if point is None:
        return Rule((pattern_of(curve.name),), prune=False)
    return rule_of(curve.name, point.sparsity, curves.granularity)
