"""Is a model pruned as masks say: what they prune is zero, what they keep is unchanged?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from onnx_tools.mask_file import Mask, Masks
from onnx_tools.model_file import ModelFile
from onnx_tools.report import Check
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path as TensorPath
from oxiprune_gpu import BlockSource

_MOST_SHOWN = 3
_SLAB = 1 << 20


def check_masks(before: Path, after: Path, masks: Masks, refitted: Collection[TensorPath] = ()) -> Check:
    """Compare two models by the masks of their weights, which are matched by name; one weight is read at a time.

    Fails for a pruned element that is not zero, a kept one with other bits, unless it is of a tensor at the paths
    `refitted`, and a mask that does not fit. Masks of weights that the model does not have are a warning: a weight that
    is gone has nothing to prune.
    """
    old, new = ModelFile.open(before), ModelFile.open(after)
    weights = [weight for name, weight in find_weights(old.skeleton).maskable().items() if name in masks]
    others = find_weights(new.skeleton).maskable()
    with WeightReader(old) as old_values, WeightReader(new) as new_values:
        wrong = []
        for weight in weights:
            other = others.get(weight.name)
            why = _misfit(weight, other, masks)
            if not why and other is not None:
                sources = (old_values.weight(weight, weight.shape), new_values.weight(other, other.shape))
                why = _differences(*sources, masks[weight.name], refitted=weight.path in refitted)
            wrong += [f"weight '{weight.name}': {why}"] if why else []
    return _verdict(weights, wrong, masks, sum(weight.path in refitted for weight in weights))


def _verdict(weights: list[Weight], wrong: list[str], masks: Masks, refitted: int) -> Check:
    if wrong:
        more = [f"{len(wrong) - _MOST_SHOWN} more"] if len(wrong) > _MOST_SHOWN else []
        return Check("masks", "failed", "; ".join([*wrong[:_MOST_SHOWN], *more]))
    pruned = sum(weight.elements - masks.kept(weight.name) for weight in weights)
    but = f", but for those of {refitted:,} that were refitted" if refitted else ""
    text = f"{len(weights):,} masked: {pruned:,} pruned elements are zero, kept ones are unchanged{but}"
    unused = masks.keys() - {weight.name for weight in weights}
    if unused:
        some = ", ".join(f"'{name}'" for name in sorted(unused)[:_MOST_SHOWN])
        return Check("masks", "warning", f"{text}; masks without a weight in the model: {len(unused):,}, as {some}")
    return Check("masks", "passed", text)


def _misfit(weight: Weight, other: Weight | None, masks: Masks) -> str:
    """Why a weight can't be compared; "" if it can."""
    shape = list(masks.shape_of(weight.name))
    if list(weight.shape) != shape:
        return f"its shape is {list(weight.shape)}, that of its mask {shape}"
    if other is None:
        return "the second model does not have it"
    if (other.shape, other.dtype) != (weight.shape, weight.dtype):
        return f"it became {other.dtype} {list(other.shape)}"
    return ""


def _differences(before: BlockSource, after: BlockSource, mask: Mask, *, refitted: bool) -> str:
    """What is not as the mask says, in words. `refitted`: kept elements may have changed."""
    counts = [np.array(pair) for pair in _wrong(before, after, mask.reshape(-1))]
    stay, changed = np.sum(counts, axis=0).tolist() if counts else (0, 0)
    told = [f"{stay:,} pruned elements are not zero"] if stay else []
    told += [f"{changed:,} kept elements changed"] if changed and not refitted else []
    return " and ".join(told)


def _wrong(before: BlockSource, after: BlockSource, kept: Mask) -> Iterator[tuple[int, int]]:
    """Block by block: pruned elements that are not zero, kept ones that have other bits."""
    first, second = (np.empty(min(len(kept), _SLAB), source.dtype) for source in (before, after))
    bits = np.dtype(f"u{first.dtype.itemsize}")
    for start in range(0, len(kept), _SLAB):
        stop = min(start + _SLAB, len(kept))
        mask = kept[start:stop]
        old, new = before.load(start, stop, first), after.load(start, stop, second)
        changed = old.view(bits) != new.view(bits)
        yield int(np.count_nonzero((new != 0) & ~mask)), int(np.count_nonzero(changed & mask))
