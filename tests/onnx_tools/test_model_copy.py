"""Rewriting a model: what changes, what stays, and what is left when it goes wrong."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_tools import file_blocks, model_copy, temporaries
from onnx_tools.errors import InvalidExternalData, InvalidModelFile, OutputRefused, WriteFailed
from onnx_tools.model_copy import CommittedFiles, ModelCopy
from onnx_tools.model_file import ModelFile, tensor_at
from onnx_tools.wire import Path

WEIGHT: Path = (("graph", 0), ("initializer", 1))
BIAS: Path = (("graph", 0), ("initializer", 0))
SCRATCH = np.empty(512, np.float32)


def negate(copy: ModelCopy, where: Path = WEIGHT) -> None:
    """Negate the 512 weights in the copy."""
    blocks = copy.blocks(where)
    blocks.store(0, -blocks.load(0, 512, SCRATCH))


def negated(source: pathlib.Path, output: pathlib.Path | None = None, **options: bool) -> CommittedFiles:
    with ModelCopy(ModelFile.open(source), output, **options) as copy:
        negate(copy)
        return copy.commit()


def weight_of(path: pathlib.Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(path).graph.initializer[1])


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def check_runs(path: pathlib.Path) -> None:
    """The model loads in onnxruntime, which finds its external data, and computes with the weights in it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.ones((1, 16), np.float32)
    expected = 2 * (x @ weight_of(path) + numpy_helper.to_array(onnx.load(path).graph.initializer[0]))
    (got,) = session.run(None, {"x": x, "flag": np.array(False)})
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_in_place_changes_the_weight_and_nothing_else(small_file: pathlib.Path) -> None:
    before, weight = small_file.read_bytes(), weight_of(small_file)
    result = negated(small_file)
    expected = before.replace(weight.tobytes(), (-weight).tobytes())
    assert tree(small_file.parent) == {"model.onnx": expected}
    assert result == CommittedFiles(small_file, ())
    check_runs(small_file)


def test_output_leaves_the_input(small_file: pathlib.Path) -> None:
    before, weight = small_file.read_bytes(), weight_of(small_file)
    output = small_file.with_name("out.onnx")
    assert negated(small_file, output) == CommittedFiles(output, ())
    expected = before.replace(weight.tobytes(), (-weight).tobytes())
    assert tree(small_file.parent) == {"model.onnx": before, "out.onnx": expected}


def test_nothing_asked_gives_an_equal_file(corpus: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    for path in corpus:
        source = ModelFile.open(path)
        with ModelCopy(source, tmp_path / "out.onnx", force=True) as copy:
            result = copy.commit()
        if not source.data_files():
            assert result.model.read_bytes() == path.read_bytes()
        for old, new in zip(source.data_files(), result.data, strict=True):
            assert new.read_bytes() == old.read_bytes()
        loaded, expected = onnx.load(result.model), onnx.load(path)
        assert loaded == expected


def test_metadata_is_appended_once(small_file: pathlib.Path) -> None:
    before = small_file.read_bytes()
    for text in ("first", "second, longer", "3"):
        with ModelCopy(ModelFile.open(small_file), None) as copy:
            copy.set_metadata("oxiprune", text)
            copy.commit()
        entry = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="oxiprune", value=text)])
        assert small_file.read_bytes() == before + entry.SerializeToString()
    onnx.checker.check_model(str(small_file))
    assert negated(small_file).model == small_file
    assert [entry.value for entry in onnx.load(small_file).metadata_props] == ["3"]


def test_replaced_tensor_is_encoded_again(small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = onnx.load(small_file)
    expected.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.arange(32, dtype=np.float32), "bias"))
    expected.graph.initializer[1].CopyFrom(numpy_helper.from_array(-weight_of(small_file), "weight"))
    expected.metadata_props.add(key="oxiprune", value="x")
    for chunk in (temporaries.CHUNK, 100):  # rewritten within the copy, and streamed into another file
        monkeypatch.setattr(model_copy, "_LONGEST_TAIL", chunk)
        monkeypatch.setattr(temporaries, "CHUNK", chunk)
        with ModelCopy(ModelFile.open(small_file), small_file.with_name("out.onnx"), force=True) as copy:
            negate(copy)
            copy.replace_tensor(BIAS, expected.graph.initializer[0])
            copy.set_metadata("oxiprune", "x")
            output = copy.commit().model
        assert onnx.load(output) == expected
        assert sorted(tree(small_file.parent)) == ["model.onnx", "out.onnx"]


def test_irregular_model_is_serialised_anew(small_file: pathlib.Path) -> None:
    expected = onnx.load(small_file)
    small_file.write_bytes(small_file.read_bytes() + b"\x3a\x03\x12\x01h")
    untouched = small_file.read_bytes()
    with ModelCopy(ModelFile.open(small_file), None) as copy:
        copy.commit()
    assert small_file.read_bytes() == untouched
    with ModelCopy(ModelFile.open(small_file), None) as copy:
        expected.graph.initializer[1].raw_data = bytes(2048)
        copy.replace_tensor(WEIGHT, expected.graph.initializer[1])
        copy.commit()
    expected.graph.name = "h"
    assert small_file.read_bytes() == expected.SerializeToString()


def test_external_data_in_place_gets_a_fresh_name(external_file: pathlib.Path) -> None:
    folder, weight = external_file.parent, weight_of(external_file)
    old = (folder / "weights.bin").read_bytes()
    (folder / "model.onnx.data").write_bytes(b"somebody else's")
    result = negated(external_file)
    assert result == CommittedFiles(external_file, (folder / "model.onnx.1.data",))
    assert result.data[0].read_bytes() == old[:64] + (-weight).tobytes() + old[-10:]
    assert (folder / "weights.bin").read_bytes() == old
    assert (folder / "model.onnx.data").read_bytes() == b"somebody else's"
    check_runs(external_file)


def test_old_data_is_deleted_if_asked(external_file: pathlib.Path) -> None:
    folder, weight = external_file.parent, weight_of(external_file)
    negated(external_file, delete_old_data=True)
    assert sorted(tree(folder)) == ["model.onnx", "model.onnx.data"]
    np.testing.assert_array_equal(weight_of(external_file), -weight)
    with ModelCopy(ModelFile.open(external_file), None, delete_old_data=True) as copy:
        copy.set_metadata("oxiprune", "only the model changes")
        assert copy.commit().data == (folder / "model.onnx.data",)
    assert sorted(tree(folder)) == ["model.onnx", "model.onnx.data"]


def test_external_data_with_output(external_file: pathlib.Path) -> None:
    folder, weight = external_file.parent, weight_of(external_file)
    before = tree(folder)
    (folder / "new").mkdir()
    result = negated(external_file, folder / "new" / "out.onnx")
    assert result.data == (folder / "new" / "out.onnx.data",)
    assert {name: data for name, data in tree(folder).items() if "new" not in name} == before
    expected = onnx.load(external_file, load_external_data=False)
    expected.graph.initializer[1].external_data[0].value = "out.onnx.data"
    assert result.model.read_bytes() == expected.SerializeToString()
    np.testing.assert_array_equal(weight_of(result.model), -weight)
    check_runs(result.model)


def test_several_data_files_are_numbered(external_file: pathlib.Path) -> None:
    folder = external_file.parent
    model = onnx.load(external_file, load_external_data=False)
    second = model.graph.initializer.add()
    second.CopyFrom(model.graph.initializer[1])
    second.name = "second"
    second.external_data[0].value = "second.bin"
    (folder / "second.bin").write_bytes(bytes(3000))
    external_file.write_bytes(model.SerializeToString())
    result = negated(external_file, folder / "out.onnx")
    assert [file.name for file in result.data] == ["out.onnx.data.0", "out.onnx.data.1"]
    assert result.data[1].read_bytes() == bytes(3000)
    in_place = negated(external_file)
    assert [file.name for file in in_place.data] == ["model.onnx.data", "second.bin"]
    check_runs(external_file)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_overwriting_our_own_output(external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    folder, weight = external_file.parent, weight_of(external_file)
    output = folder / "out.onnx"
    with ModelCopy(ModelFile.open(external_file), output) as copy:
        copy.commit()
    first = tree(folder)
    if not links:
        monkeypatch.setattr(os, "link", deny(errno.EPERM))
    result = negated(external_file, output, force=True)
    np.testing.assert_array_equal(weight_of(output), -weight)
    check_runs(output)
    assert result.data == (folder / "out.onnx.data",)
    assert sorted(tree(folder)) == sorted(first)
    assert output.read_bytes() == first["out.onnx"]


def refused(source: pathlib.Path, output: pathlib.Path, message: str, *, force: bool = False) -> None:
    before = tree(source.parent)
    with pytest.raises(OutputRefused, match=message), ModelCopy(ModelFile.open(source), output, force=force):
        pass
    assert tree(source.parent) == before


def test_outputs_that_are_refused(external_file: pathlib.Path) -> None:
    folder = external_file.parent
    (folder / "other.onnx").write_bytes(b"x")
    (folder / "alias.onnx").hardlink_to(external_file)
    refused(external_file, folder / "other.onnx", "exists")
    refused(external_file, external_file, "is the input")
    refused(external_file, folder / "alias.onnx", "is the input")
    refused(external_file, folder / "missing" / "out.onnx", "does not exist; create it")
    refused(external_file, folder, "not a file", force=True)
    refused(external_file, folder / "weights.bin", "holds the weights of the input", force=True)
    refused(external_file, folder / "loop\0", "not a usable file name", force=True)
    (folder / "out.onnx.data").write_bytes(b"not ours")
    for force in (False, True):
        refused(external_file, folder / "out.onnx", "out.onnx.data: not ours to overwrite", force=force)
    (folder / "out.onnx").write_bytes(b"no model")
    refused(external_file, folder / "out.onnx", "out.onnx.data: not ours to overwrite", force=True)


def test_output_data_that_the_input_uses_is_refused(external_file: pathlib.Path) -> None:
    folder = external_file.parent
    (folder / "weights.bin").rename(folder / "out.onnx.data")
    model = onnx.load(external_file, load_external_data=False)
    model.graph.initializer[1].external_data[0].value = "out.onnx.data"
    for name in ("model.onnx", "out.onnx"):
        (folder / name).write_bytes(model.SerializeToString())
    refused(external_file, folder / "out.onnx", "out.onnx.data: not ours to overwrite", force=True)


def test_output_that_is_the_input_is_refused_also_by_force(external_file: pathlib.Path) -> None:
    for force in (False, True):
        refused(external_file, external_file, "is the input; choose another output name", force=force)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_read_only_file_is_not_replaced(small_file: pathlib.Path, in_place: bool) -> None:
    """Not even by who may: a rename would not ask."""
    target = small_file if in_place else small_file.with_name("out.onnx")
    target.write_bytes(small_file.read_bytes())
    target.chmod(0o444)
    before = target.read_bytes()
    with (
        pytest.raises(OutputRefused, match="is read-only"),
        ModelCopy(ModelFile.open(small_file), None if in_place else target, force=True),
    ):
        pass
    assert target.read_bytes() == before


def test_links_and_permissions_survive(small_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    small_file.chmod(0o640)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.onnx"
    link.symlink_to(small_file)
    weight = weight_of(small_file)
    negated(link)
    assert link.is_symlink()
    assert stat.S_IMODE(small_file.stat().st_mode) == 0o640
    np.testing.assert_array_equal(weight_of(small_file), -weight)
    assert sorted(tree(tmp_path)) == ["links/link.onnx", "model.onnx"]


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o664, 0o644), (0o440, 0o640), (0o666, 0o644)])
def test_new_output_is_as_private_as_the_input(external_file: pathlib.Path, mode: int, expected: int) -> None:
    """As `cp` does it, but its owner can always write it."""
    for file in (external_file, external_file.with_name("weights.bin")):
        file.chmod(mode)
    old = os.umask(0o022)
    try:
        files = negated(external_file, external_file.with_name("out.onnx"))
        names = replaced_bias(external_file, external_file.with_name("other.onnx"))
    finally:
        os.umask(old)
    for file in (files.model, *files.data, names.model, *names.data):
        assert stat.S_IMODE(file.stat().st_mode) == expected, file


def replaced_bias(source: pathlib.Path, output: pathlib.Path) -> CommittedFiles:
    with ModelCopy(ModelFile.open(source), output) as copy:
        copy.replace_tensor(BIAS, numpy_helper.from_array(np.zeros(32, np.float32), "bias"))
        return copy.commit()


def test_existing_output_keeps_its_permissions(external_file: pathlib.Path) -> None:
    output = external_file.with_name("out.onnx")
    negated(external_file, output)
    output.chmod(0o640)
    output.with_name("out.onnx.data").chmod(0o604)
    negated(external_file, output, force=True)
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    assert stat.S_IMODE(output.with_name("out.onnx.data").stat().st_mode) == 0o604


@pytest.fixture
def cached(external_file: pathlib.Path) -> pathlib.Path:
    """`external_file` as a Hugging Face cache has it."""
    blobs, snapshot = external_file.parent / "blobs", external_file.parent / "snapshots" / "r"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, blob in (("model.onnx", "aaa"), ("weights.bin", "bbb")):
        external_file.with_name(name).rename(blobs / blob)
        (blobs / blob).chmod(0o644)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot / "model.onnx"


def test_cached_model_with_output(cached: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before, weight = tree(tmp_path), stored_weight(cached)
    result = negated(cached, tmp_path / "out.onnx")
    assert result.data == (tmp_path / "out.onnx.data",)
    np.testing.assert_array_equal(weight_of(result.model), -weight)
    check_runs(result.model)
    assert {name: data for name, data in tree(tmp_path).items() if "out" not in name} == before


def test_cached_model_in_place(cached: pathlib.Path, tmp_path: pathlib.Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weight, data = stored_weight(cached), (tmp_path / "blobs" / "bbb").read_bytes()
    for number, name in enumerate(["aaa.data", "aaa.1.data"]):
        result = negated(cached, delete_old_data=number == 1)
        assert result == CommittedFiles(tmp_path / "blobs" / "aaa", (tmp_path / "blobs" / name,))
        assert cached.is_symlink()
        for path in (cached, tmp_path / "blobs" / "aaa"):
            np.testing.assert_array_equal(stored_weight(path), -weight if number == 0 else weight)
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert os.readlink(cached.with_name(name)) == f"../../blobs/{name}"
    assert (tmp_path / "blobs" / "bbb").read_bytes() == data
    assert not (tmp_path / "blobs" / "aaa.data").exists()


def test_cached_model_only_the_metadata_changes(cached: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Data that was beside the link goes along, since it would not be found beside the file."""
    weight = stored_weight(cached)
    with ModelCopy(ModelFile.open(cached), None) as copy:
        copy.set_metadata("oxiprune", "x")
        assert copy.commit().data == (tmp_path / "blobs" / "aaa.data",)
    np.testing.assert_array_equal(weight_of(tmp_path / "blobs" / "aaa"), weight)


def test_cached_model_that_fails_leaves_nothing(cached: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with ModelCopy(ModelFile.open(cached), None) as copy:
        negate(copy)
        with pytest.raises(RuntimeError):
            copy.commit(deny_with(RuntimeError))
    assert sorted(tmp_path.rglob("*")) == before


def deny_with(error: type[Exception]):
    def fail(_: pathlib.Path) -> None:
        raise error

    return fail


def stored_weight(path: pathlib.Path) -> np.ndarray:
    """As `weight_of`, also for data that is a link, which onnx.load refuses (onnxruntime does not)."""
    source = ModelFile.open(path)
    location = source.location(WEIGHT, tensor_at(source.skeleton, WEIGHT))
    assert location is not None
    return np.fromfile(location.file, np.float32, 512, offset=location.offset).reshape(16, 32)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_leaving_without_commit_changes_nothing(external_file: pathlib.Path, error: type[BaseException] | None) -> None:
    before = tree(external_file.parent)
    try:
        with ModelCopy(ModelFile.open(external_file), None) as copy:
            negate(copy)
            copy.set_metadata("oxiprune", "x")
            assert len(tree(external_file.parent)) > len(before)
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert tree(external_file.parent) == before


def deny(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def everything(source: ModelFile, output: pathlib.Path | None) -> None:
    with ModelCopy(source, output) as copy:
        negate(copy)
        copy.replace_tensor(BIAS, numpy_helper.from_array(np.zeros(32, np.float32), "bias"))
        copy.set_metadata("oxiprune", "x" * 10)
        copy.commit()


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("output", [None, "out.onnx"])
def test_full_disk(external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, at: int, output: str | None) -> None:
    """The disk is full at the first, second, ... write: patching data, copying the rest of it, copying the model."""
    before = tree(external_file.parent)
    writes = 0
    write = file_blocks._write_some

    def fill(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(file_blocks, "_write_some", fill)
    source = ModelFile.open(external_file)
    target = external_file.with_name(output) if output else None
    with pytest.raises(WriteFailed, match="disk is full"):
        everything(source, target)
    assert writes == at + 1
    assert tree(external_file.parent) == before


@pytest.mark.parametrize(
    ("name", "count"),
    [("open", 0), ("open", 1), ("open", 2), ("fsync", 0), ("fsync", 1), ("replace", 0), ("replace", 1)],
)
def test_system_errors_before_the_commit_leave_nothing_behind(
    external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """Where there are no hard links, which take fewer steps."""
    before = tree(external_file.parent)
    source = ModelFile.open(external_file)
    monkeypatch.setattr(os, "link", deny(errno.EPERM))
    fail_after(monkeypatch, name, count)
    with pytest.raises(WriteFailed, match="Read-only file system; make the folder writable"):
        everything(source, None)
    assert tree(external_file.parent) == before


def fail_after(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """Let `os.name` work `count` times, and then fail as on a read-only file system."""
    real = getattr(os, name)
    calls = 0

    def call(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return real(*args, **options) if calls <= count else deny(errno.EROFS)()

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("open_files", [True, False], ids=["flushed beside the check", "flushed before"])
def test_files_that_cannot_be_flushed_are_not_committed(
    external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, open_files: bool
) -> None:
    monkeypatch.setattr(temporaries, "_RENAMES_OPEN_FILES", open_files)
    before, seen = tree(external_file.parent), []
    with ModelCopy(ModelFile.open(external_file), external_file.with_name("out.onnx")) as copy:
        negate(copy)
        fail_after(monkeypatch, "fsync", 1)
        with pytest.raises(WriteFailed, match="Read-only file system"):
            copy.commit(lambda finished: seen.append(weight_of(finished)))
    assert len(seen) == 1
    assert tree(external_file.parent) == before


def test_a_folder_that_cannot_be_flushed_is_no_error(
    external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weight_of(external_file)
    fail_after(monkeypatch, "fsync", 2)
    negated(external_file)
    np.testing.assert_array_equal(weight_of(external_file), -weight)


@pytest.mark.parametrize(("name", "count"), [("replace", 2), ("replace", 3), ("open", 7), ("fsync", 5)], ids=str)
def test_errors_after_the_first_commit_leave_it_whole(
    external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """Giving the data its lasting name fails: the committed model stands with the data's interim name.

    Where there are no hard links, which take fewer steps.
    """
    folder, weight = external_file.parent, weight_of(external_file)
    monkeypatch.setattr(os, "link", deny(errno.EPERM))
    output = folder / "out.onnx"
    with ModelCopy(ModelFile.open(external_file), output) as copy:
        copy.commit()
    source = ModelFile.open(external_file)
    fail_after(monkeypatch, name, count)
    result = negated_from(source, output)
    monkeypatch.undo()
    assert result.data == (folder / "out.onnx.1.data",)
    assert sorted(tree(folder)) == ["model.onnx", "out.onnx", "out.onnx.1.data", "weights.bin"]
    np.testing.assert_array_equal(weight_of(output), -weight)
    check_runs(output)


def negated_from(source: ModelFile, output: pathlib.Path) -> CommittedFiles:
    with ModelCopy(source, output, force=True) as copy:
        negate(copy)
        return copy.commit()


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("kind", ["small_file", "external_file"])
def test_output_that_somebody_made_meanwhile_is_kept(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, links: bool
) -> None:
    path: pathlib.Path = request.getfixturevalue(kind)
    output = path.with_name("out.onnx")
    expected = {**tree(path.parent), "out.onnx": b"precious"}
    if not links:
        monkeypatch.setattr(os, "link", deny(errno.EPERM))
    with ModelCopy(ModelFile.open(path), output) as copy:
        negate(copy)
        with pytest.raises(OutputRefused, match="was created by someone else meanwhile; choose another"):
            copy.commit(lambda _: output.write_bytes(b"precious") and None)
    assert tree(path.parent) == expected


@pytest.mark.parametrize("kind", ["small_file", "external_file"])
def test_output_without_hard_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path: pathlib.Path = request.getfixturevalue(kind)
    monkeypatch.setattr(os, "link", deny(errno.EPERM))
    output, before = path.with_name("out.onnx"), tree(path.parent)
    negated(path, output)
    np.testing.assert_array_equal(weight_of(output), -weight_of(path))
    assert not [name for name in tree(path.parent) if name.startswith(".")]
    output.unlink()
    output.with_name("out.onnx.data").unlink(missing_ok=True)
    fail_after(monkeypatch, "replace", len(before) - 1)  # the model's own, after those of data
    with pytest.raises(WriteFailed):
        negated(path, output)
    assert tree(path.parent) == before


@pytest.mark.parametrize("output", [None, "out.onnx"])
@pytest.mark.parametrize("victim", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_input_that_changed_before_the_commit_is_kept(
    external_file: pathlib.Path, output: str | None, victim: str, gone: bool
) -> None:
    changed = external_file.with_name(victim)
    expected = tree(external_file.parent)

    def check(_: pathlib.Path) -> None:
        if gone:
            changed.unlink()
            del expected[victim]
        else:
            changed.write_bytes(b"newer")
            expected[victim] = b"newer"

    with ModelCopy(ModelFile.open(external_file), external_file.with_name(output) if output else None) as copy:
        negate(copy)
        with pytest.raises(InvalidModelFile, match=f"{victim}: changed since it was read; start again"):
            copy.commit(check)
    assert tree(external_file.parent) == expected


def test_data_that_changed_before_it_is_copied_is_refused(external_file: pathlib.Path) -> None:
    before = tree(external_file.parent)
    with ModelCopy(ModelFile.open(external_file), None) as copy:
        os.utime(external_file.with_name("weights.bin"), ns=(1, 1))
        with pytest.raises(InvalidModelFile, match=r"weights.bin: changed since"):
            negate(copy)
    assert tree(external_file.parent) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folder(small_file: pathlib.Path) -> None:
    small_file.parent.chmod(0o500)
    try:
        with pytest.raises(WriteFailed, match="make the folder writable"):
            negated(small_file)
    finally:
        small_file.parent.chmod(0o700)


def test_interrupt_right_after_the_commit_keeps_the_new_data(
    external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, replace = weight_of(external_file), os.replace

    def interrupted(source: pathlib.Path, target: pathlib.Path) -> None:
        replace(source, target)
        if target == external_file:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        negated(external_file)
    np.testing.assert_array_equal(weight_of(external_file), -weight)
    check_runs(external_file)


def test_file_that_changed_meanwhile_is_refused(small_file: pathlib.Path) -> None:
    source = ModelFile.open(small_file)
    small_file.write_bytes(small_file.read_bytes() + b"\x08\x08")
    with pytest.raises(InvalidModelFile, match="changed since"), ModelCopy(source, None) as copy:
        negate(copy)
    assert list(tree(small_file.parent)) == ["model.onnx"]


def test_missing_external_data_is_refused_before_writing(external_file: pathlib.Path) -> None:
    (external_file.parent / "weights.bin").unlink()
    with pytest.raises(InvalidExternalData), ModelCopy(ModelFile.open(external_file), None):
        pass
    assert list(tree(external_file.parent)) == ["model.onnx"]


def test_misuse(small_file: pathlib.Path) -> None:
    source = ModelFile.open(small_file)
    with ModelCopy(source, None) as copy:
        with pytest.raises(ValueError, match="use replace_tensor"):
            copy.blocks(BIAS)
        with pytest.raises(ValueError, match="does not take"):
            copy.blocks(WEIGHT, shape=(16, 31))
        assert copy.blocks(WEIGHT, shape=(1024,), dtype=np.dtype(np.float16)).shape == (1024,)
        with pytest.raises(ValueError, match="patched already"):
            copy.replace_tensor(WEIGHT, onnx.TensorProto())
        copy.commit()
        with pytest.raises(ValueError, match="committed"):
            copy.commit()
        with pytest.raises(ValueError, match="committed"):
            negate(copy)


LOOP = """
import pathlib, sys
import numpy as np
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import ModelFile
from onnx_tools.wire import Path

path, scratch = pathlib.Path(sys.argv[1]), np.empty(512, np.float32)
print("ready", flush=True)
while True:
    with ModelCopy(ModelFile.open(path), None, delete_old_data=True) as copy:
        blocks = copy.blocks((("graph", 0), ("initializer", 1)))
        for start in range(0, 512, 64):
            blocks.store(start, -blocks.load(start, start + 64, scratch))
        copy.set_metadata("oxiprune", "text")
        copy.commit()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("kind", ["small_file", "external_file"])
def test_killed_at_any_moment_the_model_is_whole(request: pytest.FixtureRequest, kind: str) -> None:
    path: pathlib.Path = request.getfixturevalue(kind)
    weight = weight_of(path)
    rng = random.Random(5)
    seen = set()
    for _ in range(10):
        child = subprocess.Popen([sys.executable, "-c", LOOP, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.05)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        onnx.checker.check_model(str(path))
        now = weight_of(path)
        assert np.array_equal(now, weight) or np.array_equal(now, -weight)
        seen.add(bool(now[0, 0] == weight[0, 0]))
    check_runs(path)
    assert seen, "no run was looked at"
