"""Which of the weights that were found are pruned: patterns for names and op types, and the defaults that protect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnx_tools.errors import PatternMatchesNothing
from onnx_tools.op_table import LOOKED_UP
from onnx_tools.operators import EMBEDDING, LINEAR_MODEL, OPTIONAL
from onnx_tools.weights import FoundWeights, LeftAlone, Weight


@dataclass(frozen=True)
class Selection:
    """Which weights to prune.

    `include`, `exclude`: glob patterns (case matters) for names, or "op:Conv" for op types; no include: all. A weight
    must also have `min_elements`, and depthwise kernels need `depthwise`: pruning those ruins most models. Tables that
    entries are looked up in need `embeddings`, also where they are a weight elsewhere in the model; the coefficients of
    ONNX-ML's LinearClassifier and LinearRegressor need `linear_models`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_elements: int = 2048
    depthwise: bool = False
    embeddings: bool = False
    linear_models: bool = False

    def wants(self, kind: str) -> bool:
        """Whether weights of an optional kind are pruned; "" is none."""
        return {EMBEDDING: self.embeddings, LINEAR_MODEL: self.linear_models}.get(kind, True)


def select_weights(found: FoundWeights, selection: Selection) -> FoundWeights:
    """Move the weights that `selection` does not want to `left_alone` (in front of the others), with the reason.

    Raises PatternMatchesNothing for a pattern that matches no weight at all. `min_elements` and `depthwise` hold for
    weights included by their full name too.
    """
    check_matched((*selection.include, *selection.exclude), found.weights)
    reasons = [_deselected(weight, selection) for weight in found.weights]
    pairs = list(zip(found.weights, reasons, strict=True))
    moved = tuple(_left_alone_weight(weight, reason) for weight, reason in pairs if reason)
    return FoundWeights(tuple(weight for weight, reason in pairs if not reason), moved + found.left_alone)


def _deselected(weight: Weight, selection: Selection) -> str:
    """Why the selection leaves the weight alone; "" if it does not."""
    for pattern in selection.exclude:
        if matches(weight, pattern):
            return f"excluded by pattern '{pattern}'"
    included = next((pattern for pattern in selection.include if matches(weight, pattern)), "")
    if selection.include and not included:
        return "matches no --include pattern"
    reasons = []
    if weight.depthwise and not selection.depthwise:
        reasons.append("depthwise kernel (--depthwise prunes it)")
    if not selection.wants(weight.optional):
        reasons.append(_optional(weight))
    if weight.elements < selection.min_elements:
        reasons.append(f"fewer than {selection.min_elements:,} elements (--min-elements)")
    also = f", although --include '{included}' matches" if included and reasons else ""
    return "; ".join(reasons) + also


def _optional(weight: Weight) -> str:
    tied = [op_type for op_type in weight.op_types if op_type not in LOOKED_UP]
    what = f"{weight.optional}, tied to {tied[0]}" if weight.optional == EMBEDDING and tied else weight.optional
    return f"{what} ({OPTIONAL[weight.optional]} prunes it)"


def check_matched(patterns: Sequence[str], weights: Sequence[Weight]) -> None:
    """Raise `PatternMatchesNothing` for the first of the patterns that matches none of the weights."""
    for pattern in patterns:
        if not any(matches(weight, pattern) for weight in weights):
            raise PatternMatchesNothing(_no_match(pattern, weights))


def matches(weight: Weight, pattern: str) -> bool:
    """Whether the glob `pattern` matches the name of a weight; one like "op:Conv", the type of a node that reads it."""
    if pattern.startswith("op:"):
        return any(fnmatchcase(op_type, pattern[3:]) for op_type in weight.op_types)
    return weight.name == pattern or fnmatchcase(weight.name, pattern)


def _no_match(pattern: str, weights: Sequence[Weight]) -> str:
    import difflib

    if not weights:
        return f"pattern '{pattern}' matches no weight: the model has no weights that can be pruned"
    names = [weight.name for weight in weights]
    if pattern.startswith("op:"):
        names = [f"op:{op_type}" for weight in weights for op_type in weight.op_types]
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(pattern, names[:2000], n=5, cutoff=0.3) or names[:5]
    return f"pattern '{pattern}' matches no weight; weights are, for example: {', '.join(close)}"


def _left_alone_weight(weight: Weight, reason: str) -> LeftAlone:
    return LeftAlone(weight.name, weight.path, weight.shape, weight.dtype_name, weight.elements, reason)
