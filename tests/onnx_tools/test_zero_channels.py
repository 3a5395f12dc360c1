"""Channels that a model as it is can lose: whose readers are zero."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest

from onnx_tools.compaction import zero_entries
from onnx_tools.compaction.mapping.channel_map import Member
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.factors import Factor
from onnx_tools.compaction.mapping.roles import Role
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.zero_entries import nonzero_along, nonzero_entries
from onnx_tools.compaction.zeros import leaving_one, removable
from onnx_tools.errors import InvalidExternalData
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import ArrayBlocks
from tests.onnx_tools.zero_cases import Array, assert_the_same_without, case_of, values, with_zeros

CHAIN = """g (float[1, 3, 6, 6] x) => (float[1, 2, 6, 6] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    y = Conv (r, w2)
}"""
RESIDUAL = """g (float[2, 4] x) => (float[2, 3] y) {
    a = Gemm (x, w1, b1)
    t = Tanh (a)
    b = MatMul (t, w2)
    s = Add (b, t)
    y = MatMul (s, w3)
}"""


@pytest.fixture
def look(tmp_path):
    return functools.partial(case_of, tmp_path)


def chain_weights() -> dict[str, Array]:
    return {"w1": values(5, 3, 3, 3), "b1": values(5), "w2": values(2, 5, 1, 1)}


def test_channels_that_are_multiplied_by_zero_leave(look):
    case = look(CHAIN, chain_weights() | {"w2": with_zeros(values(2, 5, 1, 1), np.s_[:, [1, 4]])})
    assert case.gone("a") == case.gone("r") == [1, 4]
    assert_the_same_without(case)


def test_minus_zero_is_zero_and_nan_is_not(look):
    weight = with_zeros(values(2, 5, 1, 1), np.s_[:, [1, 2]])
    weight[:, 1] *= -1
    weight[0, 2] = np.nan
    assert look(CHAIN, chain_weights() | {"w2": weight}).gone("a") == [1]


def test_nothing_is_zero(look):
    case = look(CHAIN, chain_weights())
    assert case.found.gone.tolist() == []
    assert case.found.notes == ()


def test_of_all_channels_one_stays(look):
    case = look(CHAIN, chain_weights() | {"w2": np.zeros((2, 5, 1, 1), np.float32)})
    assert case.gone("a") == [1, 2, 3, 4]
    (note,) = case.found.notes
    assert (note.origins, len(note.groups), note.reason) == (("a",), 1, "one channel of an axis has to stay")


def test_every_reader_of_a_residual_stage_must_be_zero(look):
    columns = with_zeros(values(4, 4), np.s_[[0, 2]])
    weights = {"w1": values(4, 4), "b1": values(4), "w2": columns, "w3": values(4, 3)}
    assert look(RESIDUAL, weights).gone("s") == []
    case = look(RESIDUAL, weights | {"w3": with_zeros(values(4, 3), np.s_[[1, 2]])})
    assert case.gone("s") == case.gone("a") == case.gone("b") == [2]
    assert_the_same_without(case)


def test_grouped_columns_leave_from_every_group(look):
    text = """g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y) {
        a = Conv (x, w1, b1)
        y = Conv <group = 2> (a, w2)
    }"""
    weights = {
        "w1": values(8, 3, 1, 1),
        "b1": values(8),
        "w2": with_zeros(values(2, 4, 1, 1), np.s_[:, 1], np.s_[0, 2]),
    }
    case = look(text, weights)
    assert case.gone("a") == [1, 5]
    assert_the_same_without(case)


def test_behind_nodes_that_prepare_a_weight(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = MatMul (x, w1)
        t = Transpose (w2)
        y = MatMul (a, t)
    }"""
    case = look(text, {"w1": values(4, 6), "w2": with_zeros(values(3, 6), np.s_[:, 5])})
    assert case.gone("a") == [5]
    assert_the_same_without(case)


def test_what_nobody_reads_leaves_but_for_one(look):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = MatMul (x, w1)
        y = MatMul (x, w2)
    }"""
    assert look(text, {"w1": values(4, 6), "w2": values(4, 3)}).gone("a") == [1, 2, 3, 4, 5]


def test_products_of_two_computed_values_look(look):
    text = """g (float[2, 4] x) => (float[2, 2] y) {
        q = MatMul (x, w1)
        k = MatMul (x, w2)
        t = Transpose (k)
        y = MatMul (q, t)
    }"""
    assert look(text, {"w1": values(4, 6), "w2": values(4, 6)}).gone("q") == []


def test_a_convolution_with_a_computed_weight_looks(look):
    text = """g (float[1, 3, 1, 1] x, float[4, 2] z) => (float[1, 4, 1, 1] y) {
        a = Conv (x, w1)
        p = MatMul (z, w2)
        s = Constant <value_ints = [4, 6, 1, 1]> ()
        w = Reshape (p, s)
        y = Conv (a, w)
    }"""
    assert look(text, {"w1": values(6, 3, 1, 1), "w2": values(2, 6)}).gone("a") == []


def test_zero_channels_that_have_to_stay_are_told(look):
    text = """g (float[1, 3] x) => (float[1, 5] a, float[1, 2] y) {
        a = MatMul (x, w1)
        y = MatMul (a, w2)
    }"""
    case = look(text, {"w1": values(3, 5), "w2": with_zeros(values(5, 2), np.s_[[0, 3]])})
    (note,) = case.found.notes
    assert case.gone("a") == []
    assert (len(note.groups), note.reason) == (2, "'a' is an output of the model")


@pytest.mark.parametrize("zero_point", [0, 7])
def test_codes_of_the_zero_point_are_zero(look, zero_point):
    text = """g (float[2, 4] x) => (float[2, 3] y) {
        a = MatMul (x, w1)
        d = DequantizeLinear (w2, s, z)
        y = MatMul (a, d)
    }"""
    codes = np.arange(18).reshape(6, 3).astype(np.uint8) + 20
    codes[3] = zero_point
    codes[4] = 1
    weights = {"w1": values(4, 6), "w2": codes, "s": np.float32(0.5), "z": np.uint8(zero_point)}
    case = look(text, weights)
    value = case.channels.index.scopes[0].values["w2"]
    member = Member(value.tensor, Factor((0,), np.arange(6)), Role.READS, value.readers[0].node)
    assert (~nonzero_entries(case.model, [member])[member]).nonzero()[0].tolist() == [3]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(look, dtype):
    text = CHAIN.replace("float[", {np.float16: "float16[", np.float64: "double["}[dtype])
    weights = chain_weights() | {"w2": with_zeros(values(2, 5, 1, 1), np.s_[:, 2])}
    assert look(text, {name: array.astype(dtype) for name, array in weights.items()}).gone("a") == [2]


def test_leaving_one_keeps_the_first_of_each_axis(look):
    case = look(CHAIN, chain_weights())
    free: Ids = case.channels.groups.free
    assert leaving_one(case.channels, free).tolist() == free[1:].tolist()
    assert leaving_one(case.channels, free[2:]).tolist() == free[2:].tolist()


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 1), (3, 4, 5), (2, 3, 1, 40), (1, 1, 90)])
@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_entries_against_all_at_once(shape, block, monkeypatch):
    monkeypatch.setattr(zero_entries, "_BLOCK", block)
    array = (np.random.default_rng(1).random(shape) < 0.1).astype(np.float32)
    wanted = [axes for axes in ((0,), (1,), (2,), (3,), (0, 1), (1, 2), (0, 3)) if max(axes) < len(shape)]
    found = nonzero_along(ArrayBlocks(array), wanted)
    for axes, mask in zip(wanted, found, strict=True):
        others = tuple(axis for axis in range(len(shape)) if axis not in axes)
        assert (mask == (array != 0).any(axis=others)).all()
        assert mask.shape == tuple(shape[axis] for axis in axes)


def test_data_that_is_not_there_is_said(look):
    case = look(CHAIN, chain_weights())
    model = onnx.load(case.model.path)
    model.graph.initializer[2].ClearField("raw_data")
    model.graph.initializer[2].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[2].external_data.add(key="location", value="gone.bin")
    case.model.path.write_bytes(model.SerializeToString())
    file = ModelFile.open(case.model.path)
    with pytest.raises(InvalidExternalData, match=r"'w2': its external data 'gone.bin' cannot be found"):
        removable(file, map_channels(file.skeleton))
