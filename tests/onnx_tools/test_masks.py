"""The masks of a model: what is not zero."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import InvalidMasks, Masks, Selection, load_masks, masks_of, prune_file, save_masks
from oxiprune_gpu import PruningConfig
from tests.command import weight_of


def stored(path, body: str, **tensors: np.ndarray):
    """Write a model given as text; return its path."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N, M] x) => (float[N, K] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("slab", [7, 1 << 20])
def test_masks_are_what_is_not_zero(external_file, monkeypatch, slab):
    monkeypatch.setattr("onnx_tools.masks._SLAB", slab)
    pruned, file = external_file.with_name("pruned.onnx"), external_file.with_name("masks.npz")
    prune_file(external_file, pruned, config=PruningConfig(0.5), selection=Selection(min_elements=0))
    masks = masks_of(pruned)
    assert list(masks) == ["weight"]
    assert masks.kept("weight") == 256
    assert np.array_equal(masks["weight"], weight_of(pruned) != 0)
    save_masks(file, masks)
    assert np.array_equal(load_masks(file)["weight"], masks["weight"])


def test_weights_that_are_not_named_are_dense(tmp_path):
    tensor = np.ones((3, 4), np.float32)
    model = stored(tmp_path / "m.onnx", "a = MatMul(x, w) y = Gemm <transB = 1> (a, v)", w=tensor, v=tensor)
    file = tmp_path / "masks.npz"
    save_masks(file, masks_of(model, ["v"]))
    assert (list(Masks.of(file)), Masks.of(file).dense) == (["v"], {"w"})
    with pytest.raises(InvalidMasks, match="no weight is named 'u'"):
        masks_of(model, ["u"])


def test_the_zero_of_a_quantised_weight_is_its_zero_point(tmp_path):
    codes = np.array([[128, 0, 3], [127, 128, 255]], np.uint8)
    body = "d = DequantizeLinear(w, s, z) y = MatMul(x, d)"
    model = stored(tmp_path / "m.onnx", body, w=codes, s=np.array(0.1, np.float32), z=np.array(128, np.uint8))
    assert masks_of(model)["w"].tolist() == [[False, True, True], [True, False, True]]
