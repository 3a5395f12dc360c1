"""Families of recipes with one number, the sparsity: what is bisected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.policy import Policy, Rule
from onnx_tools.policy_file import pattern_of
from onnx_tools.search.making import Recipe
from oxiprune_gpu import InvalidOption, parse_allocation, parse_granularity

CHANNEL = "channel"

OF_ELEMENTS = ("uniform", "erk", "global", "global:lamp")
"""The allocations that are tried where none is given and elements compete."""
OF_UNITS = ("uniform", "erk")
"""For larger units, which differ from weight to weight."""
OF_CHANNELS = ("uniform", "global")


@dataclass(frozen=True)
class Line:
    """A way to deal out a sparsity. `at`: the recipe for one, 0 to 1; None for more than it can deal out."""

    text: str
    at: Callable[[float], Recipe | None]


@dataclass(frozen=True)
class Pruning:
    """How weights are pruned, but for how much; as in `Policy`, texts."""

    granularity: str
    metric: str

    @property
    def channels(self) -> bool:
        """Whether whole channels leave."""
        return self.granularity == CHANNEL

    def check(self) -> None:
        """Raise `InvalidOption` for a granularity that leaves no sparsity to be found."""
        if not self.channels and parse_granularity(self.granularity).sparsity is not None:
            raise InvalidOption(
                f"granularity {self.granularity} says how much falls of each weight: there is nothing to search; "
                "use `oxiprune prune`"
            )

    def allocations(self) -> tuple[str, ...]:
        """Those that are tried where none is given."""
        if self.channels:
            return OF_CHANNELS
        return OF_ELEMENTS if self.granularity == "unstructured" else OF_UNITS

    def line(self, allocation: str) -> Line:
        """The line of an allocation. Raises `InvalidOption` for one that there is not."""
        if not self.channels:
            parse_allocation(allocation)
            return Line(allocation, lambda sparsity: self._policy(sparsity, allocation))
        if allocation not in OF_CHANNELS:
            raise InvalidOption(f"allocation {allocation}: of channels it is {' or '.join(OF_CHANNELS)}")
        scope = "layer" if allocation == "uniform" else "global"
        return Line(allocation, lambda sparsity: ChannelConfig(sparsity, self.metric, scope=scope))

    def of_weights(self, sparsities: Mapping[str, float]) -> Policy:
        """The policy that gives each weight its own sparsity, and prunes no other."""
        rules = [Rule(pattern_of(name), sparsity=sparsity) for name, sparsity in sparsities.items()]
        return Policy(rules, None, self.metric, self.granularity)

    def _policy(self, sparsity: float, allocation: str) -> Policy:
        return Policy((), sparsity, self.metric, self.granularity, allocation=allocation)
