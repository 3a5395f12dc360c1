"""Policies: which rule decides about a weight, what it leaves to the policy, and files that say it."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import (
    InvalidPolicy,
    NothingSelected,
    PatternMatchesNothing,
    Policy,
    Rule,
    Selection,
    prune_model,
    read_policy,
)
from onnx_tools.report import PruneReport, WeightReport
from oxiprune_gpu import InvalidOption, InvalidSparsity, PruningConfig
from tests.command import refused, run

EVERY_SIZE = Selection(min_elements=0)
SIZES = {"stem": (8, 4, 3, 3), "body": (16, 32), "head": (32, 10)}


def model() -> onnx.ModelProto:
    """A Conv, a Gemm and a MatMul: stem, body, head."""
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y)
        { a = Conv (x, stem) b = Gemm (a, body) y = MatMul (b, head) }"""
    parsed = onnx.parser.parse_model(text)
    random = np.random.default_rng(5)
    for name, shape in SIZES.items():
        weight = random.standard_normal(shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(weight, name))
    return parsed


def pruned(policy: Policy | PruningConfig, **more: Any) -> PruneReport:
    return prune_model(model(), config=policy, selection=EVERY_SIZE, **more)


def of(report: PruneReport, name: str) -> WeightReport:
    return next(weight for weight in report.weights if weight.name == name)


def sparsities(policy: Policy) -> dict[str, float]:
    return {weight.name: weight.pruned / weight.parameters for weight in pruned(policy).weights}


def test_the_first_rule_that_matches_decides() -> None:
    policy = Policy((Rule(("op:Conv",), sparsity=0.25), Rule(("*",), sparsity=0.75), Rule(("head",), sparsity=0.5)))
    assert sparsities(policy) == {"stem": 0.25, "body": 0.75, "head": 0.75}


def test_what_a_rule_does_not_say_the_policy_says() -> None:
    rule = Rule("stem", metric="l2", granularity="row")
    weight = of(pruned(Policy((rule,), sparsity=0.5, metric="random:3")), "stem")
    assert (weight.metric, weight.granularity, weight.target_sparsity, weight.rule) == ("l2", "row", 0.5, "stem")
    other = of(pruned(Policy((rule,), sparsity=0.5, metric="random:3")), "head")
    assert (other.metric, other.granularity, other.rule) == ("random:3", "unstructured", None)


def test_a_rule_leaves_weights_alone() -> None:
    report = pruned(Policy((Rule(("head", "op:Conv"), prune=False),), sparsity=0.5))
    assert [weight.name for weight in report.weights] == ["body"]
    assert {item.name: item.reason for item in report.left_alone} == {
        "stem": "the policy's rule 'head, op:Conv' leaves it alone",
        "head": "the policy's rule 'head, op:Conv' leaves it alone",
    }


def test_weights_without_rule_and_sparsity_are_left_alone() -> None:
    report = pruned(Policy((Rule("body", sparsity=0.5),)))
    assert [weight.name for weight in report.weights] == ["body"]
    assert report.left_alone[0].reason == "matches no rule of the policy, and no other sparsity is given"


def test_n_m_in_a_rule_needs_no_sparsity() -> None:
    report = pruned(Policy((Rule("body", granularity="2:4"),), sparsity=0.25))
    assert [weight.pruned / weight.parameters for weight in report.weights] == [0.25, 0.5, 0.25]


def test_a_config_is_a_policy_without_rules() -> None:
    one, other = model(), model()
    prune_model(one, config=PruningConfig(0.5, "l2", "row"), selection=EVERY_SIZE)
    prune_model(other, config=Policy(sparsity=0.5, metric="l2", granularity="row"), selection=EVERY_SIZE)
    assert one == other


def test_gradients_and_a_rule_with_a_metric_of_its_own() -> None:
    gradients = {name: np.ones(shape, np.float32) for name, shape in SIZES.items() if name != "head"}
    policy = Policy((Rule("head", metric="l1"),), sparsity=0.5, metric="taylor")
    metrics = [weight.metric for weight in pruned(policy, gradients=gradients).weights]
    assert metrics == ["taylor:gradient", "taylor:gradient", "l1"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Policy((Rule("nothing.*", sparsity=0.5),)), PatternMatchesNothing, "'nothing.*' matches no weight"),
        (lambda: Policy((Rule("*", prune=False),), sparsity=0.5), NothingSelected, "leaves it alone"),
        (lambda: Policy((Rule("head", sparsity=1.5),)), InvalidPolicy, "rule 'head': sparsity 1.5"),
        (lambda: Policy((Rule("head", sparsity=0.3, granularity="2:4"),)), InvalidPolicy, "rule 'head': sparsity 0.3"),
        (lambda: Policy((Rule("head", metric="l9"),)), InvalidOption, "l9"),
        (lambda: Policy((Rule((), sparsity=0.5),)), InvalidPolicy, "must be patterns"),
        (lambda: Policy(sparsity=1.0), InvalidSparsity, "1"),
    ],
)
def test_wrong_policies_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("*", r"\*")):
        pruned(make())


def test_a_policy_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        """
        sparsity = 0.5
        metric = "l2"
        [[rule]]
        match = ["op:Conv", "head"]
        prune = false
        [[rule]]
        match = "body"
        granularity = "2:4"
        min_nonzero = 7
        """
    )
    rules = (Rule(("op:Conv", "head"), prune=False), Rule("body", granularity="2:4", min_nonzero=7))
    assert read_policy(file) == Policy(rules, sparsity=0.5, metric="l2")
    assert read_policy(file, {"sparsity": 0.75, "metric": None}) == Policy(rules, sparsity=0.75, metric="l2")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sparsty = 0.5", ["unknown key 'sparsty' (did you mean 'sparsity'?)"]),
        ("sparsity = '0.5'", ["sparsity = '0.5' must be a number"]),
        ("sparsity = true", ["sparsity = True must be a number"]),
        ("[[rule]]\nsparsity = 0.5", ["rule 1 has no 'match'"]),
        ("[[rule]]\nmatch = '*'\n[[rule]]\nmatch = 'a'\ngranularty = 'row'", ["rule 2: unknown key 'granularty'"]),
        ("[[rule]]\nmatch = '*'\nprune = false\nsparsity = 0.5", ["leaves its weights alone", "leave out sparsity"]),
        ("[[rule]]\nmatch = [1]", ["rule 1: match [1]"]),
        ("[[rule]]\nmatch = '*'\ngranularity = '5:4'", ["rule 1", "5:4"]),
        ("rule = 5", ["'rule' must be tables"]),
        ("metric = 'l7'", ["l7"]),
        ("= 5", ["no TOML"]),
        ("\x00", ["no TOML"]),
    ],
)
def test_wrong_policy_files_are_refused(tmp_path: pathlib.Path, text: str, parts: list[str]) -> None:
    file, source = tmp_path / "policy.toml", tmp_path / "in.onnx"
    file.write_text(text)
    source.write_bytes(model().SerializeToString())
    refused(run("prune", source, "-o", tmp_path / "out.onnx", "--policy", file), 2, "policy.toml", *parts)


def test_a_policy_file_that_is_missing_or_no_text(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidPolicy, match=r"gone\.toml: cannot be read: No such file"):
        read_policy(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidPolicy, match="no TOML"):
        read_policy(tmp_path / "binary.toml")
