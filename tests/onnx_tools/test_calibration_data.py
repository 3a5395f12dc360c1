"""Data for calibration: where it may come from, and what is said of data that does not fit."""

from __future__ import annotations

import errno
import sys

import ml_dtypes
import numpy as np
import pytest

from onnx_tools.calibration.data import BATCH, read_feeds
from onnx_tools.errors import WriteFailed
from onnx_tools.verification.feeds import InputSpec
from oxiprune_gpu import InvalidOption

X = InputSpec("x", "tensor(float)", ("n", 3))
IDS = InputSpec("ids", "tensor(int64)", ("n",))
ARRAYS = {"x": np.arange(120, dtype=np.float32).reshape(40, 3), "ids": np.arange(40)}


@pytest.fixture
def read(tmp_path_factory):
    def call(data, inputs=(X,), runs=lambda _: True):
        return read_feeds(data, inputs, runs, tmp_path_factory.mktemp("kept"))

    return call


def joined(feeds, name="x"):
    return np.concatenate([feed[name] for feed in feeds])


def sources(folder):
    """The same data in every form."""
    np.savez(folder / "data.npz", **ARRAYS, labels=np.zeros(40))
    (folder / "data").mkdir()
    for name, array in ARRAYS.items():
        np.save(folder / "data" / f"{name}.npy", array)
    (folder / "calibration_source.py").write_text(
        "import numpy as np\n"
        f"def give():\n    for i in range(0, 40, {BATCH}):\n"
        f"        yield {{'x': np.arange(120, dtype=np.float32).reshape(40, 3)[i:i + {BATCH}],"
        f" 'ids': np.arange(40)[i:i + {BATCH}]}}\n"
    )
    runs = [{name: array[i : i + BATCH] for name, array in ARRAYS.items()} for i in range(0, 40, BATCH)]
    return [folder / "data.npz", folder / "data", "calibration_source:give", runs, iter(runs), ARRAYS]


def test_every_source_gives_the_same_again_and_again(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [read(data, (X, IDS)) for data in sources(tmp_path)]
    sys.modules.pop("calibration_source")
    for feeds in found:
        for _ in range(2):
            assert np.array_equal(joined(feeds), ARRAYS["x"])
            assert np.array_equal(joined(feeds, "ids"), ARRAYS["ids"])
    assert {feeds.digest for feeds in found} == {found[0].digest}
    assert {feeds.count for feeds in found} == {3}
    assert {len(feeds.largest()["x"]) for feeds in found} == {BATCH}


def test_other_data_has_another_digest(read):
    other = {**ARRAYS, "x": ARRAYS["x"] + 1}
    assert read(ARRAYS).digest != read(other).digest


def test_text_and_bfloat16_are_kept(read):
    words, halves = InputSpec("w", "tensor(string)", ("n",)), InputSpec("h", "tensor(bfloat16)", ("n",))
    given = {"w": np.array(["a", "bc"]), "h": np.array([1, 2], ml_dtypes.bfloat16)}
    (feed,) = read([given], (words, halves))
    assert feed["w"].tolist() == ["a", "bc"]
    assert feed["h"].dtype == ml_dtypes.bfloat16


def test_random_numbers_are_asked_for_by_name(read):
    first, again, other = read("random:3:5"), read("random:3:5"), read("random:4:5")
    assert first.count == 5
    assert first.digest == again.digest != other.digest


def test_random_numbers_have_the_first_size_that_runs(read):
    image = InputSpec("i", "tensor(float)", (1, 3, "h", "w"))
    feeds = read("random:0:2", (image,), runs=lambda feed: feed["i"].shape[2] >= 16)
    assert {feed["i"].shape[2] for feed in feeds} == {16}


def broken(folder):
    """Data that does not fit, and what the error says."""
    np.savez(folder / "other.npz", y=ARRAYS["x"])
    np.savez(folder / "wide.npz", x=np.zeros((4, 5), np.float32))
    np.savez(folder / "double.npz", x=np.zeros((4, 3)))
    np.savez(folder / "nan.npz", x=np.full((4, 3), np.nan, np.float32))
    np.savez(folder / "none.npz", x=np.zeros((0, 3), np.float32))
    (folder / "bad").mkdir()
    (folder / "bad" / "x.npy").write_bytes(b"nothing")
    (folder / "bare").mkdir()
    return {
        folder / "other.npz": r"no array for the input 'x', which wants float32 of shape \(n, 3\); there are: 'y'",
        folder / "wide.npz": r"'x' wants float32 of shape \(n, 3\); the array is float32 of shape \(4, 5\)",
        folder / "double.npz": r"'x' wants float32 of shape \(n, 3\); the array is float64",
        folder / "nan.npz": "the input 'x' holds 12 NaN",
        folder / "none.npz": "the input 'x' is empty",
        folder / "bad": "not an .npy",
        folder / "bare": "no array for the input 'x'.*there are: none. Write it with np.save",
        folder / "not there": "no such file; calibration data is",
        folder / "not there.npz": "cannot be read",
    }


def test_files_that_do_not_fit(read, tmp_path):
    for data, said in broken(tmp_path).items():
        with pytest.raises(InvalidOption, match=said):
            read(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "empty"),
        ([np.zeros(3)], "item 0: ndarray, not a dict"),
        ([{"x": np.zeros((2, 3), np.float32)}, {"y": 1}], "item 1: no array for the input 'x'"),
        ([{"x": np.zeros((2, 4), np.float32)}], "item 0: the input 'x' wants"),
        (({"x": 1 / zero} for zero in [0]), "ZeroDivisionError"),
        (7, "gives int, not dicts"),
        ("no_such_module:function", "ModuleNotFoundError"),
        ("math:no_such_function", "AttributeError"),
        ("os:getcwd", "item 0: str, not a dict"),
        ("os:getpid", "gives int"),
        ("random:1", "random:SEED:COUNT"),
        ("random:x:2", "random:SEED:COUNT"),
        ("random:1:0", "the count 1 or more"),
    ],
)
def test_bad_data(read, data, said):
    with pytest.raises(InvalidOption, match=said):
        read(data)


def test_random_numbers_that_do_not_run(read):
    with pytest.raises(InvalidOption, match="give real data"):
        read("random:0:1", runs=lambda _: False)
    with pytest.raises(InvalidOption, match="could not run on random inputs: the input 's' wants"):
        read("random:0:1", (InputSpec("s", "tensor(string)", (1,)),))


def test_a_full_disk_while_data_is_kept(read, monkeypatch):
    def full(path, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        read([{"x": ARRAYS["x"]}])
