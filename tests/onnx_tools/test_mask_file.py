"""Masks in a file: what is saved is loaded, numpy can read it, and damage is told."""

from __future__ import annotations

import errno
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_tools import InvalidMasks, Masks, WriteFailed, load_masks, save_masks

NAMES = [
    "fc.weight",
    "/layers/0/MatMul",
    "",
    "oxiprune",
    "a:2x3",
    ":0",
    "..\\..\\x",
    "../../etc/passwd",
    "x" * 70_000,
    "line\nbreak\x00nul",
    "\udcff",
    "weights.npy",
    "größe 重み",
]


def mask(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < 0.5


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "masks.npz"


def test_whatever_the_names_masks_come_back_and_numpy_reads_them(file):
    masks = {name: mask(3, len(name) % 7 + 1) for name in NAMES}
    save_masks(file, masks, dense=("bias-like",))
    loaded = load_masks(file)
    assert list(loaded) == NAMES
    assert all(np.array_equal(loaded[name], masks[name]) for name in NAMES)
    assert Masks.of(file).dense == {"bias-like"}
    with np.load(file, allow_pickle=False) as plain:
        assert len({*plain.files}) == len(NAMES) + 1
        bits = plain["fc.weight:3x3"]
        index = json.loads(plain["oxiprune"].item())
    assert np.array_equal(np.unpackbits(bits, count=9, bitorder="little").reshape(3, 3), masks["fc.weight"])
    assert index["masks"][0] == {
        "name": "fc.weight",
        "shape": [3, 3],
        "entry": "fc.weight:3x3",
        "kept": int(masks["fc.weight"].sum()),
    }


@given(shape=st.lists(st.integers(0, 9), max_size=4).map(tuple), slab=st.sampled_from([8, 64, 1 << 22]))
def test_any_shape_and_slab(tmp_path_factory, shape, slab):
    file = tmp_path_factory.mktemp("masks") / "m.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_tools.mask_file._SLAB", slab)
        save_masks(file, {"w": mask(*shape)})
    found = Masks.of(file)
    assert found.shape_of("w") == shape
    assert found.kept("w") == int(mask(*shape).sum())
    assert np.array_equal(found["w"], mask(*shape))


def test_equal_masks_give_equal_bytes_and_replace_an_old_file(file):
    save_masks(file, {"w": mask(9, 9)})
    first = file.read_bytes()
    save_masks(file, {"w": mask(9, 9)})
    assert file.read_bytes() == first
    assert [path.name for path in file.parent.iterdir()] == ["masks.npz"]


def test_a_file_that_numpy_saved_again_is_read(file):
    save_masks(file, {"w": mask(9, 9)})
    with np.load(file) as plain:
        np.savez_compressed(file.with_name("again.npz"), **dict(plain))
    assert np.array_equal(load_masks(file.with_name("again.npz"))["w"], mask(9, 9))


def test_masks_are_bools(file):
    with pytest.raises(InvalidMasks, match="mask of weight 'w' has dtype int64: masks are arrays of bool"):
        save_masks(file, {"w": np.ones(3, np.int64)})
    assert not file.exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(WriteFailed, match=r"m\.npz: cannot be written"):
        save_masks(tmp_path / "no" / "m.npz", {"w": mask(3)})


def test_a_write_that_fails_leaves_the_old_file(file):
    class Broken(dict):
        def items(self):
            yield "w", mask(3, 3)
            yield "v", "no mask"

    file.write_bytes(b"old")
    with pytest.raises(InvalidMasks):
        save_masks(file, Broken())
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == {"masks.npz": b"old"}


def test_a_full_disk(file, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file.write_bytes(b"old")
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        save_masks(file, {"w": mask(3, 3)})
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == {"masks.npz": b"old"}


def rewritten(file: pathlib.Path, change) -> None:
    """Write a masks file again with entries that `change` (bytes by entry name) has changed."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def index_of(**changes: object) -> bytes:
    entry = {"name": "w", "shape": [3, 3], "entry": "w:3x3", "kept": int(mask(3, 3).sum())}
    return json.dumps({"version": 1, "masks": [entry | changes], "dense": []}).encode()


def npy(content: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda entries: entries.clear(), "writes it: it has no entry oxiprune$"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(name=3))}), "the name 3 of a weight is no text"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(name=None))}), "the name None of a weight"),
        (
            lambda entries: entries.update({"oxiprune.npy": npy(b'{"version": 1, "masks": [], "dense": [[]]}')}),
            r"the name \[\] of a weight is no text",
        ),
        (lambda entries: entries.update({"oxiprune.npy": b"rubbish"}), "is no file of masks"),
        (lambda entries: entries.update({"oxiprune.npy": npy(b"[" * 100_000)}), "is no file of masks"),
        (lambda entries: entries.update({"oxiprune.npy": npy(b'{"version": 2}')}), "version 2 is not known"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(shape=[-3, -3]))}), "impossible"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(shape=[2**40, 2**40]))}), "is damaged"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(shape=[3, 6]))}), "do not fit shape"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(kept=100))}), "not 100"),
        (lambda entries: entries.update({"oxiprune.npy": npy(index_of(entry="x"))}), "is no file of masks"),
        (lambda entries: entries.pop("w:3x3.npy"), "is no file of masks"),
        (lambda entries: entries.update({"w:3x3.npy": b""}), "the mask of weight 'w' is damaged"),
    ],
)
def test_damaged_files(file, change, told):
    save_masks(file, {"w": mask(3, 3)})
    rewritten(file, change)
    with pytest.raises(InvalidMasks, match=told):
        load_masks(file)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY"])
def test_no_archive(file, content):
    file.write_bytes(content)
    with pytest.raises(InvalidMasks, match="is no file of masks"):
        load_masks(file)


def test_no_file(file):
    with pytest.raises(InvalidMasks, match=r"masks\.npz: cannot be read: No such file"):
        load_masks(file)


def test_a_file_that_is_no_masks_is_closed(file, monkeypatch):
    opened: list[zipfile.ZipFile] = []
    archive = zipfile.ZipFile

    def noted(path: pathlib.Path) -> zipfile.ZipFile:
        opened.append(archive(path))
        return opened[-1]

    np.savez(file, w=mask(3, 3))
    monkeypatch.setattr(zipfile, "ZipFile", noted)
    with pytest.raises(InvalidMasks, match="it has no entry oxiprune"):
        load_masks(file)
    assert [found.fp for found in opened] == [None]
