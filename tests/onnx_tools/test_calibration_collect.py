"""`Calibration.collect`: sums over real runs, in bounded memory, from a cache that may have been left half-made."""

from __future__ import annotations

import errno
import gc
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import Calibration, RuntimeMissing, WriteFailed
from onnx_tools.calibration import products, rows, store, sums
from onnx_tools.calibration.jobs import in_groups, jobs_of
from onnx_tools.calibration.observed import observe
from onnx_tools.errors import InvalidExternalData, InvalidModelFile, PatternMatchesNothing
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import InvalidOption
from tests.onnx_tools.calibration_cases import small

pytest.importorskip("onnxruntime")

FEATURES, HIDDEN, SAMPLES = 6, 5, 40
X = small((SAMPLES, FEATURES), 3)
V, W = small((FEATURES, HIDDEN), 1), small((HIDDEN, 4), 2)


LAYERS = "h = MatMul (x, v) r = Relu (h) y = MatMul (r, w)"


def write(folder: pathlib.Path, *, external: bool = False, text: str = LAYERS):
    """A model of two layers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[n, {FEATURES}] x) => (float y) {{ {text} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (("v", V), ("w", W)))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="data.bin", size_threshold=0)
    return path


def expected():
    """The inputs of both weights."""
    return {"v": X, "w": np.maximum(X @ V, 0)}


def check(found: Calibration, *, hessian: bool):
    assert found.weights == ("v", "w")
    assert found.unobserved == {}
    for name, inputs in expected().items():
        statistics, exact = found.statistics(name), inputs.astype(np.float64)
        assert statistics.samples == SAMPLES
        assert np.array_equal(statistics.sums, exact.sum(0, keepdims=True))
        assert np.array_equal(statistics.means, exact.mean(0, keepdims=True))
        assert np.array_equal(statistics.squares, (exact**2).sum(0, keepdims=True))
        assert (statistics.hessian is not None) == hessian
        assert not hessian or np.array_equal(statistics.hessian, [exact.T @ exact])
        assert found.view(name).shape[2] == inputs.shape[1]


@pytest.mark.parametrize("hessian", [False, True])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("block", [1, 20, 1 << 20])
def test_sums(tmp_path, monkeypatch, hessian, external, block):
    monkeypatch.setattr(sums, "BLOCK", block)
    monkeypatch.setattr(products, "_MOST_SAMPLES", 3)
    check(Calibration.collect(write(tmp_path, external=external), {"x": X}, hessian=hessian), hessian=hessian)


@pytest.mark.parametrize("few", [1, 5, 100])
@pytest.mark.parametrize("panel", [1, 4, 100])
@pytest.mark.parametrize("sizes", [(1,), (2, 1, 7, 3), (40, 1)])
def test_products_of_blocks_of_any_size(monkeypatch, few, panel, sizes):
    monkeypatch.setattr(products, "_FEW_SAMPLES", few)
    monkeypatch.setattr(products, "_PANEL", panel)
    pairs = [(small((2, size, FEATURES), size), small((2, size, FEATURES), size + 1)) for size in sizes]
    own, mixed = products.Products(), products.Products()
    for left, right in pairs:
        own.add(left)
        mixed.add(left, right)
    lefts, rights = (np.concatenate(each, axis=1).astype(np.float64) for each in zip(*pairs, strict=True))
    assert np.array_equal(own.result(), lefts.swapaxes(1, 2) @ lefts)
    assert np.array_equal(mixed.result(), lefts.swapaxes(1, 2) @ rights)


def test_no_rows_have_no_products():
    assert products.Products().result() is None


def test_every_value_that_is_observed_is_an_output_already(tmp_path):
    """Inputs and outputs of the model among them."""
    path = write(tmp_path)
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name="r"))
    path.write_bytes(model.SerializeToString())
    check(Calibration.collect(path, {"x": X}), hessian=False)


def test_weights_that_are_large_are_read_in_place(tmp_path):
    """Those that are no part of the skeleton are mapped by onnxruntime."""
    wide = small((FEATURES, 3000), 1)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[n, {FEATURES}] x) => (float y) {{ y = MatMul (x, w) }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(wide, "w"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(ModelFile.open(path).payloads) == 1
    found = Calibration.collect(path, {"x": X}).statistics("w")
    assert np.array_equal(found.squares[0], (X.astype(np.float64) ** 2).sum(0))


def test_data_behind_links(tmp_path):
    """As caches of downloads lay files out: links to contents in another folder, or to the model only."""
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    path = write(tmp_path, external=True)
    for name, blob in ((path.name, "0"), ("data.bin", "1")):
        (tmp_path / name).rename(tmp_path / "blobs" / blob)
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / blob)
    check(Calibration.collect(tmp_path / "snapshot" / path.name, {"x": X}), hessian=False)
    (tmp_path / "snapshot" / "data.bin").unlink()
    (tmp_path / "blobs" / "1").rename(tmp_path / "snapshot" / "data.bin")
    check(Calibration.collect(tmp_path / "snapshot" / path.name, {"x": X}), hessian=False)


def test_data_outside_the_folder_of_the_model(tmp_path):
    path = write(tmp_path, external=True)
    (tmp_path / "data.bin").rename(tmp_path.parent / f"{tmp_path.name}.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = f"../{tmp_path.name}.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidExternalData):
        Calibration.collect(path, {"x": X})


def test_groups_share_rows_or_have_their_own(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3, 6] x, float[3, 6] z) => (float y) '
        "{ a = MatMul (x, v) b = MatMul (z, w) y = Add (a, b) }"
    )
    weights = {name: small((2, 6, 5), seed) for seed, name in enumerate("vw")}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    feed = {"x": small((2, 3, 6), 3), "z": small((3, 6), 4)}
    found = Calibration.collect(path, [feed, feed], hessian=True)
    own, shared = found.statistics("v"), found.statistics("w")
    assert np.array_equal(own.hessian, 2 * np.einsum("gsi,gsj->gij", feed["x"], feed["x"]))
    assert np.array_equal(shared.hessian, 2 * np.broadcast_to(feed["z"].T @ feed["z"], (2, 6, 6)))
    assert own.samples == shared.samples == 6


def test_weights_come_in_the_order_of_computing(tmp_path):
    path = write(tmp_path)
    model = onnx.load(path)
    model.graph.initializer.reverse()
    path.write_bytes(model.SerializeToString())
    check(Calibration.collect(path, {"x": X}), hessian=False)


def test_only_some_weights(tmp_path):
    path = write(tmp_path)
    found = Calibration.collect(path, {"x": X}, only=["w"])
    assert (found.weights, found.unobserved) == (("w",), {})
    assert found.statistics("w").samples == SAMPLES
    with pytest.raises(PatternMatchesNothing, match="no weight of the model has the name 'q'"):
        Calibration.collect(path, {"x": X}, only=["q"])


def test_progress_and_order(tmp_path):
    told = []
    found = Calibration.collect(write(tmp_path), {"x": X}, progress=lambda *each: told.append(each))
    assert found.runs == 3
    assert told == [("v", 0, 3), ("v", 1, 3), ("v", 2, 3), ("w", 3, 3)]


def needed(path, hessian):
    """The bytes that the weights of a model take one by one, as said in the error."""
    with pytest.raises(InvalidOption, match=r"weight 'v': to observe its 6 inputs takes .* bytes, and 10 are allowed"):
        Calibration.collect(path, {"x": X}, memory=10, hessian=hessian)
    jobs = jobs_of(observe(onnx.load(path)).weights)
    shapes = {place: (16, FEATURES) for job in jobs for place in job.places}
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high) // 2
        try:
            in_groups(jobs, shapes, middle, hessian=hessian)
            high = middle
        except InvalidOption:
            low = middle + 1
    return low


@pytest.mark.parametrize("hessian", [False, True])
def test_a_small_memory_takes_more_runs(tmp_path, hessian):
    path, told = write(tmp_path), []
    found = Calibration.collect(
        path, {"x": X}, memory=needed(path, hessian), hessian=hessian, progress=lambda *each: told.append(each)
    )
    check(found, hessian=hessian)
    assert told[-1][1:] == (6, 6)


class Killed(BaseException):
    """Stops the work as a signal would."""


def test_work_that_was_stopped_goes_on(tmp_path):
    path, cache = write(tmp_path), tmp_path / "cache"
    memory = needed(path, True)

    def stop(name, done, total):
        if name == "w":
            raise Killed

    with pytest.raises(Killed):
        Calibration.collect(path, {"x": X}, hessian=True, cache=cache, memory=memory, progress=stop)
    assert len(list(cache.iterdir())) == 1
    told = []
    found = Calibration.collect(
        path, {"x": X}, hessian=True, cache=cache, memory=memory, progress=lambda *each: told.append(each)
    )
    check(found, hessian=True)
    assert {name for name, _, _ in told} == {"w"}


KILLED = """
import os, sys
import numpy as np
from onnx_tools import Calibration
model, cache, memory = sys.argv[1:]
stop = lambda name, done, total: os._exit(7) if name == "w" else None
x = np.load(os.path.join(os.path.dirname(model), "x.npy"))
Calibration.collect(model, {"x": x}, hessian=True, cache=cache, memory=int(memory), progress=stop)
"""


def test_a_process_that_was_killed_leaves_whole_files(tmp_path):
    path, cache = write(tmp_path), tmp_path / "cache"
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", KILLED, str(path), str(cache), str(needed(path, True))]
    assert subprocess.run(command, check=False).returncode == 7
    (file,) = cache.iterdir()
    before = file.read_bytes(), file.stat().st_mtime_ns
    check(Calibration.collect(path, {"x": X}, hessian=True, cache=cache), hessian=True)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_what_is_in_the_cache_is_not_computed_again(tmp_path):
    path, cache, told = write(tmp_path), tmp_path / "cache", []

    def collect(data, **options):
        told.clear()
        return Calibration.collect(path, data, cache=cache, progress=lambda *each: told.append(each), **options)

    for data, options, runs in [
        ({"x": X}, {}, 3),
        ({"x": X}, {}, 0),
        ({"x": X}, {"hessian": True}, 3),
        ({"x": X + 1}, {}, 3),
        ({"x": X}, {}, 0),
    ]:
        found = collect(data, **options)
        assert max((total for _, _, total in told), default=0) == runs
    check(found, hessian=False)
    path.write_bytes(path.read_bytes() + b"\x12\x00")
    collect({"x": X})
    assert len(told) == 4


def test_damaged_files_in_the_cache_are_made_again(tmp_path):
    path, cache = write(tmp_path), tmp_path / "cache"
    Calibration.collect(path, {"x": X}, cache=cache)
    for number, file in enumerate(sorted(cache.iterdir())):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(bytes(data) if number else b"")
    found = Calibration.collect(path, {"x": X}, cache=cache)
    check(found, hessian=False)
    for file in cache.iterdir():
        file.unlink()
    with pytest.raises(InvalidOption, match="gone or damaged"):
        found.statistics("v")


def test_a_full_disk(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.np, "savez", full)
    cache = tmp_path / "cache"
    with pytest.raises(WriteFailed, match="the disk is full"):
        Calibration.collect(write(tmp_path), {"x": X}, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_cache_that_is_a_file(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(WriteFailed, match="cache: cannot be written"):
        Calibration.collect(write(tmp_path), {"x": X}, cache=tmp_path / "cache")


def test_without_a_cache_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    found = Calibration.collect(write(tmp_path), [{"x": X}])
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    check(found, hessian=False)
    del found
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_not_finite_or_reached_is_said(tmp_path):
    path = write(tmp_path, text="h = MatMul (x, v) l = Log (h) r = Abs (l) y = MatMul (r, w)")
    found = Calibration.collect(path, {"x": X})
    assert found.weights == ("v",)
    assert found.unobserved == {"w": "its inputs are NaN or infinite on this data"}
    with pytest.raises(PatternMatchesNothing, match="weight 'w' was not observed: its inputs are NaN"):
        found.statistics("w")
    with pytest.raises(PatternMatchesNothing, match="no weight of the model has that name"):
        found.view("q")
    text = "k = NonZero (x) t = Transpose (k) f = Cast <to = 1> (t) y = MatMul (f, w)"
    path = write(tmp_path, text=text.replace("w)", "e)"))
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(small((2, 3), 1), "e"))
    path.write_bytes(model.SerializeToString())
    assert Calibration.collect(path, {"x": 0 * X}).unobserved == {"e": "nothing reaches it on this data"}


def test_data_that_the_model_does_not_run_on(tmp_path):
    path = write(
        tmp_path,
        text="s = Constant <value = int64[2] {7, 6}> () q = Reshape (x, s) h = MatMul (q, v) y = MatMul (h, w)",
    )
    with pytest.raises(InvalidOption, match=r"the data given: the model cannot run on it: .*Reshape"):
        Calibration.collect(path, {"x": X})


def test_a_model_that_does_not_load(tmp_path):
    path = write(tmp_path, text="h = my.Unknown (x, v) y = MatMul (h, w)")
    with pytest.raises(InvalidModelFile, match="onnxruntime does not load it"):
        Calibration.collect(path, {"x": X})


def test_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissing, match="onnxruntime is not installed"):
        Calibration.collect(write(tmp_path), {"x": X})


def test_random_data_runs(tmp_path):
    found = Calibration.collect(write(tmp_path), "random:7:3")
    assert (found.runs, found.source) == (3, "random:7:3")


def test_parts_of_arrays():
    """Blocks hold all samples once, in order, whatever their size."""
    array = np.arange(2 * 3 * 4 * 5 * 2, dtype=np.float32).reshape(2, 3, 4, 5, 2)
    whole = np.concatenate(list(rows.Rows(array, 1, 1).blocks(1 << 20)), 1)
    for most in range(1, 250):
        blocks = list(rows.Rows(array, 1, 1).blocks(most))
        assert np.array_equal(np.concatenate(blocks, 1), whole)
        assert max(block.size for block in blocks) <= max(most, 4)
