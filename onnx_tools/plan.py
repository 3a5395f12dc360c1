"""From a model and a policy to what is done with each weight, before anything is read or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.errors import NothingSelected
from onnx_tools.policy import Policy, Rule
from onnx_tools.unit_views import SeenWeight, seen
from onnx_tools.weight_selection import Selection, select_weights
from onnx_tools.weights import LeftAlone, Weight, find_weights
from onnx_tools.wire import Path
from oxiprune_gpu import (
    NM,
    ImportanceMetric,
    InvalidOption,
    PruningConfig,
    PruningGranularity,
    ShapeMismatch,
    Taylor,
)

Gradients = Mapping[str, NDArray[Any]]
"""The gradient of the loss for each weight, by its name."""


@dataclass(frozen=True)
class PlannedWeight:
    """A weight, the shape its elements are seen in, and the configuration that prunes it in this shape.

    `rule`: the rule of the policy that decides about it. `granularity`: as the policy gives it. `fixed`: its sparsity
    is its own, whatever the others have. `count`: how many units fall, where that follows from all weights.
    """

    weight: Weight
    shape: tuple[int, ...]
    config: PruningConfig
    granularity: PruningGranularity
    rule: Rule | None = None
    fixed: bool = True
    count: int | None = None

    @property
    def metric(self) -> str:
        """What chooses the elements that fall, as reports name it."""
        return self.config.metric.text

    @property
    def dense_remainder(self) -> int:
        """Elements at the end of the lines of an N:M weight that fill no group and are kept."""
        groups = self.config.granularity
        if not isinstance(groups, NM) or groups.pad:
            return 0
        length = self.shape[groups.axis]
        return self.weight.elements // length * (length % groups.of)

    @property
    def padding_prunes(self) -> bool:
        """Whether the dense remainder would lose elements if zeros followed it."""
        groups = self.config.granularity
        return isinstance(groups, NM) and self.dense_remainder > 0 and self.shape[groups.axis] % groups.of > groups.keep


@dataclass(frozen=True)
class Plan:
    """What is pruned, and what is left alone. `model_elements`: of all weights, those that are left alone too.

    `shadowed`: rules of the policy that decide about no weight.
    """

    planned: tuple[PlannedWeight, ...]
    left_alone: tuple[LeftAlone, ...]
    model_elements: int
    shadowed: tuple[Rule, ...] = ()

    @property
    def elements(self) -> int:
        """Elements of all planned weights."""
        return sum(item.weight.elements for item in self.planned)

    @property
    def bytes(self) -> int:
        """Bytes of the values of all planned weights."""
        return sum(item.weight.bytes for item in self.planned)

    def without(self, reasons: Mapping[Path, str], aliases: Collection[Path] = ()) -> Plan:
        """The plan without the weights at these paths, each left alone for its reason.

        `aliases`: those of them that lie on the bytes of a weight that stays, whose elements are counted with it.

        Raises NothingSelected if no weight is left.
        """
        moved = [
            _left_alone(item.weight, reasons[item.weight.path]) for item in self.planned if item.weight.path in reasons
        ]
        kept = tuple(item for item in self.planned if item.weight.path not in reasons)
        left_alone = (*moved, *self.left_alone)
        if not kept:
            raise NothingSelected(_why_nothing(left_alone))
        twice = sum(item.weight.elements for item in self.planned if item.weight.path in aliases)
        return Plan(kept, left_alone, self.model_elements - twice, self.shadowed)


def make_plan(
    model: onnx.ModelProto,
    config: PruningConfig | Policy,
    selection: Selection,
    gradients: Gradients | None = None,
) -> Plan:
    """Decide what happens to each tensor of `model`.

    Units are those of `onnx_tools.unit_views`. With `gradients` the metric is Taylor's |w * g|, instead of the one in
    `config`; a metric that a rule gives stays.

    Raises:
        NothingSelected: no weight is left to prune; says why.
        TiedAxes: nodes that share a weight sum over different axes, and N:M is wanted.
        PatternMatchesNothing, InvalidSparsity, InvalidOption, InvalidPolicy, ShapeMismatch.
    """
    policy = Policy.of(config)
    policy.check()
    found = find_weights(model)
    policy.check_patterns(found.weights)
    selected = select_weights(found, selection)
    planned = [_planned(weight, policy, gradients) for weight in selected.weights]
    moved = tuple(item for item in planned if isinstance(item, LeftAlone))
    kept = tuple(item for item in planned if isinstance(item, PlannedWeight))
    left_alone = (*moved, *selected.left_alone)
    if not kept:
        raise NothingSelected(_why_nothing(left_alone))
    total = sum(weight.elements for weight in found.weights)
    return Plan(kept, left_alone, total, policy.shadowed(found.weights))


def _left_alone(weight: Weight, reason: str) -> LeftAlone:
    return LeftAlone(weight.name, weight.path, weight.shape, weight.dtype_name, weight.elements, reason)


def _planned(weight: Weight, policy: Policy, gradients: Gradients | None) -> PlannedWeight | LeftAlone:
    rule = policy.rule_for(weight)
    config = policy.settings(rule)
    if rule is not None and not rule.prune:
        return _left_alone(weight, f"the policy's rule '{rule.label}' leaves it alone")
    if config is None and rule is not None:
        return _left_alone(weight, f"the policy's rule '{rule.label}' gives no sparsity, nor does the policy")
    if config is None:
        return _left_alone(weight, "matches no rule of the policy, and no other sparsity is given")
    view = seen(weight, config.granularity)
    if isinstance(view, str):
        return _left_alone(weight, view)
    _check_min_nonzero(weight, config, view)
    has_own_metric = gradients is None or (rule is not None and rule.metric is not None)
    metric = config.metric if has_own_metric else _gradient_metric(weight, view, gradients or {})
    return PlannedWeight(
        weight,
        view.shape,
        PruningConfig(config.sparsity, metric, view.granularity, config.min_nonzero),
        config.granularity,
        rule,
        policy.fixes(rule),
    )


def _check_min_nonzero(weight: Weight, config: PruningConfig, view: SeenWeight) -> None:
    groups = view.granularity.group_view(view.shape)
    kept = weight.elements - (groups.pruned if groups else 0)
    if config.min_nonzero > kept:
        what = f"keeps {kept} elements in {config.granularity.text}" if groups else f"has {kept} elements"
        raise InvalidOption(
            f"weight '{weight.name}' {what}, fewer than the {config.min_nonzero} of --min-nonzero: lower that, or "
            "leave the weight out with --exclude or --min-elements"
        )


def _gradient_metric(weight: Weight, view: SeenWeight, gradients: Gradients) -> ImportanceMetric:
    if weight.name not in gradients:
        raise InvalidOption(
            f"no gradient for weight '{weight.name}': add it under this name, or leave the weight out with --exclude"
        )
    gradient = np.asarray(gradients[weight.name])
    if gradient.shape != weight.shape:
        raise ShapeMismatch(
            f"gradient of weight '{weight.name}' has shape {list(gradient.shape)}, the weight {list(weight.shape)}: "
            "they must be equal"
        )
    return Taylor(gradient.reshape(view.shape))


def _why_nothing(left_alone: tuple[LeftAlone, ...]) -> str:
    """The reasons, those that cost most elements first."""
    elements: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for item in left_alone:
        elements[item.reason] += item.elements
        tensors[item.reason] += 1
    if not tensors:
        return "no weight was selected, nothing was written: the model stores no tensors"
    listed = "; ".join(f"{tensors[reason]} x {reason}" for reason, _ in elements.most_common(4))
    rest = len(tensors) - 4
    more = f"; and {rest} more reason{'s' if rest > 1 else ''}" if rest > 0 else ""
    return (
        f"no weight was selected, nothing was written. Left alone: {listed}{more}. `oxiprune inspect` shows the weights"
    )
