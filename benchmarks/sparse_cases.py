"""2:4 on small models of every layout: which tool is right, by an oracle that reads what the operator reads.

python benchmarks/sparse_cases.py RESULT.json

Each model has one weight. After a tool has pruned it, onnx's reference evaluator gives the operand that the operator
reads, before and after: no tool's idea of the axes takes part. The axis is the operator's reduction axis.

`polygraphy inspect sparsity` is then asked about our result.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import ml_dtypes
import nm_rule
import numpy as np
import onnx
import sparse_jobs
from commands import beside, oxiprune
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

JOBS = [sys.executable, str(Path(__file__).with_name("sparse_jobs.py"))]


@dataclass(frozen=True)
class Case:
    """A graph in text whose weight is `w`; `operand`: what the operator reads; `axis`: its reduction axis there."""

    name: str
    graph: str
    shape: tuple[int, ...]
    axis: int
    operand: str = "w"
    dtype: type = np.float32
    constant: bool = False

    def model(self) -> onnx.ModelProto:
        graph = parser.parse_graph(f"case {self.graph}")
        weight = numpy_helper.from_array(distinct(self.shape).astype(self.dtype), "w")
        if self.constant:
            graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        else:
            graph.initializer.append(weight)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = (
    Case("MatMul", "(float[5,16] x) => (float[5,12] y) { y = MatMul(x, w) }", (16, 12), 0),
    Case("MatMul, weight on the left", "(float[16,5] x) => (float[12,5] y) { y = MatMul(w, x) }", (12, 16), 1),
    Case("MatMul, batched", "(float[4,5,16] x) => (float[4,5,12] y) { y = MatMul(x, w) }", (4, 16, 12), 1),
    Case("MatMul, batched, on the left", "(float[4,16,5] x) => (float[4,12,5] y) { y = MatMul(w, x) }", (4, 12, 16), 2),
    Case("Gemm", "(float[5,16] x) => (float[5,12] y) { y = Gemm(x, w) }", (16, 12), 0),
    Case("Gemm, transB", "(float[5,16] x) => (float[5,12] y) { y = Gemm<transB=1>(x, w) }", (12, 16), 1),
    Case("Conv 1x1", "(float[1,16,7,7] x) => (float[1,8,7,7] y) { y = Conv(x, w) }", (8, 16, 1, 1), 1),
    Case("Conv 3x3", "(float[1,16,7,7] x) => (float[1,8,5,5] y) { y = Conv(x, w) }", (8, 16, 3, 3), 1),
    Case(
        "Conv 3x3, two groups",
        "(float[1,16,7,7] x) => (float[1,8,5,5] y) { y = Conv<group=2>(x, w) }",
        (8, 8, 3, 3),
        1,
    ),
    Case(
        "MatMul, Transpose in front",
        "(float[5,16] x) => (float[5,12] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        (12, 16),
        0,
        "t",
    ),
    Case(
        "Conv 3x3, Transpose in front",
        "(float[1,16,7,7] x) => (float[1,8,5,5] y) { t = Transpose<perm=[3,2,0,1]>(w) y = Conv(x, t) }",
        (3, 3, 16, 8),
        1,
        "t",
    ),
    Case(
        "MatMul, float16", "(float16[5,16] x) => (float16[5,12] y) { y = MatMul(x, w) }", (16, 12), 0, dtype=np.float16
    ),
    Case(
        "MatMul, bfloat16",
        "(bfloat16[5,16] x) => (bfloat16[5,12] y) { y = MatMul(x, w) }",
        (16, 12),
        0,
        dtype=ml_dtypes.bfloat16,
    ),
    Case("MatMul, float64", "(double[5,16] x) => (double[5,12] y) { y = MatMul(x, w) }", (16, 12), 0, dtype=np.float64),
    Case(
        "MatMul, Constant node", "(float[5,16] x) => (float[5,12] y) { y = MatMul(x, w) }", (16, 12), 0, constant=True
    ),
)


def distinct(shape: tuple[int, ...]) -> Any:
    """Values of both signs whose magnitudes differ even in bfloat16, in random order: no ties, one answer is right."""
    random, count = np.random.default_rng(24), int(np.prod(shape))
    places = random.permutation(count)
    values = np.ldexp(128.0 + places % 128, places // 128 - 12)
    return (values * random.choice((-1.0, 1.0), count)).reshape(shape)


def operand(model: Path, name: str) -> Any:
    """The values that the operator reads, whatever stands between it and the weight."""
    loaded = onnx.load(model)
    producers = {output: node for node in loaded.graph.node for output in node.output}
    needed = [producers[name]] if name in producers else []
    while needed and any(source in producers for source in needed[0].input):
        needed.insert(0, producers[next(source for source in needed[0].input if source in producers)])
    if not needed:
        return next(numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer if tensor.name == name)
    graph = helper.make_graph(needed, "operand", [], [onnx.ValueInfoProto(name=name)], loaded.graph.initializer)
    alone = helper.make_model(graph, opset_imports=loaded.opset_import, ir_version=loaded.ir_version)
    return ReferenceEvaluator(alone).run(None, {})[0]


def operand_name(model: Path, case: Case) -> str:
    """What the operator reads is called: tools give weights other names."""
    (last,) = onnx.load(model, load_external_data=False).graph.node[-1:]
    return str(last.input[0 if "left" in case.name else 1])


def tools() -> dict[str, Callable[[Path, Path], list[str]]]:
    """How each tool that is here prunes BEFORE to AFTER."""
    found: dict[str, Callable[[Path, Path], list[str]]] = {
        "oxiprune": lambda before, after: [
            *(*oxiprune(), "prune", str(before), "-o", str(after), "--granularity", "2:4"),
            *("--min-elements", "0", "--quiet"),
        ]
    }
    if polygraphy := beside("polygraphy"):
        found["polygraphy"] = lambda before, after: [polygraphy, "surgeon", "prune", str(before), "-o", str(after)]
    if common.installed("onnxsim"):
        found["onnxsim"] = lambda before, after: [*JOBS, "onnxsim", str(before), str(after)]
    return found


def outcome(command: list[str], case: Case, before: Path, after: Path) -> str:
    """What became of the weight."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode or not after.is_file():
        return f"fails: {last_line(ended.stderr or ended.stdout)}"
    old, new = (operand(path, operand_name(path, case)) for path in (before, after))
    return nm_rule.verdict(old, new, case.axis)


def inspected(path: Path) -> str:
    """What `polygraphy inspect sparsity` says of a model with one weight."""
    try:
        said = sparse_jobs.polygraphy_says(str(path))
    except subprocess.CalledProcessError as error:
        return f"fails: {last_line(error.stderr or error.stdout)}"
    return {"sparse": "2:4", "non-sparse": "not 2:4"}[said[0]] if said else "not looked at"


def last_line(text: str) -> str:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:120]


def row(case: Case, folder: Path) -> dict[str, str]:
    """One line of the table."""
    before = folder / "before.onnx"
    onnx.save(case.model(), before)
    line = {"case": case.name}
    for name, command in tools().items():
        after = folder / f"{name}.onnx"
        after.unlink(missing_ok=True)
        line[name] = outcome(command(before, after), case, before, after)
    if beside("polygraphy") and line["oxiprune"] == "right":
        line["polygraphy inspect of our result"] = inspected(folder / "oxiprune.onnx")
    return line


def main() -> None:
    """Write the table; fail if ours has a case that is not right."""
    with tempfile.TemporaryDirectory(prefix="oxiprune-cases-") as folder:
        rows = [row(case, Path(folder)) for case in CASES]
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    wrong = [line["case"] for line in rows if line["oxiprune"] != "right"]
    if wrong:
        sys.exit(f"ours is not right: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
