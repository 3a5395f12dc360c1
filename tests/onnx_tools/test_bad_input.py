"""Bad input and hostile systems, through the command: one clear line, the right exit code, and nothing lost."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import random
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_tools import file_blocks, temporaries
from onnx_tools.errors import OutputRefused
from onnx_tools.preflight import check_outputs
from tests.command import refused, run, tree, zeros

SMALL = ("--sparsity", 0.5, "--min-elements", 0)
WEIGHT = 1
"""The initializer of the small model that is pruned."""


def attempts(path: pathlib.Path, code: int, *parts: str) -> None:
    """Prune to an output, in place and dry, and inspect: each fails alike and leaves every file as it was."""
    folder = path.parent.parent if path.parent.name == "model" else path.parent
    before = tree(folder)
    out = path.with_name("out.onnx")
    for words in (("-o", out), ("--in-place",), ("-n",)):
        refused(run("prune", path, *SMALL, *words), code, *parts)
        assert tree(folder) == before
    assert tree(folder) == before


def inspected(path: pathlib.Path, *parts: str) -> None:
    """`inspect` and `verify` fail too."""
    refused(run("inspect", path), 2, *parts)
    refused(run("verify", path, path, "--no-runtime"), 2, *parts)


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "the file is empty"),
    "one byte": (lambda data: data[:1], "not an ONNX model"),
    "cut in half": (lambda data: data[: len(data) // 2], "not an ONNX model, or a damaged one"),
    "last byte cut": (lambda data: data[:-1], "not an ONNX model, or a damaged one"),
    "random bytes": (lambda data: random.Random(1).randbytes(5000), "not an ONNX model"),
    "zeros": (lambda data: bytes(5000), "not an ONNX model"),
    "text": (lambda data: b"<html>404 not found</html>\n" * 50, "not an ONNX model"),
    "zip archive": (lambda data: b"PK\x03\x04" + bytes(200), "not an ONNX model"),
    "pointer of Git LFS": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_model(small_file: pathlib.Path, case: str) -> None:
    change, part = FILES[case]
    small_file.write_bytes(change(small_file.read_bytes()))
    attempts(small_file, 2, str(small_file), part)
    inspected(small_file, str(small_file), part)


def test_what_is_no_file(tmp_path: pathlib.Path) -> None:
    attempts(tmp_path / "missing.onnx", 2, "missing.onnx: cannot be read", "No such file")
    (tmp_path / "folder").mkdir()
    attempts(tmp_path / "folder", 2, "not a file; give the .onnx file itself")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    attempts(tmp_path / "loop.onnx", 2, "loop.onnx")


@pytest.mark.parametrize("cut", [1, 17, 500, 2100])
def test_truncated_external_data(external_file: pathlib.Path, cut: int) -> None:
    data = external_file.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[: max(64 + 2048 - cut, 0)])
    attempts(external_file, 2, "tensor 'weight'", "'weights.bin' is truncated", "copy or download it again")
    refused(run("inspect", external_file), 2, "'weights.bin' is truncated")


def test_missing_external_data(external_file: pathlib.Path) -> None:
    external_file.with_name("weights.bin").unlink()
    attempts(external_file, 2, "tensor 'weight'", "'weights.bin' cannot be found", "must lie beside")


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("C:\\weights.bin", "is an absolute path"),
        ("../secret.bin", "leads out of the model's folder"),
        ("a/../../secret.bin", "leads out of the model's folder"),
        ("..\\secret.bin", "leads out of the model's folder"),
        ("", "names no file"),
        (".", "names no file"),
        ("model.onnx", "is not a data file"),
        ("folder", "is not a data file"),
        ("link.bin", "links to"),
        ("folder/link.bin", "links to"),
        ("x\0y", "cannot be found"),
    ],
)
def test_external_data_that_lies_elsewhere(
    external_file: pathlib.Path, tmp_path: pathlib.Path, location: str, part: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "folder").mkdir()
    path = external_file.rename(folder / "model.onnx")
    secret = (tmp_path / "weights.bin").rename(tmp_path / "secret.bin")
    for link in ("link.bin", "folder/link.bin"):
        (folder / link).symlink_to(secret)
    _relocate(path, location)
    attempts(path, 2, "tensor 'weight'", part)


def _relocate(path: pathlib.Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[WEIGHT].external_data[0].value = location
    path.write_bytes(model.SerializeToString())


def _dims(*dims: int) -> Callable[[TensorProto], None]:
    return lambda tensor: tensor.ClearField("dims") or tensor.dims.extend(dims)


def _raw(data: bytes) -> Callable[[TensorProto], None]:
    return lambda tensor: setattr(tensor, "raw_data", data)


TENSORS: dict[str, tuple[Callable[[TensorProto], object], str]] = {
    "a byte too few": (_raw(bytes(2047)), "2048 bytes of data expected, 2047 found"),
    "a byte too many": (_raw(bytes(2049)), "2048 bytes of data expected, 2049 found"),
    "no data": (_raw(b""), "2048 bytes of data expected, 0 found"),
    "another shape": (_dims(16, 33), "2112 bytes of data expected, 2048 found"),
    "absurd": (_dims(2**62, 2**62), "impossibly many elements"),
    "huge": (_dims(2**40, 16), f"{2**46} bytes of data expected"),
    "given twice": (lambda tensor: tensor.float_data.extend([1.0] * 512), "values given twice"),
    "segments": (lambda tensor: tensor.segment.SetInParent(), "stored in segments"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_contradict_themselves(small_file: pathlib.Path, small_model: onnx.ModelProto, case: str) -> None:
    change, part = TENSORS[case]
    change(small_model.graph.initializer[WEIGHT])
    small_file.write_bytes(small_model.SerializeToString())
    attempts(small_file, 2, "tensor 'weight'", part, "export the model again")


def test_negative_dimensions_are_no_weight(small_file: pathlib.Path, small_model: onnx.ModelProto) -> None:
    _dims(-16, -32)(small_model.graph.initializer[WEIGHT])
    small_file.write_bytes(small_model.SerializeToString())
    attempts(small_file, 1, "no weight was selected, nothing was written")
    assert "impossible shape" in run("inspect", small_file).stdout


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column"])
def test_nan_in_a_weight(small_file: pathlib.Path, small_model: onnx.ModelProto, granularity: str) -> None:
    weight = np.ones((16, 32), np.float32)
    weight[3, 5] = np.nan
    small_model.graph.initializer[WEIGHT].raw_data = weight.tobytes()
    small_file.write_bytes(small_model.SerializeToString())
    before = tree(small_file.parent)
    for words in (("-o", small_file.with_name("o.onnx")), ("--in-place",), ("-n",)):
        refused(run("prune", small_file, *SMALL, *words, "--granularity", granularity), 2, "'weight' holds 1 NaN")
        assert tree(small_file.parent) == before
    assert run("inspect", small_file).exit_code == 0


@pytest.mark.parametrize("option", ["--include", "--exclude"])
@pytest.mark.parametrize("pattern", ["wieght", "op:Conv", "", "[", "*\x1b[31m"])
def test_patterns_that_match_nothing(small_file: pathlib.Path, option: str, pattern: str) -> None:
    before = tree(small_file.parent)
    result = run("prune", small_file, *SMALL, "--in-place", option, pattern)
    refused(result, 2, "matches no weight; weights are, for example: ", "op:MatMul" if ":" in pattern else "weight")
    assert "\x1b" not in result.stderr
    assert tree(small_file.parent) == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_outputs_that_would_destroy_the_input(external_file: pathlib.Path, force: tuple[str, ...]) -> None:
    folder = external_file.parent
    (folder / "linked.bin").symlink_to("weights.bin")
    (folder / "folder.onnx").mkdir()
    before = tree(folder)
    for name, part in (
        ("weights.bin", "holds the weights of the input"),
        ("linked.bin", "holds the weights of the input"),
        ("missing/out.onnx", "does not exist; create it first"),
        ("x" * 300, "too long"),
    ):
        refused(run("prune", external_file, *SMALL, "-o", folder / name, *force), 2, part)
        assert tree(folder) == before
    if not force:
        refused(run("prune", external_file, *SMALL, "-o", external_file), 2, "is the input")


def test_data_that_would_be_overwritten(external_file: pathlib.Path) -> None:
    external_file.with_name("weights.bin").rename(external_file.with_name("out.onnx.data"))
    _relocate(external_file, "out.onnx.data")
    before = tree(external_file.parent)
    result = run("prune", external_file, *SMALL, "-o", external_file.with_name("out.onnx"), "--force")
    refused(result, 2, "out.onnx.data: not ours to overwrite: the input uses it; choose another")
    assert tree(external_file.parent) == before


def test_leavings_of_an_interrupted_run(external_file: pathlib.Path) -> None:
    external_file.with_name("out.onnx.data").write_bytes(b"half")
    result = run("prune", external_file, *SMALL, "-o", external_file.with_name("out.onnx"))
    refused(result, 2, "out.onnx.data: not ours to overwrite", "if an interrupted run left it, delete it")


def test_data_of_another_model_is_not_deleted(external_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    models = [external_file, tmp_path / "b.onnx"]
    models[1].write_bytes(external_file.read_bytes())
    check_outputs(models, models, in_place=True)
    with pytest.raises(OutputRefused, match=r"weights.bin cannot be deleted: .*model.onnx uses it too; leave out"):
        check_outputs(models, models, in_place=True, delete_old_data=True)
    check_outputs(models[1:], models[1:], in_place=True, delete_old_data=True)


@pytest.mark.parametrize("words", [("-o", "new/"), ("--in-place",)])
def test_a_model_in_a_cache_of_links(
    external_file: pathlib.Path, tmp_path: pathlib.Path, words: tuple[str, ...]
) -> None:
    """As the cache of Hugging Face: data lies beside the link by its name, and beside the file by its hash."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name, blob in (("model.onnx", "aaa"), ("weights.bin", "bbb")):
        (tmp_path / name).rename(tmp_path / "blobs" / blob)
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{blob}")
    link = tmp_path / "snapshot" / "model.onnx"
    result = run("prune", link, *SMALL, *(f"{tmp_path}/{word}" if word == "new/" else word for word in words))
    assert result.exit_code == 0, result.output
    assert zeros(tmp_path / "new" / "model.onnx" if "-o" in words else tmp_path / "blobs" / "aaa") > 0
    assert run("inspect", link).exit_code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_read_only(external_file: pathlib.Path) -> None:
    folder = external_file.parent
    folder.chmod(0o500)
    try:
        for words in (("--in-place",), ("-o", folder / "out.onnx"), ("-o", f"{folder}/new/")):
            refused(run("prune", external_file, *SMALL, *words), 2, "Permission denied")
        refused(run("prune", external_file, *SMALL, "-n", "--report", folder / "r.md"), 2, "cannot be written to")
    finally:
        folder.chmod(0o700)


def test_a_file_system_that_is_read_only(external_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = tree(external_file.parent)
    monkeypatch.setattr(temporaries.Temporary, "create", refuse)
    for words in (("--in-place",), ("-o", external_file.with_name("out.onnx"))):
        refused(run("prune", external_file, *SMALL, *words), 2, "Read-only file system; make the folder writable")
    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    refused(
        run("prune", external_file, *SMALL, "-o", f"{external_file.parent}/a/b/"), 2, "a: the folder cannot be made"
    )
    assert tree(external_file.parent) == before


@pytest.mark.parametrize("after", [0, 1, 1000, 2048, 2200, 3000])
@pytest.mark.parametrize("kind", ["small_file", "external_file"])
def test_a_disk_that_fills_up(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    path: pathlib.Path = request.getfixturevalue(kind)
    room = [after]
    write = file_blocks._write_some

    def limited(descriptor: int, data: memoryview, offset: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, data[: room[0]], offset)
        room[0] -= count
        return count

    monkeypatch.setattr(file_blocks, "_write_some", limited)
    before = tree(path.parent)
    for words in (("--in-place",), ("-o", path.with_name("out.onnx")), ("-o", f"{path.parent}/new/")):
        room[0] = after
        refused(run("prune", path, *SMALL, *words), 2, "the disk is full; free some space, or write to another disk")
        assert tree(path.parent) == before
    monkeypatch.undo()
    assert run("prune", path, *SMALL, "--in-place").exit_code == 0


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes in memory, mounted on `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
    except OSError as error:
        pytest.skip(f"no tmpfs can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_is_full(external_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = external_file.with_name("weights.bin")
    with small_disk(tmp_path / "disk", 1 << 20), (tmp_path / "disk" / "filler").open("wb") as filler:
        inside = tmp_path / "disk" / "model.onnx"
        inside.write_bytes(external_file.read_bytes())
        inside.with_name("weights.bin").write_bytes(data.read_bytes())
        with contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
                filler.flush()
        with contextlib.suppress(OSError):
            filler.close()
        before = tree(inside.parent)
        for words in (("--in-place",), ("-o", inside.with_name("out.onnx")), ("-o", f"{inside.parent}/new/")):
            refused(run("prune", inside, *SMALL, *words), 2, "disk is full")
            assert tree(inside.parent) == before
        refused(
            run("prune", inside, *SMALL, "-q", "-n", "--report", inside.with_name("r.md")), 2, "r.md", "disk is full"
        )
        assert tree(inside.parent) == before
        inside.with_name("filler").unlink()
        assert run("prune", inside, *SMALL, "--in-place").exit_code == 0


@pytest.mark.parametrize("content", [None, b"", b"junk", b"PK\x03\x04" + bytes(60), "npy", "object"])
def test_gradients_that_cannot_be_read(small_file: pathlib.Path, content: bytes | str | None) -> None:
    path = _archive(small_file.with_name("g.npz"), content)
    before = tree(small_file.parent)
    refused(
        run("prune", small_file, *SMALL, "--in-place", "--metric", f"taylor:{path}"), 2, "--metric taylor:", "g.npz"
    )
    assert tree(small_file.parent) == before


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04" + bytes(60), "npy", "object"])
def test_data_that_cannot_be_read(small_file: pathlib.Path, content: bytes | str) -> None:
    pytest.importorskip("onnxruntime")
    path = _archive(small_file.with_name("d.npz"), content)
    before = tree(small_file.parent)
    words = ("prune", small_file, *SMALL, "--in-place", "--verify", "--data", path)
    refused(run(*words), 2, "d.npz")
    refused(run("verify", small_file, small_file, "--data", path), 2, "d.npz")
    assert tree(small_file.parent) == before


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({}, "no gradient for weight 'weight'"),
        ({"weight": np.ones((32, 16), np.float32)}, "has shape [32, 16], the weight [16, 32]"),
        ({"weight": np.full((16, 32), np.nan, np.float32)}, "weight"),
    ],
)
def test_gradients_that_do_not_fit(small_file: pathlib.Path, arrays: dict[str, np.ndarray], part: str) -> None:
    path = small_file.with_name("g.npz")
    np.savez(path, **arrays)
    before = tree(small_file.parent)
    refused(run("prune", small_file, *SMALL, "--in-place", "--metric", f"taylor:{path}"), 2, part)
    assert tree(small_file.parent) == before


def test_min_nonzero_above_the_weight(small_file: pathlib.Path) -> None:
    before = tree(small_file.parent)
    refused(
        run("prune", small_file, *SMALL, "--in-place", "--min-nonzero", 513), 2, "'weight' has 512", "--min-nonzero"
    )
    assert tree(small_file.parent) == before


def _archive(path: pathlib.Path, content: bytes | str | None) -> pathlib.Path:
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif content == "object":
        np.savez(path, weight=np.array([{}], object), x=np.array([{}], object))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    return path
