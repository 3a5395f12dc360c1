"""Where tensors lie, and what a hostile file may not do."""

from __future__ import annotations

import os
import pathlib
import random
import threading
import time

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools.errors import InvalidExternalData, InvalidModelFile, InvalidTensor, OnnxToolsError, WriteFailed
from onnx_tools.file_blocks import FileBlocks
from onnx_tools.model_file import Location, ModelFile, dtype_of, iter_tensors, tensor_at
from onnx_tools.wire import Path

WEIGHT: Path = (("graph", 0), ("initializer", 1))


def locate(path: pathlib.Path, where: Path = WEIGHT) -> Location | None:
    model = ModelFile.open(path)
    return model.location(where, tensor_at(model.skeleton, where))


def saved(path: pathlib.Path, tensor: onnx.TensorProto) -> pathlib.Path:
    """A model of nothing but one initializer."""
    model = onnx.ModelProto(ir_version=8)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    return path


def locate_only(path: pathlib.Path, tensor: onnx.TensorProto) -> Location | None:
    return locate(saved(path, tensor), (("graph", 0), ("initializer", 0)))


BAD_FILES = {
    "empty": (b"", "empty"),
    "text": (b"# a readme\n" * 100, "not an ONNX model"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "random": (random.Random(3).randbytes(5000), "not an ONNX model"),
    "large random": (random.Random(3).randbytes(2_000_000), "not an ONNX model"),
    "large truncated": (b"\x3a\xff\xff\xff\x7f" + bytes(2_000_000), "truncated"),
    "no graph": (onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString(), "no graph"),
    "a tensor": (numpy_helper.from_array(np.ones(4, np.float32), "t").SerializeToString(), "not an ONNX model"),
    "a graph": (onnx.GraphProto(name="g", node=[onnx.NodeProto(op_type="Add")]).SerializeToString(), "no graph"),
    "not a graph": (b"\x3a\x02\xff\xff", "not an ONNX model"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_model_is_refused(tmp_path: pathlib.Path, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(InvalidModelFile, match=message) as caught:
        ModelFile.open(tmp_path / "bad.onnx")
    assert "bad.onnx" in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "loop", "a\0b"):
        with pytest.raises(InvalidModelFile):
            ModelFile.open(path)


def test_permission_denied_is_said(small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", deny)
    with pytest.raises(InvalidModelFile, match=r"model.onnx: cannot be read: Permission denied"):
        ModelFile.open(small_file)


def test_links_to_the_model_are_followed(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link.onnx").symlink_to(small_file)
    assert ModelFile.open(tmp_path / "link.onnx").path == small_file.resolve()


def test_location_holds_the_values(small_file: pathlib.Path, small_model: onnx.ModelProto) -> None:
    location = locate(small_file)
    assert location is not None
    data = small_file.read_bytes()[location.offset : location.offset + location.length]
    assert (location.file, data) == (small_file, small_model.graph.initializer[1].raw_data)
    assert locate(small_file, (("graph", 0), ("initializer", 0))) is None


def test_all_tensors_of_the_corpus_are_located_or_in_the_skeleton(corpus: list[pathlib.Path]) -> None:
    for path in corpus:
        model = ModelFile.open(path)
        whole = onnx.load(path)
        for where, tensor in iter_tensors(model.skeleton):
            location = model.location(where, tensor)
            expected = tensor_at(whole, where)
            if location is None:
                assert tensor == expected
            elif dtype_of(tensor) is not None:
                data = np.fromfile(location.file, np.uint8, location.length, offset=location.offset)
                assert data.tobytes() == numpy_helper.to_array(expected).tobytes()


def test_iter_tensors_finds_every_scope(small_model: onnx.ModelProto) -> None:
    sparse = small_model.graph.sparse_initializer.add()
    sparse.values.name = "values"
    sparse.indices.name = "indices"
    paths = [path for path, _ in iter_tensors(small_model)]
    branch = (("graph", 0), ("node", 4), ("attribute", 0), ("g", 0), ("node", 0), ("attribute", 0), ("t", 0))
    function = (("functions", 0), ("node", 0), ("attribute", 0), ("t", 0))
    parts = [(("graph", 0), ("sparse_initializer", 0), (part, 0)) for part in ("values", "indices")]
    assert branch in paths
    assert function in paths
    assert paths[-3:] == [*parts, function]
    assert all(tensor_at(small_model, path) is not None for path in paths)


def test_tensor_at_refuses_other_paths(small_model: onnx.ModelProto) -> None:
    with pytest.raises(KeyError):
        tensor_at(small_model, (("graph", 0), ("initializer", 7)))
    with pytest.raises(KeyError):
        tensor_at(small_model, (("grape", 0),))
    with pytest.raises(ValueError, match="GraphProto"):
        tensor_at(small_model, (("graph", 0),))


def tensor(dims: list[int], data_type: int = 1, **values: object) -> onnx.TensorProto:
    return onnx.TensorProto(name="t", dims=dims, data_type=data_type, **values)


BAD_TENSORS = {
    "too short": (tensor([10, 10], raw_data=bytes(396)), "400 bytes of data expected, 396 found"),
    "too long": (tensor([10, 10], raw_data=bytes(404)), "404 found"),
    "small": (tensor([2, 2], raw_data=bytes(12)), "16 bytes of data expected, 12 found"),
    "few floats": (tensor([2, 2], float_data=[1, 2, 3]), "4 values expected in float_data, 3 found"),
    "no values": (tensor([3, 3]), "9 values expected"),
    "few halves": (tensor([2, 2], 10, int32_data=[1]), "in int32_data"),
    "large halves": (tensor([1], 16, int32_data=[1 << 16]), "does not fit 16 bits"),
    "negative": (tensor([-10, -10], raw_data=bytes(400)), "negative"),
    "absurd": (tensor([2**62, 2**62], raw_data=bytes(400)), "impossibly many"),
    "overflow to right size": (tensor([2**32, 2**32], raw_data=bytes(256)), "impossibly many"),
    "two stores": (tensor([100], raw_data=bytes(400), float_data=[1.0]), "values given twice"),
    "wrong store": (tensor([200], 10, float_data=[0.0] * 100), "cannot hold"),
    "unknown type": (tensor([100], 99, raw_data=bytes(400)), "data type 99"),
    "segments": (tensor([100], raw_data=bytes(400), segment=onnx.TensorProto.Segment(begin=0, end=9)), "segments"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_shape_and_bytes_that_do_not_fit(tmp_path: pathlib.Path, case: str) -> None:
    bad, message = BAD_TENSORS[case]
    with pytest.raises(InvalidTensor, match=message) as caught:
        locate_only(tmp_path / "model.onnx", bad)
    assert "'t'" in str(caught.value)


def test_sizes_of_other_types(tmp_path: pathlib.Path) -> None:
    for data_type, elements, size in [(onnx.TensorProto.INT4, 601, 301), (onnx.TensorProto.COMPLEX64, 40, 320)]:
        location = locate_only(tmp_path / "model.onnx", tensor([elements], data_type, raw_data=bytes(size)))
        assert location is not None
        assert location.length == size
    assert locate_only(tmp_path / "model.onnx", tensor([0, 9], raw_data=b"")) is None


def external(location: str, **entries: str) -> onnx.TensorProto:
    result = tensor([4, 4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        result.external_data.add(key=key, value=value)
    return result


def test_external_defaults(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(64))
    expected = Location(tmp_path / "sub" / "w.bin", 0, 64)
    assert locate_only(tmp_path / "model.onnx", external("sub/w.bin")) == expected
    assert locate_only(tmp_path / "model.onnx", external("sub/../sub/./w.bin", length="64")) == expected


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (external("/etc/passwd"), "absolute"),
        (external("C:\\w.bin"), "absolute"),
        (external("C:w.bin"), "absolute"),
        (external("\\\\server\\share\\w.bin"), "absolute"),
        (external("\\w.bin"), "absolute"),
        (external("../w.bin"), "leads out"),
        (external("..\\w.bin"), "leads out"),
        (external("sub/../../inside/w.bin"), "leads out"),
        (external("missing.bin"), "No such file"),
        (external("w.bin/x"), "cannot be found"),
        (external("x" * 5000), "cannot be found"),
        (external("a\0b"), "cannot be found"),
        (external("loop"), "cannot be found"),
        (external("out"), "outside the model's folder"),
        (external("outdir/w.bin"), "outside the model's folder"),
        (external("model.onnx"), "not a data file"),
        (external("."), "names no file|not a data file"),
        (external("sub"), "not a data file"),
        (external(""), "names no file"),
        (external("w.bin", offset="1"), "truncated: bytes 1 to 65 are needed, the file has 64"),
        (external("w.bin", offset="9" * 19), "truncated"),
        (external("w.bin", offset="-1"), "not a byte count"),
        (external("w.bin", offset="9" * 5000), "not a byte count"),
        (external("w.bin", length="0x40"), "not a byte count"),
    ],
)
def test_external_data_that_is_not_ours_to_read(tmp_path: pathlib.Path, bad: onnx.TensorProto, message: str) -> None:
    folder = tmp_path / "inside"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder):
        (place / "w.bin").write_bytes(bytes(64))
    (folder / "out").symlink_to(tmp_path / "w.bin")
    (folder / "outdir").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(InvalidExternalData, match=message) as caught:
        locate_only(folder / "model.onnx", bad)
    assert "'t'" in str(caught.value)


@pytest.fixture
def snapshot(tmp_path: pathlib.Path) -> pathlib.Path:
    """A link to a model in another folder, whose data is `w.bin`."""
    model = onnx.ModelProto()
    model.graph.initializer.append(external("w.bin"))
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "aaa").write_bytes(model.SerializeToString())
    link = tmp_path / "snapshot" / "model.onnx"
    link.symlink_to("../blobs/aaa")
    return link


@pytest.mark.parametrize("place", ["blobs/bbb", "snapshot/sub", "snapshot/w.bin"])
def test_data_beside_the_link(snapshot: pathlib.Path, tmp_path: pathlib.Path, place: str) -> None:
    (tmp_path / place).write_bytes(bytes(64))
    if place != "snapshot/w.bin":
        (tmp_path / "snapshot" / "w.bin").symlink_to(tmp_path / place)
    model = ModelFile.open(snapshot)
    assert (model.path, model.file) == (snapshot, tmp_path / "blobs" / "aaa")
    assert model.data_files() == (tmp_path / place,)
    assert ModelFile.open(model.path).data_files() == model.data_files()
    with pytest.raises(InvalidExternalData, match="cannot be found"):
        ModelFile.open(model.file).data_files()


def test_data_beside_the_file_comes_first(snapshot: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for folder in ("blobs", "snapshot"):
        (tmp_path / folder / "w.bin").write_bytes(bytes(64))
    assert ModelFile.open(snapshot).data_files() == (tmp_path / "blobs" / "w.bin",)
    (tmp_path / "snapshot" / "w.bin").unlink()
    model = ModelFile.open(snapshot)
    assert (model.path, model.data_files()) == (model.file, (tmp_path / "blobs" / "w.bin",))


@pytest.mark.parametrize("folder", ["blobs", "snapshot"])
def test_data_beside_the_link_may_not_lead_out(snapshot: pathlib.Path, tmp_path: pathlib.Path, folder: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / folder / "w.bin").symlink_to("../secret")
    with pytest.raises(InvalidExternalData, match="outside the model's folder"):
        ModelFile.open(snapshot).data_files()


def test_external_length_must_fit_the_shape(tmp_path: pathlib.Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with pytest.raises(InvalidTensor, match="64 bytes of data expected, 60 found"):
        locate_only(tmp_path / "model.onnx", external("w.bin", length="60"))


def test_external_data_is_given_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    twice = external("w.bin")
    twice.external_data.add(key="location", value="w.bin")
    with pytest.raises(InvalidExternalData, match="two entries"):
        locate_only(tmp_path / "model.onnx", twice)
    both = external("w.bin")
    both.raw_data = bytes(64)
    with pytest.raises(InvalidTensor, match="given twice"):
        locate_only(tmp_path / "model.onnx", both)


def test_data_files_in_order_of_first_use(tmp_path: pathlib.Path) -> None:
    model = onnx.ModelProto()
    for name in ("b.bin", "a.bin", "./b.bin"):
        (tmp_path / name).write_bytes(bytes(64))
        model.graph.initializer.append(external(name))
    model.functions.add(name="f").node.add().attribute.add(name="v").t.CopyFrom(external("c.bin"))
    (tmp_path / "c.bin").write_bytes(bytes(64))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert [file.name for file in ModelFile.open(tmp_path / "model.onnx").data_files()] == ["b.bin", "a.bin", "c.bin"]


def test_irregular_model_is_read_whole(small_file: pathlib.Path, small_model: onnx.ModelProto) -> None:
    small_file.write_bytes(small_file.read_bytes() + b"\x3a\x03\x12\x01g")
    model = ModelFile.open(small_file)
    assert (model.regular, dict(model.payloads)) == (False, {})
    assert model.skeleton == small_model
    assert model.location(WEIGHT, tensor_at(model.skeleton, WEIGHT)) is None


def examine(path: pathlib.Path) -> None:
    """All that may be asked of a file; strings are looked at too, since protobuf decodes them late."""
    model = ModelFile.open(path)
    model.data_files()
    for where, found in iter_tensors(model.skeleton):
        model.location(where, found)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out or put in, mostly in the first kilobytes, where the structure lies."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(out))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 20)]
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(out)


@pytest.mark.parametrize("kind", ["small_file", "external_file"])
def test_mutated_models_give_clear_errors(request: pytest.FixtureRequest, kind: str) -> None:
    path: pathlib.Path = request.getfixturevalue(kind)
    data = path.read_bytes()
    rng = random.Random(20)
    refused = examined = 0
    end = time.monotonic() + 2.5
    while examined < 3000 and time.monotonic() < end:
        path.write_bytes(mutated(data, rng) or b"\0")
        examined += 1
        try:
            examine(path)
        except OnnxToolsError:
            refused += 1
    assert examined > refused > 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("positioned", [True, False], ids=["pread", "seek"])
def test_blocks_of_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, dtype: np.dtype[np.generic], positioned: bool
) -> None:
    if not positioned:
        monkeypatch.delattr("os.preadv", raising=False)
        monkeypatch.delattr("os.pwrite", raising=False)
    values = np.arange(1000).astype(dtype)
    path = tmp_path / "w.bin"
    path.write_bytes(b"xyz" + values.tobytes() + b"end")
    with path.open("r+b", buffering=0) as file:
        blocks = FileBlocks(file.fileno(), 3, (10, 100), values.dtype)

        def negate(start: int) -> None:
            block = blocks.load(start, start + 100, np.empty(128, values.dtype))
            np.negative(block, out=block)
            blocks.store(start, block)

        threads = [threading.Thread(target=negate, args=(start,)) for start in range(0, 1000, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_bytes() == b"xyz" + (-values).tobytes() + b"end"


def test_blocks_complete_short_reads_and_writes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:5], at))
    values = np.arange(20, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    with (tmp_path / "w.bin").open("r+b") as file:
        blocks = FileBlocks(file.fileno(), 0, (20,), values.dtype)
        block = blocks.load(0, 20, np.empty(20, np.float32))
        assert np.array_equal(block, values)
        blocks.store(0, block + 1)
    assert np.array_equal(np.fromfile(tmp_path / "w.bin", np.float32), values + 1)


def test_blocks_errors(tmp_path: pathlib.Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(10))
    with (tmp_path / "w.bin").open("rb") as file:
        blocks = FileBlocks(file.fileno(), 0, (4,), np.dtype(np.float32))
        with pytest.raises(InvalidModelFile, match="truncated while being read"):
            blocks.load(0, 4, np.empty(4, np.float32))
        with pytest.raises(WriteFailed, match="cannot be written"):
            blocks.store(0, np.zeros(2, np.float32))
