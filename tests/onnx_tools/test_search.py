"""`search_file`: what is found, made again, logged, gone on with, and refused."""

from __future__ import annotations

import dataclasses
import json
import tempfile

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import NothingSelected, OutputRefused, VerificationFailed, decode_file, prune_file, read_policy
from onnx_tools.quality import Measured
from onnx_tools.search.options import Search
from onnx_tools.search.search import search_file
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import InvalidOption, PruningError
from tests.command import tree

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,32] x) => (float[N,8] y) { h = Gemm (x, a, b)  r = Relu (h)  y = Gemm (r, "op:c[1]", d) }"""
SHAPES = {"a": (32, 64), "b": (64,), "op:c[1]": (64, 8), "d": (8,)}


def network():
    """Two products; nearly all of the second weight is small."""
    model = onnx.parser.parse_model(NETWORK.replace('"op:c[1]"', "c"))
    model.graph.node[2].input[1] = "op:c[1]"
    random = np.random.default_rng(1)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    values["op:c[1]"][8:] *= 1e-3
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return model


def weights_of(path):
    return {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in onnx.load(path).graph.initializer}


class Energy:
    """What is left of the squares of the weights, a case for each column of `a` and each output; counts its uses."""

    text = "energy"

    def __init__(self, original, cases=True):
        self.whole, self.cases, self.used = weights_of(original), cases, 0

    def measure(self, model):
        self.used += 1
        found = weights_of(model)
        parts = [np.sum(found[name] ** 2, 0) / np.sum(self.whole[name] ** 2, 0) for name in ("a", "op:c[1]")]
        cases = np.concatenate(parts)
        return Measured(float(cases.mean()), cases if self.cases else None)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(network().SerializeToString())
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.onnx"


def search(quality, max_drop=0.05, **options):
    return Search(
        quality, max_drop, **{"selection": Selection(min_elements=0), "held_out": 0.5, "resolution": 0.02, **options}
    )


@pytest.fixture
def found(model, out):
    return search_file(model, out, search(Energy(model)))


def test_the_answer_is_the_best_trial_within_the_bar(found):
    passed = [trial for trial in found.trials if trial.searched.drop <= 0.05]
    assert passed == [trial for trial in found.trials if trial.passed]
    assert found.best.sparsity == max(trial.sparsity for trial in passed)
    assert found.confirmed == found.best.searched
    assert {trial.allocation for trial in found.trials} == {"uniform", "erk", "global", "global:lamp", "climb"}
    assert len({trial.key for trial in found.trials}) == len(found.trials)


def test_the_answer_is_better_than_any_uniform_sparsity(found):
    uniform = max(trial.sparsity for trial in found.trials if trial.allocation == "uniform" and trial.passed)
    assert found.best.sparsity > uniform + 0.05


def test_the_policy_makes_the_output_again(found, model, out, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(found.policy, encoding="utf-8")
    again = tmp_path / "again.onnx"
    prune_file(model, again, config=read_policy(policy), selection=Selection(min_elements=0))
    assert again.read_bytes() == out.read_bytes()
    assert found.reproduce == "oxiprune prune model.onnx -o out.onnx --policy POLICY.toml --min-elements 0"


def test_only_the_output_and_the_log_are_left(found, tmp_path):
    assert set(tree(tmp_path)) == {"model.onnx", "out.onnx", "out.onnx.search.jsonl"}


def test_what_was_held_out_is_reported(found):
    assert (found.original.cases, found.original_held_out.cases) == (36, 36)
    assert found.confirmed_held_out.cases == 36
    assert (found.original.quality, found.original.drop) == (1, 0)


def test_a_second_search_makes_nothing_but_the_answer(found, model, out):
    quality = Energy(model)
    again = search_file(model, out, search(quality), force=True)
    assert again == found
    assert quality.used == 2  # the original and the answer


class Stopped(Energy):
    """Interrupted at the `last` use."""

    def __init__(self, original, last, error):
        super().__init__(original)
        self.last, self.error = last, error

    def measure(self, model):
        if self.used == self.last:
            raise self.error
        return super().measure(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InvalidOption("the function raised")], ids=["ctrl-c", "error"])
@pytest.mark.parametrize("last", [0, 1, 9, 20])
def test_an_interrupted_search_goes_on(found, model, out, tmp_path, last, error):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(type(error)):
        search_file(model, other / "out.onnx", search(Stopped(model, last, error)))
    assert set(tree(other)) <= {"out.onnx.search.jsonl"}
    quality = Energy(model)
    again = search_file(model, other / "out.onnx", search(quality))
    assert again == found
    assert quality.used == len(found.trials) + 2 - max(last - 1, 0)
    assert (other / "out.onnx").read_bytes() == out.read_bytes()


def test_an_error_is_logged(model, out):
    with pytest.raises(InvalidOption, match="the function raised"):
        search_file(model, out, search(Stopped(model, 2, InvalidOption("the function raised"))))
    lines = [json.loads(line) for line in out.with_name("out.onnx.search.jsonl").read_text().splitlines()]
    assert ["trial" in line for line in lines] == [True, False]
    assert lines[1]["error"] == "uniform 0.24: the function raised"


def test_another_bar_uses_the_same_trials(found, model, out):
    quality = Energy(model)
    again = search_file(model, out, search(quality, 0.051), force=True)
    new = {trial.key for trial in again.trials} - {trial.key for trial in found.trials}
    assert quality.used == len(new) + 2


@pytest.mark.parametrize("changes", [{"seed": 1}, {"metric": "l2"}, {"data": ("pyproject.toml",)}, {"held_out": 0.6}])
def test_another_setting_is_another_search(found, model, out, changes):
    again = search_file(model, out, search(Energy(model), **changes), force=True)
    assert {trial.key for trial in again.trials}.isdisjoint(trial.key for trial in found.trials)


def test_a_torn_line_of_the_log_is_passed_over(found, model, out):
    log = out.with_name("out.onnx.search.jsonl")
    log.write_bytes(log.read_bytes()[:-20])
    quality = Energy(model)
    again = search_file(model, out, search(quality), force=True)
    assert dataclasses.replace(again, warnings=()) == dataclasses.replace(found, warnings=())
    assert again.warnings[-1] == "1 damaged lines of out.onnx.search.jsonl were passed over"
    assert quality.used == 3
    lines = log.read_bytes().splitlines()
    assert len(lines) == len(found.trials) + 1


@pytest.mark.parametrize("damage", [{"searched": 3}, {"weights": [{}]}, {"sparsity": "x"}, {"held_out": []}])
def test_a_trial_that_lost_its_sense_is_made_again(found, model, out, damage):
    log = out.with_name("out.onnx.search.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[4]["trial"].update(damage)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    quality = Energy(model)
    assert search_file(model, out, search(quality), force=True) == found
    assert quality.used == 3


@pytest.mark.parametrize(
    "content", [b"no log\n", b"[1]\n", b'{"key": 1, "trial": {}}\n', b'{"key": "a"}\n', b"[" * 10**6]
)
def test_a_file_that_is_no_log_is_not_added_to(model, out, tmp_path, content):
    log = tmp_path / "notes"
    log.write_bytes(content)
    with pytest.raises(OutputRefused, match="notes: is no log of a search"):
        search_file(model, out, search(Energy(model), log=log))
    assert log.read_bytes() == content


def test_an_output_that_exists_is_not_written_over(model, out):
    out.write_bytes(b"mine")
    quality = Energy(model)
    with pytest.raises(OutputRefused, match="exists"):
        search_file(model, out, search(quality))
    assert (out.read_bytes(), quality.used) == (b"mine", 0)


def test_nothing_within_the_bar_writes_nothing(model, out):
    with pytest.raises(VerificationFailed, match=r"none of \d+ trials drops by 0 or less; the nearest, sparsity 0\.0"):
        search_file(model, out, search(Energy(model), 0.0))
    assert not out.exists()


class Drifting(Energy):
    """Lower each time it is used."""

    def measure(self, model):
        found = super().measure(model)
        return Measured(found.value, found.cases - 0.001 * self.used)


def test_a_quality_that_is_not_repeatable_writes_nothing(model, out):
    with pytest.raises(VerificationFailed, match="the quality is not repeatable"):
        search_file(model, out, search(Drifting(model)))
    assert not out.exists()


def test_one_number_holds_nothing_out_and_says_so(model, out):
    found = search_file(model, out, search(Energy(model, cases=False)))
    assert (found.confirmed_held_out, found.confirmed.low) == (None, None)
    assert found.warnings == ("no cases were held out: the quality is one number, or they would be fewer than 30",)


class Fitted(Energy):
    """Only the cases that are searched with, by seed 0, are kept."""

    def measure(self, model):
        found = super().measure(model)
        held_out = np.random.default_rng(0).permutation(len(found.cases))[:36]
        found.cases[held_out] -= 10 * (found.cases[held_out] < 1)
        return found


def test_a_bar_that_breaks_on_cases_held_out_is_told(model, out):
    found = search_file(model, out, search(Fitted(model)))
    assert found.confirmed.drop <= 0.05
    assert [warning for warning in found.warnings if warning.startswith("on the 36 cases that were held out")]


def test_a_search_ends_with_its_trials(model, out):
    found = search_file(model, out, search(Energy(model), most_trials=5))
    assert len(found.trials) == 5
    assert found.warnings == ("the search ended after 5 trials; --max-trials allows more",)
    assert out.exists()


def test_given_allocations_without_a_climb(model, out):
    found = search_file(model, out, search(Energy(model), allocations=("global",), climb=False, resolution=0.05))
    assert {trial.allocation for trial in found.trials} == {"global"}
    assert all(round(trial.asked * 20, 6) % 1 == 0 for trial in found.trials)
    assert 'allocation = "global"' in found.policy


def test_by_what_each_weight_costs_alone(model, out):
    class Half(Energy):
        """What is held out is worth nothing, whatever is pruned."""

        def measure(self, model):
            found = super().measure(model)
            found.cases[np.random.default_rng(0).permutation(len(found.cases))[:36]] = 0
            return found

    options = {"allocations": ("uniform", "sensitivity"), "climb": False}
    found = search_file(model, out, search(Half(model), **options))
    by_curves = [trial.sparsity for trial in found.trials if trial.allocation == "sensitivity" and trial.passed]
    assert found.best.sparsity == max(by_curves) > 0.1
    quality = Half(model)
    assert search_file(model, out, search(quality, **options), force=True) == found
    assert quality.used == 3  # the original twice, for its curves too, and the answer


def test_fewest_bytes(model, out):
    class Decoded(Energy):
        def measure(self, model):
            with tempfile.TemporaryDirectory() as folder:
                decode_file(model, f"{folder}/m.onnx")
                return super().measure(f"{folder}/m.onnx")

    original = Decoded(model)
    original.measure = lambda path: (Energy if path == model else Decoded).measure(original, path)
    found = search_file(model, out, search(original, objective="bytes"))
    assert found.best.bytes == min(trial.bytes for trial in found.trials if trial.passed) == out.stat().st_size
    assert found.best.bytes < model.stat().st_size
    assert found.reproduce.endswith("--encoding packed --min-elements 0")


def test_fewest_operations(model, out):
    class Some(Energy):
        def measure(self, model):
            return Measured(-(len(weights_of(model)["b"]) ** -1.0), None)

    options = {"granularity": "channel", "objective": "macs", "held_out": 0}
    found = search_file(model, out, search(Some(model), 1 / 32, **options))
    assert (found.policy, found.weights, found.settings.climb) == ("", (), False)
    left = len(weights_of(out)["b"])
    assert left == 22  # of 64; 1/21 - 1/64 is more than 1/32
    assert found.best.macs == left * (32 + 8)
    again = out.with_name("again.onnx")
    from tests.command import run

    words = found.reproduce.split()[1:]
    assert run(*[{"model.onnx": model, "out.onnx": again}.get(word, word) for word in words]).exit_code == 0
    assert weights_of(again)["a"].tobytes() == weights_of(out)["a"].tobytes()


@pytest.mark.parametrize("granularity", ["row", "column", "block:8x8"])
def test_units(model, out, granularity):
    found = search_file(model, out, search(Energy(model), 0.2, granularity=granularity, metric="l2"))
    assert found.best.sparsity > 0.1
    assert {trial.allocation for trial in found.trials} == {"uniform", "erk", "climb"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"granularity": "2:4"}, "nothing to search"),
        ({"objective": "macs"}, "zeros save no operations"),
        ({"objective": "speed"}, "must be one of sparsity, bytes, macs"),
        ({"allocations": ("lamp",)}, "lamp"),
        ({"allocations": ("erk",), "granularity": "channel"}, "of channels it is uniform or global"),
        ({"held_out": 1.0}, "held_out 1.0"),
        ({"resolution": 0.0}, "resolution 0.0"),
        ({"max_drop": float("nan")}, "max_drop nan"),
        ({"max_drop": -0.1}, "max_drop -0.1"),
        ({"most_trials": 0}, "most_trials 0"),
    ],
)
def test_options_that_make_no_sense(model, out, tmp_path, changes, says):
    before = tree(tmp_path)
    with pytest.raises(PruningError, match=says):
        search_file(model, out, search(Energy(model), **{"max_drop": 0.05, **changes}))
    assert tree(tmp_path) == before


def test_a_model_without_weights_to_prune(model, out):
    with pytest.raises(NothingSelected, match="no weight was selected"):
        search_file(model, out, search(Energy(model), selection=Selection(min_elements=10**6)))
