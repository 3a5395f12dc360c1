"""What was not pruned stays byte for byte: shown on every model of the onnx package's backend tests and of the corpus.

Pruning nothing gives the same file. Pruning half of all that can be pruned, element by element or in rows or columns,
leaves the verdicts as they were: that of onnx's checker, and that of onnxruntime, or where that refuses the model, of
onnx's reference evaluator.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx
import pytest

from onnx_tools import Selection, prune_file
from onnx_tools.errors import NothingSelected
from onnx_tools.verification.byte_check import compare_bytes
from oxiprune_gpu import PruningConfig

EVERYTHING = Selection(min_elements=0, depthwise=True, embeddings=True, linear_models=True)


@dataclass
class Tally:
    """What came of the models: how many there were, had weights and load, how many outputs differ, what went wrong."""

    files: int = 0
    with_weights: int = 0
    pruned: int = 0
    loaded: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.files} models, {self.with_weights} with weights, of which {self.loaded} load in onnxruntime; "
            f"{self.pruned} pruned outputs"
        )


def verdict(look: Callable[[pathlib.Path], object], path: pathlib.Path) -> str:
    """ "" if the model passes, else the kind of error."""
    try:
        look(path)
    except Exception as error:  # whatever the libraries raise is what is compared
        return type(error).__name__
    return ""


def load_in_onnxruntime(path: pathlib.Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_in_reference(path: pathlib.Path) -> None:
    from onnx.reference import ReferenceEvaluator

    ReferenceEvaluator(str(path))


def verdicts(path: pathlib.Path) -> tuple[str, ...]:
    """Of the checker, of onnxruntime, and where that refuses the model of the reference evaluator."""
    found = verdict(onnx.checker.check_model, path), verdict(load_in_onnxruntime, path)
    return (*found, verdict(load_in_reference, path)) if found[1] else found


def pruned(
    path: pathlib.Path, folder: pathlib.Path, sparsity: float, granularity: str = "unstructured"
) -> pathlib.Path | None:
    out = folder / f"{granularity}_{sparsity}.onnx"
    config = PruningConfig(sparsity, "l1", granularity)
    try:
        prune_file(path, out, config=config, selection=EVERYTHING, force=True)
    except NothingSelected:
        return None
    return out


def look_at(path: pathlib.Path, folder: pathlib.Path, tally: Tally) -> None:
    """Prune one model by nothing and by half."""
    tally.files += 1
    same = pruned(path, folder, 0.0)
    if same is None:
        return
    tally.with_weights += 1
    compared = compare_bytes(path, same)
    if compared.zeroed or compared.violations or not (data_of(path) or same.read_bytes() == path.read_bytes()):
        tally.wrong.append(f"{path}: pruned by nothing, another file")
    before = verdicts(path)
    tally.loaded += not before[1]
    for granularity in ("unstructured", "row", "column"):
        half = pruned(path, folder, 0.5, granularity)
        if half is None:
            continue
        tally.pruned += half.read_bytes() != path.read_bytes()
        if (after := verdicts(half)) != before:
            tally.wrong.append(f"{path} by {granularity}: {before} became {after}")


def data_of(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    from onnx_tools.model_file import ModelFile

    return ModelFile.open(path).data_files()


def tallied(paths: Iterable[pathlib.Path], folder: pathlib.Path) -> Tally:
    tally = Tally()
    for path in paths:
        look_at(path, folder, tally)
    print(tally)
    return tally


@pytest.mark.slow
def test_the_backend_models_of_onnx(tmp_path: pathlib.Path) -> None:
    root = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    paths = sorted(root.glob("**/*.onnx"))
    if not paths:
        pytest.skip("this onnx package comes without backend test data")
    tally = tallied(paths, tmp_path)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.with_weights > 0


@pytest.mark.slow
def test_the_corpus(corpus: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    tally = tallied(corpus, tmp_path)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.with_weights > 0
