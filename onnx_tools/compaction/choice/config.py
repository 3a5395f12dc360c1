"""How channels are chosen: how many, by which score, where they may leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx_tools.report import ChannelChoice, Configuration
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import ImportanceMetric, InvalidOption, InvalidSparsity, parse_metric

GROUP_SCORES = ("sum", "mean", "max", "saved")
"""How the scores of a group's members make its own."""

TARGETS = ("params", "macs", "bytes")
"""What a target may count."""

SCOPES = ("layer", "global")

_MOST = (1 << 31) - 1
"""Channels of a layer that may be asked for."""


@dataclass(frozen=True)
class Target:
    """What shall be left: `amount` of the parameters or MACs (a fraction, 0 to 1), or that many bytes of the files."""

    of: str
    amount: float

    def __post_init__(self) -> None:
        if self.of not in TARGETS:
            raise InvalidOption(f"target {self.of!r} must be one of {', '.join(TARGETS)}")
        if not math.isfinite(self.amount) or self.amount <= 0 or (self.of != "bytes" and self.amount > 1):
            wanted = "a number of bytes" if self.of == "bytes" else "the fraction that is left, above 0 and at most 1"
            raise InvalidOption(f"target of {self.of} {self.amount!r} must be {wanted}")

    @property
    def text(self) -> str:
        """As in reports."""
        return f"{self.of}:{int(self.amount)}" if self.of == "bytes" else f"{self.of}:{self.amount:g}"


@dataclass(frozen=True)
class ChannelConfig:
    """How many channels leave, and which.

    Args:
        sparsity: fraction of the channels that leave, 0 <= s < 1; rounded down in each layer. None: `target` says it.
        metric: scores the elements of weights: "l1", "l2", "taylor", "random:SEED", or an object.
        target: what shall be left, instead of a sparsity: as few channels leave as reach it.
        scope: "layer": every layer loses the same fraction. "global": the lowest scores of all layers leave.
        group_score: how the scores of all weights of a group, and of the scales of its normalisations, make one: their
            "sum", "mean" or "max"; or "saved", the sum of the weights' alone, divided by how many parameters they are.
            For l2 it is the root of what the squares make, for "saved" the root of their mean. None: "sum" where groups
            of one layer compete, "saved" where those of all do, which differ in size.
        min_channels: so many groups of each layer stay.
        ceiling: the largest fraction of a layer that leaves.
        round_to: what stays of a layer's output channels is a multiple of this, or all of them, whatever they are tied
            to; hardware likes 8 or 16.

    Layers whose channels are tied, as by a residual sum, count as one layer.
    """

    sparsity: float | None
    metric: ImportanceMetric
    target: Target | None
    scope: str
    group_score: str
    min_channels: int
    ceiling: float
    round_to: int

    def __init__(
        self,
        sparsity: float | None = None,
        metric: str | ImportanceMetric = "l1",
        *,
        target: Target | None = None,
        scope: str = "layer",
        group_score: str | None = None,
        min_channels: int = 1,
        ceiling: float = 1.0,
        round_to: int = 1,
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen, and its fields are narrower than what comes in
        set_field(self, "sparsity", sparsity)
        set_field(self, "metric", parse_metric(metric))
        set_field(self, "target", target)
        set_field(self, "scope", scope)
        set_field(self, "group_score", group_score or ("saved" if scope == "global" else "sum"))
        set_field(self, "min_channels", min_channels)
        set_field(self, "ceiling", ceiling)
        set_field(self, "round_to", round_to)
        self._check()

    def configuration(self, selection: Selection, gradients: bool) -> Configuration:
        """What was asked for, for reports."""
        return Configuration(
            sparsity=self.sparsity,
            metric="taylor:gradients" if gradients else self.metric.text,
            granularity="channel",
            min_nonzero=0,
            include=selection.include,
            exclude=selection.exclude,
            min_elements=0,
            depthwise=True,
            allocation="uniform" if self.scope == "layer" else "global",
            ceiling=self.ceiling,
            target="layers" if self.target is None else self.target.text,
            channels=ChannelChoice(self.group_score, self.min_channels, self.round_to),
        )

    def _check(self) -> None:
        if (self.sparsity is None) == (self.target is None):
            raise InvalidOption("channels: give a sparsity or a target, one of the two")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InvalidSparsity(self.sparsity)
        for name, value, known in (("scope", self.scope, SCOPES), ("group_score", self.group_score, GROUP_SCORES)):
            if value not in known:
                raise InvalidOption(f"{name} {value!r} must be one of {', '.join(known)}")
        for name, number in (("min_channels", self.min_channels), ("round_to", self.round_to)):
            if not 1 <= number <= _MOST:
                raise InvalidOption(f"{name} {number!r} must be a whole number from 1 to {_MOST}")
        if not 0 <= self.ceiling <= 1:
            raise InvalidOption(f"ceiling {self.ceiling!r} must be a fraction, 0 to 1")
