"""Masks of a model by Wanda: weights times the norms of their inputs, as a calibration has seen them."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.collect import Calibration
from onnx_tools.errors import NothingSelected
from onnx_tools.mask_file import Entry, Mask, Masks
from onnx_tools.model_file import ModelFile
from onnx_tools.weight_selection import Selection, select_weights
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import Weight, find_weights
from oxiprune_gpu import NM, PruningConfig, WeightTensor, prune_wanda

_DEFAULT = Selection()


def wanda_masks(
    path: str | os.PathLike[str], calibration: Calibration, config: PruningConfig, selection: Selection = _DEFAULT
) -> Masks:
    """The masks with which `prune_file` prunes a model by |w| * ||x||, compared inside each output channel.

    Source: Sun et al., 2024, "A simple and effective pruning approach for large language models"; see `prune_wanda`.

    Args:
        path: the model that was calibrated. Each mask is computed when it is asked for, one weight in memory.
        calibration: what the inputs of its weights are.
        config: sparsity of each output channel, or N:M along the reduction axis. Its metric is ignored.
        selection: which weights; those that were not observed are left dense too.

    Raises:
        NothingSelected: no selected weight was observed.
        InvalidSparsity, InvalidOption, PatternMatchesNothing; NonFiniteWeight when a mask is asked for.
    """
    config.check()
    model = ModelFile.open(path)
    found = find_weights(model.skeleton)
    wanted = [weight for weight in select_weights(found, selection).weights if weight.name in calibration.weights]
    if not wanted:
        why = "; ".join(dict.fromkeys(calibration.unobserved.values())) or "the selection leaves all of them alone"
        raise NothingSelected(f"no selected weight was observed: {why}")
    entries = {
        weight.name: Entry(weight.shape, partial(_mask, model, weight, calibration, config)) for weight in wanted
    }
    return Masks(entries, {weight.name for weight in found.weights} - entries.keys(), "Wanda")


def _mask(model: ModelFile, weight: Weight, calibration: Calibration, config: PruningConfig) -> Mask:
    values = np.empty(weight.shape, np.float32 if weight.quantisation else weight.dtype)
    with WeightReader(model) as reader:
        source = reader.weight(weight, weight.shape)
        values.reshape(-1)[:] = source.load(0, weight.elements, np.empty(weight.elements, source.dtype))
    view = calibration.view(weight.name)
    matrices, squares = view.matrices(values), calibration.statistics(weight.name).squares
    run = view.neighbours if isinstance(config.granularity, NM) else matrices.shape[2]
    kept = np.empty(matrices.shape, np.bool_)
    for group, matrix in enumerate(matrices):
        for start in range(0, matrix.shape[1], run):
            part = slice(start, start + run)
            kept[group, :, part] = _kept(weight.name, matrix[:, part], squares[group, part], config)
    return view.stored(kept).reshape(weight.shape)


def _kept(name: str, matrix: NDArray[np.floating], squares: NDArray[np.float64], config: PruningConfig) -> Mask:
    mask: Mask = prune_wanda(WeightTensor(name, np.ascontiguousarray(matrix)), squares, config)[1]
    return mask
