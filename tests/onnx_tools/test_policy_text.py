"""A policy written as TOML is the same policy when it is read."""

from __future__ import annotations

import types

from hypothesis import given
from hypothesis import strategies as st

from onnx_tools import Policy, Rule, read_policy
from onnx_tools.policy_file import pattern_of, policy_text
from onnx_tools.weight_selection import matches

NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from('*?[]!\\"\x7f\n\t#'), min_size=1, max_size=12)
BELOW_ONE = st.floats(0, 1, exclude_max=True, width=32)
SPARSITIES = st.none() | BELOW_ONE
RULES = st.builds(
    Rule,
    st.lists(NAMES, min_size=1, max_size=3),
    sparsity=SPARSITIES,
    metric=st.none() | st.sampled_from(["l1", "l2", "random:7", "taylor"]),
    granularity=st.none() | st.sampled_from(["row", "block:2x3", "unstructured"]),
    min_nonzero=st.none() | st.integers(0, 99),
)
LEFT_ALONE = st.builds(Rule, st.lists(NAMES, min_size=1, max_size=3), st.just(False))


@given(st.lists(RULES | LEFT_ALONE, max_size=4), SPARSITIES, st.sampled_from(["l1", "random:3"]), st.integers(0, 9))
def test_what_is_written_is_read_again(tmp_path_factory, rules, sparsity, metric, min_nonzero):
    policy = Policy(rules, sparsity, metric, "row", min_nonzero)
    assert reread(tmp_path_factory, policy) == described(policy)


@given(BELOW_ONE, st.sampled_from(["uniform", "erk", "global:lamp"]), st.floats(0, 0.5))
def test_what_is_dealt_out_is_read_again(tmp_path_factory, sparsity, allocation, floor):
    policy = Policy((), sparsity, allocation=allocation, floor=floor, ceiling=0.75, target="model")
    assert reread(tmp_path_factory, policy) == described(policy)


def reread(folders, policy):
    path = folders.mktemp("policy") / "policy.toml"
    path.write_bytes(policy_text(policy).encode())
    return described(read_policy(path))


def described(policy):
    """A policy as texts and numbers: metrics and granularities know no equality."""
    parts = [vars(policy), *(vars(rule) for rule in policy.rules)]
    return [{key: getattr(value, "text", value) for key, value in part.items() if key != "rules"} for part in parts]


@given(NAMES | NAMES.map("op:".__add__) | st.just("a\ud800b"), NAMES)
def test_a_pattern_means_the_weight_of_its_name(name, other):
    pattern = pattern_of(name)
    assert matches(weight(name), pattern)
    assert matches(weight(other), pattern) == (other == name)
    pattern.encode()


def weight(name):
    return types.SimpleNamespace(name=name, op_types=("Conv", "c"))
