"""Will it pay? For each way of deploying: what zeros gain there, by a rule that somebody documented.

A way is a row in `WAYS`. Its rule says of one weight why zeros gain nothing, or nothing if they do; its sources are
the pages that the rule is from. What they do not say, the rule does not claim.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnx_tools.report import (
    FileReport,
    InspectedWeight,
    PayoffReport,
    PruneReport,
    WeightReport,
    WeightVerdict,
    fraction,
    sum_known,
)

_LARGE = 256
"""Channels from which on TensorRT's sparse kernels are faster than its dense ones."""
_OPENVINO_RATE = 0.8
"""The threshold in OpenVINO's own example."""
_TENSORRT_DTYPES = ("float32", "float16", "int8")
_COMPRESSES = 0.95
"""A weight pays as a download from this part of its size on."""
_NUMBER = re.compile(r"(?<![a-z\d])\d[\d,]*")


@dataclass(frozen=True)
class Way:
    """A way of deploying. `judge`: why a weight's zeros gain nothing, "" if they do. `gain`: what they then gain.

    `proviso`: a dtype, and what weights of it need besides.
    """

    name: str
    judge: Callable[[InspectedWeight], str]
    gain: str
    rule: str
    sources: tuple[str, ...]
    proviso: tuple[str, str] = ("", "")


def payoff(weights: Sequence[InspectedWeight], files: Sequence[FileReport] = ()) -> tuple[PayoffReport, ...]:
    """What the zeros of a model gain on each way of deploying; `files`: with compressed sizes, where measured."""
    reports = tuple(_judged(way, weights) for way in WAYS)
    compressed = sum_known(file.compressed_before for file in files)
    if compressed is None:
        return reports
    part = _percent(compressed, sum(file.bytes_before for file in files))
    measured = f"{part} of the size of the files, measured with zstd at level 3"
    return tuple(replace(report, verdict=measured) if report.way == _DOWNLOAD else report for report in reports)


def short_verdict(
    weights: Sequence[WeightReport], files: Sequence[FileReport] = (), sparse: Sequence[InspectedWeight] = ()
) -> str:
    """What pruning gains where zeros are stored and multiplied like other values, and as a compressed download.

    `sparse`: the weights that were pruned 2:4; then also what they gain in TensorRT.
    """
    before, after = sum_known(file.bytes_before for file in files), sum_known(file.bytes_after for file in files)
    if any(weight.granularity == "channel" for weight in weights):
        return "on every runtime, once `oxiprune compact` has removed these channels"
    size = "not smaller"
    if before and after is not None and after < before * _COMPRESSES:
        size = f"{_percent(after, before)} of the size"
    tensorrt = f"TensorRT, of what is 2:4: {_judged(_TENSORRT, sparse).verdict}; " if sparse else ""
    return f"onnxruntime: not faster, {size}; {tensorrt}compressed download: {_download(weights, files)}"


def with_verdict(report: PruneReport, sparse: Sequence[InspectedWeight] = ()) -> PruneReport:
    """The report with its verdict; `sparse` as in `short_verdict`."""
    return replace(report, payoff=short_verdict(report.weights, report.files, sparse))


def _download(weights: Sequence[WeightReport], files: Sequence[FileReport]) -> str:
    before = sum_known(file.compressed_before for file in files)
    after = sum_known(file.compressed_after for file in files)
    if before is not None and after is not None:
        return f"{_percent(after, before)} of before, measured"
    zeros_after = sum(_estimate(weight.bytes, weight.parameters, weight.zeros_after) for weight in weights)
    zeros_before = sum(_estimate(weight.bytes, weight.parameters, weight.zeros_before) for weight in weights)
    return f"about {_percent(zeros_after, zeros_before)} of before in these weights, estimated"


def _judged(way: Way, weights: Sequence[InspectedWeight]) -> PayoffReport:
    verdicts = tuple(WeightVerdict(weight.name, not (why := way.judge(weight)), why) for weight in weights)
    gaining = [weight for weight, verdict in zip(weights, verdicts, strict=True) if verdict.pays]
    if not gaining:
        text = _main_reason(weights, [verdict.reason for verdict in verdicts])
        return PayoffReport(way.name, "no", text, way.rule, way.sources, verdicts)
    parameters, total = (sum(weight.parameters for weight in those) for those in (gaining, weights))
    share = f"{len(gaining):,} of {len(weights):,} weights, {_percent(parameters, total)} of their parameters"
    pays: Literal["yes", "partly"] = "yes" if len(gaining) == len(weights) else "partly"
    dtype, need = way.proviso
    proviso = f"; {need}" if any(weight.dtype == dtype for weight in gaining) else ""
    return PayoffReport(way.name, pays, f"{way.gain}: {share}{proviso}", way.rule, way.sources, verdicts)


def _main_reason(weights: Sequence[InspectedWeight], reasons: Sequence[str]) -> str:
    """The reason that holds for most parameters, and for how many weights; it may have other numbers in each."""
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for weight, reason in zip(weights, reasons, strict=True):
        alike[_NUMBER.sub("", reason)].append((weight.parameters, reason))
    if not alike:
        return "the model has no weights"
    found = max(alike.values(), key=lambda those: sum(parameters for parameters, _ in those))
    reason = max(found, key=lambda one: one[0])[1]
    if len(set(reasons)) == 1:
        return reason
    figures = " (figures of the largest)" if len({reason for _, reason in found}) > 1 else ""
    return f"{len(found):,} of {len(weights):,} weights: {reason}{figures}"


def _dense(weight: InspectedWeight) -> str:
    zero = [
        f"{part:,} of {total:,} {name}"
        for part, total, name in (
            (weight.zero_rows, weight.rows, "output channels"),
            (weight.zero_columns, weight.columns, "input channels"),
        )
        if part and total
    ]
    removable = f"; {' and '.join(zero)} are zero as a whole, removing them would pay" if zero else ""
    return f"zeros are stored and multiplied like other values{removable}"


def _tensorrt(weight: InspectedWeight) -> str:
    where = f", but along {weight.other_axes_2_4[0]}" if weight.other_axes_2_4 else ""
    rows = weight.rows or 1
    summed = weight.parameters // rows
    return _first(
        (
            _other_ops(weight, ("Conv", "Gemm", "MatMul")),
            (
                weight.dtype not in _TENSORRT_DTYPES,
                f"{weight.dtype}: only float16 and int8, and float32 built as one of them",
            ),
            (_is_grouped(weight), "a grouped convolution, or no reduction axis"),
            (bool(weight.remainder_2_4), f"the reduction axis has length {weight.reduction}, no multiple of 4"),
            (not weight.is_2_4, f"not 2:4 along the reduction axis{where}"),
            (
                min(rows, summed) < _LARGE,
                f"too small: {rows:,} output channels, each a sum of {summed:,}; dense kernels are as fast",
            ),
        )
    )


def _openvino(weight: InspectedWeight) -> str:
    multiples = all(size and size % 64 == 0 for size in (weight.rows, weight.columns))
    return _first(
        (
            _other_ops(weight, ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul")),
            (weight.dtype not in ("int8", "uint8"), f"{weight.dtype}: only models quantised to int8"),
            (not multiples, "input and output channels must be multiples of 64"),
            (
                weight.sparsity <= _OPENVINO_RATE,
                f"a fraction of zeros that is not above {_OPENVINO_RATE}",
            ),
        )
    )


def _xnnpack(weight: InspectedWeight) -> str:
    one_by_one = weight.shape[2:] == (1, 1) and not _is_grouped(weight)
    return _first(
        (
            _other_ops(weight, ("Conv",)),
            (not one_by_one, "only convolutions with a 1x1 kernel, not grouped"),
            (3 * weight.zeros < 2 * weight.parameters, "less than two thirds are zero"),
        )
    )


def _first(tests: Iterable[tuple[bool, str]]) -> str:
    """The reason of the first test that says so; "" of none."""
    return next((reason for fails, reason in tests if fails), "")


def _is_grouped(weight: InspectedWeight) -> bool:
    return weight.depthwise or weight.reduction is None or weight.columns != weight.reduction


def _other_ops(weight: InspectedWeight, known: Iterable[str]) -> tuple[bool, str]:
    others = [op for op in weight.op_types if op not in known]
    return bool(others), f"{', '.join(others)}: the rule is for {', '.join(known)}"


def _smaller_download(weight: InspectedWeight) -> str:
    estimate = _estimate(weight.bytes, weight.parameters, weight.zeros)
    return "" if estimate <= weight.bytes * _COMPRESSES else "too few zeros"


def _estimate(size: int, elements: int, zeros: int) -> float:
    """Bytes of a weight that is compressed: what is not zero as it is, and the entropy of where the zeros lie."""
    share = fraction(zeros, elements)
    places = sum(-part * math.log2(part) for part in (share, 1 - share) if part)
    return min(size * (1 - share) + elements * places / 8, float(size))


def _percent(part: float, total: float) -> str:
    """Whole percent; 0 and 100 only if it is none and all."""
    if not total or not part:
        return "0 %"
    percent = round(100 * part / total)
    return f"{percent if part >= total else min(max(percent, 1), 99)} %"


_DOWNLOAD = "compressed download"

_TENSORRT = Way(
    "TensorRT with --sparsity=enable (NVIDIA GPUs, Ampere or newer)",
    _tensorrt,
    "sparse tensor cores can be used",
    "Of every four input channels, for each output channel and kernel place, two are zero; the number of input "
    "channels is a multiple of 4; float16 or int8. TensorRT times sparse kernels against dense ones: they win from "
    "about 256 input channels (a 3x3 kernel counts ninefold) and 256 output channels on.",
    (
        "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/io-formats-sparsity.html",
        "https://github.com/NVIDIA/TensorRT/issues/3849",
        "https://github.com/NVIDIA/TensorRT/issues/4065",
    ),
    ("float32", "those in float32 only once the engine is built with float16 or int8"),
)

WAYS = (
    Way(
        "onnxruntime (CPU, CUDA)",
        _dense,
        "",
        "Kernels and files are dense; sparse initializers become dense when the model is loaded. Removed channels pay.",
        (
            "https://github.com/microsoft/onnxruntime/issues/2121",
            "https://github.com/microsoft/onnxruntime/issues/5578",
        ),
    ),
    _TENSORRT,
    Way(
        "OpenVINO with sparse_weights_decompression_rate (Intel CPUs with AMX)",
        _openvino,
        "less memory traffic where memory is the limit",
        "Matrix products of int8 models on CPUs with AMX; input and output channels are multiples of 64; the fraction "
        f"of zeros is above the property, which is 1 (off) by default and {_OPENVINO_RATE} in the example.",
        (
            "https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/"
            "cpu-device.html",
        ),
    ),
    Way(
        "TensorFlow Lite with XNNPACK (after conversion, weights in sparse form)",
        _xnnpack,
        "sparse inference can be used",
        "Convolutions with a 1x1 kernel, two thirds of zeros over all of a subgraph that starts with a 3x3 stride-2 "
        "convolution of 3 channels and ends in a mean or a depth-to-space.",
        ("https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/xnnpack/README.md",),
    ),
    Way(
        _DOWNLOAD,
        _smaller_download,
        "smaller, estimated from the zeros",
        "A compressor leaves out zeros but for their places, and hardly shortens other floats; --compressed-sizes "
        "measures it.",
        ("https://www.rfc-editor.org/rfc/rfc8878",),
    ),
)
"""The ways of deploying that are judged, in the order in which they are shown."""
