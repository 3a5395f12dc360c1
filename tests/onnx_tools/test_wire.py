"""The wire walk against protobuf itself."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from onnx_tools.errors import InvalidModelFile
from onnx_tools.model_file import iter_tensors, tensor_at
from onnx_tools.wire import (
    FileSpan,
    Payload,
    Records,
    Span,
    encode_varint,
    field_record,
    join,
    locate,
    rewrite,
    rope_length,
    scan,
)

WEIGHT = (("graph", 0), ("initializer", 1))


def decoded(tensor: onnx.TensorProto, field: str) -> bytes:
    """The payload as protobuf decodes it."""
    if field == "raw_data":
        return tensor.raw_data
    return np.array(getattr(tensor, field), "<f4" if field == "float_data" else "<f8").tobytes()


def record(number: int, body: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(body)) + body


def check_scan(data: bytes, threshold: int) -> int:
    """Hold a scan against protobuf: every span, and skeleton plus payloads is the model. Return the spans."""
    found = scan(data, threshold)
    model = onnx.ModelProto.FromString(data)
    merged = onnx.ModelProto.FromString(found.skeleton)
    for payload in found.payloads:
        values = data[payload.offset : payload.offset + payload.length]
        assert values == decoded(tensor_at(model, payload.path), payload.field)
        tensor_at(merged, payload.path).MergeFromString(record(*numbered(payload, values)))
    assert found.regular
    assert merged == model
    assert not [p for p, t in iter_tensors(onnx.ModelProto.FromString(found.skeleton)) if len(t.raw_data) >= threshold]
    return len(found.payloads)


def numbered(payload: Payload, values: bytes) -> tuple[int, bytes]:
    return onnx.TensorProto.DESCRIPTOR.fields_by_name[payload.field].number, values


def test_spans_of_real_models(corpus: list[pathlib.Path]) -> None:
    spans = [check_scan(path.read_bytes(), 256) for path in corpus]
    assert sum(spans) > 300


def test_spans_of_backend_models(backend_models: list[pathlib.Path]) -> None:
    spans = [check_scan(path.read_bytes(), threshold) for path in backend_models for threshold in (1, 256)]
    assert sum(spans) > 0


def test_spans_of_float_and_double_data(small_model: onnx.ModelProto) -> None:
    small_model.graph.initializer.add(name="f", dims=[80], data_type=1, float_data=np.arange(80))
    small_model.graph.initializer.add(name="d", dims=[80], data_type=11, double_data=np.arange(80))
    assert check_scan(small_model.SerializeToString(), 256) == 3


def test_small_payloads_stay(small_model: onnx.ModelProto) -> None:
    found = scan(small_model.SerializeToString())
    assert [payload.path for payload in found.payloads] == [WEIGHT]
    assert len(tensor_at(onnx.ModelProto.FromString(found.skeleton), (*WEIGHT[:1], ("initializer", 0))).float_data)


@pytest.mark.parametrize(
    "values",
    [
        record(9, b"a" * 400) + record(9, b"b" * 400),
        record(4, b"a" * 400) + record(4, b"b" * 400),
        record(4, b"a" * 400) + b"\x25abcd",
        b"\x25abcd" * 100,
    ],
    ids=["raw twice", "packed twice", "packed and unpacked", "unpacked"],
)
def test_payload_in_several_records_stays_in_the_skeleton(values: bytes) -> None:
    data = record(7, record(5, b"\x08\x64\x10\x01" + values))
    found = scan(data)
    assert (found.skeleton, found.payloads, found.regular) == (data, (), True)


def test_singular_message_twice_is_irregular(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    assert not scan(data + record(7, b"")).regular
    with pytest.raises(InvalidModelFile, match="second `graph`"):
        rewrite(data + record(7, b""), {WEIGHT: b""})


def deep(levels: int) -> bytes:
    """Subgraph in attribute in node, and so on; padded so that no level is too small to be walked."""
    body = record(2, b"n" * 300)
    for _ in range(levels):
        body = record(1, record(5, record(6, body)))
    return record(7, body)


VARINT_TOO_LONG = b"\x3a" + b"\x80" * 10 + b"\x01"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x3a\x05abc", "truncated: the value at byte 2 ends at byte 7"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "longer than 64 bits"),
        (VARINT_TOO_LONG, "the number at byte 1 is longer"),
        (b"\x08\x80", "truncated: a number at byte 1"),
        (b"\x80", "truncated"),
        (b"\x02\x00", "field number 0"),
        (b"\xfa\xff\xff\xff\xff\x01\x00", "field number"),
        (b"\x3b", "wire type 3"),
        (b"\x3c", "wire type 4"),
        (b"\x3e\x00", "wire type 6"),
        (b"\x3f\x00", "wire type 7"),
        (b"\x39abc", "truncated"),
        (b"\x3dabc", "truncated"),
        (deep(60), "nest deeper than 100"),
    ],
)
def test_hostile_bytes(data: bytes, message: str) -> None:
    with pytest.raises(InvalidModelFile, match=message):
        scan(data)


def test_depth_within_the_limit_is_walked() -> None:
    assert scan(deep(30)).skeleton == deep(30)


def test_every_truncation_is_refused_or_a_whole_prefix(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    for end in range(len(data)):
        try:
            found = scan(data[:end])
        except InvalidModelFile:
            continue
        assert sum(payload.length for payload in found.payloads) + len(found.skeleton) <= end


def test_rewriting_with_what_is_there_gives_the_same_file(corpus: list[pathlib.Path]) -> None:
    for path in corpus:
        model = onnx.ModelProto.FromString(path.read_bytes())
        data = model.SerializeToString()
        edits = {where: tensor.SerializeToString() for where, tensor in iter_tensors(model)}
        assert join(data, rewrite(data, edits)) == data


def test_no_edits_are_one_span(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    assert rewrite(data, {}) == [Span(0, len(data))]


def test_rewrite_changes_what_is_asked_and_nothing_else(small_model: onnx.ModelProto) -> None:
    small_model.metadata_props.add(key="a", value="1")
    small_model.metadata_props.add(key="b", value="2")
    data = small_model.SerializeToString()
    paths = [path for path, _ in iter_tensors(small_model)]
    assert len(paths) == 5
    for number, path in enumerate(paths):
        new = onnx.TensorProto(name="new", dims=[number], data_type=1, raw_data=b"abcd" * number * 100)
        rope = rewrite(data, {path: new.SerializeToString(), (("metadata_props", 0),): None})
        expected = onnx.ModelProto()
        expected.CopyFrom(small_model)
        tensor_at(expected, path).CopyFrom(new)
        del expected.metadata_props[0]
        assert join(data, rope) == expected.SerializeToString()
        assert rope_length(rope) == len(expected.SerializeToString())


def test_bytes_around_an_edit_stay_as_they_are() -> None:
    odd_length = b"\x2a\x83\x80\x00abc"  # an initializer whose length is not in the fewest bytes
    data = record(7, odd_length + record(5, b"old") + odd_length) + b"\x08\x88\x80\x00"
    edited = join(data, rewrite(data, {(("graph", 0), ("initializer", 1)): b"new!"}))
    assert edited == record(7, odd_length + record(5, b"new!") + odd_length) + b"\x08\x88\x80\x00"


def test_only_the_edit_is_new_bytes(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    rope = rewrite(data, {(*WEIGHT[:1], ("initializer", 0)): b"\x08\x00"})
    assert sum(len(piece) for piece in rope if isinstance(piece, bytes)) < 16
    assert len(rope) <= 6


def test_records_are_put_in_front_and_in_the_place_of_others(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    first, second = (onnx.NodeProto(op_type=name) for name in ("First", "Second"))
    added = field_record(1, [first.SerializeToString()]) + field_record(1, [second.SerializeToString()])
    where = (("graph", 0), ("node", 2))
    expected = onnx.ModelProto.FromString(data)
    expected.graph.node.insert(2, second)
    expected.graph.node.insert(2, first)
    assert join(data, rewrite(data, {}, {where: added})) == expected.SerializeToString()
    del expected.graph.node[4]
    assert join(data, rewrite(data, {where: Records(added)})) == expected.SerializeToString()


def test_records_are_located(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    node = (("graph", 0), ("node", 2))
    found = locate(data, {WEIGHT, node})
    for path, message in ((WEIGHT, small_model.graph.initializer[1]), (node, small_model.graph.node[2])):
        span = found[path]
        body = message.SerializeToString()
        assert data[span.offset : span.offset + span.length].endswith(body)
        assert span.length - len(body) <= 4
    with pytest.raises(KeyError):
        locate(data, {(("graph", 0), ("node", 99))})


def test_pieces_of_other_files_are_not_joined() -> None:
    assert rope_length([b"abc", FileSpan(3, 0, 7)]) == 10
    with pytest.raises(ValueError, match="written to a file"):
        join(b"", [FileSpan(3, 0, 7)])


def test_edits_that_cannot_be(small_model: onnx.ModelProto) -> None:
    data = small_model.SerializeToString()
    for path in ((("graph", 0), ("initializer", 9)), (("graph", 1),), (("nothing", 0), ("at", 0))):
        with pytest.raises(KeyError):
            rewrite(data, {path: b""})
    with pytest.raises(ValueError, match="inside another"):
        rewrite(data, {(("graph", 0),): b"", WEIGHT: b""})
