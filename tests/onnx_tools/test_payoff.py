"""Will it pay? Each rule at its edges, and what a model as a whole is told."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import Selection, inspect_file, prune_file, prune_model
from onnx_tools.payoff import WAYS, payoff, short_verdict
from onnx_tools.renderers import html_renderer, json_renderer, markdown_renderer
from onnx_tools.report import FileReport, InspectedWeight, WeightReport
from oxiprune_gpu import PruningConfig
from tests.command import run

RUNTIME, TENSORRT, OPENVINO, XNNPACK, DOWNLOAD = range(5)


def weight(shape: tuple[int, ...] = (512, 512), zeros: float = 0.5, **more: object) -> InspectedWeight:
    """A weight of shape (out, in, kernel...) that is 2:4 along its input channels, unless told otherwise."""
    parameters = 1
    for size in shape:
        parameters *= size
    given = {
        "name": "w",
        "op_types": ("Conv",) if len(shape) > 2 else ("MatMul",),
        "consumers": ("node",),
        "shape": shape,
        "dtype": "float16",
        "parameters": parameters,
        "bytes": parameters * 2,
        "zeros": round(zeros * parameters),
        "rows": shape[0],
        "columns": shape[1],
        "groups_2_4": parameters // 4,
        "satisfying_2_4": parameters // 4,
        "reduction_axis": 1,
        "reduction": shape[1],
    }
    return InspectedWeight(**(given | more))


def why(way: int, found: InspectedWeight) -> str:
    """Why zeros gain nothing; "" if they do."""
    (verdict,) = payoff([found])[way].weights
    assert verdict.pays == (verdict.reason == "")
    return verdict.reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (weight(), ""),
        (weight(dtype="float32"), ""),
        (weight((256, 256)), ""),
        (weight((256, 64, 3, 3)), ""),
        (weight((255, 512)), "too small: 255 output channels, each a sum of 512"),
        (weight((512, 252)), "too small: 512 output channels, each a sum of 252"),
        (weight((64, 64, 3, 3)), "too small: 64 output channels"),
        (weight((512, 514)), "the reduction axis has length 514, no multiple of 4"),
        (weight(satisfying_2_4=7), "not 2:4 along the reduction axis"),
        (weight(satisfying_2_4=7, other_axes_2_4=("axis 0",)), "not 2:4 along the reduction axis, but along axis 0"),
        (weight(groups_2_4=None, satisfying_2_4=None, reduction=None, columns=None), "or no reduction axis"),
        (weight(columns=1024), "a grouped convolution"),
        (weight(dtype="float64"), "float64: only float16 and int8"),
        (weight(op_types=("MatMul", "LSTM")), "LSTM: the rule is for Conv, Gemm, MatMul"),
    ],
)
def test_tensorrt(found, reason):
    assert reason in why(TENSORRT, found)
    assert bool(reason) == bool(why(TENSORRT, found))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (weight(zeros=0.85, dtype="int8"), ""),
        (weight(zeros=0.8, dtype="int8"), "not above 0.8"),
        (weight(zeros=0.9), "float16: only models quantised to int8"),
        (weight((512, 500), 0.9, dtype="int8"), "multiples of 64"),
        (weight((512, 512, 1, 1), 0.9, dtype="int8"), "Conv: the rule is for MatMul"),
    ],
)
def test_openvino(found, reason):
    assert reason in why(OPENVINO, found)
    assert bool(reason) == bool(why(OPENVINO, found))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (weight((9, 8, 1, 1), 2 / 3), ""),
        (weight((9, 8, 1, 1), 47 / 72), "less than two thirds"),
        (weight((9, 8, 3, 3), 0.9), "1x1 kernel"),
        (weight((9, 8, 1, 1), 0.9, columns=16), "not grouped"),
        (weight((9, 8), 0.9), "MatMul: the rule is for Conv"),
    ],
)
def test_xnnpack(found, reason):
    assert reason in why(XNNPACK, found)
    assert bool(reason) == bool(why(XNNPACK, found))


def test_onnxruntime_gains_from_removed_channels_only():
    assert why(RUNTIME, weight()) == "zeros are stored and multiplied like other values"
    assert "3 of 512 output channels are zero as a whole" in why(RUNTIME, weight(zero_rows=3, zero_columns=0))


def test_the_model_as_a_whole():
    large, small = weight(name="large"), weight((8, 8), zeros=0, name="small")
    report = payoff([large, small])[TENSORRT]
    assert (report.pays, [verdict.pays for verdict in report.weights]) == ("partly", [True, False])
    assert report.verdict == "sparse tensor cores can be used: 1 of 2 weights, 99 % of their parameters"
    assert payoff([large])[TENSORRT].pays == "yes"
    assert payoff([small])[TENSORRT].pays == "no"
    assert [(found.pays, found.verdict) for found in payoff([])] == [("no", "the model has no weights")] * len(WAYS)


def test_a_no_has_the_reason_of_most_parameters():
    few = weight((32, 1, 3, 3), columns=1, reduction=1, parameters=288, groups_2_4=72, name="few")
    small = [weight((128, size), name=f"small {size}") for size in (256, 512, 128)]
    assert payoff([few, *small])[TENSORRT].verdict == (
        "3 of 4 weights: too small: 128 output channels, each a sum of 512; dense kernels are as fast "
        "(figures of the largest)"
    )
    assert payoff(small[:1])[TENSORRT].verdict.startswith("too small: 128 output channels, each a sum of 256")
    assert payoff([weight(), weight((8, 8), dtype="float32")])[OPENVINO].verdict == (
        "1 of 2 weights: float16: only models quantised to int8"
    )


def test_tensorrt_needs_float16_or_int8():
    need = "; those in float32 only once the engine is built with float16 or int8"
    assert payoff([weight(), weight(dtype="float32")])[TENSORRT].verdict.endswith(need)
    assert need not in payoff([weight(), weight((8, 8), dtype="float32")])[TENSORRT].verdict


def test_a_measured_download_stands_for_the_estimate():
    files = [FileReport("model", "m.onnx", None, 1000, None, compressed_before=610)]
    assert payoff([weight()], files)[DOWNLOAD].verdict.startswith("61 % of the size of the files, measured")
    assert "estimated" in payoff([weight()])[DOWNLOAD].verdict
    assert why(DOWNLOAD, weight(zeros=0.001)) == "too few zeros"


def pruned(nonzero: int) -> WeightReport:
    figures = (1000, 4000, 1000, nonzero, 1000 - nonzero, 0.5)
    return WeightReport("w", ("MatMul",), ("m",), (1000,), "float32", *figures, "l1", "unstructured")


def test_short_verdict():
    assert short_verdict([pruned(500)]) == (
        "onnxruntime: not faster, not smaller; compressed download: about 53 % of before in these weights, estimated"
    )
    files = [FileReport("model", "m.onnx", "p.onnx", 1000, 500, compressed_before=900, compressed_after=450)]
    assert short_verdict([pruned(500)], files) == (
        "onnxruntime: not faster, 50 % of the size; compressed download: 50 % of before, measured"
    )
    assert "100 % of before" in short_verdict([pruned(1000)])


def test_every_way_has_a_rule_and_sources():
    assert all(way.rule and way.sources for way in WAYS)
    assert all(source.startswith("https://") for way in WAYS for source in way.sources)


def test_a_model_in_every_format(small_file):
    report = inspect_file(small_file, payoff=True)
    assert [found.way for found in report.payoff] == [way.name for way in WAYS]
    plain = json.loads(json_renderer.render(report))
    jsonschema.Draft202012Validator(json_renderer.report_schema()).validate(plain)
    shown = markdown_renderer.render(report)
    assert "## Will it pay?" in shown
    assert shown.count("https&#58;//") >= len(WAYS)
    assert all(way.sources[0] in html_renderer.render(report) for way in WAYS)
    assert inspect_file(small_file).payoff == ()


def test_the_option(small_file):
    assert "Will it pay?" in run("inspect", small_file, "--payoff").stdout
    assert "Will it pay?" not in run("inspect", small_file).stdout


CONVS = """<ir_version: 8, opset_import: ["": 17]>
g (float[1, 64, 9, 9] x) => (float[n, c, h, w] y) {
    a = Conv <group = 2> (x, grouped) b = Conv (a, large) y = Conv (b, small)
}"""


@pytest.mark.parametrize(("granularity", "said"), [("2:4", True), ("row", False)])
def test_prune_2_4_says_what_tensorrt_gains(granularity, said, tmp_path):
    model = onnx.parser.parse_model(CONVS)
    for name, shape in {"grouped": (64, 32, 1, 1), "large": (256, 64, 3, 3), "small": (8, 256, 1, 1)}.items():
        values = np.random.default_rng(0).standard_normal(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    config = PruningConfig(None if said else 0.5, "l1", granularity)
    report = prune_model(model, config=config, selection=Selection(min_elements=0))
    wanted = (
        "; TensorRT, of what is 2:4: sparse tensor cores can be used: 1 of 3 weights, 97 % of their parameters; "
        "those in float32 only once the engine is built with float16 or int8; "
    )
    onnx.save(model, tmp_path / "pruned.onnx")
    (inspected,) = (way for way in inspect_file(tmp_path / "pruned.onnx", payoff=True).payoff if "TensorRT" in way.way)
    assert (inspected.verdict in wanted) is said
    assert (wanted in report.payoff) is said
    assert ("TensorRT" in report.payoff) is said


def test_prune_says_it_in_every_format(small_file, tmp_path):
    report = prune_file(small_file, tmp_path / "p.onnx", config=PruningConfig(0.5), selection=Selection(min_elements=0))
    said = "onnxruntime: not faster, not smaller; compressed download: about 53 % of before"
    assert report.payoff.startswith(said)
    for render in (html_renderer.render, json_renderer.render, markdown_renderer.render):
        assert said in render(report)
    result = run("prune", small_file, "--dry-run", "-s", 0.5, "--min-elements", 0)
    assert f"Will it pay? {said}" in " ".join(result.stdout.split())
