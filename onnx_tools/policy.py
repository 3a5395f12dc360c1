"""Which weight is pruned how: rules, of which the first that matches a weight decides, and what holds without one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from onnx_tools.errors import InvalidPolicy
from onnx_tools.weight_selection import check_matched, matches
from onnx_tools.weights import Weight
from oxiprune_gpu import (
    Allocation,
    ImportanceMetric,
    PruningConfig,
    PruningError,
    PruningGranularity,
    parse_allocation,
    parse_granularity,
    parse_metric,
)

TARGETS = ("weights", "model")
"""What a sparsity is a fraction of: the selected weights, or all weights of the model."""


@dataclass(frozen=True)
class Rule:
    """What is done with the weights that match.

    `match`: glob patterns for names, or "op:Conv" for op types, as in `Selection`. `prune` False leaves them alone.
    What is None, the policy says. A weight whose rule gives a sparsity (or N:M) keeps it, whatever the allocation.
    """

    match: tuple[str, ...]
    prune: bool
    sparsity: float | None
    metric: ImportanceMetric | None
    granularity: PruningGranularity | None
    min_nonzero: int | None

    def __init__(
        self,
        match: str | Iterable[str],
        prune: bool = True,
        sparsity: float | None = None,
        metric: str | ImportanceMetric | None = None,
        granularity: str | PruningGranularity | None = None,
        min_nonzero: int | None = None,
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen, and its fields are narrower than what comes in
        set_field(self, "match", _patterns(match))
        set_field(self, "prune", prune)
        set_field(self, "sparsity", sparsity)
        set_field(self, "metric", None if metric is None else parse_metric(metric))
        set_field(self, "granularity", None if granularity is None else parse_granularity(granularity))
        set_field(self, "min_nonzero", min_nonzero)

    @property
    def label(self) -> str:
        """What reports call it."""
        return ", ".join(self.match)


@dataclass(frozen=True)
class Policy:
    """How the weights of a model are pruned.

    Args:
        rules: the first that matches a weight decides.
        sparsity: of the weights whose rule says none; None leaves weights alone that match no rule.
        metric, granularity, min_nonzero: where the rule says nothing; as in `PruningConfig`, texts too.
        allocation: how `sparsity` is dealt out among the weights whose rule gives them none: "uniform" (each the same),
            "erk", "global", "global:rms", "global:lamp"; see `oxiprune_gpu.allocate`.
        floor, ceiling: lowest and highest sparsity that the allocation may give a weight.
        target: what `sparsity` is a fraction of: the selected "weights", or all weights of the "model", so that those
            left alone are made up for. Weights with a sparsity of their own count towards it, unless the allocation is
            uniform and the target "weights": then `sparsity` is simply that of each weight.
    """

    rules: tuple[Rule, ...]
    sparsity: float | None
    metric: ImportanceMetric
    granularity: PruningGranularity
    min_nonzero: int
    allocation: Allocation
    floor: float
    ceiling: float
    target: str

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        sparsity: float | None = None,
        metric: str | ImportanceMetric = "l1",
        granularity: str | PruningGranularity = "unstructured",
        min_nonzero: int = 1,
        *,
        allocation: str | Allocation = "uniform",
        floor: float = 0.0,
        ceiling: float = 1.0,
        target: str = "weights",
    ) -> None:
        set_field = object.__setattr__  # as in `Rule`
        set_field(self, "rules", tuple(rules))
        set_field(self, "sparsity", sparsity)
        set_field(self, "metric", parse_metric(metric))
        set_field(self, "granularity", parse_granularity(granularity))
        set_field(self, "min_nonzero", min_nonzero)
        set_field(self, "allocation", parse_allocation(allocation))
        set_field(self, "floor", floor)
        set_field(self, "ceiling", ceiling)
        set_field(self, "target", target)
        _check_dealing(self)

    @classmethod
    def of(cls, config: PruningConfig | Policy) -> Policy:
        """The policy that prunes every weight by `config`."""
        if isinstance(config, Policy):
            return config
        sparsity = None if config.granularity.sparsity is not None else config.sparsity
        return cls((), sparsity, config.metric, config.granularity, config.min_nonzero)

    @property
    def deals(self) -> bool:
        """Whether how much falls of each weight follows from all of them."""
        bounded = (self.floor, self.ceiling) != (0, 1)
        return self.allocation.text != "uniform" or self.target == "model" or bounded

    def check(self) -> None:
        """Raise `InvalidSparsity`, `InvalidOption` or `InvalidPolicy` for what no weight needs to be read for."""
        for rule in (None, *self.rules):
            self.settings(rule)

    def check_patterns(self, weights: Iterable[Weight]) -> None:
        """Raise `PatternMatchesNothing` for a pattern that matches none of the `weights`."""
        check_matched([pattern for rule in self.rules for pattern in rule.match], tuple(weights))

    def rule_for(self, weight: Weight) -> Rule | None:
        """The rule that decides about a weight."""
        return next((rule for rule in self.rules if any(matches(weight, pattern) for pattern in rule.match)), None)

    def shadowed(self, weights: Collection[Weight]) -> tuple[Rule, ...]:
        """The rules that decide about none of the `weights`: an earlier one does about all that they match."""
        deciding = {id(self.rule_for(weight)) for weight in weights}
        return tuple(rule for rule in self.rules if id(rule) not in deciding)

    def settings(self, rule: Rule | None) -> PruningConfig | None:
        """How weights of this rule are pruned; None where no sparsity is given. Its sparsity is as asked for."""
        given = rule or Rule(("*",))
        granularity = given.granularity or self.granularity
        sparsity = self.sparsity if given.sparsity is None and not self.fixes(rule) else given.sparsity
        if sparsity is None and granularity.sparsity is None:
            return None
        min_nonzero = self.min_nonzero if given.min_nonzero is None else given.min_nonzero
        try:
            config = PruningConfig(sparsity, given.metric or self.metric, granularity, min_nonzero)
            config.check()
        except PruningError as error:
            if rule is None:
                raise
            raise InvalidPolicy(f"rule '{rule.label}': {error}") from None
        return config

    def fixes(self, rule: Rule | None) -> bool:
        """Whether a weight of this rule has a sparsity of its own: the rule says one, or N:M."""
        if rule is None:
            return False
        return rule.sparsity is not None or (rule.granularity is not None and rule.granularity.sparsity is not None)


def _check_dealing(policy: Policy) -> None:
    if policy.target not in TARGETS:
        raise InvalidPolicy(f"target {policy.target!r} must be one of {', '.join(TARGETS)}")
    for name in ("floor", "ceiling"):
        bound = getattr(policy, name)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound <= 1:
            raise InvalidPolicy(f"{name} {bound!r} must be a sparsity, 0 to 1")
    if policy.floor > policy.ceiling:
        raise InvalidPolicy(f"floor {policy.floor:g} is above ceiling {policy.ceiling:g}")
    if policy.deals and policy.sparsity is None:
        raise InvalidPolicy("allocation, floor, ceiling and target say how a sparsity is dealt out: give one")
    if policy.deals and policy.granularity.sparsity is not None:
        raise InvalidPolicy(
            f"granularity {policy.granularity.text} says how much falls of each weight: leave out the allocation"
        )


def _patterns(match: object) -> tuple[str, ...]:
    patterns = (match,) if isinstance(match, str) else tuple(match) if isinstance(match, Iterable) else ()
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise InvalidPolicy(f"match {match!r} of a rule must be patterns, as in 'head.*' or 'op:Conv'")
    return patterns
