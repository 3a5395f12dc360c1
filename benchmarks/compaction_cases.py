"""Small models, one for each way in which layers hang together, pruned to half their channels by each tool.

python benchmarks/compaction_cases.py TABLE.json

A cell says how much of the stored elements is left, or what is wrong: compaction_oracle.py judges. Where channels must
stay ("stays"), since none can leave without changing what becomes of the others, "unchanged" is right.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import onnx
from commands import oxiprune
from compaction_oracle import Given, judged, last_line
from onnx import numpy_helper

JOBS = [sys.executable, str(Path(__file__).with_name("compaction_jobs.py"))]
IMAGE, TOKENS = "float[2,4,8,8] x", "float[2,6,16] x"
NOTHING = "no channel was selected"
"""Our command says so where no channel may leave, and writes nothing."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """Nodes in onnx's text form that make `y` of `x`, and shapes of random weights; those called `q...` are int8."""

    name: str
    nodes: str
    weights: Shapes
    x: str = IMAGE
    stays: bool = False
    ir: int = 8

    def model(self) -> onnx.ModelProto:
        kind = self.x.partition("[")[0].replace("int64", "float")
        head = f'<ir_version: {self.ir}, opset_import: ["" : 18]>'
        model = onnx.parser.parse_model(f"{head} case ({self.x}) => ({kind}[N] y) {{ {self.nodes} }}")
        random = np.random.default_rng(0)
        for name, shape in self.weights.items():
            model.graph.initializer.append(numpy_helper.from_array(drawn(random, name, shape, kind), name))
            if self.ir < 4:
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model)


def drawn(random: np.random.Generator, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Values that can be told apart."""
    if name.startswith("q"):
        return random.integers(-127, 128, shape).astype(np.int8)
    if name.startswith("positive"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:] or (1,)))).astype(
        np.float16 if kind == "float16" else np.float32
    )


def conv(made: str, read: str, weight: str, **attributes: object) -> str:
    """A 3x3 convolution that keeps the size."""
    more = "".join(f", {name} = {value}" for name, value in attributes.items())
    return f"{made} = Conv <pads = [1, 1, 1, 1]{more}> ({read}, {weight})"


FIRST, LAST = {"a": (16, 4, 3, 3)}, {"z": (4, 16, 3, 3)}
BEGIN, END = f"{conv('h', 'x', 'a')} ", f"{conv('y', 'j', 'z')}"
DENSE = {"a": (16, 32), "z": (32, 8)}
VECTORS = {f"{name}": (16,) for name in ("positive_scale", "shift", "mean", "positive_variance")}


def between(name: str, nodes: str, weights: Shapes | None = None, *, stays: bool = False, ir: int = 8) -> Case:
    """What lies between two convolutions: it makes `j` of `h`."""
    return Case(name, f"{BEGIN} {nodes} {END}", {**FIRST, **LAST, **(weights or {})}, stays=stays, ir=ir)


NORMALISED = "BatchNormalization (h, positive_scale, shift, mean, positive_variance)"
HEADS = """
    q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
    split = Constant <value = int64[4] {0, 0, 4, 8}> () joined = Constant <value = int64[3] {0, 0, 32}> ()
    qs = Reshape (q, split) ks = Reshape (k, split) vs = Reshape (v, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (qs) kh = Transpose <perm = [0, 2, 3, 1]> (ks)
    vh = Transpose <perm = [0, 2, 1, 3]> (vs)
    scores = MatMul (qh, kh) weights = Softmax <axis = -1> (scores) read = MatMul (weights, vh)
    back = Transpose <perm = [0, 2, 1, 3]> (read) flat = Reshape (back, joined) y = MatMul (flat, z)"""
SHUFFLE = """
    apart = Constant <value = int64[5] {2, 2, 8, 8, 8}> () together = Constant <value = int64[4] {2, 16, 8, 8}> ()
    s = Reshape (h, apart) t = Transpose <perm = [0, 2, 1, 3, 4]> (s) j = Reshape (t, together)"""
QUANTISED = """
    ad = DequantizeLinear <axis = 0> (qa, positive_a) h = Conv <pads = [1, 1, 1, 1]> (x, ad) j = Relu (h)
    zd = DequantizeLinear <axis = 0> (qz, positive_z) y = Conv <pads = [1, 1, 1, 1]> (j, zd)"""
IF = """
    yes = Constant <value = bool {1}> ()
    y = If (yes) <then_branch = some () => (float[2,4,8,8] p) { h = Conv <pads = [1, 1, 1, 1]> (x, a)
        j = Relu (h) p = Conv <pads = [1, 1, 1, 1]> (j, z) },
    else_branch = other () => (float[2,4,8,8] n) { n = Neg (x) }>"""

CASES = [
    between("Conv, Relu, Conv", "j = Relu (h)"),
    between("BatchNormalization", f"n = {NORMALISED} j = Relu (n)", VECTORS),
    between("PRelu", "j = PRelu (h, slope)", {"slope": (16, 1, 1)}),
    between("InstanceNormalization", "j = InstanceNormalization (h, positive_scale, shift)", VECTORS),
    between("constants added and multiplied", "m = Mul (h, f) j = Add (m, g)", {"f": (16, 1, 1), "g": (1, 16, 1, 1)}),
    between("depthwise", conv("j", "h", "d", group=16), {"d": (16, 1, 3, 3)}),
    between("two groups", conv("j", "h", "d", group=2), {"d": (16, 8, 3, 3)}),
    between("two groups, then four", f"{conv('i', 'h', 'd', group=2)} {conv('j', 'i', 'e', group=4)}",
            {"d": (16, 8, 3, 3), "e": (16, 4, 3, 3)}),
    between("residual sum", f"r = Relu (h) {conv('i', 'r', 'd')} j = Add (i, h)", {"d": (16, 16, 3, 3)}),
    between("gate from pooled channels", "p = GlobalAveragePool (h) e = Conv (p, d) s = Sigmoid (e) j = Mul (h, s)",
            {"d": (16, 16, 1, 1)}),
    between("Concat of branches", f"{conv('b', 'x', 'd')} r = Relu (h) j = Concat <axis = 1> (b, r)",
            {"d": (8, 4, 3, 3), "z": (4, 24, 3, 3)}),
    between("Split in halves, one gates the other", "l, r = Split <axis = 1, num_outputs = 2> (h) s = Sigmoid (l) "
            "j = Mul (r, s)", {"z": (4, 8, 3, 3)}),
    between("Slice of the channels", "b = Constant <value = int64[1] {0}> () e = Constant <value = int64[1] {8}> () "
            "o = Constant <value = int64[1] {1}> () j = Slice (h, b, e, o)", {"z": (4, 8, 3, 3)}),
    between("channel shuffle", SHUFFLE),
    between("Pad and Resize", "two = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () r = Resize (h, , two) "
            "p = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> () j = Pad (r, p)"),
    between("Softmax over the channels", "j = Softmax <axis = 1> (h)", stays=True),
    between("initializers that are inputs too", "j = Relu (h)", ir=3),
    Case("ConvTranspose", "h = ConvTranspose (x, a) j = Relu (h) y = ConvTranspose (j, z)",
         {"a": (4, 16, 3, 3), "z": (16, 4, 3, 3)}),
    Case("Flatten, Gemm", f"{BEGIN} f = Flatten (h) y = Gemm (f, z)", {**FIRST, "z": (1024, 8)}),
    Case("pooled, Flatten, Gemm with transB", f"{BEGIN} p = GlobalAveragePool (h) f = Flatten (p) "
         "y = Gemm <transB = 1> (f, z)", {**FIRST, "z": (8, 16)}),
    Case("NHWC by Transpose, MatMul", f"{BEGIN} t = Transpose <perm = [0, 2, 3, 1]> (h) y = MatMul (t, z)",
         {**FIRST, "z": (16, 8)}),
    Case("MatMul, Add, Relu, MatMul", "m = MatMul (x, a) b = Add (m, c) h = Relu (b) y = MatMul (h, z)",
         {**DENSE, "c": (32,)}, TOKENS),
    Case("gated MatMul", "u = MatMul (x, a) g = MatMul (x, b) s = Sigmoid (g) h = Mul (u, s) y = MatMul (h, z)",
         {**DENSE, "b": (16, 32)}, TOKENS),
    Case("LayerNormalization over the channels", "m = MatMul (x, a) n = LayerNormalization (m, positive) "
         "y = MatMul (n, z)", {**DENSE, "positive": (32,)}, TOKENS, stays=True),
    Case("float16", "m = MatMul (x, a) h = Relu (m) y = MatMul (h, z)", DENSE, TOKENS.replace("float", "float16")),
    Case("weight behind Transpose", "at = Transpose <perm = [1, 0]> (a) m = MatMul (x, at) h = Relu (m) "
         "y = MatMul (h, z)", {"a": (32, 16), "z": (32, 8)}, TOKENS),
    Case("one weight for two branches", "o = Neg (x) m = MatMul (x, a) n = MatMul (o, a) r = Relu (n) s = Add (m, r) "
         "y = MatMul (s, z)", DENSE, TOKENS),
    Case("one weight, read transposed again", "m = MatMul (x, a) h = Relu (m) at = Transpose <perm = [1, 0]> (a) "
         "y = MatMul (h, at)", {"a": (16, 32)}, TOKENS),
    Case("one weight for two layers", "m = MatMul (x, a) h = Relu (m) n = MatMul (h, b) i = Relu (n) k = MatMul (i, b) "
         "l = Relu (k) y = MatMul (l, z)", {"a": (16, 32), "b": (32, 32), "z": (32, 8)}, TOKENS),
    Case("int8 behind DequantizeLinear", QUANTISED,
         {"qa": (16, 4, 3, 3), "positive_a": (16,), "qz": (4, 16, 3, 3), "positive_z": (4,)}),
    Case("attention heads", HEADS, {**dict.fromkeys(("wq", "wk", "wv"), (16, 32)), "z": (32, 8)}, TOKENS),
    Case("LSTM", "o = LSTM <hidden_size = 16> (x, w, r) one = Constant <value = int64[1] {1}> () s = Squeeze (o, one) "
         "y = MatMul (s, z)", {"w": (1, 64, 16), "r": (1, 64, 16), "z": (16, 8)}, TOKENS),
    Case("Gather of an embedding", "e = Gather (a, x) m = Relu (e) y = MatMul (m, z)",
         {"a": (50, 32), "z": (32, 8)}, "int64[2,6] x"),
    Case("Einsum", 'm = Einsum <equation = "btc,cd->btd"> (x, a) h = Relu (m) y = MatMul (h, z)', DENSE, TOKENS),
    Case("in the branch of an If", IF, {**FIRST, **LAST}),
]  # fmt: skip


def tools() -> dict[str, Callable[[Path, Path], list[str]]]:
    """How each tool that is here prunes BEFORE to AFTER."""
    found: dict[str, Callable[[Path, Path], list[str]]] = {
        "oxiprune": lambda before, after: [
            *(*oxiprune(), "prune", str(before), "-o", str(after), "--sparsity", "0.5"),
            *("--granularity", "channel", "--compact", "--quiet", "--force"),
        ]
    }
    if common.installed("onnxsim"):
        found["onnxsim"] = lambda before, after: [*JOBS, "onnxsim", str(before), str(after)]
    return found


def outcome(command: Callable[[Path, Path], list[str]], before: Path, given: Given | None = None) -> str:
    """What becomes of a model: what is left of it, or what went wrong."""
    after = before.with_name("after.onnx")
    after.unlink(missing_ok=True)
    ended = subprocess.run(command(before, after), capture_output=True, text=True, check=False)
    if NOTHING in ended.stderr:
        return "unchanged"
    if ended.returncode:
        return f"fails: {last_line(ended.stderr or ended.stdout)}"
    return judged(onnx.load(before), onnx.load(after), given)


def is_right(row: dict[str, str], tool: str) -> bool:
    """Whether a tool made a model smaller that computes the same; where channels stay, whether it left them."""
    return row[tool].endswith("%") or (row[tool] == "unchanged" and "stays" in row)


def main() -> None:
    """Write the table; fail if ours has made a wrong model."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="oxiprune-cases-") as folder:
        for case in CASES:
            path = Path(folder) / "before.onnx"
            onnx.save(case.model(), path)
            made = {name: outcome(command, path) for name, command in tools().items()}
            rows.append({"case": case.name, **made, **({"stays": "yes"} if case.stays else {})})
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    bad = [row["case"] for row in rows if row["oxiprune"].startswith(("wrong", "fails", "does not run"))]
    if bad:
        sys.exit(f"ours is not right: {', '.join(bad)}")


if __name__ == "__main__":
    main()
