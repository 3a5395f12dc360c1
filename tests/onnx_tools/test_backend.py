"""Models pruned on a GPU: the same bytes, and a report that says where. Runs over a CuPy that is none."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from types import ModuleType

import jsonschema
import numpy as np
import onnx
import pytest

from onnx_tools import NothingSelected, prune_file, prune_model
from onnx_tools.renderers.json_renderer import report_schema
from oxiprune_gpu import GpuUnavailable, InvalidOption, PruningConfig
from oxiprune_gpu.backends import choice, transfer
from tests import cuda_on_cpu, fake_cupy
from tests.command import finish, refused, run, spawn, tree
from tests.onnx_tools.quantised_models import model_of, random_codes, tensor

DEMO = pathlib.Path(__file__).parents[2] / "demo" / "digits_cnn.onnx"
SMALL = ("--sparsity", 0.5, "--min-elements", 0)
CONFIGS = [PruningConfig(0.5), PruningConfig(0.25, "l2", "row"), PruningConfig(0.5, "random:3", "column")]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.granularity.text)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A CuPy without a GPU, and pieces so short that a small weight is many."""
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1 << 14)
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "70", raising=False)
    return fake_cupy.installed(monkeypatch)


def compare(model: pathlib.Path, folder: pathlib.Path, config: PruningConfig) -> None:
    """Prune on the CPU and on the GPU; the files must be equal, their reports but for the backend."""
    folders = [folder / "cpu", folder / "cuda"]
    reports = []
    for backend in folders:
        backend.mkdir()
        reports.append(prune_file(model, backend / "pruned.onnx", config=config, backend=backend.name))
    assert tree(folders[0]) == tree(folders[1]) != {}
    assert [report.totals.weights_on_gpu for report in reports] == [0, len(reports[1].weights)]
    assert [w.nonzero_after for w in reports[0].weights] == [w.nonzero_after for w in reports[1].weights]


@configs
def test_the_files_are_equal(cupy, config, tmp_path):
    compare(DEMO, tmp_path, config)


@configs
@pytest.mark.parametrize("data_type", [onnx.TensorProto.UINT8, onnx.TensorProto.INT4], ids=["uint8", "int4"])
def test_quantised_weights_are_equal(cupy, config, data_type, tmp_path):
    rng = np.random.default_rng(1)
    codes, zero = (random_codes(rng, data_type, shape) for shape in ((129, 65), (65,)))
    parts = {"w": tensor(codes, data_type), "s": tensor(rng.uniform(0.1, 1, 65)), "z": tensor(zero, data_type)}
    onnx.save(model_of("v = DequantizeLinear(w, s, z) y = MatMul(x, v)", **parts), tmp_path / "q.onnx")
    compare(tmp_path / "q.onnx", tmp_path, config)


def test_files_with_external_data_are_equal(cupy, external_file, tmp_path):
    (tmp_path / "out").mkdir()
    out = tmp_path / "out"
    for backend in ("cpu", "cuda"):
        (out / backend).mkdir()
        words = ("prune", external_file, *SMALL, "-o", out / backend / "p.onnx", "--backend", backend, "-q")
        assert run(*words).exit_code == 0
    assert tree(out / "cpu") == tree(out / "cuda") != {}


@pytest.mark.slow
@configs
def test_files_of_the_corpus_are_equal(cupy, config, corpus, tmp_path):
    small = [model for model in corpus if sum(f.stat().st_size for f in model.parent.iterdir()) < 4 << 20]
    compared = 0
    for number, model in enumerate(small):
        (tmp_path / str(number)).mkdir()
        with contextlib.suppress(NothingSelected):
            compare(model, tmp_path / str(number), config)
            compared += 1
    assert compared > len(small) // 2


@configs
def test_models_in_memory_are_equal(cupy, config):
    models = [onnx.load(DEMO), onnx.load(DEMO)]
    reports = [prune_model(m, config=config, backend=b) for m, b in zip(models, ("cpu", "cuda"), strict=True)]
    assert models[0].SerializeToString() == models[1].SerializeToString()
    assert {weight.backend for weight in reports[1].weights} == {"cuda"}


def test_the_command_says_where(cupy, tmp_path):
    out = tmp_path / "o.onnx"
    shown = run("prune", DEMO, "-o", out, "-s", 0.5, "--backend", "cuda", "--report", tmp_path / "r.json")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "on the GPU" in shown.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, report_schema())
    assert {weight["backend"] for weight in report["weights"]} == {"cuda"}
    dry = json.loads(run("prune", DEMO, "-n", "-s", 0.5, "--backend", "cuda", "--json").stdout)
    assert dry["totals"] == {**report["totals"], **{key: dry["totals"][key] for key in ("bytes_after",)}}


def test_auto_takes_the_gpu_for_the_large_weights_of_a_large_model(cupy, tmp_path, monkeypatch):
    def backends() -> set[str]:
        return {w.backend for w in prune_file(DEMO, dry_run=True, config=CONFIGS[0]).weights}

    assert backends() == {"cpu"}
    monkeypatch.setattr(choice, "WEIGHT_PAYS_FROM", 100_000)
    assert backends() == {"cpu", "cuda"}
    monkeypatch.setattr(choice, "START_PAYS_FROM", 100_000)
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 0)
    assert backends() == {"cpu"}


def test_cuda_without_a_gpu_is_refused_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)
    words = ("prune", DEMO, "-s", 0.5, "--backend", "cuda")
    refused(run(*words, "-o", f"{tmp_path}/new/"), 2, "CuPy can't be imported", "pip install", "oxiprune doctor")
    refused(run(*words, "-n"), 2, "CuPy can't be imported")
    assert tree(tmp_path) == {}
    with pytest.raises(GpuUnavailable):
        prune_model(onnx.load(DEMO), config=CONFIGS[0], backend="cuda")
    with pytest.raises(InvalidOption, match="unknown backend"):
        prune_file(DEMO, tmp_path / "o.onnx", config=CONFIGS[0], backend="gpu")
    assert run(*words[:-1], "auto", "-n").exit_code == run(*words[:-1], "cpu", "-n").exit_code == 0


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_small_models_do_not_import_cupy(small_file, backend):
    code = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        assert name != "cupy", "cupy was imported"
sys.meta_path.insert(0, Refuse())
from onnx_tools.cli import main
main()
"""
    code, _, err = finish(spawn("prune", small_file, *SMALL, "-n", "--backend", backend, code=code))
    assert (code, err) == (0, "")


@pytest.mark.gpu
@configs
def test_the_files_are_equal_on_a_gpu(config, tmp_path):
    compare(DEMO, tmp_path, config)
