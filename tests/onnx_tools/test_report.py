"""The figures of reports, their form as JSON, and the schema that describes it."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from fractions import Fraction

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_tools import report as reports
from onnx_tools.pictures import WeightPictures
from onnx_tools.plain import keys_of
from onnx_tools.renderers import json_renderer
from onnx_tools.report import (
    Check,
    Configuration,
    FileReport,
    InspectedWeight,
    InspectReport,
    LeftAloneReport,
    OutputDrift,
    PruneReport,
    VerificationReport,
    Versions,
    WeightReport,
    format_fraction,
    fraction,
    left_alone_groups,
    to_dict,
)
from oxiprune_gpu import ScoreStats

SCHEMA = json_renderer.report_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VERSIONS = Versions("0.1.0", "3.11.9", "2.3.0", "1.18.0")
CONFIGURATION = Configuration(0.5, "l1", "unstructured", 1, (), ("emb*",), 2048, False)
STATS = ScoreStats(0.0, math.inf, -math.inf, 0.25, math.nan)
DATACLASSES = [kind for kind in vars(reports).values() if dataclasses.is_dataclass(kind)]
HOW = ("l1", "unstructured")
NOT_IN_JSON = [reports.LeftAloneGroup]


def weight(name: str = "w", parameters: int = 8, before: int = 8, after: int = 4, **more: object) -> WeightReport:
    return WeightReport(
        *(name, ("Conv",), ("conv",), (parameters,), "float32", parameters, 4 * parameters, before, after, 4, 0.5),
        *HOW,
        **more,
    )


def prune_report(**more: object) -> PruneReport:
    given = {
        "input": "model.onnx",
        "output": "pruned.onnx",
        "dry_run": False,
        "changed": True,
        "configuration": CONFIGURATION,
        "versions": VERSIONS,
        "weights": (weight(scores=STATS), weight("empty", 0, 0, 0)),
        "left_alone": (LeftAloneReport("bias", (-1, 2**62), "int64", 2**70, "impossible shape"),),
        "files": (FileReport("model", "model.onnx", "pruned.onnx", 100, 110, "a" * 64, None, 90, 50),),
        "verification": VerificationReport(
            (Check("bytes", "passed"),), (OutputDrift("y", math.nan, 0.5, None, "not finite"),)
        ),
        "warnings": ("mind",),
    }
    return PruneReport(**(given | more))


def inspect_report(**more: object) -> InspectReport:
    weights = (
        InspectedWeight("w", ("Gemm",), ("fc",), (2, 4), "float32", 8, 32, 4, 2, 0, 4, 1, 2, 1),
        InspectedWeight("v", ("MatMul",), ("fc",), (4,), "float16", 4, 8, 4, depthwise=True),
    )
    given = {"input": "model.onnx", "versions": VERSIONS, "weights": weights, "left_alone": (), "files": ()}
    return InspectReport(**(given | more))


@pytest.mark.parametrize(
    ("part", "total", "text"),
    [
        (0, 0, "0.0000"),
        (0, 7, "0.0000"),
        (7, 7, "1.0000"),
        (1, 2, "0.5000"),
        (2, 3, "0.6667"),
        (1, 20_000, "0.0001"),
        (3, 20_000, "0.0002"),
        (1, 10**9, "0.0001"),
        (10**9 - 1, 10**9, "0.9999"),
        (2**60 - 1, 2**60, "0.9999"),
    ],
)
def test_format_fraction(part, total, text):
    assert format_fraction(part, total) == text


@given(st.integers(1, 2**62), st.data())
def test_fractions_are_right_and_at_the_ends_only_there(total, data):
    part = data.draw(st.integers(0, total))
    shown = format_fraction(part, total)
    assert abs(Fraction(shown) - Fraction(part, total)) <= Fraction(1, 10_000)
    assert (shown == "1.0000", shown == "0.0000") == (part == total, part == 0)
    assert (fraction(part, total) == 1, fraction(part, total) == 0) == (part == total, part == 0)


def test_sparsities_of_a_weight():
    assert (weight().sparsity_before, weight().sparsity_after, weight().zeros_after) == (0.0, 0.5, 4)
    assert weight("empty", 0, 0, 0).sparsity_after == 0.0
    assert weight("big", 2**60, 2**60, 1).sparsity_after < 1.0


def test_totals_of_pruning():
    more = FileReport("data", "w.bin", "pruned.onnx.data", 1000, 1000)
    report = prune_report(
        weights=(weight("a", 8, 7, 4), weight("b", 4, 4, 0, backend="cuda")),
        left_alone=(LeftAloneReport("c", (3,), "float32", 3, "bias of Conv"),),
    )
    assert dataclasses.asdict(report.totals) == {
        "weights": 2,
        "weights_on_gpu": 1,
        "parameters": 12,
        "pruned": 8,
        "zeros_before": 1,
        "zeros_after": 8,
        "left_alone": 1,
        "model_parameters": 15,
        "bytes_before": 100,
        "bytes_after": 110,
        "compressed_before": 90,
        "compressed_after": 50,
    }
    totals = dataclasses.replace(report, files=(*report.files, more)).totals
    assert (totals.bytes_after, totals.compressed_after) == (1110, None)
    assert prune_report(files=()).totals.bytes_before is None


def test_totals_of_inspection():
    totals = inspect_report(files=(FileReport("model", "m.onnx", None, 100, None),)).totals
    assert (totals.parameters, totals.zeros, totals.bytes, totals.compressed) == (12, 8, 100, None)
    assert totals.sparsity == 8 / 12


@pytest.mark.parametrize(
    ("groups", "satisfying", "expected"), [(4, 4, True), (4, 3, False), (0, 0, None), (None, None, None)]
)
def test_is_2_4(groups, satisfying, expected):
    found = InspectedWeight("w", (), (), (4,), "float32", 4, 16, 0, groups_2_4=groups, satisfying_2_4=satisfying)
    assert found.is_2_4 is expected


def test_failed_is_failed_and_nothing_else():
    outcomes = ("passed", "skipped", "warning", "measured")
    assert not VerificationReport(tuple(Check("c", outcome) for outcome in outcomes)).failed
    assert VerificationReport((Check("a", "passed"), Check("b", "failed"))).failed


def test_groups_are_by_reason_the_largest_first():
    tensors = [LeftAloneReport(n, (s,), "float32", s, r) for n, s, r in [("a", 1, "x"), ("b", 5, "y"), ("c", 2, "x")]]
    groups = left_alone_groups(tensors)
    assert [(group.reason, len(group.members), group.parameters) for group in groups] == [("y", 1, 5), ("x", 2, 3)]


def test_what_json_has_no_form_for():
    plain = to_dict(prune_report(input="\udcff.onnx", weights=(weight(b"\xffw", scores=STATS),)))
    assert plain["input"] == "\\udcff.onnx"
    assert plain["weights"][0]["name"] == "\\xffw"
    assert plain["weights"][0]["scores"]["std_dev"] == "NaN"
    assert (plain["weights"][0]["scores"]["max"], plain["weights"][0]["scores"]["mean"]) == ("Infinity", "-Infinity")
    assert plain["left_alone"][0]["parameters"] == plain["totals"]["model_parameters"] == "over 2^63"


def test_numpy_scalars_become_numbers():
    scores = ScoreStats(*map(np.float32, (0, 1, 0.5, 0.5, 0.25)))
    found = weight(parameters=np.int64(8), before=np.int64(8), scores=scores)
    plain = to_dict(prune_report(weights=(found,)))["weights"][0]
    assert (type(plain["parameters"]), type(plain["scores"]["mean"])) == (int, float)


def test_order_of_keys_is_that_of_the_classes():
    plain = to_dict(prune_report())
    assert list(plain)[:3] == ["schema_version", "command", "input"]
    assert list(plain) == list(keys_of(PruneReport))
    assert list(plain["weights"][0]) == list(keys_of(WeightReport))


@pytest.mark.parametrize(
    "report",
    [
        prune_report(),
        prune_report(output=None, dry_run=True, changed=False, weights=(), left_alone=(), files=(), verification=None),
        inspect_report(),
        inspect_report(weights=(), left_alone=(LeftAloneReport("\udcff", (), "string", 1, "r"),)),
    ],
)
def test_reports_follow_the_schema(report):
    VALIDATOR.validate(json.loads(json_renderer.render(report)))


@pytest.mark.parametrize("path", [("surprise",), ("weights", 0, "surprise"), ("totals", "surprise")])
def test_schema_refuses_what_it_does_not_know(path):
    plain = place = to_dict(prune_report())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    assert not VALIDATOR.is_valid(plain)


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", [kind for kind in [*DATACLASSES, ScoreStats] if kind not in NOT_IN_JSON])
def test_schema_has_every_field(kind):
    described = SCHEMA["$defs"][kind.__name__]
    assert tuple(described["properties"]) == keys_of(kind)
    assert tuple(described["required"]) == keys_of(kind)
    assert described["additionalProperties"] is False


@pytest.mark.parametrize("kind", DATACLASSES)
def test_dataclasses_are_frozen_and_their_derived_exist(kind):
    assert kind.__dataclass_params__.frozen
    assert all(isinstance(getattr(kind, name), property) for name in getattr(kind, "derived", ()))


def test_annotations_can_be_resolved():
    for kind in DATACLASSES:
        assert typing.get_type_hints(kind, localns={"ScoreStats": ScoreStats, "WeightPictures": WeightPictures})
