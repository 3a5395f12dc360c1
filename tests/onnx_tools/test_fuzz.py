"""Mutated models: only PruningError comes out, soon and in little memory, the input stays, nothing is left behind, and
results are what they say.

OXIPRUNE_FUZZ_SECONDS makes it longer, OXIPRUNE_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import random
import time
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from onnx_tools import Selection, compare_files, inspect_file, prune_file, verify_files
from onnx_tools.calibration.observed import observe
from onnx_tools.model_file import ModelFile
from onnx_tools.plan import make_plan
from onnx_tools.renderers import RENDERERS
from onnx_tools.report import PruneReport
from onnx_tools.verification.byte_check import ByteComparison, compare_bytes
from oxiprune_gpu import PruningConfig, PruningError
from tests.command import tree
from tests.onnx_tools.quantised_models import model_of, random_codes, tensor
from tests.onnx_tools.test_graph_index import limits

SECONDS = float(os.environ.get("OXIPRUNE_FUZZ_SECONDS", "12"))
SEED = int(os.environ.get("OXIPRUNE_FUZZ_SEED", "1"))
SELECTION = Selection(min_elements=0, depthwise=True, embeddings=True, linear_models=True)
LARGEST = 3_000_000
"""Bytes of the largest file that is mutated; the runs per second matter more."""

DEMO = pathlib.Path(__file__).parents[2] / "demo" / "digits_cnn.onnx"

SUBGRAPHS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 8] x, bool flag, float[3, 1, 4] s) => (float[N, 8] y, float[a, b, c, d] z)
<float[8, 8] outer = {%s}, float[1, 16, 4] w = {%s}, float[1, 16, 4] r = {%s}>
{
  y = If (flag) <
    then_branch = t () => (float[N, 8] t_out) { t_w = Constant <value = float[8, 8] {%s}> () t_out = MatMul (x, t_w) },
    else_branch = e () => (float[N, 8] e_out) { e_t = Transpose <perm = [1, 0]> (outer) e_out = MatMul (x, e_t) }
  >
  z = LSTM <hidden_size = 4> (s, w, r)
}
"""


def _numbers(count: int) -> str:
    return ", ".join(f"{(7 * index) % 13 - 6}.25" for index in range(count))


def subgraph_model() -> bytes:
    """Weights in branches, captured from outside, behind a Transpose, and in an LSTM."""
    model = onnx.parser.parse_model(SUBGRAPHS % tuple(map(_numbers, (64, 64, 64, 64))))
    return model.SerializeToString()


def convolution_model() -> bytes:
    """Grouped Conv and Gemm in float16, bfloat16 and float64, raw and typed."""
    text = """
    <ir_version: 9, opset_import: ["" : 21]>
    g (float16[1, 4, 6, 6] x, double[2, 12] d) => (float16[1, 8, 4, 4] y, double[2, 6] e)
    { y = Conv <group = 2> (x, k) e = Gemm <transB = 1> (d, m) b = MatMul (c, v) }
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(5)
    kernel = numpy_helper.from_array(rng.standard_normal((8, 2, 3, 3)).astype(np.float16), "k")
    typed = onnx.helper.make_tensor("m", onnx.TensorProto.DOUBLE, [6, 12], rng.standard_normal(72))
    narrow = onnx.helper.make_tensor("v", onnx.TensorProto.BFLOAT16, [4, 5], rng.standard_normal(20))
    model.graph.initializer.extend([kernel, typed, narrow])
    return model.SerializeToString()


PLACES = """
<ir_version: 10, opset_import: ["" : 20, "my" : 1, "ai.onnx.ml" : 3, "com.microsoft" : 1]>
g (float[N, 4] x, int64[N] i, int64 n, bool c) => (float[N, 4] y, float[N, 4] z, float[N, 2] l)
<float[4, 4] w = {%s}, float[6, 4] table = {%s}>
{
  list = Constant <value_floats = [1.5, -2.5, 0.5, -0.25, 3.5, 4.5, -1.5, 0.75]> ()
  s = Constant <value_ints = [4, 2]> ()
  v = Reshape (list, s)
  a = my.Outer <t = 1> (x, w)
  y, same = Loop (n, c, a, w) <
    body = b (int64 j, bool k, float[N, 4] u, float[4, 4] m) => (bool k_out, float[N, 4] u_out, float[4, 4] m_out) {
      k_out = Identity (k) u_out = Einsum <equation = "bi,oi->bo"> (u, m) m_out = Identity (m)
    }
  >
  z = Gather (table, i)
  h = MatMul (x, v)
  l = ai.onnx.ml.LinearRegressor <coefficients = [1.0, -2.0, 3.0, -4.0], targets = 2> (h)
}
<opset_import: ["" : 20, "my" : 1], domain: "my">
Outer <t> (e, f) => (g) { g = my.Inner <t : int = @t> (e, f) }
<opset_import: ["" : 20, "my" : 1], domain: "my">
Inner <t : int = 0> (e, f) => (g) {
  k = Constant <value = float[4, 4] {%s}> () d = Gemm <transB : int = @t> (e, f) g = MatMul (d, k)
}
"""


def places_model() -> bytes:
    """Weights in functions, passed to them and through a loop, in lists, as a table; and sparse tensors."""
    model = onnx.parser.parse_model(PLACES % tuple(map(_numbers, (16, 24, 16))))
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [2], [1.5, -2.5])
    indices = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [2], [3, 77])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [4, 5])
    model.graph.sparse_initializer.append(sparse)
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["inner"], sparse_value=sparse))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "sparse"], ["unread"]))
    return model.SerializeToString()


QUANTISED = """
  b = DequantizeLinear <axis = 0, block_size = 4> (blocks, bs, bz) h = MatMul (x, b)
  a = DequantizeLinear <axis = 0> (typed, as, az) t = Transpose (a) i = MatMul (h, t)
  c = Cast <to = 1> (narrow) j = MatMul (i, c)
  k = com.microsoft.MatMulNBits <N = 5, K = 20, bits = 4, block_size = 16> (j, bits, ns, nz)
  l = MatMulInteger (u, direct, uz, dz) m = Cast <to = 1> (l) o = Mul (us, ds) p = Mul (m, o)
  q = QLinearConv (u, us, uz, kernel, as, az, us, uz) r = QuantizeLinear (float, us, uz)
  s = DequantizeLinear (r, us, uz) y = MatMul (p, s)
  y_lstm = com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> (x, lw, lr, , , , , , ls, lz, ls, lz)
"""


def quantised_model() -> bytes:
    """Quantised weights of all kinds: blocks of int4, int8 in a typed field, float8, packed codes, operators' own."""
    rng = np.random.default_rng(6)
    codes = {
        "blocks": (TensorProto.INT4, 8, 6), "bz": (TensorProto.INT4, 2, 6), "narrow": (TensorProto.FLOAT8E5M2, 6, 20),
        "bits": (TensorProto.UINT8, 5, 2, 8), "nz": (TensorProto.UINT8, 5, 1), "direct": (TensorProto.UINT8, 8, 6),
        "dz": (TensorProto.UINT8, 6), "uz": (TensorProto.UINT8,), "kernel": (TensorProto.INT8, 6, 2, 3, 3),
        "lw": (TensorProto.INT8, 1, 6, 8), "lr": (TensorProto.INT8, 1, 2, 8), "lz": (TensorProto.INT8, 1),
    }  # fmt: skip
    stored = {name: tensor(random_codes(rng, kind, tuple(shape)), kind) for name, (kind, *shape) in codes.items()}
    for name, kind, shape in (("typed", TensorProto.INT8, (6, 6)), ("az", TensorProto.INT8, (6,))):
        stored[name] = tensor(random_codes(rng, kind, shape), kind, raw=False)
    scales = {"bs": (2, 6), "as": (6,), "ns": (5, 2), "ds": (6,), "us": (), "ls": (1,), "float": (6, 6)}
    stored |= {name: tensor(rng.uniform(0.1, 1, shape)) for name, shape in scales.items()}
    return model_of(QUANTISED, "float[N, 8] x, uint8[N, 8] u", **stored).SerializeToString()


def external_model() -> tuple[bytes, bytes]:
    """A model whose two weights lie in `weights.bin`, and that file."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 16] x) => (float[N, 8] y)'
        "{ h = MatMul (x, a) i = Relu (h) y = MatMul (i, b) }"
    )
    rng = np.random.default_rng(7)
    data = b"\x11" * 64
    for name, shape in (("a", (16, 32)), ("b", (32, 8))):
        values = rng.standard_normal(shape).astype(np.float32)
        tensor = onnx.TensorProto(name=name, dims=shape, data_type=1, data_location=1)
        for key, value in (("location", "weights.bin"), ("offset", len(data)), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
        data += values.tobytes()
    return model.SerializeToString(), data


@pytest.fixture(scope="module")
def models() -> list[dict[str, bytes]]:
    """Files of each model to mutate; the first of each is the model."""
    external, data = external_model()
    found = [
        {"model.onnx": external, "weights.bin": data},
        {"model.onnx": subgraph_model()},
        {"model.onnx": convolution_model()},
        {"model.onnx": places_model()},
        {"model.onnx": quantised_model()},
        {"model.onnx": DEMO.read_bytes()},
    ]
    root = os.environ.get("OXIPRUNE_CORPUS")
    for path in sorted(pathlib.Path(root, "models").glob("*/model.onnx")) if root else []:
        files = {
            file.name: file.read_bytes() for file in [path, *path.parent.glob("*.data"), *path.parent.glob("*.bin")]
        }
        found += [files] if sum(map(len, files.values())) < LARGEST else []
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to six changes, most in the first or last kilobytes, where the structure lies in files of large tensors."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        if not out:
            break
        reach = rng.choice([300, 3000, len(out)])
        at = min(rng.randrange(reach), len(out) - 1)
        at = at if rng.random() < 0.7 else len(out) - 1 - at
        rng.choice(CHANGES)(out, at, rng)
    return bytes(out)


def _flip(out: bytearray, at: int, rng: random.Random) -> None:
    out[at] ^= 1 << rng.randrange(8)


def _put(out: bytearray, at: int, rng: random.Random) -> None:
    out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def _cut(out: bytearray, at: int, rng: random.Random) -> None:
    del out[at : at + rng.choice([1, 4, 20, 1000])]


def _insert(out: bytearray, at: int, rng: random.Random) -> None:
    out[at:at] = rng.randbytes(rng.randrange(1, 20))


def _repeat(out: bytearray, at: int, rng: random.Random) -> None:
    out[at:at] = out[at : at + rng.choice([2, 10, 100, 1000])]


def _truncate(out: bytearray, at: int, rng: random.Random) -> None:
    del out[at:]


def _swap(out: bytearray, at: int, rng: random.Random) -> None:
    other, size = rng.randrange(len(out)), rng.randrange(1, 12)
    out[at : at + size], out[other : other + size] = out[other : other + size], out[at : at + size]


def _varint(out: bytearray, at: int, rng: random.Random) -> None:
    """Another number where a varint of up to ten bytes stands."""
    end = at
    while end < min(len(out), at + 9) and out[end] & 0x80:
        end += 1
    number = rng.choice([0, 1, 127, 128, 2**31 - 1, 2**32, 2**62, 2**63, 2**64 - 1, rng.getrandbits(20)])
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    out[at : end + 1] = encoded + bytes([number])


def _digit(out: bytearray, at: int, rng: random.Random) -> None:
    """Another digit in a text, such as an offset."""
    digits = [index for index, byte in enumerate(out[:4000]) if 0x30 <= byte <= 0x39]
    if digits:
        out[rng.choice(digits)] = rng.choice(b"0123456789-./")


CHANGES = [_flip, _flip, _put, _cut, _insert, _repeat, _truncate, _swap, _varint, _varint, _digit]


def attempt(folder: pathlib.Path, rng: random.Random) -> bool:
    """Do with a model what can be done with one; whether it could be pruned."""
    path = folder / "model.onnx"
    before = tree(folder)
    with contextlib.suppress(PruningError):
        inspected = inspect_file(path, pictures=True)
        for renderer in RENDERERS.values():
            renderer.render(inspected)
    with contextlib.suppress(PruningError):
        for seen in observe(ModelFile.open(path).skeleton).weights:
            assert math.prod(seen.view.shape) == seen.weight.elements
    with contextlib.suppress(PruningError):
        same = compare_files(path, path)
        assert same.totals.equal == same.totals.weights
        assert (same.others, same.metadata) == ((), ())
    assert tree(folder) == before, "inspecting changed files"
    config = PruningConfig(0.5, "l1", rng.choice(["unstructured", "row", "column"]))
    out = folder / "out.onnx"
    report = None
    with contextlib.suppress(PruningError):
        report = prune_file(path, out, config=config, selection=SELECTION)
    after = tree(folder)
    if report is None:
        assert after == before, "a failed run left something"
        return False
    assert before.items() <= after.items(), "the input was changed"
    assert after.keys() - before.keys() <= {"out.onnx", *_data_names(after)}, "something was left"
    compared = compare_bytes(path, out, allowed=_planned(path, config))
    assert not compared.violations, compared.violations[:3]
    fallen = sum(weight.nonzero_before - weight.nonzero_after for weight in report.weights)
    most = sum(weight.pruned for weight in report.weights)  # -0.0 becomes 0.0: other bytes, but it was no nonzero
    assert fallen <= _zeroed(compared, report) <= most, "the report tells other numbers than the bytes"
    assert not verify_files(path, out, runtime=False).failed
    for renderer in RENDERERS.values():
        renderer.render(report)
    with contextlib.suppress(PruningError):
        found = compare_files(path, out)
        assert (found.totals.newly_nonzero, found.totals.changed) == (0, 0)
        for renderer in RENDERERS.values():
            renderer.render(found)
    with contextlib.suppress(PruningError):  # a second time there is nothing to do, or the output is whole
        prune_file(out, None, config=config, selection=SELECTION)
    assert not compare_bytes(path, out).violations
    return True


def _planned(path: pathlib.Path, config: PruningConfig) -> set[object]:
    return {item.weight.path for item in make_plan(ModelFile.open(path).skeleton, config, SELECTION).planned}


def _zeroed(compared: ByteComparison, report: PruneReport) -> int:
    """New zeros, those once that the comparison counts for several tensors on the same bytes."""
    shared = {tensor.name for tensor in report.left_alone if "bytes in common" in tensor.reason}
    return sum(tensor.newly_zero for tensor in compared.zeroed if tensor.name not in shared)


def _data_names(names: dict[str, str]) -> set[str]:
    return {name for name in names if name.startswith("out.onnx.data")}


def runs(rng: random.Random) -> Iterator[int]:
    """Seeds of single runs, as long as there is time."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        yield rng.getrandbits(40)


def test_only_our_errors_come_out(tmp_path: pathlib.Path, models: list[dict[str, bytes]]) -> None:
    pruned = done = 0
    for seed in runs(random.Random(SEED)):
        rng = random.Random(seed)
        chosen = rng.randrange(len(models))
        files = dict(models[chosen])
        changed = rng.choice(["model.onnx", "model.onnx", "model.onnx", *files])
        files[changed] = mutated(files[changed], rng)
        folder = tmp_path / "run"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            with limits(seconds=60, gigabytes=4):
                pruned += attempt(folder, rng)
        except BaseException as error:
            error.add_note(f"OXIPRUNE_FUZZ_SEED={SEED}, run {seed} of model {chosen}; its files are in {folder}")
            raise
        done += 1
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    print(f"{done} runs, {pruned} pruned")
    assert done > pruned > 0
