"""Qualities of models: what is measured, on which data, and what is said of data and functions that are of no use."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import Calibration, EvaluationFailed, Measured, interval, read_quality, split
from onnx_tools.quality import evaluation_data
from oxiprune_gpu import InvalidOption, PruningError

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((40, 8)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((8, 3)).astype(np.float32)
LOGITS = X.astype(np.float64) @ WEIGHT
RIGHT = LOGITS.argmax(1)
LABELS = np.where(np.arange(40) < 30, RIGHT, (RIGHT + 1) % 3)
LINEAR = '<ir_version: 9, opset_import: ["": 19]> g (float[%s, 8] x) => (float[%s, 3] y) { y = MatMul (x, w) }'


def saved(path: pathlib.Path, weight: np.ndarray = WEIGHT, text: str = LINEAR % ("n", "n")) -> pathlib.Path:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path / "model.onnx")


@pytest.fixture
def other(tmp_path):
    """The same with a smaller weight."""
    weight = WEIGHT.copy()
    weight[:5, 1] = 0
    return saved(tmp_path / "other.onnx", weight)


def measured(text, data, model, of=None):
    return read_quality(text, data, model).measure(of or model)


def changed(of):
    return X.astype(np.float64) @ numpy_helper.to_array(onnx.load(of).graph.initializer[0])


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_top1_is_the_share_of_right_labels(model, kind):
    found = measured("top1", {"x": X, "labels": LABELS.astype(kind)}, model)
    assert found.value == 0.75
    assert np.array_equal(found.cases, np.arange(40) < 30)


@pytest.mark.parametrize(("text", "name"), [("top1", "y"), ("top1:truth", "truth")])
def test_labels_have_names_in_files_and_folders(model, tmp_path, text, name):
    np.savez(tmp_path / "data.npz", **{"x": X, name: LABELS, "more": X})
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    np.save(folder / f"{name}.npy", LABELS)
    assert measured(text, tmp_path / "data.npz", model).value == 0.75
    assert measured(text, str(folder), model).value == 0.75


def test_labels_of_code_come_with_each_run(model):
    runs = [{"x": X[i : i + 7], "labels": LABELS[i : i + 7]} for i in range(0, 40, 7)]
    assert measured("top1", iter(runs), model).value == 0.75


def test_labels_of_a_fixed_batch_are_cut_with_it(tmp_path):
    fixed = saved(tmp_path / "fixed.onnx", text=LINEAR % (8, 8))
    assert measured("top1", {"x": X, "labels": LABELS}, fixed).value == 0.75


def test_labels_a_position(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 19]> g (float[n, t, 8] x) => (float[n, t, 3] y) { y = MatMul (x, w) }'
    path = saved(tmp_path / "tokens.onnx", text=text)
    found = measured("top1", {"x": X.reshape(10, 4, 8), "labels": LABELS.reshape(10, 4)}, path)
    assert found.cases.shape == (40,)
    assert found.value == 0.75


def test_an_output_of_labels_is_compared_with_them(tmp_path):
    text = LINEAR % ("n", "n")
    text = text.replace("float[n, 3] y", "int64[n] y").replace("y = MatMul (x, w)", "z = MatMul (x, w) %s")
    path = saved(tmp_path / "chosen.onnx", text=text % "y = ArgMax <axis = 1, keepdims = 0> (z)")
    assert measured("top1", {"x": X, "labels": LABELS}, path).value == 0.75


def test_a_case_with_nan_is_wrong(tmp_path, model):
    weight = WEIGHT.copy()
    weight[0, 0] = np.nan
    broken = saved(tmp_path / "broken.onnx", weight)
    data = {"x": X, "labels": np.zeros(40, np.int64)}
    assert measured("top1", data, model, broken).value == 0
    assert measured("drift", data, model, broken).value == -math.inf
    assert measured("cosine", data, model, broken).value == -1
    assert measured("kl", data, model, broken).value == -math.inf


def test_drift_is_the_relative_distance(model, other):
    found = measured("drift", {"x": X}, model, other)
    expected = np.linalg.norm(changed(other) - LOGITS) / np.linalg.norm(LOGITS)
    assert found.value == pytest.approx(-expected, rel=1e-5)
    assert found.cases is None
    assert measured("drift:y", {"x": X}, model, other) == found


def test_cosine_and_divergence_have_a_number_a_case(model, other):
    new = changed(other)
    cosines = (new * LOGITS).sum(1) / np.linalg.norm(new, axis=1) / np.linalg.norm(LOGITS, axis=1)
    old, later = (np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (LOGITS, new))
    divergence = (old * np.log(old / later)).sum(1)
    assert measured("cosine", {"x": X}, model, other).cases == pytest.approx(cosines, abs=1e-5)
    assert measured("kl", {"x": X}, model, other).cases == pytest.approx(-divergence, abs=1e-5)


@pytest.mark.parametrize(("text", "best"), [("drift", 0), ("cosine", 1), ("kl", 0)])
def test_the_reference_itself_is_best(model, text, best):
    assert measured(text, {"x": X}, model).value == best


def test_outputs_that_are_not_kept_are_computed_again(model, other, monkeypatch):
    kept = measured("drift", {"x": X}, model, other)
    monkeypatch.setattr("onnx_tools.quality.running._MOST_KEPT", 0)
    quality = read_quality("drift", {"x": X}, model)
    assert quality.measure(other) == quality.measure(other) == kept


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module of the working directory with a function for each thing that one may give."""
    (tmp_path / "my_quality.py").write_text(
        "import numpy as np, sys\n"
        "number = lambda path: 3\n"
        "cases = lambda path: [True, False, True, True]\n"
        "text = lambda path: '0.5'\n"
        "nan = lambda path: float('nan')\n"
        "some_nan = lambda path: np.array([1, np.nan])\n"
        "nothing = lambda path: None\n"
        "empty = lambda path: []\n"
        "matrix = lambda path: np.ones((2, 2))\n"
        "ragged = lambda path: [[1], [1, 2]]\n"
        "class Far:\n    def __array__(self, *given, **more): raise TypeError('on a GPU')\n"
        "far = lambda path: Far()\n"
        "huge = lambda path: 10**400\n"
        "imaginary = lambda path: 1j\n"
        "leaves = lambda path: sys.exit(3)\n"
        "def raises(path): import os; raise KeyError(os.path.basename(path))\n"
        "value = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_quality", raising=False)
    return "my_quality"


def test_a_function_gives_a_number_or_one_a_case(functions, model):
    assert measured(f"{functions}:number", None, model) == Measured(3.0, None)
    found = measured(f"{functions}:cases", None, model)
    assert (found.value, found.cases.tolist()) == (0.75, [1, 0, 1, 1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "str '0.5'"),
        ("nan", "gave NaN"),
        ("some_nan", "1 NaN"),
        ("nothing", "NoneType None"),
        ("empty", r"shape \(0,\)"),
        ("matrix", r"shape \(2, 2\)"),
        ("ragged", r"list \[\[1\], \[1, 2\]\]"),
        ("imaginary", "complex 1j"),
        ("far", "gave Far"),
        ("huge", "gave int 1000"),
        ("leaves", "raised SystemExit: 3"),
        ("raises", "raised KeyError: 'model.onnx'"),
    ],
)
def test_a_function_that_gives_no_number_is_named(functions, model, name, said):
    with pytest.raises(EvaluationFailed, match=f"my_quality:{name} on .*model.onnx: it .*{said}"):
        measured(f"{functions}:{name}", None, model)


@pytest.mark.parametrize(
    ("text", "data", "said"),
    [
        ("top2", {}, "quality 'top2' is none of top1"),
        ("nowhere:found", {}, "nowhere:found: ModuleNotFoundError"),
        ("my_quality:value", {}, "int is no function"),
        ("drift", None, "give some"),
        ("drift:z", {"x": X}, "no output 'z'; there are y"),
        ("top1", {"x": X, "truth": LABELS}, "no array 'labels' or 'y'; beside the inputs there are: 'truth'"),
        ("top1:truth", {"x": X}, "no array 'truth'; beside the inputs there are: none"),
        ("top1:x", {"x": X}, "'x' is an input of the model"),
        ("top1", {"x": X, "labels": LABELS / 2}, "the labels 'labels' are float64"),
        ("top1", {"labels": LABELS}, "no array for the input 'x', which wants float32"),
        ("top1", {"x": X, "labels": LABELS + 1}, "the label '3' is none of 0 to 2"),
        ("top1", {"x": X, "labels": LABELS - 1}, "the label '-1' is none of 0 to 2"),
        ("top1", {"x": X, "labels": LABELS.astype(str)}, "the label '.' is none of 0 to 2"),
        ("top1", {"x": X, "labels": LABELS[:39]}, "top1 wants a number a class for each label"),
        ("drift", {"x": X[:, :7]}, "the input 'x' wants float32"),
        ("drift", {"x": X[:0]}, "is empty"),
        ("drift", {"x": np.full_like(X, np.nan)}, "128 NaN"),
        ("drift", {"x": X.astype(np.float64)}, "wants float32"),
        ("drift", "missing.npz", "missing.npz"),
    ],
)
def test_what_makes_no_sense_is_refused(functions, model, text, data, said):
    with pytest.raises(InvalidOption, match=said):
        measured(text, data, model)


@pytest.mark.parametrize("text", ["cosine", "kl"])
def test_numbers_that_stand_alone_can_not_be_compared(tmp_path, text):
    alone = saved(tmp_path / "one.onnx", WEIGHT[:, :1], (LINEAR % ("n", "n")).replace("3] y", "1] y"))
    with pytest.raises(InvalidOption, match=r"shape \(16, 1\): one number alone"):
        measured(text, {"x": X}, alone)


def test_models_that_do_not_go_together(tmp_path, model):
    wide = saved(tmp_path / "wide.onnx", np.ones((8, 4), np.float32), (LINEAR % ("n", "n")).replace("3] y", "4] y"))
    renamed = saved(tmp_path / "z.onnx", text=(LINEAR % ("n", "n")).replace("y", "z"))
    with pytest.raises(InvalidOption, match=r"shape \(16, 4\), the reference's \(16, 3\)"):
        measured("cosine", {"x": X}, model, wide)
    with pytest.raises(InvalidOption, match="its outputs"):
        measured("drift", {"x": X}, model, renamed)
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(PruningError, match=r"no\.onnx: onnxruntime does not load it"):
        measured("drift", {"x": X}, model, tmp_path / "no.onnx")


def test_intervals():
    shares = np.repeat([1.0, 0.0], [81, 182])  # Newcombe 1998, table I: 81 of 263, score method
    assert interval(Measured(float(shares.mean()), shares)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(Measured(1.0, np.ones(10)))[0] == pytest.approx(10 / (10 + 1.959964**2))
    cases = np.array([1.0, 2.0, 3.0, 6.0])
    half = 1.959964 * np.std(cases, ddof=1) / 2
    assert interval(Measured(3.0, cases)) == pytest.approx((3 - half, 3 + half))
    assert interval(Measured(0.3, None)) is None
    assert interval(Measured(0.3, np.array([0.3]))) is None
    assert interval(Measured(-math.inf, np.array([0.3, -math.inf]))) is None


def rows_of(feeds):
    return np.concatenate([feed["x"] for feed in feeds])


def test_both_parts_of_a_split_are_the_whole_and_share_nothing(model):
    feeds = evaluation_data("top1", {"x": X, "labels": LABELS}, model)
    first, second = split(feeds, 0.2, seed=3)
    rows = [{row.tobytes() for row in rows_of(part)} for part in (first, second)]
    assert list(map(len, rows)) == [8, 32]
    assert rows[0] | rows[1] == {row.tobytes() for row in X}
    assert [len(feed["x"]) for feed in second] == [16, 16]
    right = {row.tobytes(): label for row, label in zip(X, LABELS, strict=True)}
    assert all(right[row.tobytes()] == label for part in (first, second) for feed in part for row, label in pairs(feed))


def pairs(feed):
    return zip(feed["x"], feed["labels"], strict=True)


def test_a_split_follows_its_seed(model):
    feeds = evaluation_data("drift", {"x": X}, model)
    digests = [[part.digest for part in split(feeds, 0.2, seed)] for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_split_calibrates_and_scores(model):
    calibrating, scoring = split(evaluation_data("top1", {"x": X, "labels": LABELS}, model))
    assert Calibration.collect(model, calibrating).statistics("w").samples == 8
    assert measured("top1", scoring, model).cases.shape == (32,)


def test_runs_of_a_fixed_batch_are_split_as_they_are(tmp_path):
    fixed = saved(tmp_path / "fixed.onnx", text=LINEAR % (8, 8))
    parts = split(evaluation_data("drift", {"x": X}, fixed), 0.4)
    assert [[len(feed["x"]) for feed in part] for part in parts] == [[8, 8], [8, 8, 8]]


@pytest.mark.parametrize(("rows", "fraction", "said"), [(1, 0.2, "1 case can't be split"), (9, 1.0, "between 0 and 1")])
def test_splits_that_leave_nothing(model, rows, fraction, said):
    with pytest.raises(InvalidOption, match=said):
        split(evaluation_data("drift", {"x": X[:rows]}, model), fraction)


def test_real_labels(corpus):
    (path,) = [path for path in corpus if path.parent.name == "digits_cnn_bn"]
    with np.load(path.parent / "eval.npz") as arrays:
        data = {"image": (arrays["x"] / np.float32(255)).astype(np.float32), "y": arrays["y"]}
    found = measured("top1", data, path)
    assert found.value == pytest.approx(0.989, abs=1e-3)
    assert found.cases.shape == (2000,)
