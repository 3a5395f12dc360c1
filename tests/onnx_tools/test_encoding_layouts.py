"""Each layout gives back the bits that went in, in numpy and in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_tools.encodings.choice import candidates, choose
from onnx_tools.encodings.layouts import LAYOUTS, Chain, Kept, Layout, Scattered, pairs
from onnx_tools.errors import InvalidTensor

DATA_TYPES = {1: TensorProto.UINT8, 2: TensorProto.FLOAT16, 4: TensorProto.FLOAT, 8: TensorProto.DOUBLE}

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def sample(elements: int, density: float, dtype: str, fill: int = 0) -> np.ndarray:
    random = np.random.default_rng(elements)
    bits = random.integers(0, 250, elements).astype(dtype)
    bits[random.random(elements) >= density] = fill
    return bits


def decoded(layout: Layout, bits: np.ndarray, fill: int = 0) -> np.ndarray | None:
    """What the layout gives back; None if it can't hold the weight."""
    kept = Kept.of(bits, fill)
    size = layout.payload(kept)
    if size is None:
        return None
    pieces = layout.pack(kept)
    assert sum(piece.nbytes for piece in pieces.values()) == size
    return np.concatenate([*layout.unpack(pieces, (bits.size,), fill, bits.dtype).blocks()])


def run_nodes(layout: Layout, bits: np.ndarray, fill: int, dims: tuple[int, ...] | None = None) -> np.ndarray:
    """What onnxruntime makes of the layout's nodes, as bits."""
    ort = pytest.importorskip("onnxruntime")
    data_type = DATA_TYPES[bits.itemsize]
    chain = Chain("w", data_type, np.array(fill, bits.dtype).tobytes())
    pieces = layout.pack(Kept.of(bits, fill, dims))
    names = {role: chain.name() for role in pieces}
    output = layout.rebuild(chain, names, (bits.size,) if dims is None else dims)
    values_of = helper.tensor_dtype_to_np_dtype(data_type)
    stored = [
        numpy_helper.from_array(piece.view(values_of) if role == "values" else piece, names[role])
        for role, piece in pieces.items()
    ]
    info = helper.make_tensor_value_info(output, data_type, [bits.size] if dims is None else [None] * 3)
    graph = helper.make_graph(chain.nodes, "g", [], [info], [*stored, *chain.constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0].reshape(-1).view(bits.dtype)


@layouts
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("elements", [1, 2, 3, 7, 8, 13, 4096, 70_001])
def test_unpack_gives_the_same_bits(layout, dtype, density, elements):
    bits = sample(elements, density, dtype)
    found = decoded(layout, bits)
    assert found is None or np.array_equal(found, bits)


@given(data=st.data(), fill=st.sampled_from([0, 128]))
def test_any_weight_comes_back(data, fill):
    """Runs of fill around the widest gap of each code, and values of all bits."""
    runs = data.draw(st.lists(st.sampled_from([0, 1, 2, 14, 15, 16, 29, 30, 31, 254, 255, 256, 511]), max_size=12))
    values = data.draw(st.lists(st.integers(0, 255), min_size=len(runs), max_size=len(runs)))
    parts = [np.array([fill] * run + [value], np.uint8) for run, value in zip(runs, values, strict=True)]
    bits = np.concatenate([*parts, np.full(data.draw(st.integers(1, 40)), fill, np.uint8)])
    for layout in LAYOUTS.values():
        found = decoded(layout, bits, fill)
        assert found is None or np.array_equal(found, bits), layout.name


@layouts
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize(("elements", "density"), [(8, 0.5), (4001, 0.2), (4000, 0.003)])
def test_onnxruntime_gives_the_same_bits(layout, dtype, elements, density):
    bits = sample(elements, density, dtype, fill=3 if dtype == "u1" else 0)
    fill = 3 if dtype == "u1" else 0
    if layout.name == "blank":
        bits[:] = fill
    if layout.payload(Kept.of(bits, fill)) is not None:
        assert np.array_equal(run_nodes(layout, bits, fill), bits)


@pytest.mark.parametrize(
    ("density", "size", "load"), [(0.5, "bits", "gaps8"), (0.2, "gaps4", "gaps8"), (0.02, "gaps8", "gaps8")]
)
def test_the_layout_that_is_preferred(density, size, load):
    kept = Kept.of(sample(100_000, density, "u4"), 0)
    layouts = candidates(TensorProto.FLOAT, 13, external=False)
    assert choose(kept, layouts, "size", 400_000).name == size
    assert choose(kept, layouts, "load", 400_000).name == load


def test_no_layout_pays_for_a_dense_weight():
    kept = Kept.of(sample(1000, 1.0, "u4"), 0)
    assert choose(kept, list(LAYOUTS.values()), "size", 3999) is None


def test_a_weight_is_made_dense_in_blocks():
    bits = sample((2 << 20) + 17, 0.05, "u1")
    stored = Scattered(np.flatnonzero(bits), bits[bits != 0], bits.size, 0)
    blocks = [*stored.blocks()]
    assert len(blocks) == 3
    assert np.array_equal(np.concatenate(blocks), bits)


@pytest.mark.parametrize("places", [[0, 4], [-1, 2], [2, 1], [1]])
def test_places_ascend_within_the_weight(places):
    with pytest.raises(InvalidTensor, match="places outside a weight of 4 elements"):
        Scattered(np.array(places), np.zeros(2, np.uint8), 4, 0)


def test_opsets():
    assert candidates(TensorProto.FLOAT, 8, external=False) == []
    names = [layout.name for layout in candidates(TensorProto.BFLOAT16, 13, external=False)]
    assert names == ["bits"]


@pytest.mark.parametrize("name", ["bits", "gaps4", "gaps8", "gaps16"])
def test_pieces_that_do_not_fit_are_refused(name):
    layout = LAYOUTS[name]
    pieces = layout.pack(Kept.of(sample(4000, 0.1, "u4"), 0))
    with pytest.raises((InvalidTensor, ValueError)):
        layout.unpack({**pieces, "values": pieces["values"][:-1]}, (4000,), 0, np.dtype("u4"))
    with pytest.raises((InvalidTensor, ValueError)):
        layout.unpack(pieces, (400,), 0, np.dtype("u4"))


def two_of_four(dims: tuple[int, ...], axis: int, dtype: str, fill: int, more: float = 0.1) -> np.ndarray:
    """Flat bits of which along an axis at most two of every four differ from the fill."""
    random = np.random.default_rng(7)
    moved = np.moveaxis(random.integers(0, 250, dims).astype(dtype), axis, -1).copy()
    groups = moved.reshape(-1, 4)
    groups[np.arange(len(groups))[:, None], random.random(groups.shape).argsort(axis=1)[:, :2]] = fill
    groups[random.random(groups.shape) < more] = fill
    return np.ascontiguousarray(np.moveaxis(moved, -1, axis)).reshape(-1)


SHAPES = [
    ((8,), -1),
    ((3, 8), -1),
    ((12, 5), -2),
    ((24, 7), -2),
    ((2, 4, 3), -2),
    ((5, 8, 3, 3), -3),
    ((2, 4, 1, 2, 3), -4),
]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize(("dims", "axis"), SHAPES)
def test_two_of_four_along_an_axis(monkeypatch, dims, axis, dtype):
    monkeypatch.setattr(pairs, "_PAYS_FROM", 0)
    layout, fill = LAYOUTS[f"2:4@{axis}"], 3 if dtype == "u1" else 0
    bits = two_of_four(dims, axis, dtype, fill)
    kept = Kept.of(bits, fill, dims)
    pieces = layout.pack(kept)
    assert sum(piece.nbytes for piece in pieces.values()) == layout.payload(kept)
    unpacked = layout.unpack(pieces, dims, fill, bits.dtype)
    assert np.array_equal(np.concatenate([*unpacked.blocks()]), bits)
    assert np.array_equal(run_nodes(layout, bits, fill, dims), bits)


def test_what_is_not_two_of_four_is_not_held():
    dims = (512, 1024)
    bits = two_of_four(dims, 0, "u4", 0, more=0)
    kept = Kept.of(bits, 0, dims)
    assert [name for name, layout in LAYOUTS.items() if "2:4" in name and layout.payload(kept)] == ["2:4@-2"]
    assert choose(kept, candidates(TensorProto.FLOAT, 13, external=False), "size", bits.nbytes).name == "2:4@-2"
    bits[:1024] = 7
    bits[1024:2048] = 7
    bits[2048:3072] = 7
    assert LAYOUTS["2:4@-2"].payload(Kept.of(bits, 0, dims)) is None


def test_bytes_of_groups_that_do_not_fit_are_refused():
    layout, dims = LAYOUTS["2:4@-1"], (512, 1024)
    bits = two_of_four(dims, 1, "u2", 0)
    pieces = layout.pack(Kept.of(bits, 0, dims))
    for places in (np.full_like(pieces["places"], 216), pieces["places"][:-1]):
        with pytest.raises(InvalidTensor, match="do not make 524288 elements"):
            layout.unpack({**pieces, "places": places}, dims, 0, bits.dtype)
    with pytest.raises(InvalidTensor, match="do not make 3 elements"):
        layout.unpack(pieces, (3,), 0, bits.dtype)
