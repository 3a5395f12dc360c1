"""Pruning a model by masks that another one gave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from onnx_tools.mask_file import Masks
from onnx_tools.report import PruneReport
from onnx_tools.rewrite import prune_file


def apply_masks(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    masks: Mapping[str, Any] | str | os.PathLike[str],
    **options: Any,
) -> PruneReport:
    """Prune an ONNX file by masks: what a mask does not keep becomes zero, in quantised weights the zero point.

    Masks are matched by the name and the shape of their weight, and read one at a time. Every weight with a mask is
    pruned, whatever its size and kind, unless the patterns of a `selection` leave it out. A weight without one must be
    left dense by the masks, or left alone by the selection. Masks of weights that the model does not have are a
    warning in the report.

    Args:
        path: the model; external data is found beside it.
        output: the new file; None replaces the model itself.
        masks: a file that `save_masks` or `oxiprune prune --save-masks` wrote, or arrays of bool by name of weight.
        options: as of `prune_file`, but `config` and `gradients`.

    Raises:
        InvalidMasks: the file can't be read, a mask is missing, one does not fit the shape of its weight, or weights
            that lie on the same bytes have different masks.
        InvalidOption: gradients.
        NothingSelected: no weight has a mask.
        PruningError: as `prune_file`.
    """
    return prune_file(path, output, config=Masks.of(masks), **options)
