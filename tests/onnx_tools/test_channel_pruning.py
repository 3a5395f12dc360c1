"""Whole channels become zero: scores of groups, which of them leave, and where they are zeroed."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools import (
    AlreadyEncoded,
    NothingSelected,
    PatternMatchesNothing,
    Selection,
    encode_file,
    find_weights,
    load_masks,
    prune_file,
)
from onnx_tools.cli.channel_options import GROUP_SCORES as KNOWN
from onnx_tools.cli.channel_options import read_size
from onnx_tools.compaction.choice.config import GROUP_SCORES, ChannelConfig, Target
from onnx_tools.compaction.choice.pruning import prune_channels
from onnx_tools.compaction.choice.scoring import score_groups
from onnx_tools.compaction.compact import compact_file
from onnx_tools.compaction.mapping.tracing import map_channels
from onnx_tools.compaction.zeros import removable
from onnx_tools.errors import InvalidInputShape
from onnx_tools.model_file import ModelFile
from oxiprune_gpu import InvalidOption, InvalidSparsity, NonFiniteWeight, PruningConfig, ShapeMismatch
from tests.command import refused, run, tree

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 8, 8] x) => (float[N, 5] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  n = BatchNormalization (a, gamma, beta, mean, var)
  r = Relu (n)
  b = Conv (r, w2)
  p = GlobalAveragePool (b)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, w3, b3)
}
"""
SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "gamma": (8,),
    "beta": (8,),
    "mean": (8,),
    "var": (8,),
    "w2": (6, 8, 3, 3),
    "w3": (5, 6),
    "b3": (5,),
}


def model_file(folder: pathlib.Path, **changed: NDArray[Any]) -> pathlib.Path:
    model = onnx.parser.parse_model(MODEL)
    random = np.random.default_rng(3)
    for name, shape in SHAPES.items():
        values = changed.get(name, np.abs(random.standard_normal(shape)).astype(np.float32) + 0.1)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def stored(path: pathlib.Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def pruned(path: pathlib.Path, sparsity: float | None = 0.5, **options: Any) -> dict[str, NDArray[Any]]:
    """The stored tensors after pruning channels; options of `ChannelConfig` and of `prune_channels`."""
    later = {name: options.pop(name) for name in ("selection", "gradients", "input_shapes") if name in options}
    output = path.with_name("pruned.onnx")
    prune_channels(path, output, config=ChannelConfig(sparsity, **options), force=True, **later)
    return stored(output)


def zero_slices(values: NDArray[Any], axis: int) -> list[int]:
    others = tuple(each for each in range(values.ndim) if each != axis)
    return np.flatnonzero(~values.any(axis=others)).tolist()


def test_a_group_is_zero_wherever_it_is_made_shifted_scaled_and_read(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    before, after = stored(path), pruned(path)
    gone = zero_slices(after["w1"], 0)
    assert len(gone) == 4
    assert zero_slices(after["w2"], 1) == gone
    assert [zero_slices(after[name], 0) for name in ("b1", "gamma", "beta")] == [gone] * 3
    last = zero_slices(after["w2"], 0)
    assert len(last) == 3
    assert zero_slices(after["w3"], 1) == last
    np.testing.assert_array_equal(after["mean"], before["mean"])
    np.testing.assert_array_equal(after["b3"], before["b3"])
    kept = after["w1"] != 0
    np.testing.assert_array_equal(after["w1"][kept], before["w1"][kept])


@pytest.mark.parametrize("group_score", ["sum", "mean", "max", "saved"])
@pytest.mark.parametrize("metric", ["l1", "l2", "taylor"])
def test_scores_of_groups(tmp_path: pathlib.Path, metric: str, group_score: str) -> None:
    path = model_file(tmp_path)
    tensors = {name: values.astype(np.float64) for name, values in stored(path).items()}
    scores = scores_of(path, ChannelConfig(0.5, metric, group_score=group_score))
    gamma = [] if group_score == "saved" else [tensors["gamma"]]
    parts = [[tensors["w1"][c], tensors["w2"][:, c], *(scale[c] for scale in gamma)] for c in range(8)]
    parts += [[tensors["w2"][c], tensors["w3"][:, c]] for c in range(6)]
    wanted = [group_score_of(part, metric, group_score) for part in parts]
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_what_a_parameter_is_worth_knows_no_size(tmp_path: pathlib.Path, metric: str) -> None:
    path = model_file(tmp_path, **{name: np.full(SHAPES[name], -3, np.float32) for name in ("w1", "w2", "w3")})
    np.testing.assert_array_equal(scores_of(path, ChannelConfig(0.5, metric, scope="global")), 3)


def scores_of(path: pathlib.Path, config: ChannelConfig) -> NDArray[np.float64]:
    """Of the free groups, in their order."""
    model = ModelFile.open(path)
    channels = map_channels(model.skeleton)
    free = channels.groups.free
    return score_groups(model, find_weights(model.skeleton).weights, channels, config, free)[free]


def group_score_of(parts: list[NDArray[np.float64]], metric: str, group_score: str) -> float:
    """Slow and plain; `parts`: the slices of the weights of one group."""
    totals = [float(np.abs(part).sum() if metric == "l1" else (part * part).sum()) for part in parts]
    shared = {"sum": 1, "mean": len(parts), "saved": sum(part.size for part in parts)}
    finish = float if metric == "l1" else np.sqrt
    return float(finish(max(totals) if group_score == "max" else sum(totals) / shared[group_score]))


def test_the_lowest_scores_leave(tmp_path: pathlib.Path) -> None:
    weight = np.ones(SHAPES["w1"], np.float32) * np.array([5, 1, 7, 2, 8, 3, 6, 4], np.float32)[:, None, None, None]
    path = model_file(tmp_path, w1=weight, w2=np.ones(SHAPES["w2"], np.float32))
    assert zero_slices(pruned(path, 0.5)["w1"], 0) == [1, 3, 5, 7]


def test_ties_fall_by_the_lowest_index(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path, **{name: np.ones(SHAPES[name], np.float32) for name in ("w1", "gamma", "w2")})
    assert zero_slices(pruned(path, 0.4)["w1"], 0) == [0, 1, 2]


def test_scales_of_a_normalisation_count(tmp_path: pathlib.Path) -> None:
    same = {name: np.ones(SHAPES[name], np.float32) for name in ("w1", "w2")}
    path = model_file(tmp_path, **same, gamma=np.array([5, -4, 3, 2, -1, 6, 7, 0.5], np.float32))
    assert zero_slices(pruned(path, 0.4)["w1"], 0) == [3, 4, 7]
    assert zero_slices(pruned(path, 0.4, group_score="saved")["w1"], 0) == [0, 1, 2]
    gradients = {name: np.ones(SHAPES[name], np.float32) for name in ("w1", "w2", "w3")}
    assert zero_slices(pruned(path, 0.4, gradients=gradients)["w1"], 0) == [0, 1, 2]
    gradients["gamma"] = np.array([1, 1, 0, 0, 1, 0, 1, 1], np.float32)
    assert zero_slices(pruned(path, 0.4, gradients=gradients)["w1"], 0) == [2, 3, 5]


def test_global_scope_compares_layers(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path, w1=np.full(SHAPES["w1"], 9, np.float32), w3=np.full(SHAPES["w3"], 0.01, np.float32))
    after = pruned(path, 3 / 14, scope="global", group_score="mean")
    assert (zero_slices(after["w1"], 0), len(zero_slices(after["w2"], 0))) == ([], 3)


@pytest.mark.parametrize(
    ("options", "left"),
    [({"round_to": 4}, 4), ({"round_to": 8}, 8), ({"min_channels": 7}, 7), ({"ceiling": 0.25}, 6)],
)
def test_limits_of_a_layer(tmp_path: pathlib.Path, options: dict[str, Any], left: int) -> None:
    after = pruned(model_file(tmp_path), 0.7, selection=Selection(include=("w1",)), **options)
    assert 8 - len(zero_slices(after["w1"], 0)) == left
    config = ChannelConfig(0.7, **options)
    report = prune_channels(tmp_path / "model.onnx", tmp_path / "out.onnx", config=config)
    assert any("groups of channels were asked for" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    "options", [{"round_to": 4}, {"min_channels": 4}, {"scope": "global", "ceiling": 0.5}, {"metric": "random:3"}]
)
def test_channels_that_nobody_looks_at_fall_first(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    first, second = np.ones(SHAPES["w1"], np.float32), np.ones(SHAPES["w2"], np.float32)
    first[2:4], second[:, 2:4] = 100, 0
    after = pruned(model_file(tmp_path, w1=first, w2=second), 0.5, **options)
    assert {2, 3} <= set(zero_slices(after["w1"], 0))
    small = compact_file(tmp_path / "pruned.onnx", tmp_path / "small.onnx")
    assert small.layers[0].channels_after == 8 - len(zero_slices(after["w1"], 0))


def test_one_channel_stays(tmp_path: pathlib.Path) -> None:
    after = pruned(model_file(tmp_path), 0.99)
    assert (len(zero_slices(after["w1"], 0)), len(zero_slices(after["w2"], 0))) == (7, 5)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("of", ["params", "macs"])
def test_targets_are_reached_with_the_fewest_channels(tmp_path: pathlib.Path, of: str, scope: str) -> None:
    path = model_file(tmp_path)
    after = pruned(path, None, target=Target(of, 0.5), scope=scope)
    first, last = 8 - len(zero_slices(after["w1"], 0)), 6 - len(zero_slices(after["w2"], 0))

    def cost(a: int, b: int) -> float:
        positions = (64, 36, 1) if of == "macs" else (1, 1, 1)
        extra = (5 * a + 5) if of == "params" else 0
        return positions[0] * 27 * a + positions[1] * 9 * a * b + positions[2] * 5 * b + extra

    assert cost(first, last) <= 0.5 * cost(8, 6)
    assert max(cost(first + 1, last), cost(first, last + 1)) > 0.5 * cost(8, 6) or scope == "layer"


def test_no_step_towards_a_target_is_left_out_below_a_ceiling(tmp_path: pathlib.Path) -> None:
    after = pruned(model_file(tmp_path), None, target=Target("params", 0.95), ceiling=0.5)
    assert (len(zero_slices(after["w1"], 0)), len(zero_slices(after["w2"], 0))) == (1, 0)


@pytest.mark.parametrize("saved", [0, 250, 500, 750, 1000])
def test_a_target_in_bytes_counts_the_file_with_all_that_is_written(tmp_path: pathlib.Path, saved: int) -> None:
    path = model_file(tmp_path)
    target = path.stat().st_size - saved
    assert zero_slices(pruned(path, None, target=Target("bytes", target))["w1"], 0)
    compact_file(tmp_path / "pruned.onnx", tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size <= target


def test_a_target_counts_the_parameters_that_the_report_counts(tmp_path: pathlib.Path) -> None:
    model = onnx.load(model_file(tmp_path))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 200), np.float32), "table"))
    model.graph.node.add(op_type="Gather", input=["table", "i"], output=["entry"])
    model.graph.input.append(onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("entry", onnx.TensorProto.FLOAT, [1, 200]))
    onnx.save(model, tmp_path / "model.onnx")
    pruned(tmp_path / "model.onnx", None, target=Target("params", 0.75))
    totals = compact_file(tmp_path / "pruned.onnx", tmp_path / "small.onnx").totals
    assert 0.6 < totals.parameters_after / totals.parameters_before <= 0.75


def test_what_is_zeroed_can_be_removed(tmp_path: pathlib.Path) -> None:
    pruned(model_file(tmp_path))
    model = ModelFile.open(tmp_path / "pruned.onnx")
    assert len(removable(model, map_channels(model.skeleton)).gone) == 7


def test_patterns_name_the_layers_whose_channels_leave(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    after = pruned(path, selection=Selection(exclude=("w1",)))
    assert (zero_slices(after["w1"], 0), len(zero_slices(after["w2"], 0))) == ([], 3)
    before = stored(path)
    after = pruned(path, selection=Selection(exclude=("w3",)))
    assert (len(zero_slices(after["w1"], 0)), after["w3"].tolist()) == (4, before["w3"].tolist())
    with pytest.raises(NothingSelected, match="the patterns leave out every layer"):
        pruned(path, selection=Selection(exclude=("w*",)))
    with pytest.raises(PatternMatchesNothing, match="'nothing\\*' matches no weight"):
        pruned(path, selection=Selection(include=("nothing*",)))


def test_gradients_score(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path, w2=np.ones(SHAPES["w2"], np.float32))
    gradients = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    gradients["w1"][[2, 3]] = 0
    gradients["w2"][:, [2, 3]] = 0
    assert zero_slices(pruned(path, 0.25, gradients=gradients)["w1"], 0) == [2, 3]
    with pytest.raises(InvalidOption, match="no gradient for weight 'w2'"):
        pruned(path, gradients={"w1": gradients["w1"], "w3": gradients["w3"]})
    with pytest.raises(ShapeMismatch, match=r"'w1' has shape \[8, 27\]"):
        pruned(path, gradients={**gradients, "w1": np.ones((8, 27), np.float32)})


def test_the_report_says_how_channels_were_chosen(tmp_path: pathlib.Path) -> None:
    config = ChannelConfig(0.5, round_to=2)
    report = prune_channels(model_file(tmp_path), tmp_path / "out.onnx", config=config)
    assert (report.configuration.granularity, report.configuration.target) == ("channel", "layers")
    assert report.configuration.channels is not None
    assert report.configuration.channels.round_to == 2
    assert {weight.granularity for weight in report.weights} == {"channel"}
    assert "`oxiprune compact`" in report.payoff
    assert {"w1", "b1", "gamma", "beta", "w2", "w3"} == {weight.name for weight in report.weights}


def bad(**options: Any) -> Any:
    return lambda: ChannelConfig(**options)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (bad(), InvalidOption, "give a sparsity or a target"),
        (bad(sparsity=0.5, target=Target("params", 0.5)), InvalidOption, "give a sparsity or a target"),
        (bad(sparsity=1.0), InvalidSparsity, "1"),
        (bad(sparsity=0.5, scope="all"), InvalidOption, "scope 'all' must be one of layer, global"),
        (bad(sparsity=0.5, round_to=0), InvalidOption, "round_to 0 must be a whole number"),
        (bad(sparsity=0.5, ceiling=1.5), InvalidOption, "ceiling 1.5"),
        (lambda: Target("latency", 0.5), InvalidOption, "'latency' must be one of params, macs, bytes"),
        (lambda: Target("params", 0.0), InvalidOption, "the fraction that is left"),
        (lambda: Target("macs", 2.0), InvalidOption, "the fraction that is left"),
        (lambda: Target("bytes", float("nan")), InvalidOption, "a number of bytes"),
    ],
)
def test_bad_options(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def held_file(folder: pathlib.Path) -> pathlib.Path:
    """A model all of whose channels are outputs."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3] x) => (float[N, 5] y) <float[3, 5] w = {%s}> { y = MatMul (x, w) }"""
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text % ", ".join(["1.5"] * 15)), path)
    return path


def test_so_few_channels_that_none_leaves(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    report = prune_channels(path, tmp_path / "out.onnx", config=ChannelConfig(0.01))
    assert not report.changed
    assert "let no channel fall" in report.warnings[0]
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_that_nothing_was_pruned_is_said_once(tmp_path: pathlib.Path) -> None:
    options = ("--granularity", "channel", "-s", "0.01", "--compact", "-q")
    errors = run("prune", model_file(tmp_path), "-o", tmp_path / "small.onnx", *options).stderr
    assert errors.count("the output equals the input") == 1
    assert "nothing removed" not in errors


def test_bad_input_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    weight = np.ones(SHAPES["w2"], np.float32)
    weight[2, 1] = np.nan
    path = model_file(tmp_path, w2=weight)
    with pytest.raises(NonFiniteWeight, match="'w2'"):
        pruned(path)
    path = model_file(tmp_path)
    with pytest.raises(
        InvalidOption, match=r"target params 0.01 can't be reached: a fraction of .* is left when 12 groups"
    ):
        pruned(path, None, target=Target("params", 0.01))
    with pytest.raises(InvalidInputShape, match="no input 'z'"):
        pruned(path, input_shapes={"z": (1, 3, 8, 8)})
    with pytest.raises(InvalidInputShape, match="'x' can't have the shape 1x4x8x8"):
        pruned(path, input_shapes={"x": (1, 4, 8, 8)})
    with pytest.raises(NothingSelected, match=r"no channel was selected.*'y' is an output of the model"):
        pruned(held_file(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_the_command(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    options = ("--granularity", "channel", "--target-macs", "0.5", "--round-to", "2", "--input-shape", "x=1,3,8,8")
    run("prune", path, "-o", tmp_path / "out.onnx", *options)
    after = stored(tmp_path / "out.onnx")
    gone = [len(zero_slices(after[name], 0)) for name in ("w1", "w2")]
    assert sum(gone) > 0
    assert [count % 2 for count in gone] == [0, 0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--granularity channel", "how many channels? Give one of --sparsity"),
        ("--granularity channel -s 0.5 --target-params 0.5", "--sparsity and --target-params: give one"),
        ("--granularity channel -s 0.5 --floor 0.2", "--floor does not go with --granularity channel"),
        ("--granularity channel -s 0.5 --allocation erk", "--allocation erk: of channels it is uniform or global"),
        ("-s 0.5 --round-to 8", "--round-to goes with --granularity channel"),
        ("-s 0.5 --input-shape x=1", "--input-shape goes with --granularity channel"),
        ("--granularity channel --target-params 5", "5: give the fraction that is left"),
        ("--granularity channel --target-bytes 7XB", "give a size, as in 400000, 4MB or 3.5MiB"),
        (f"--granularity channel --target-bytes {'9' * 400}", "give a size, as in 400000, 4MB or 3.5MiB"),
        ("--granularity channel -s 0.5 --round-to 99999999999999999999", "a whole number from 1 to 2147483647"),
        ("--granularity channel -s 0.5 --input-shape x", "give NAME=SIZES"),
        ("--granularity channel -s 0.5 --group-score median", "use sum, mean, max, saved"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: pathlib.Path, options: str, text: str) -> None:
    path = model_file(tmp_path)
    refused(run("prune", path, "-o", tmp_path / "out.onnx", *options.split()), 2, text)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("text", "amount"), [("400", 400), ("4MB", 4_000_000), ("3.5MiB", 3_670_016), ("1 kb", 1000)])
def test_sizes_in_bytes(text: str, amount: int) -> None:
    assert read_size(text) == amount


def test_the_command_knows_all_group_scores() -> None:
    assert KNOWN == GROUP_SCORES


def test_pruning_and_compacting_in_one_step(tmp_path: pathlib.Path) -> None:
    path, out, report = model_file(tmp_path), tmp_path / "out.onnx", tmp_path / "report.json"
    options = ("-s", "0.5", "--granularity", "channel", "--compact")
    result = run("prune", path, "-o", out, *options, "--report", report, "--save-masks", tmp_path / "masks.npz")
    assert result.exit_code == 0, result.output
    assert {name: values.shape for name, values in stored(out).items()} == {
        "w1": (4, 3, 3, 3),
        **dict.fromkeys(("b1", "gamma", "beta", "mean", "var"), (4,)),
        "w2": (3, 4, 3, 3),
        "w3": (5, 3),
        "b3": (5,),
    }
    told = json.loads(report.read_text())
    assert (told["command"], told["input"], told["output"]) == ("compact", "model.onnx", "out.onnx")
    assert told["files"][0]["bytes_before"] == path.stat().st_size
    assert told["pruning"]["configuration"]["granularity"] == "channel"
    assert sorted(load_masks(tmp_path / "masks.npz")) == ["b1", "beta", "gamma", "w1", "w2", "w3"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["masks.npz", "model.onnx", "out.onnx", "report.json"]


def test_compacting_in_one_step_equals_two_steps(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    pruned(path)
    run("compact", tmp_path / "pruned.onnx", "-o", tmp_path / "two.onnx")
    run("prune", path, "-o", tmp_path / "one.onnx", "-s", "0.5", "--granularity", "channel", "--compact")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize("external", [False, True])
def test_a_dry_run_of_both_steps_says_what_would_leave(tmp_path: pathlib.Path, external: bool) -> None:
    path = model_file(tmp_path)
    if external:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.data", size_threshold=64)
    before = tree(tmp_path)
    options = (path, "-s", "0.5", "--granularity", "channel", "--compact", "--json")
    foreseen = json.loads(run("prune", *options, "--dry-run").stdout)
    assert tree(tmp_path) == before
    done = json.loads(run("prune", *options, "-o", tmp_path / "out.onnx").stdout)
    assert (foreseen["dry_run"], foreseen["pruning"]["dry_run"], foreseen["output"]) == (True, True, None)
    assert foreseen["files"][0]["bytes_before"] == done["files"][0]["bytes_before"]
    for key in ("input", "layers", "staying"):
        assert foreseen[key] == done[key]


def test_a_file_that_is_made_on_the_way_is_not_named(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    model = onnx.load(model_file(tmp_path))
    model.opset_import.add(domain="nobody", version=1)
    model.graph.node.add(op_type="Unheard", domain="nobody", input=["x"], output=["z"])
    onnx.save(model, tmp_path / "model.onnx")
    options = ("-s", "0.5", "--granularity", "channel", "--compact", "--latency", "--json")
    result = run("prune", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", *options)
    assert result.exit_code == 0
    assert "oxiprune-tmp" not in result.output
    assert "Load model from out.onnx failed" in result.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--in-place", "--compact writes a new file"),
        ("-o out.onnx --encoding packed", "--encoding packed does not go with --compact"),
    ],
)
def test_compacting_wants_a_new_dense_file(tmp_path: pathlib.Path, options: str, text: str) -> None:
    path = model_file(tmp_path)
    wrong = run("prune", path, *options.split(), "-s", "0.5", "--granularity", "channel", "--compact")
    refused(wrong, 2, text)


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("macs_ratio>0.5", False),
        ("parameters_ratio<0.5", True),
        ("removed<100", True),
        ("weights<1", False),
        ("bytes_ratio<0.9", True),
    ],
)
def test_conditions_of_both_steps(tmp_path: pathlib.Path, condition: str, met: bool) -> None:
    path, out = model_file(tmp_path), tmp_path / "out.onnx"
    how = ("-s", "0.5", "--granularity", "channel", "--compact", "--fail-if", condition)
    result = run("prune", path, "-o", out, *how)
    assert (result.exit_code, out.exists()) == (int(met), not met), result.output


def test_the_report_of_one_step_has_the_checks_of_both(tmp_path: pathlib.Path) -> None:
    path, report = model_file(tmp_path), tmp_path / "report.json"
    how = ("-s", "0.5", "--granularity", "channel", "--compact", "--verify", "--report", report)
    run("prune", path, "-o", tmp_path / "out.onnx", *how)
    told = json.loads(report.read_text())["verification"]
    names = [check["name"] for check in told["checks"]]
    assert {"pruning: bytes", "pruning: drift", "removal: checker", "removal: drift"} <= {*names}
    assert [drift["output"] for drift in told["drifts"]] == ["y (pruning)", "y (removal)"]
    assert told["drifts"][0]["relative_l2"] > 0.01 > 1e-5 > told["drifts"][1]["relative_l2"]


def test_masks_of_channels_are_verified_and_applied_again(tmp_path: pathlib.Path) -> None:
    path, masks = model_file(tmp_path), tmp_path / "masks.npz"
    channels = ("-s", "0.5", "--granularity", "channel")
    run("prune", path, "-o", tmp_path / "zeros.onnx", *channels, "--save-masks", masks)
    assert run("verify", path, tmp_path / "zeros.onnx", "--masks", masks).exit_code == 0
    assert run("verify", path, tmp_path / "zeros.onnx").exit_code == 0
    result = run("prune", path, "-o", tmp_path / "again.onnx", "--masks", masks, "--compact")
    assert result.exit_code == 0, result.output
    run("compact", tmp_path / "zeros.onnx", "-o", tmp_path / "small.onnx")
    again, small = stored(tmp_path / "again.onnx"), stored(tmp_path / "small.onnx")
    assert {name: values.tolist() for name, values in again.items()} == {n: v.tolist() for n, v in small.items()}


def test_random_channels(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path)
    gone = [zero_slices(pruned(path, metric=f"random:{seed}")["w1"], 0) for seed in (1, 1, 2)]
    assert gone[0] == gone[1] != gone[2]
    assert len(gone[2]) == 4


def test_excluded_weights_are_not_read(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path, w3=np.full(SHAPES["w3"], np.nan, np.float32))
    assert len(zero_slices(pruned(path, selection=Selection(exclude=("w3",)))["w1"], 0)) == 4


def test_encoded_weights_are_refused(tmp_path: pathlib.Path) -> None:
    path = model_file(tmp_path, w3=np.eye(5, 6, dtype=np.float32))
    prune_file(path, tmp_path / "zeros.onnx", config=PruningConfig(0.9), selection=Selection(min_elements=0))
    encode_file(tmp_path / "zeros.onnx", tmp_path / "packed.onnx")
    with pytest.raises(AlreadyEncoded, match="decode the model first"):
        prune_channels(tmp_path / "packed.onnx", tmp_path / "out.onnx", config=ChannelConfig(0.5))
