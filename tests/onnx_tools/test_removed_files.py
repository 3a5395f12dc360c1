"""Files that removal writes: what it has nothing to do with stays, byte for byte, and nothing is lost on the way."""

from __future__ import annotations

import pathlib
import stat

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tools import compact_file
from onnx_tools.compaction.constants.folds import Fold
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.removing.removal import write_without
from onnx_tools.errors import InvalidExternalData, OutputRefused
from onnx_tools.model_file import ModelFile
from onnx_tools.verification.metadata import METADATA_KEY
from tests.onnx_tools.compacting import compare, feeds_of, half, removed, save, with_weights, zero

MODEL = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "test">
g (float[N, 6] x) => (float[N, 5] y, float[N, 5] z)
<float[6, 40] w, float[40, 5] v, float[6, 5] u, int64[2] sizes = {-1, 40}, float[2] unused>
{
  a = MatMul (x, w)
  b = Reshape (a, sizes)
  y = MatMul (b, v)
  c = MatMul (x, u)
  z = Tanh (c)
}
"""


def model_of() -> onnx.ModelProto:
    """A model with all that people write beside a graph."""
    model = with_weights(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "unused"))
    model.graph.doc_string, model.graph.node[0].doc_string = "of a graph", "of a node"
    helper.set_model_props(model, {"author": "somebody", METADATA_KEY: "old"})
    for name, size in (("a", 40), ("b", 40), ("c", 5)):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["N", size]))
    return model


def zeroed(folder: pathlib.Path, *, external: bool = False) -> tuple[ModelFile, np.ndarray]:
    model = model_of()
    channels = map_channels(model)
    gone = half(channels)
    zero(model, channels, gone)
    return save(model, folder / "model.onnx", external=external), gone


def test_what_stays(tmp_path: pathlib.Path) -> None:
    file, gone = zeroed(tmp_path)
    before, after = onnx.load(file.path), onnx.load(removed(file, gone))
    sizes = {info.name: info.type.tensor_type.shape.dim[1].dim_value for info in after.graph.value_info}
    assert sizes == {"a": 20, "b": 20, "c": 5}
    for model in (before, after):
        for tensor in [tensor for tensor in model.graph.initializer if tensor.name in ("w", "v", "sizes")]:
            model.graph.initializer.remove(tensor)
        del model.graph.value_info[:]
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_nothing_gone_gives_the_same_file(tmp_path: pathlib.Path) -> None:
    file, _ = zeroed(tmp_path)
    assert removed(file, np.zeros(0, np.int64)).read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("external", [False, True])
def test_equal_files_from_equal_arguments(tmp_path: pathlib.Path, external: bool) -> None:
    file, gone = zeroed(tmp_path, external=external)
    (tmp_path / "other").mkdir()
    outputs = [tmp_path / "out.onnx", tmp_path / "other" / "out.onnx"]
    for output in outputs:
        write_without(ModelFile.open(file.path), map_channels(file.skeleton), gone, [], output)
    for name in ["out.onnx", *(["out.onnx.data"] if external else [])]:
        assert outputs[0].with_name(name).read_bytes() == outputs[1].with_name(name).read_bytes()


@pytest.mark.parametrize("metadata", [None, "new"])
def test_metadata(tmp_path: pathlib.Path, metadata: str | None) -> None:
    file, gone = zeroed(tmp_path)
    output = tmp_path / "out.onnx"
    write_without(file, map_channels(file.skeleton), gone, [], output, metadata=metadata)
    entries = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert entries == {"author": "somebody", METADATA_KEY: metadata or "old"}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("delete", [False, True])
def test_in_place(tmp_path: pathlib.Path, external: bool, delete: bool) -> None:
    file, gone = zeroed(tmp_path, external=external)
    kept = save(onnx.load(file.path), tmp_path / "kept" / "model.onnx") if (tmp_path / "kept").mkdir() is None else file
    size = sum(path.stat().st_size for path in (file.path, *file.data_files()))
    old = file.data_files()
    files = write_without(file, map_channels(file.skeleton), gone, [], None, delete_old_data=delete)
    assert files.model == file.path
    assert sum(path.stat().st_size for path in (files.model, *files.data)) < 0.8 * size
    assert [path.exists() for path in old] == [not delete] * len(old)
    compare(kept.path, file.path, feeds_of(onnx.load(kept.path)))


def test_the_check_comes_before_the_name(tmp_path: pathlib.Path) -> None:
    file, gone = zeroed(tmp_path)
    output = tmp_path / "out.onnx"

    def refuse(finished: pathlib.Path) -> None:
        compare(file.path, finished, feeds_of(onnx.load(file.path)))
        assert not output.exists()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_without(file, map_channels(file.skeleton), gone, [], output, check=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_outputs_that_are_refused(tmp_path: pathlib.Path) -> None:
    file, gone = zeroed(tmp_path)
    channels = map_channels(file.skeleton)
    output = tmp_path / "out.onnx"
    output.write_bytes(b"mine")
    with pytest.raises(OutputRefused, match="exists"):
        write_without(file, channels, gone, [], output)
    write_without(file, channels, gone, [], output, force=True)
    output.chmod(stat.S_IRUSR)
    before = output.read_bytes()
    with pytest.raises(OutputRefused, match="read-only"):
        write_without(file, channels, gone, [], output, force=True)
    assert output.read_bytes() == before


def test_missing_data(tmp_path: pathlib.Path) -> None:
    file, gone = zeroed(tmp_path, external=True)
    (data,) = file.data_files()
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(InvalidExternalData, match="truncated"):
        removed(file, gone)
    data.unlink()
    with pytest.raises(InvalidExternalData, match="cannot be found"):
        removed(file, gone)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_groups_that_must_stay(tmp_path: pathlib.Path) -> None:
    file, _ = zeroed(tmp_path)
    channels = map_channels(file.skeleton)
    held = np.flatnonzero(channels.groups.held)
    with pytest.raises(ValueError, match=r"group \d+ must stay: '[yz]' is an output of the model"):
        write_without(file, channels, held[:1], [], tmp_path / "out.onnx")


def test_a_message_given_twice(tmp_path: pathlib.Path) -> None:
    """Protobuf merges two graphs, so that the file can't be patched."""
    file, gone = zeroed(tmp_path)
    more = onnx.ModelProto(graph=onnx.GraphProto(doc_string="once more")).SerializeToString()
    path = tmp_path / "twice.onnx"
    path.write_bytes(file.path.read_bytes() + more)
    twice = ModelFile.open(path)
    assert not twice.regular
    output = removed(twice, gone)
    compare(path, output, feeds_of(onnx.load(path)))
    dims = {tensor.name: list(tensor.dims) for tensor in onnx.load(output).graph.initializer}
    assert dims["w"] == [6, 20]


SHARED = """
<ir_version: %d, opset_import: ["" : 8]>
g (float[3, 6] x, float[6, 8] w, float[6, 8] w2, float[8, 5] v, float[8, 5] v2, int64[2] sizes) => (float[3, 5] y)
<float[6, 8] w, float[6, 8] w2, float[8, 5] v, float[8, 5] v2, int64[2] sizes = {3, 8}>
{
  a = MatMul (x, w)
  b = Reshape (a, sizes)
  c = MatMul (b, v)
  d = MatMul (x, w2)
  e = Reshape (d, sizes)
  f = MatMul (e, v2)
  y = Add (c, f)
}
"""


@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_list_that_nobody_reads_any_more(tmp_path: pathlib.Path, ir_version: int) -> None:
    model = with_weights(SHARED % ir_version)
    channels = map_channels(model)
    free, families = channels.groups.free, channels.groups.families
    one, two = (free[families[free] == family] for family in np.unique(families[free]))
    gone = np.sort(np.concatenate([one[:2], two[:5]]))
    zero(model, channels, gone)
    file = save(model, tmp_path / "model.onnx")
    output = removed(file, gone)
    compare(file.path, output, feeds_of(model))
    smaller = onnx.load(output).graph
    assert "sizes" not in {each.name for each in (*smaller.initializer, *smaller.input)}
    assert [each.name for each in smaller.initializer] == ["w", "w2", "v", "v2", "b_shape", "e_shape"]


CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 5] y)
<float[6, 8] w, float[8] c, float[8, 5] v, float[2] unused>
{
  minus = Constant <value_floats = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]> ()
  b = Neg (c)
  a = Gemm (x, w, minus)
  other = Gemm (x, w, minus)
  p = Relu (a)
  q = Relu (other)
  r = Add (p, q)
  y = MatMul (r, v)
}
"""


def test_a_node_that_nobody_reads_any_more(tmp_path: pathlib.Path) -> None:
    """A bias that two share is given to each; what was dead before stays."""
    model = with_weights(CHAIN)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "unused"))
    file = save(model, tmp_path / "model.onnx")
    channels = map_channels(file.skeleton)
    folds = [Fold(channels.index.nodes[at], 1, np.arange(8.0)) for at in (2, 3)]
    output = removed(file, np.zeros(0, np.int64), folds, channels)
    smaller = onnx.load(output).graph
    assert [node.op_type for node in smaller.node] == ["Neg", "Gemm", "Gemm", "Relu", "Relu", "Add", "MatMul"]
    assert [tensor.name for tensor in smaller.initializer][-2:] == ["a_bias", "other_bias"]
    assert "unused" in {tensor.name for tensor in smaller.initializer}


SHARED_BIAS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 5] y, float[N, 5] z)
<float[6, 8] w, float[8] b, float[8, 5] v, float[8, 5] u, float[5] c>
{ a = Gemm (x, w, b)  r = Relu (a)  y = Gemm (r, v, c)  z = Gemm (r, u, c) }
"""
"""`c` takes in constants that differ between its readers: each gets its own."""


def in_two_data_files(folder: pathlib.Path, first: str) -> pathlib.Path:
    """A model with half of its channels constant; the stored tensor `first` has a data file for itself."""
    model = with_weights(SHARED_BIAS)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = numpy_helper.to_array(stored["w"]).copy()
    weight[:, ::2] = 0
    stored["w"].CopyFrom(numpy_helper.from_array(weight, "w"))
    for tensor in stored.values():
        onnx.external_data_helper.set_external_data(tensor, "own.bin" if tensor.name == first else "others.bin")
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("in_place", [False, True])
def test_a_data_file_in_which_nothing_is_left(tmp_path: pathlib.Path, in_place: bool) -> None:
    path = in_two_data_files(tmp_path, "c")
    before = tmp_path / "before.onnx"
    before.write_bytes(path.read_bytes())
    report = compact_file(path, None if in_place else tmp_path / "out.onnx", verify=None, delete_old_data=False)
    written = path if in_place else tmp_path / "out.onnx"
    compare(before, written, feeds_of(onnx.load(before)))
    (name,) = {
        tensor.external_data[0].value
        for tensor in onnx.load(written, load_external_data=False).graph.initializer
        if tensor.external_data
    }
    after = {(file.name_before, file.name_after, file.bytes_after) for file in report.files}
    assert after == {
        ("model.onnx", written.name, written.stat().st_size),
        ("others.bin", name, (tmp_path / name).stat().st_size),
        ("own.bin", None, 0),
    }
    extra = {"out.onnx"} if not in_place else set()
    assert {file.name for file in tmp_path.iterdir()} == {
        "model.onnx",
        "before.onnx",
        "own.bin",
        "others.bin",
        name,
        *extra,
    }


def test_data_that_nobody_uses_is_deleted_in_place(tmp_path: pathlib.Path) -> None:
    path = in_two_data_files(tmp_path, "c")
    compact_file(path, delete_old_data=True)
    assert not {"own.bin", "others.bin"} & {file.name for file in tmp_path.iterdir()}
