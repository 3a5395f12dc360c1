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
    prune_file,
    prune_model,
    read_policy,
)
from onnx_tools.cli.prune_options import ALLOCATIONS, TARGETS
from onnx_tools.policy import TARGETS as KNOWN_TARGETS
from onnx_tools.report import PruneReport, WeightReport
from oxiprune_gpu import ArrayBlocks, InvalidOption, InvalidSparsity, PruningConfig, allocate, parse_allocation
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


def test_a_rule_that_decides_about_no_weight_is_told() -> None:
    rules = Rule("*", sparsity=0.5), Rule(("head", "op:Conv"), prune=False)
    assert pruned(Policy(rules)).warnings == (
        "the policy's rule 'head, op:Conv' decides about no weight: earlier rules match all that it does; put it first",
    )
    assert pruned(Policy(rules[::-1])).warnings == ()
    partly = Policy((Rule("head", prune=False), Rule(("head", "body"), sparsity=0.5)), sparsity=0.5)
    assert pruned(partly).warnings == ()


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
        ("allocation = 'best'", ["best", "global:lamp"]),
        ("metric = 'sparsegpt'", ["metric 'sparsegpt' looks at data", "--metric sparsegpt --calibration DATA"]),
        ("[[rule]]\nmatch = '*'\nmetric = 'wanda'", ["rule 1: metric 'wanda' looks at data"]),
        ("[[rules]]\nmatch = '*'", ["unknown key 'rules' (did you mean 'rule'?)"]),
        (f"sparsity = {'1' + 400 * '0'}", ["must be a number of usual size"]),
        ("sparsity = 50", ["sparsity 50 must be in"]),
        ("rule = 5", ["rule = 5 must be tables"]),
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


def test_the_command_knows_the_texts() -> None:
    assert [parse_allocation(text).text for text in ALLOCATIONS] == list(ALLOCATIONS)
    assert TARGETS == KNOWN_TARGETS


def stored(pruned_model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in pruned_model.graph.initializer}


def test_a_global_allocation_lets_the_lowest_of_all_fall() -> None:
    before, after = stored(model()), model()
    prune_model(after, config=Policy(sparsity=0.7, allocation="global"), selection=EVERY_SIZE)
    scores = np.concatenate([np.abs(values).reshape(-1) for values in before.values()])
    limit = np.sort(scores)[int(np.float32(0.7) * np.float32(scores.size))]
    for name, values in stored(after).items():
        assert np.array_equal(values, np.where(np.abs(before[name]) < limit, 0, before[name])), name


@pytest.mark.parametrize("allocation", ["erk", "global:rms", "global:lamp"])
def test_allocations_are_those_of_the_array_library(allocation: str) -> None:
    sources = [ArrayBlocks(values) for values in stored(model()).values()]
    counts = allocate(sources, PruningConfig(0.7), allocation)
    assert tuple(weight.pruned for weight in pruned(Policy(sparsity=0.7, allocation=allocation)).weights) == counts


def test_allocations_prune_files_as_models_in_memory(tmp_path: pathlib.Path) -> None:
    source, output, in_memory = tmp_path / "in.onnx", tmp_path / "out.onnx", model()
    source.write_bytes(model().SerializeToString())
    options = ("-s", 0.8, "--allocation", "global:lamp", "--ceiling", 0.9, "--floor", 0.1, "--min-elements", 0)
    assert run("prune", source, "-o", output, *options).exit_code == 0
    policy = Policy(sparsity=0.8, allocation="global:lamp", floor=0.1, ceiling=0.9)
    prune_model(in_memory, config=policy, selection=EVERY_SIZE)
    assert onnx.load(output).graph == in_memory.graph


def test_floor_and_ceiling_bound_each_weight() -> None:
    found = sparsities(Policy(sparsity=0.7, allocation="global", floor=0.5, ceiling=0.75))
    assert all(0.49 < sparsity <= 0.75 for sparsity in found.values()), found


def test_units_of_different_sizes_count_by_their_elements() -> None:
    report = pruned(Policy(sparsity=0.5, granularity="row", allocation="erk"))
    largest = max(weight.pruned for weight in report.weights)
    assert report.totals.pruned == pytest.approx(0.5 * report.totals.parameters, abs=36), largest


def test_a_rule_without_sparsity_says_so() -> None:
    with pytest.raises(NothingSelected, match="rule 'head' gives no sparsity"):
        pruned(Policy((Rule("head", granularity="row"),)))


def test_min_nonzero_above_what_n_m_keeps() -> None:
    with pytest.raises(InvalidOption, match="weight 'stem' keeps 144 elements in 2:4, fewer than the 200"):
        pruned(Policy(granularity="2:4", min_nonzero=200))


def test_rules_count_towards_the_target() -> None:
    report = pruned(Policy((Rule("body", sparsity=0.25),), sparsity=0.5, allocation="erk"))
    assert of(report, "body").pruned == 128
    assert report.totals.pruned == pytest.approx(0.5 * report.totals.parameters, abs=2)


def test_the_target_may_be_the_whole_model() -> None:
    selection = Selection(exclude=("head",), min_elements=0)
    report = prune_model(model(), config=Policy(sparsity=0.5, target="model"), selection=selection)
    assert report.totals.pruned == pytest.approx(0.5 * sum(np.prod(shape) for shape in SIZES.values()), abs=2)


def test_rows_of_one_size_compete_and_others_are_refused() -> None:
    with pytest.raises(InvalidOption, match="'stem' have 36 elements, those of 'body' 16"):
        pruned(Policy(sparsity=0.5, granularity="row", allocation="global"))
    assert pruned(Policy(sparsity=0.5, granularity="row", allocation="erk")).totals.pruned > 0


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        (lambda: Policy(sparsity=0.5, target="file"), InvalidPolicy, "target 'file' must be one of weights, model"),
        (lambda: Policy(sparsity=0.5, floor=0.6, ceiling=0.4), InvalidPolicy, "floor 0.6 is above ceiling 0.4"),
        (lambda: Policy(sparsity=0.5, ceiling=2), InvalidPolicy, "ceiling 2 must be a sparsity"),
        (lambda: Policy(allocation="erk"), InvalidPolicy, "give one"),
        (lambda: Policy(sparsity=0.5, granularity="2:4", allocation="erk"), InvalidPolicy, "2:4 says how much"),
        (lambda: Policy(sparsity=0.9, allocation="global", ceiling=0.5), InvalidOption, "floors and ceilings allow"),
        (
            lambda: Policy((Rule("*", sparsity=0.5),), sparsity=0.5, allocation="erk"),
            InvalidPolicy,
            "every selected weight has a sparsity of its own",
        ),
        (
            lambda: Policy((Rule(("body", "stem"), sparsity=0.1),), sparsity=0.9, allocation="erk"),
            InvalidPolicy,
            "can't be reached",
        ),
        (
            lambda: Policy((Rule("head", metric="l2"),), sparsity=0.5, allocation="global"),
            InvalidOption,
            "different metrics can't compete",
        ),
    ],
)
def test_what_can_not_be_dealt_out_is_refused(policy: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pruned(policy())


def test_a_weight_that_lies_under_two_names_counts_once(tmp_path: pathlib.Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y)'
    twins = onnx.parser.parse_model(f"{text} {{ a = MatMul (x, one) y = MatMul (a, two) }}")
    (tmp_path / "data").write_bytes(np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32).tobytes())
    for name in ("one", "two"):
        tensor = twins.graph.initializer.add(name=name, dims=[16, 16], data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
    (tmp_path / "in.onnx").write_bytes(twins.SerializeToString())
    policy = Policy(sparsity=0.6, target="model")
    report = prune_file(tmp_path / "in.onnx", tmp_path / "out.onnx", config=policy, selection=EVERY_SIZE)
    assert [weight.pruned for weight in report.weights] == [153]
