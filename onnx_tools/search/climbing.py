"""From one sparsity for each weight to higher ones, a weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Kept = Mapping[str, int]
"""How many elements are kept, by the name of the weight."""

FACTORS = (0.5, 0.75, 0.9)
"""What is left of the kept elements of a weight in one step; large steps are tried first."""


def climb(
    kept: Kept,
    passes: Callable[[Kept], bool],
    *,
    least: int,
    spent: Callable[[], bool] = lambda: False,
) -> Kept:
    """Let ever more fall of single weights, as long as the whole passes.

    Coordinate descent over the kept elements: of the weights, that from which most falls loses a part of what is kept.
    If that passes it stays, and the weight may lose again; if not, the weight keeps what it has until the steps get
    smaller. Each result that is kept was asked for and passed.

    Args:
        kept: where to start; known to pass.
        passes: whether a state passes.
        least: a step in which fewer elements fall is not worth a question.
        spent: asked before each question; True ends the climb.
    """
    for factor in FACTORS:
        kept = _with_steps_of(factor, kept, passes, least, spent)
    return kept


def _with_steps_of(
    factor: float, kept: Kept, passes: Callable[[Kept], bool], least: int, spent: Callable[[], bool]
) -> Kept:
    refused: set[str] = set()
    while not spent():
        falling = {name: count - int(count * factor) for name, count in kept.items() if name not in refused}
        name = max(falling, key=falling.__getitem__, default=None)
        if name is None or falling[name] < max(least, 1):
            break
        tried = {**kept, name: kept[name] - falling[name]}
        if passes(tried):
            kept = tried
        else:
            refused.add(name)
    return kept
