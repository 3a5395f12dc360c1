"""Weights that are passed into the bodies of Loop, Scan and SequenceMap."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from onnx_tools.operators import UnitAxis
from onnx_tools.weights import find_weights
from tests.onnx_tools.test_weights import find, model_of, only_weight, reason

LOOP = """
  h, r = Loop(n, c, x, w)
    <body = b (int64 i, bool k, float[N] s, float[3, 2] u) => (bool ko, float[N] so, {out}) {{ {inside} }}>
"""
UNCHANGED = "ko = Identity(k) so = MatMul(s, u) uo = Identity(u)"


def loop(out: str = "float[3, 2] uo", inside: str = UNCHANGED, after: str = "y = Relu(h)") -> str:
    return f"{LOOP.format(out=out, inside=inside)} {after}"


def test_a_state_that_stays_the_same_is_the_weight() -> None:
    weight = only_weight(loop(), w=(3, 2))
    assert (weight.consumers, weight.rows) == (("so",), UnitAxis((3, 2), 1))


def test_it_is_followed_behind_the_loop_too() -> None:
    weight = only_weight(loop(after="y = MatMul(h, r)"), w=(3, 2))
    assert weight.consumers == ("so", "y")


def test_a_state_handed_back_under_its_own_name() -> None:
    assert only_weight(loop("float[3, 2] u", "ko = Identity(k) so = MatMul(s, u)"), w=(3, 2)).consumers == ("so",)


def test_a_state_captured_and_passed_is_one_weight() -> None:
    inside = "ko = Identity(k) m = MatMul(s, u) so = MatMul(m, w) uo = Identity(u)"
    assert only_weight(loop(inside=inside), w=(3, 2)).consumers == ("so", "m")


CHANGED = "state that the body changes of Loop"


@pytest.mark.parametrize(
    ("out", "inside"),
    [
        ("float[3, 2] uo", "ko = Identity(k) so = MatMul(s, u) uo = Relu(u)"),
        ("float[3, 2] so", "ko = Identity(k) so = MatMul(s, u)"),
        ("float[3, 2] missing", UNCHANGED),
        ("float[3, 2] uo, float[3, 2] uo", UNCHANGED),
        ("float[3, 2] uo", "ko = Identity(k) so = MatMul(s, u) uo = Identity(uo)"),
    ],
)
def test_a_state_that_may_change_is_no_weight(out: str, inside: str) -> None:
    assert reason("w", find(loop(out, inside), w=(3, 2))) == CHANGED


def test_a_loop_with_another_number_of_inputs_than_its_body() -> None:
    body = LOOP.format(out="float[3, 2] uo", inside=UNCHANGED).replace("x, w)", "x, w, w)")
    assert reason("w", find(body, w=(3, 2))) == CHANGED


SCAN = """
  h, r, y = Scan(x, w, {scanned})
    <body = b (float[N] s, float[3, 2] u, float[3, 2] e) => (float[N] so, float[3, 2] uo, float[N] z)
      {{ so = MatMul(s, {used}) uo = Identity(u) z = Identity(so) }}>
"""


def model_with_scan(scanned: str, used: str, **stored: tuple[int, ...]) -> onnx.ModelProto:
    model = model_of(SCAN.format(scanned=scanned, used=used), **stored)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("num_scan_inputs", 1))
    return model


def test_a_state_of_scan() -> None:
    found = find_weights(model_with_scan("x", "u", w=(3, 2)))
    assert [weight.consumers for weight in found.weights] == [("so",)]


def test_what_scan_cuts_into_entries() -> None:
    found = find_weights(model_with_scan("v", "e", w=(3, 2), v=(4, 3, 2)))
    assert reason("v", found) == "state that the body changes, or entries one by one, of Scan"


def test_further_inputs_of_sequence_map() -> None:
    body = "y = SequenceMap(x, w) <body = b (float[N] e, float[3, 2] u) => (float[N] z) { z = MatMul(e, u) }>"
    assert only_weight(body, w=(3, 2)).consumers == ("z",)
