"""What is refused of quantised models, and what the byte check says of changes that pruning does not make."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_tools import NothingSelected, prune_file, prune_model, verify_files
from onnx_tools.errors import InvalidTensor
from onnx_tools.weights import find_weights
from oxiprune_gpu import NonFiniteWeight, PruningConfig
from tests.onnx_tools.quantised_models import EVERY_SIZE, FLOATS, model_of, tensor

HALF = PruningConfig(0.5)
INT8, UINT8, UINT4 = TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT4
W = tensor(np.arange(32).reshape(4, 8) % 16, INT8)
S = tensor(np.float32(2))
DQ = "v = DequantizeLinear(w, s, z) y = MatMul(x, v)"
NBITS = "y = com.microsoft.MatMulNBits <N = 2, K = 16, block_size = 16> (x, w, s, z)"


def reason_of(model: onnx.ModelProto, name: str = "w") -> str:
    found = find_weights(model)
    assert not found.weights
    with pytest.raises(NothingSelected):
        prune_model(model, config=HALF, selection=EVERY_SIZE)
    return next(item.reason for item in found.left_alone if item.name == name)


@pytest.mark.parametrize(
    ("body", "parts", "expected"),
    [
        (DQ, {"s": tensor(np.ones(5))}, "its scale of shape [5] does not fit the 8 entries of its axis"),
        (DQ, {"s": tensor(np.ones((4, 8)))}, "its scale of shape [4, 8] does not fit the 8 entries of its axis"),
        (DQ, {"s": tensor(np.ones(0))}, "its scale is not stored data"),
        (DQ, {"s": tensor(1, INT8)}, "its scale is not floating point"),
        (DQ, {"z": tensor(1, UINT8)}, "its zero point is of another type than int8"),
        (DQ, {"z": tensor(np.zeros(3), INT8)}, "its zero point of shape [3] does not fit the 8 entries of its axis"),
        (DQ.replace("s,", "x,"), {}, "its scale is not stored data"),
        (DQ.replace(", z", ", x"), {}, "its zero point is not stored data"),
        (DQ.replace("(w", "<axis = 2> (w"), {"s": tensor(np.ones(8))},
         "its scale of shape [8] goes along an axis that the weight has not"),
        (DQ.replace("(w", "<block_size = 3> (w"), {"s": tensor(np.ones((4, 4)))},
         "its scale of shape [4, 4] does not fit blocks of 3 along axis 1 of [4, 8]"),
        (DQ.replace("(w", "<block_size = -3> (w"), {"s": tensor(np.ones((4, 4)))},
         "its scale of shape [4, 4] does not fit blocks of -3 along axis 1 of [4, 8]"),
        ("t = Transpose(w) v = DequantizeLinear <block_size = 2> (t, s) y = MatMul(x, v)",
         {"s": tensor(np.ones((8, 2)))}, "its scale has blocks of a weight that is rearranged before"),
        ("a, b = Split <axis = 1> (w) v = DequantizeLinear(a, s) y = MatMul(x, v)", {"s": tensor(np.ones(4))},
         "its scale goes along an axis that was cut or mixed with others before"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit(body: str, parts: dict[str, TensorProto], expected: str) -> None:
    model = model_of(body, **{"w": W, "s": S, "z": tensor(0, INT8), **parts})
    assert reason_of(model) == f"quantised weight of MatMul (int8 behind DequantizeLinear): {expected}"


@pytest.mark.parametrize(
    ("body", "shape", "parts", "expected"),
    [
        (NBITS, (2, 1, 7), {}, "shape [2, 1, 7] does not fit N = 2, K = 16 and blocks of 16 codes"),
        (NBITS.replace("16>", "12>"), (2, 1, 8), {}, "N = 2, K = 16 and block_size = 12 are impossible"),
        (NBITS.replace("N = 2", "N = -2"), (2, 1, 8), {}, "N = -2, K = 16 and block_size = 16 are impossible"),
        (NBITS.replace("<", "<bits = 3, "), (2, 1, 8), {}, "codes of 3 bits are not known"),
        (NBITS.replace("z)", "z, z)"), (2, 1, 8), {}, "its order is given by g_idx, or known to one device only"),
        (NBITS, (2, 1, 8), {"s": tensor(np.ones(3))},
         "its scale of shape [3] has not the 2 elements that blocks of 16 ask for"),
        (NBITS, (2, 1, 8), {"z": tensor(np.ones(3), UINT8)},
         "its zero point of shape [3] has not the 2 elements that blocks of 16 ask for"),
        (NBITS, (2, 1, 8), {"z": tensor(np.ones((2, 1)))}, "its zero point is of another type than uint4"),
    ],
)  # fmt: skip
def test_packed_weights_that_do_not_fit(
    body: str, shape: tuple[int, ...], parts: dict[str, TensorProto], expected: str
) -> None:
    given = {"w": tensor(np.zeros(shape), UINT8), "s": tensor(np.ones((2, 1))), "z": tensor(np.ones(2), UINT8), **parts}
    assert reason_of(model_of(body, **given)) == f"quantised weight of com.microsoft MatMulNBits (uint8): {expected}"


def test_consumers_with_different_scales() -> None:
    body = "a = DequantizeLinear(w, s) b = DequantizeLinear(w, t) c = MatMul(x, a) y = MatMul(c, b)"
    assert reason_of(model_of(body, w=W, s=S, t=S)) == "consumers disagree on its scale or zero point"


AGAIN = "a = DequantizeLinear(w, s) q = QuantizeLinear(a, s, z) v = DequantizeLinear(q, s, %s) y = MatMul(x, v)"


def test_weights_that_are_quantised_again() -> None:
    """Their zero stays zero only if the second zero points agree, by name or by what they hold."""
    parts = {"w": W, "s": S, "z": tensor(5, INT8), "same": tensor(5, INT8, raw=False), "other": tensor(0, INT8)}
    for zero in ("z", "same"):
        (weight,) = find_weights(model_of(AGAIN % zero, **parts)).weights
        assert weight.dtype_name == "int8"
    assert "QuantizeLinear and DequantizeLinear have different zero points" in reason_of(
        model_of(AGAIN % "other", **parts)
    )
    read = "a = DequantizeLinear(w, s) q = QuantizeLinear(a, s, z) y = MatMulInteger(x, q, z, %s)"
    assert find_weights(model_of(read % "z", **parts)).weights
    assert "QuantizeLinear and MatMulInteger have different zero points" in reason_of(model_of(read % "other", **parts))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("v = DequantizeLinear(w, s) y = MatMul(x, v)", "floats are dequantised"),
        ("q = QuantizeLinear(w, s) r = QuantizeLinear(q, s) y = MatMul(x, r)", "quantised twice"),
        ("q = QuantizeLinear(w, s) y = com.microsoft.MatMulNBits(x, q, s)", "MatMulNBits reads what was quantised"),
    ],
)
def test_floats_among_codes(body: str, expected: str) -> None:
    assert reason_of(model_of(body, w=tensor(np.ones((4, 8))), s=S)).endswith(f": {expected}")


def test_a_consumer_that_reads_the_codes() -> None:
    body = "v = DequantizeLinear(w, s) c = MatMul(x, v) d = Add(w, c) y = Add(c, d)"
    assert reason_of(model_of(body, w=W, s=S)) == "weight of MatMul, but also read by Add 'd'"


def test_weights_that_are_shared_are_pruned_once() -> None:
    body = "v = DequantizeLinear(w, s) c = MatMul(x, v) b = DequantizeLinear(w, s) y = Gemm(c, b)"
    (weight,) = find_weights(model_of(body, w=W, s=S)).weights
    assert weight.op_types == ("MatMul", "Gemm")


def test_quantised_weights_on_the_same_bytes_are_left_alone(tmp_path: pathlib.Path) -> None:
    body = "v = DequantizeLinear(w, s) c = MatMul(x, v) b = DequantizeLinear(u, t) y = MatMul(c, b)"
    model = model_of(body, w=W, u=W, s=S, t=tensor(np.float32(3)))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    places = {t.name: next(e for e in t.external_data if e.key == "offset") for t in model.graph.initializer}
    places["u"].value = places["w"].value
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NothingSelected, match="has bytes in common with 'u', which is not pruned"):
        prune_file(tmp_path / "m.onnx", tmp_path / "o.onnx", config=HALF, selection=EVERY_SIZE)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("s", {"raw_data": np.float32("nan").tobytes()}, "weight 'w': scale 0 is nan"),
        ("w", {"raw_data": b"123"}, "tensor 'w' of shape .4, 8.: 32 bytes of data expected, 3 found"),
        ("w", {"raw_data": None, "int32_data": [1] * 31}, "tensor 'w': 32 values expected in int32_data, 31 found"),
        ("w", {"raw_data": None, "int32_data": [1] * 31 + [300]}, "a value in int32_data does not fit 8 bits"),
        ("z", {"raw_data": None, "int32_data": [-129]}, "tensor 'z': a value in int32_data does not fit 8 bits"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(name: str, change: dict[str, object], text: str, tmp_path: pathlib.Path) -> None:
    model = model_of(DQ, w=W, s=S, z=tensor(0, INT8))
    broken = next(t for t in model.graph.initializer if t.name == name)
    for field, value in change.items():
        broken.ClearField(field)
        if isinstance(value, list):
            getattr(broken, field).extend(value)
        elif value is not None:
            setattr(broken, field, value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidTensor, match=text):
        prune_file(tmp_path / "m.onnx", tmp_path / "o.onnx", config=HALF, selection=EVERY_SIZE)
    with pytest.raises(InvalidTensor, match=text):
        prune_model(model, config=HALF, selection=EVERY_SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("data_type", FLOATS[:4], ids=TensorProto.DataType.Name)
def test_nan_in_a_narrow_float_is_an_error(data_type: int) -> None:
    codes = np.array([[0x80, 1, 2, 0x7F]], np.uint8)  # NaN of the fnuz types, and of the others
    model = model_of("v = Cast <to = 1> (w) y = MatMul(x, v)", w=tensor(codes.view(_dtype(data_type)), data_type))
    with pytest.raises(NonFiniteWeight, match="weight of tensor 'w' holds 1 NaN"):
        prune_model(model, config=HALF, selection=EVERY_SIZE)


def _dtype(data_type: int) -> np.dtype[np.generic]:
    return onnx.helper.tensor_dtype_to_np_dtype(data_type)


Change = Callable[[dict[str, TensorProto]], None]


def _set(name: str, place: int, value: int) -> Change:
    def change(tensors: dict[str, TensorProto]) -> None:
        data = bytearray(tensors[name].raw_data)
        data[place] = value
        tensors[name].raw_data = bytes(data)

    return change


WRONG = "a value changed to something else than the zero point"
BYTES = np.arange(1, 17, dtype=np.uint8).reshape(2, 1, 8)  # codes 1 0 2 0 3 0 ..., low nibble first


def checked(model: onnx.ModelProto, change: Change, folder: pathlib.Path) -> tuple[str, str]:
    onnx.save(model, folder / "a.onnx")
    change({t.name: t for t in model.graph.initializer})
    onnx.save(model, folder / "b.onnx")
    check = verify_files(folder / "a.onnx", folder / "b.onnx", runtime=False).checks[0]
    return check.outcome, check.detail


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("w", 0, 0x88), ("passed", "2 values in 1 tensors are newly zero, every other byte is equal")),
        (_set("w", 3, 0x08), ("passed", "1 values in 1 tensors are newly zero, every other byte is equal")),
        (_set("w", 0, 0x00), ("failed", f"{WRONG} (index 0: 1 became 0)")),
        (_set("w", 3, 0x84), ("passed", "1 values in 1 tensors are newly zero, every other byte is equal")),
        (_set("w", 7, 0x88), ("failed", f"{WRONG} (index 15: 0 became 8)")),
        (_set("w", 9, 0x91), ("failed", f"{WRONG} (index 18: 10 became 1)")),
    ],
)  # fmt: skip
def test_the_byte_check_reads_nibbles(change: Change, expected: tuple[str, str], tmp_path: pathlib.Path) -> None:
    """K = 15 of 16: the last code of each line pads it, and may become nothing else."""
    body = NBITS.replace("K = 16", "K = 15").replace(", z)", ")")
    outcome, detail = checked(model_of(body, w=tensor(BYTES, UINT8), s=tensor(np.ones((2, 1)))), change, tmp_path)
    assert (outcome, detail.removeprefix("tensor 'w': ")) == expected


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (_set("w", 1, 7), "passed"),
        (_set("w", 1, 0), "failed"),
        (_set("s", 1, 1), "failed"),
        (_set("z", 0, 6), "failed"),
    ],
    ids=["the zero point", "a zero byte", "a scale", "a zero point that moves"],
)
def test_the_byte_check_knows_the_zero_point(change: Change, outcome: str, tmp_path: pathlib.Path) -> None:
    model = model_of(DQ, w=tensor(np.full((4, 8), 9), UINT8), s=S, z=tensor(7, UINT8))
    assert checked(model, change, tmp_path)[0] == outcome


def test_the_byte_check_counts_negative_zeros_apart(tmp_path: pathlib.Path) -> None:
    codes = np.array([[0x80, 0x01], [0x02, 0x03]], np.uint8).view(_dtype(TensorProto.FLOAT8E4M3FN))
    model = model_of("v = Cast <to = 1> (w) y = MatMul(x, v)", w=tensor(codes, TensorProto.FLOAT8E4M3FN))

    def change(tensors: dict[str, TensorProto]) -> None:
        tensors["w"].raw_data = b"\0\0\x02\x03"

    detail = "1 values in 1 tensors are newly zero and 1 negative zeros became +0.0, every other byte is equal"
    assert checked(model, change, tmp_path) == ("passed", detail)
