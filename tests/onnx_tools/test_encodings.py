"""Encoding a file and decoding it: nothing but the storage of weights changes, and it comes back byte for byte."""

from __future__ import annotations

import base64
import contextlib
import pathlib
import re
import shutil
import tracemalloc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tools import prune_file
from onnx_tools.encodings.decode import decode_file
from onnx_tools.encodings.encode import SPARSE_WARNING, encode_file
from onnx_tools.encodings.runtime import load_ratio, unfolded
from onnx_tools.errors import (
    AlreadyEncoded,
    InvalidModelFile,
    InvalidTensor,
    NotEncoded,
    NothingSelected,
    OutputRefused,
    WriteFailed,
)
from onnx_tools.reasons import PIECE
from onnx_tools.verify import verify_files
from onnx_tools.weights import find_weights
from onnx_tools.wire import encode_varint, read_varint
from oxiprune_gpu import InvalidOption, PruningConfig, PruningError

MATMUL = """
<ir_version: 8, opset_import: ["" : %d]>
g (%s[N, 64] x) => (%s[N, 48] y) { y = MatMul (x, w) }
"""

BRANCHES = """
<ir_version: 8, opset_import: ["" : 16]>
g (float[N, 64] x, bool flag) => (float[N, 64] y, float[N, 64] z)
{
  z = MatMul (x, w)
  u = MatMul (z, w)
  y = If (flag) <
    then_branch = t () => (float[N, 64] t_out) { t_w = Constant <value = float[1] {0.0}> ()  t_out = MatMul (u, t_w) },
    else_branch = e () => (float[N, 64] e_out) { e_out = MatMul (u, w) }
  >
}
"""


def sparse_values(shape: tuple[int, ...], sparsity: float, dtype: object = np.float32) -> np.ndarray:
    random = np.random.default_rng(5)
    values = (random.standard_normal(shape) * 20).astype(dtype)
    values[random.random(shape) < sparsity] = 0
    return values


def matmul_file(folder: pathlib.Path, weight: np.ndarray, opset: int = 13, ir_version: int = 8) -> pathlib.Path:
    """One MatMul with `weight`, a (64, 48) array."""
    name = {"float32": "float", "float64": "double"}.get(weight.dtype.name, weight.dtype.name)
    model = onnx.parser.parse_model(MATMUL % (opset, name, name))
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.ir_version = ir_version
    return write(folder, model)


def write(folder: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def branches_file(folder: pathlib.Path) -> pathlib.Path:
    """A weight of the main graph that three nodes read, one in a branch, and a Constant in the other branch."""
    model = onnx.parser.parse_model(BRANCHES)
    model.graph.initializer.append(numpy_helper.from_array(sparse_values((64, 64), 0.8), "w"))
    constant = model.graph.node[2].attribute[0].g.node[0].attribute[0].t
    constant.CopyFrom(numpy_helper.from_array(sparse_values((64, 64), 0.9)))
    return write(folder, model)


def external_file(folder: pathlib.Path) -> pathlib.Path:
    """Three MatMuls whose weights lie in one data file, with bytes that nobody uses between them."""
    text = "<ir_version: 8, opset_import: ['' : 13]> g (float[N, 64] x) => (float[N, 64] y) { %s }"
    body = "a = MatMul (x, w0)  b = MatMul (a, w1)  y = MatMul (b, w2)"
    model = onnx.parser.parse_model((text % body).replace("'", '"'))
    data = b"\x11" * 64
    for i, sparsity in enumerate((0.8, 0.0, 0.95)):
        values = sparse_values((64, 64), sparsity).tobytes()
        tensor = TensorProto(name=f"w{i}", dims=[64, 64], data_type=TensorProto.FLOAT, data_location=1)
        for key, value in {"location": "model.onnx.data", "offset": len(data), "length": len(values)}.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
        data += values + b"\x22" * 64
    (folder / "model.onnx.data").write_bytes(data)
    return write(folder, model)


def encode(path: pathlib.Path, **options: object):
    """Encode beside the model; the report, and the file."""
    output = path.with_name("encoded.onnx")
    return encode_file(path, output, **options), output


def assert_comes_back(path: pathlib.Path, encoded: pathlib.Path) -> None:
    """Decoding gives the bytes of the model at `path`, data file included."""
    folder = path.parent / "decoded"
    folder.mkdir()
    decode_file(encoded, folder / path.name)
    for file in path.parent.glob(f"{path.name}*"):
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def layouts_of(report) -> list[str]:
    return [weight.encoding for weight in report.weights]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.98, 1.0])
@pytest.mark.parametrize("opset", [13, 21])
def test_every_dtype_comes_back(tmp_path, dtype, sparsity, opset):
    path = matmul_file(tmp_path, sparse_values((64, 48), sparsity, dtype), opset)
    report, encoded = encode(path, verify=dtype != ml_dtypes.bfloat16)
    assert report.weights[0].encoded
    assert report.size_ratio < 1
    onnx.checker.check_model(str(encoded), full_check=True)
    assert_comes_back(path, encoded)


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 23])
def test_opsets_that_have_the_operators(tmp_path, opset):
    report, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.8), opset, ir_version=10))
    assert layouts_of(report) == ["gaps4"]
    onnx.checker.check_model(str(encoded), full_check=True)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"opset": 9}, "opset 9 lacks the operators"),
        ({"ir_version": 3}, "IR version 3 wants every initializer to be an input"),
    ],
)
def test_old_models_stay_dense_and_say_why(tmp_path, model, reason):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8), **model)
    report, encoded = encode(path)
    assert report.weights[0].reason.startswith(reason)
    assert "no weight became smaller" in report.warnings[0]
    assert encoded.read_bytes() == path.read_bytes()


def test_a_weight_that_is_an_input_stays_dense(tmp_path):
    model = onnx.load(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 48]))
    report, _ = encode(write(tmp_path, model))
    assert report.weights[0].reason.startswith("is an input of its graph too")


QUANTISED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 64] x) => (float[N, 48] y) { d = DequantizeLinear (w, scale, zero)  y = MatMul (x, d) }
"""


def test_of_a_quantised_weight_the_zero_point_is_left_out(tmp_path):
    random = np.random.default_rng(2)
    values = random.integers(0, 256, (64, 48)).astype(np.uint8)
    values[random.random(values.shape) < 0.8] = 131
    model = onnx.parser.parse_model(QUANTISED)
    for name, array in (("w", values), ("scale", np.float32(0.1)), ("zero", np.uint8(131))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path = write(tmp_path, model)
    report, encoded = encode(path)
    assert report.weights[0].stored == np.count_nonzero(values != 131)
    assert report.weights[0].encoded
    assert report.weights[0].dtype == "uint8"
    assert_comes_back(path, encoded)
    report, _ = encode(path, encoding="sparse", force=True)
    assert report.weights[0].reason.startswith("its most frequent value is 131")


def test_what_saves_too_little_stays_dense(tmp_path):
    report, _ = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.0)))
    assert report.weights[0].reason == "would not save 5% of its bytes"
    assert "folded" not in {check.name for check in report.verification.checks}


def test_odd_bits_are_values(tmp_path):
    weight = sparse_values((64, 48), 0.9)
    weight[0, :4] = [-0.0, np.inf, -np.inf, 1e-45]
    weight[0, 4:6] = np.array([0x7FC00001, 0xFF800123], np.uint32).view(np.float32)
    path = matmul_file(tmp_path, weight)
    report, encoded = encode(path)
    assert report.weights[0].stored == np.count_nonzero(weight.view(np.uint32))
    assert_comes_back(path, encoded)


@pytest.mark.parametrize("encoding", ["packed", "sparse"])
def test_branches_constants_and_shared_weights(tmp_path, encoding):
    path = branches_file(tmp_path)
    report, encoded = encode(path, encoding=encoding)
    assert len(report.weights) == 2
    assert all(weight.encoded for weight in report.weights)
    assert [check.outcome for check in report.verification.checks] == ["passed"] * 4
    assert_comes_back(path, encoded)


@pytest.mark.parametrize("prefer", ["size", "load"])
def test_external_data_loses_the_zeros(tmp_path, prefer):
    path = external_file(tmp_path)
    report, encoded = encode(path, prefer=prefer)
    assert [weight.encoded for weight in report.weights] == [True, False, True]
    before, after = (report.files[1].bytes_before, report.files[1].bytes_after)
    assert after < 0.55 * before
    onnx.checker.check_model(str(encoded), full_check=True)
    assert_comes_back(path, encoded)


def test_external_weights_of_zeros_keep_a_place(tmp_path):
    path = external_file(tmp_path)
    data = path.with_name("model.onnx.data")
    data.write_bytes(bytes(data.stat().st_size))
    report, encoded = encode(path)
    assert all(weight.encoded for weight in report.weights)
    assert_comes_back(path, encoded)


def test_external_weights_do_not_become_sparse(tmp_path):
    report, _ = encode(external_file(tmp_path), encoding="sparse")
    assert {weight.reason for weight in report.weights} == {
        "lies in external data, and sparse tensors lie inside the model file"
    }


def test_weights_on_the_same_bytes_stay_dense(tmp_path):
    path = external_file(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[2].external_data[1].value = model.graph.initializer[0].external_data[1].value
    report, _ = encode(write(tmp_path, model))
    assert [weight.reason for weight in report.weights][::2] == [
        "has bytes in common with 'w2'",
        "has bytes in common with 'w0'",
    ]


def test_sparse_tensors(tmp_path):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.9))
    report, encoded = encode(path, encoding="sparse")
    model = onnx.load(encoded)
    assert not model.graph.initializer
    assert list(model.graph.sparse_initializer[0].dims) == [64, 48]
    assert report.warnings == (SPARSE_WARNING,)
    onnx.checker.check_model(model)
    assert_comes_back(path, encoded)


def test_sparse_pays_from_two_thirds_on(tmp_path):
    report, _ = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.6)), encoding="sparse")
    assert not report.weights[0].encoded


def test_the_metadata_stays(tmp_path):
    dense = tmp_path / "model.onnx"
    prune_file(
        matmul_file(tmp_path, sparse_values((64, 48), 0.0)), dense.with_name("p.onnx"), config=PruningConfig(0.8)
    )
    _, encoded = encode(tmp_path / "p.onnx")
    assert onnx.load(encoded).metadata_props == onnx.load(tmp_path / "p.onnx").metadata_props


def test_names_that_are_taken_are_avoided(tmp_path):
    model = onnx.load(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    model.graph.node[0].input[1] = model.graph.initializer[0].name = "oxi0.1"
    path = write(tmp_path, model)
    _, encoded = encode(path)
    assert_comes_back(path, encoded)


def test_folded_and_load_ratio(tmp_path):
    pytest.importorskip("onnxruntime")
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8))
    _, encoded = encode(path)
    assert unfolded(encoded) == []
    assert load_ratio(path, encoded) > 0


def test_a_load_time_that_cannot_be_measured_is_said(tmp_path):
    pytest.importorskip("onnxruntime")
    model = onnx.load(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    model.graph.node.append(helper.make_node("Unknown", ["x"], ["z"], domain="nowhere"))
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    report, _ = encode(write(tmp_path, model), load_time=True)
    assert report.load_ratio is None
    assert report.warnings[-1].startswith("the load time could not be measured")


def test_a_model_is_encoded_once(tmp_path):
    _, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    with pytest.raises(AlreadyEncoded, match="'w' encoded already; decode the model first"):
        encode_file(encoded, tmp_path / "again.onnx")


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.98, 1.0])
def test_what_a_packed_weight_is_stored_as_is_not_pruned(tmp_path, sparsity):
    _, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), sparsity)))
    found = find_weights(onnx.load(encoded))
    assert found.weights == ()
    assert {item.reason for item in found.left_alone} == {PIECE}
    with pytest.raises(NothingSelected, match="decode the model first"):
        prune_file(encoded, tmp_path / "pruned.onnx", config=PruningConfig(0.9))


def test_what_stayed_dense_is_pruned_beside_packed_weights(tmp_path):
    _, encoded = encode(external_file(tmp_path))
    report = prune_file(encoded, tmp_path / "pruned.onnx", config=PruningConfig(0.9))
    assert [weight.name for weight in report.weights] == ["w1"]
    decode_file(tmp_path / "pruned.onnx", tmp_path / "back.onnx")
    before, after = onnx.load(tmp_path / "model.onnx"), onnx.load(tmp_path / "back.onnx")
    assert [w.raw_data for w in before.graph.initializer][::2] == [w.raw_data for w in after.graph.initializer][::2]


def test_verifying_an_encoded_model_says_to_decode_it(tmp_path):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8))
    _, encoded = encode(path)
    checks = verify_files(path, encoded, runtime=False).checks
    assert checks[0].detail.endswith("(the second model is encoded: decode it first)")


def test_nothing_to_decode(tmp_path):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8))
    with pytest.raises(NotEncoded, match="no weight is encoded"):
        decode_file(path, tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "zip"}, "unknown encoding 'zip'"),
        ({"prefer": "beauty"}, "cannot prefer 'beauty'"),
        ({"layouts": ["gaps3"]}, "unknown layout 'gaps3'"),
        ({"least_saving": 1.0}, "least_saving 1.0"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(InvalidOption, match=message):
        encode(matmul_file(tmp_path, sparse_values((64, 48), 0.8)), **options)


def test_outputs_are_not_overwritten(tmp_path):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8))
    encode(path)
    with pytest.raises(OutputRefused, match="exists"):
        encode(path)
    with pytest.raises(OutputRefused, match="is the input"):
        encode_file(path, path, force=True)
    encode(path, force=True)


def changed(model: onnx.ModelProto, what: str) -> None:
    graph = model.graph
    if what == "values":
        graph.initializer[0].raw_data = b"\x01" + graph.initializer[0].raw_data[1:]
    elif what == "a second reader":
        graph.node.append(helper.make_node("Identity", [graph.initializer[0].name], ["more"]))
    elif what == "a missing initializer":
        del graph.initializer[1]
    elif what == "a marker without its end":
        node = next(node for node in graph.node if node.doc_string)
        node.doc_string = node.doc_string[:-9]
    elif what == "an unknown layout":
        node = next(node for node in graph.node if node.doc_string)
        node.doc_string = node.doc_string.replace("gaps4", "gaps5")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("values", InvalidTensor, "was changed since it was encoded"),
        ("a second reader", InvalidModelFile, "other nodes read what it is made of"),
        ("a missing initializer", InvalidModelFile, "was changed since it was encoded"),
        ("a marker without its end", InvalidModelFile, "the marker of an encoded weight is damaged"),
        ("an unknown layout", InvalidModelFile, "update oxiprune-gpu"),
    ],
)
def test_an_encoded_weight_that_was_changed_is_refused(tmp_path, what, error, message):
    _, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    model = onnx.load(encoded)
    changed(model, what)
    path = write(tmp_path, model)
    with pytest.raises(error, match=message):
        decode_file(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("make", [branches_file, external_file])
@pytest.mark.parametrize("encoding", ["packed", "sparse"])
def test_damaged_files_are_refused_or_decoded(tmp_path, make, encoding):
    """Whatever stands in an encoded file: an error of ours, or a model."""
    _, encoded = encode(make(tmp_path), encoding=encoding, verify=False)
    data, random = encoded.read_bytes(), np.random.default_rng(11)
    text = [place for place, byte in enumerate(data) if 32 <= byte < 127]
    for _ in range(40):
        damaged = bytearray(data)
        for place in random.choice(text, random.integers(1, 4)):
            damaged[place] ^= 1 << random.integers(0, 8)
        encoded.write_bytes(damaged)
        with contextlib.suppress(PruningError):
            decode_file(encoded, tmp_path / "out.onnx", force=True)


@pytest.mark.parametrize("more", [64, 64 * 64 * 4, 1 << 40])
def test_a_region_that_takes_in_a_neighbour_is_refused(tmp_path, more):
    _, encoded = encode(external_file(tmp_path))
    model = onnx.load(encoded, load_external_data=False)
    first = next(node for node in model.graph.node if node.doc_string)
    size = int(first.doc_string.rpartition(":")[2].removesuffix("}"))
    first.doc_string = first.doc_string.replace(f'"region":{size}', f'"region":{size + 64 + more}')
    encoded.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidTensor, match="do not belong to one tensor"):
        decode_file(encoded, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("sparsity", [0.9, 1.0])
def test_a_shape_that_the_record_has_no_room_for_is_refused(tmp_path, sparsity):
    _, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), sparsity)))
    model = onnx.load(encoded)
    last = next(node for node in model.graph.node if node.doc_string)
    last.doc_string = last.doc_string.replace("[64,48]", "[20000,20000]")
    with refused_in_little_memory():
        decode_file(write(tmp_path, model), tmp_path / "out.onnx")


def test_a_file_cannot_say_that_it_takes_more_memory_than_it_has_bytes(tmp_path):
    """The record's length is given to fit the shape; only the checksum is wrong."""
    _, encoded = encode(matmul_file(tmp_path, np.zeros((64, 48), np.float32)))
    model = onnx.load(encoded)
    last = next(node for node in model.graph.node if node.doc_string)
    last.doc_string = with_length(last.doc_string.replace("[64,48]", "[8000,8000]"), 8000 * 8000 * 4)
    with refused_in_little_memory():
        decode_file(write(tmp_path, model), tmp_path / "out.onnx")


def test_a_file_cannot_fill_the_disk(tmp_path, monkeypatch):
    """Before its checksum is known to be wrong: so many zeros must have room."""
    _, encoded = encode(matmul_file(tmp_path, np.zeros((64, 48), np.float32)))
    model = onnx.load(encoded)
    last = next(node for node in model.graph.node if node.doc_string)
    last.doc_string = with_length(last.doc_string.replace("[64,48]", "[8000,8000]"), 8000 * 8000 * 4)
    path, before = write(tmp_path, model), sorted(tmp_path.iterdir())
    for free, error in ((511_999_999, WriteFailed), (512_000_000, InvalidTensor)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        with pytest.raises(error) as caught:
            decode_file(path, tmp_path / "out.onnx")
        assert sorted(tmp_path.iterdir()) == before
        assert ("takes 512,000,000 bytes of disk, 511,999,999 are free" in str(caught.value)) == (error is WriteFailed)


@contextlib.contextmanager
def refused_in_little_memory():
    tracemalloc.start()
    try:
        with pytest.raises(InvalidTensor, match="was changed since it was encoded"):
            yield
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def with_length(marker: str, size: int) -> str:
    """A marker whose record says that it holds values of `size` bytes."""
    text = re.search(r'"before":"([^"]+)"', marker).group(1)
    record = base64.b64decode(text)
    body = read_varint(memoryview(record), 1, len(record))[1]
    longer = record[:1] + encode_varint(len(record) - body + size) + record[body:]
    return marker.replace(text, base64.b64encode(longer).decode())


def test_what_comes_back_under_another_name_is_refused(tmp_path):
    path = matmul_file(tmp_path, sparse_values((64, 48), 0.8))
    _, encoded = encode(path)
    model = onnx.load(encoded)
    last = next(node for node in model.graph.node if node.doc_string)
    record = re.search(r'"before":"([^"]+)"', last.doc_string).group(1)
    other = base64.b64encode(base64.b64decode(record).replace(b"\x01w", b"\x01v")).decode()
    last.doc_string = last.doc_string.replace(record, other)
    with pytest.raises(InvalidTensor, match="'w': does not come back"):
        decode_file(write(tmp_path, model), tmp_path / "out.onnx")


def test_one_record_belongs_to_one_weight(tmp_path):
    _, encoded = encode(matmul_file(tmp_path, sparse_values((64, 48), 0.8)))
    model = onnx.load(encoded)
    last = next(node for node in model.graph.node if node.doc_string)
    reshape = helper.make_node("Reshape", ["w", last.input[1]], ["again"], doc_string=last.doc_string)
    model.graph.node[-1].input[1] = "again"
    model.graph.node.insert(len(model.graph.node) - 1, reshape)
    with pytest.raises(InvalidModelFile):
        decode_file(write(tmp_path, model), tmp_path / "out.onnx")


def test_real_models(tmp_path, corpus):
    """Pruned to 80 %: outputs as before, everything folded, and decoding gives the pruned file."""
    for model in corpus:
        folder = tmp_path / model.parent.name
        folder.mkdir()
        pruned = folder / "model.onnx"
        prune_file(model, pruned, config=PruningConfig(0.8))
        report, encoded = encode(pruned)
        outcomes = {check.name: check.outcome for check in report.verification.checks}
        assert outcomes["decoded"] == "passed", model
        assert "failed" not in outcomes.values(), model
        assert outcomes.get("folded", "passed") == "passed", model
        if any(weight.encoded for weight in report.weights):
            assert_comes_back(pruned, encoded)


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N, 64] x) => (float[N, 64] y) { a = local.times (x, w)  y = local.own (a) }
<domain: "local", opset_import: ["" : 17]>
times (p, q) => (r) { r = MatMul (p, q) }
<domain: "local", opset_import: ["" : 17]>
own (p) => (r) { c = Constant <value = float[1] {0.0}> ()  r = MatMul (p, c) }
"""


def test_local_functions(tmp_path):
    """A weight that is handed to a function is encoded, one that lies in its body is left, and says why."""
    model = onnx.parser.parse_model(FUNCTION)
    model.graph.initializer.append(numpy_helper.from_array(sparse_values((64, 64), 0.8), "w"))
    model.functions[1].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(sparse_values((64, 64), 0.8)))
    path = write(tmp_path, model)
    report, encoded = encode(path)
    assert [weight.encoded for weight in report.weights] == [True, False]
    assert report.weights[1].reason == "lies in functions, where no initializer can"
    assert_comes_back(path, encoded)


FIRST_NODES = """
<ir_version: 8, opset_import: ["" : 16]>
g (float[N, 64] x, bool flag, int64 trips) => (float[N, 64] y)
{
  c = Constant <value = float[1] {0.0}> ()
  a = If (flag) <
    then_branch = t () => (float[N, 64] t_out) { d = Constant <value = float[1] {0.0}> ()  t_out = MatMul (x, d) },
    else_branch = e () => (float[N, 64] e_out) { e_out = MatMul (x, w) }
  >
  b = MatMul (a, c)
  y = Loop (trips, , b) <
    body = l (int64 i, bool go, float[N, 64] s) => (bool go_on, float[N, 64] s_out)
    { go_on = Identity (go)  f = Constant <value = float[1] {0.0}> ()  s_out = MatMul (s, f) }
  >
}
"""


def test_a_constant_at_the_head_of_its_graph(tmp_path):
    """Records go in front of a node that is replaced itself; bodies of If and Loop are encoded where they lie."""
    model = onnx.parser.parse_model(FIRST_NODES)
    nodes = model.graph.node
    loop = nodes[3].attribute[0].g
    for node in (nodes[0], nodes[1].attribute[0].g.node[0], loop.node[1]):
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(sparse_values((64, 64), 0.8)))
    model.graph.initializer.append(numpy_helper.from_array(sparse_values((64, 64), 0.9), "w"))
    path = write(tmp_path, model)
    report, encoded = encode(path)
    assert layouts_of(report) == ["gaps4"] * 4
    assert "failed" not in {check.outcome for check in report.verification.checks}
    assert unfolded(encoded) == []
    onnx.checker.check_model(str(encoded))
    assert_comes_back(path, encoded)
