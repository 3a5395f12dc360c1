"""What reports must say of a method with data: weights that it could not see, or not change, and damping that grew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_tools.new_values import NewTensor
from onnx_tools.plan import PlannedWeight

_MOST_REASONS = 2


@dataclass(frozen=True)
class Outcome:
    """What came of the weights of a model.

    `tensors`: what they get, by name. `reasons`: why some get nothing, or were not repaired. `grown`: what damping came
    to where it grew.
    """

    items: Sequence[PlannedWeight]
    tensors: Mapping[str, NewTensor]
    reasons: Mapping[str, str]
    grown: Mapping[str, float]

    def notes(self, damping: float, *, refits: bool) -> tuple[str, ...]:
        """Warnings, a sentence each. `damping`: what was asked for; `refits`: whether kept elements were to change."""
        return (*self._dense(), *self._blind(), *(self._codes() if refits else ()), *self._grown(damping))

    def _dense(self) -> Iterator[str]:
        dense = [item for item in self.items if item.weight.name not in self.tensors]
        if dense:
            elements = sum(item.weight.elements for item in dense)
            yield (
                f"{_named(dense)}, {elements:,} parameters, stayed dense, as data does not show what their inputs are: "
                "what is left alone has the reasons; a metric without data prunes them too"
            )

    def _blind(self) -> Iterator[str]:
        """What masks or a metric pruned, and nothing repaired."""
        blind = [item for item in self._changed() if item.weight.name in self.reasons]
        if blind:
            why = few(self.reasons[item.weight.name] for item in blind)
            yield f"{_named(blind)}: pruned, and not repaired: {why}"

    def _codes(self) -> Iterator[str]:
        """Quantised weights, which only lose elements."""
        codes = [item for item in self._changed() if item.weight.quantisation is not None]
        if codes:
            how = self.tensors[codes[0].weight.name].metric or "what was asked for"
            yield f"{_named(codes)}: quantised, so pruned by {how}, and not repaired: kept codes stay what they are"

    def _grown(self, damping: float) -> Iterator[str]:
        grown = [item for item in self.items if item.weight.name in self.grown]
        if grown:
            yield (
                f"{_named(grown)}: the Hessian was not positive definite, so its damping grew from {damping:g} to "
                f"{max(self.grown.values()):g}; more data helps, or --damping"
            )

    def _changed(self) -> list[PlannedWeight]:
        return [item for item in self.items if item.weight.name in self.tensors]


def few(reasons: Iterable[str]) -> str:
    """The first of several reasons, each once, and how many more there are."""
    different = [*dict.fromkeys(reasons)]
    more = f"; and {len(different) - _MOST_REASONS:,} more" if len(different) > _MOST_REASONS else ""
    return "; ".join(different[:_MOST_REASONS]) + more


def _named(items: Sequence[PlannedWeight]) -> str:
    """The first, and how many more."""
    more = f" and {len(items) - 1:,} more" if len(items) > 1 else ""
    return f"'{items[0].weight.name}'{more}"
