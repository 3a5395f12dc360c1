"""How much of each weight falls where that follows from all of them: an allocation, or a target for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx_tools.errors import InvalidPolicy
from onnx_tools.plan import Plan, PlannedWeight
from onnx_tools.policy import Policy
from oxiprune_gpu import BlockSource, PruningConfig, allocate

Read = Callable[[PlannedWeight], BlockSource]
"""Gives the values of a weight in the shape it is planned in, for reading."""


def dealt(plan: Plan, policy: Policy, read: Read) -> Plan:
    """Say how many units of each weight fall, so that together they reach the policy's sparsity.

    Weights whose sparsity a rule or N:M fixes keep it. They count towards the target: the others make up for the rest,
    to the rounding of each weight.

    Raises:
        InvalidPolicy: no weight is left to decide about, or the others can't make up for the rest.
        InvalidOption: floor and ceiling leave no way to reach the sparsity, or the weights can't be compared.
        NonFiniteWeight, NonFiniteScore: nothing was written.
    """
    if not policy.deals or policy.sparsity is None:
        return plan
    free = [item for item in plan.planned if not item.fixed]
    if not free:
        raise InvalidPolicy(
            f"allocation {policy.allocation.text} of sparsity {policy.sparsity:g} has nothing to decide: every "
            "selected weight has a sparsity of its own"
        )
    sparsity = _needed(plan, free, policy)
    counts = allocate(
        [read(item) for item in free],
        [_with_sparsity(item.config, sparsity) for item in free],
        policy.allocation,
        floor=policy.floor,
        ceiling=policy.ceiling,
        names=[item.weight.name for item in free],
        dims=[item.weight.shape for item in free],
    )
    by_path = {item.weight.path: count for item, count in zip(free, counts, strict=True)}
    return replace(plan, planned=tuple(replace(item, count=by_path.get(item.weight.path)) for item in plan.planned))


def _needed(plan: Plan, free: Sequence[PlannedWeight], policy: Policy) -> float:
    """The sparsity of the `free` weights with which the target is reached."""
    assert policy.sparsity is not None
    whole = plan.model_elements if policy.target == "model" else plan.elements
    fixed = [item for item in plan.planned if item.fixed]
    if not fixed and whole == plan.elements:
        return policy.sparsity
    elements = sum(item.weight.elements for item in free)
    fallen = sum((item.weight.elements - item.dense_remainder) * item.config.sparsity for item in fixed)
    needed = (policy.sparsity * whole - fallen) / elements
    if not 0 <= needed < 1:
        possible = f"{fallen / whole:.4g} to {(fallen + elements) / whole:.4g}"
        raise InvalidPolicy(
            f"sparsity {policy.sparsity:g} of {whole:,} elements can't be reached: {fallen:,.0f} fall by rules, and "
            f"the weights without one have {elements:,}; ask for {possible}"
        )
    return needed


def _with_sparsity(config: PruningConfig, sparsity: float) -> PruningConfig:
    return PruningConfig(sparsity, config.metric, config.granularity, config.min_nonzero)
