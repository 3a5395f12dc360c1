"""Prunes every model of the corpus, scores it before and after on its evaluation data, and writes docs/results.md."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
from benchmark_tables import BENCHMARKS, newest_results, pattern_tables, peers_table, speed
from calibration_section import calibration_section
from compaction_results import bullet, compaction_section, measure_compaction
from search_section import search_section

from onnx_tools import Extras, NothingSelected, PruneReport, Selection, find_weights, prune_file
from onnx_tools.report import Versions, fraction, left_alone_groups
from onnx_tools.report_parts import versions
from onnx_tools.verify import compare_bytes
from oxiprune_gpu import PruningConfig

OUTPUT = Path("docs/results.md")
RUNS = [("unstructured", 0.5), ("unstructured", 0.8), ("row", 0.5), ("row", 0.8)]

TEXT = """# Results on real models

Every model of the corpus, pruned with the defaults of `oxiprune prune` (metric `l1`, depthwise kernels and weights
under 2,048 elements left alone) and scored on its evaluation data by the corpus' own `eval_models.py`. Nothing is
retrained. `row` takes whole output channels away: at these sparsities, without retraining, that ruins most models, and
the figures are here as they came. Made by

    OXIPRUNE_CORPUS=/path/to/corpus scripts/make-results

with {versions}.

After every run the new file was read back: each byte outside the pruned weights is what it was, and inside them the
only new values are zeros (the `oxiprune` metadata entry and the names of external data files excepted); onnx's checker
and onnxruntime say the same of it as of the original.

Where a cell holds four values they are those of the four runs: {runs}.

- **selected**: share of the model's float parameters that lie in the pruned weights.
- **zeros**: share of zeros in the pruned weights.
- **zstd-3**: size of the new model, external data included, over that of the original, both compressed by zstd at
  level 3. Uncompressed, a pruned model is as large as it was, plus {entry} bytes of metadata.
- **seconds**: of the slowest of the four runs, the best of three tries each; hashes and compression not included;
  {cores} CPU cores.

{table}

{details}

## Channels that leave

{compaction}

## Pruned by what the inputs are

{calibration}

## Wanda and SparseGPT beside onnxsim

{peers}

## Searched within one point

{search}

## 2:4 beside other tools

{patterns}

## Speed

{speed}
"""


@dataclass
class Run:
    """One model pruned in one way. `report` is None where no weight was selected, and `refusal` says why."""

    report: PruneReport | None
    refusal: str = ""
    score: dict[str, Any] | None = None
    seconds: float = 0.0


@dataclass
class Result:
    """One model: the score of the original, and the runs."""

    name: str
    bytes: int
    floats: int
    before: dict[str, Any] | None
    unloadable: str
    checker: str
    corpus_rule: float | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def reports(self) -> list[PruneReport]:
        return [run.report for run in self.runs if run.report is not None]


def corpus() -> Path:
    """The folder of the models."""
    root = os.environ.get("OXIPRUNE_CORPUS")
    if not root or not Path(root, "models", "eval_models.py").is_file():
        sys.exit("OXIPRUNE_CORPUS must name the folder of the corpus; models/eval_models.py is looked for in it")
    return Path(root, "models")


def load_scorer(models: Path) -> ModuleType:
    """The corpus' own program that scores a model."""
    sys.dont_write_bytecode = True  # the corpus is not ours to write to
    spec = importlib.util.spec_from_file_location("eval_models", models / "eval_models.py")
    if spec is None or spec.loader is None:
        sys.exit("eval_models.py of the corpus can't be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(model: Path, scorer: ModuleType, folder: Path) -> Result:
    """All runs of one model."""
    name = model.parent.name
    unloadable = why_unloadable(model)
    before = None if unloadable else scorer.score(str(model.parent))
    size = sum(file.stat().st_size for file in (model, *model.parent.glob("*.data")))
    result = Result(name, size, count_floats(model), before, unloadable, complaint(model))
    for granularity, sparsity in RUNS:
        output = folder / f"{name}_{granularity}_{sparsity:.1f}.onnx"
        result.runs.append(one_run(model, output, PruningConfig(sparsity, "l1", granularity), scorer, result))
        print(f"{output.stem}: {result.runs[-1].refusal or result.runs[-1].score}", flush=True)
    if before is not None:
        result.corpus_rule = score_by_corpus_rule(model, folder / f"{name}_corpus_rule.onnx", scorer)
    return result


def score_by_corpus_rule(model: Path, output: Path, scorer: ModuleType) -> float | None:
    """Unstructured 50 % of the weights that the corpus' own figures are for; None where nothing is selected.

    They seem to leave out all 4-D kernels with one input channel: depthwise ones, and those of an ordinary convolution
    that reads a single channel.
    """
    found = find_weights(onnx.load(model, load_external_data=False)).weights
    single = tuple(w.name for w in found if w.op_types == ("Conv",) and len(w.shape) == 4 and w.shape[1] == 1)
    try:
        prune_file(model, output, config=PruningConfig(0.5), selection=Selection(exclude=single))
    except NothingSelected:
        return None
    return float(scorer.score(str(model.parent), str(output))["value"])


def one_run(model: Path, output: Path, config: PruningConfig, scorer: ModuleType, result: Result) -> Run:
    """Prune, check what was written, score it."""
    try:
        seconds = min(seconds_to_prune(model, output, config) for _ in range(3))
    except NothingSelected as error:
        return Run(None, str(error))
    report = prune_file(model, output, config=config, force=True, extras=Extras(compressed=True))
    check(model, output, report, result)
    score = None if result.unloadable else scorer.score(str(model.parent), str(output))
    return Run(report, score=score, seconds=seconds)


def seconds_to_prune(model: Path, output: Path, config: PruningConfig) -> float:
    start = time.perf_counter()
    prune_file(model, output, config=config, force=True)
    return time.perf_counter() - start


def check(model: Path, output: Path, report: PruneReport, result: Result) -> None:
    """Stop everything if the file that was written is not what it must be."""
    names = {weight.name for weight in report.weights}
    found = find_weights(onnx.load(model, load_external_data=False)).weights
    comparison = compare_bytes(model, output, allowed=[weight.path for weight in found if weight.name in names])
    if comparison.violations:
        sys.exit(f"{output.name}: {comparison.violations[0]}")
    if bool(complaint(output)) != bool(result.checker):
        sys.exit(f"{output.name}: onnx's checker says {complaint(output)!r}, of the original {result.checker!r}")
    if bool(why_unloadable(output)) != bool(result.unloadable):
        sys.exit(f"{output.name}: onnxruntime says {why_unloadable(output)!r}")


def complaint(model: Path) -> str:
    """What onnx's full check has against a model."""
    try:
        onnx.checker.check_model(str(model), full_check=True)
    except Exception as error:  # beside its own errors, those of shape inference
        return str(error).strip().splitlines()[0]
    return ""


def why_unloadable(model: Path) -> str:
    """What onnxruntime has against a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base
        return str(error).split(" : ")[-1].strip().splitlines()[0].replace(str(model), model.name)
    return ""


def count_floats(model: Path) -> int:
    """Float elements that the model stores."""
    found = find_weights(onnx.load(model, load_external_data=False))
    left = sum(item.elements for item in found.left_alone if item.dtype_name in {"float32", "float16", "float64"})
    return left + sum(weight.elements for weight in found.weights)


def expected_scores(models: Path) -> dict[str, float]:
    """The corpus' own scores after pruning 50 % in the same weights, from Table 3 of its README; none without it."""
    lines = (models / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header = next((row for row in rows if "ALL-skip 50 %" in row), None)
    if header is None:
        return {}
    column = header.index("ALL-skip 50 %")
    body = [row for row in rows if len(row) == len(header) and row is not header]
    return {row[0]: float(row[column]) for row in body if row[column].replace(".", "", 1).isdigit()}


def table(results: Iterable[Result]) -> str:
    """The table, in Markdown."""
    header = [
        "model",
        "bytes",
        "metric",
        "before",
        *map(run_name, RUNS),
        "selected",
        "zeros (%)",
        "zstd-3",
        "seconds",
        "note",
    ]
    alignment = [":--" if name in {"model", "metric", "note"} else "--:" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, alignment, *map(row, results)))


def run_name(run: tuple[str, float]) -> str:
    granularity, sparsity = run
    return f"{granularity} {sparsity:.0%}"


def row(result: Result) -> list[str]:
    """One model's cells."""
    before = result.before or {}
    cells = [result.name, f"{result.bytes:,}", before.get("metric", "-"), shown(result.before)]
    cells += [shown(run.score) for run in result.runs]
    totals = [report.totals for report in result.reports]
    if not totals:
        return [*cells, "none", "-", "-", "-", note(result)]
    return [
        *cells,
        f"{fraction(totals[0].parameters, result.floats):.1%}",
        " / ".join(f"{100 * total.sparsity_after:.1f}" for total in totals),
        " / ".join(f"{(total.compressed_after or 0) / (total.compressed_before or 1):.2f}" for total in totals),
        f"{max(run.seconds for run in result.runs):.2f}",
        note(result),
    ]


def shown(score: dict[str, Any] | None) -> str:
    return "-" if score is None else f"{score['value']:.3f}"


def note(result: Result) -> str:
    """What a reader must know about a row."""
    notes = []
    if not result.reports:
        notes.append("refused, see below")
    if result.unloadable:
        notes.append("can't be run, see below")
    same = [run for run, report in zip(RUNS, result.reports, strict=False) if not report.changed]
    if same:
        notes.append(f"unchanged by {' and '.join(map(run_name, same))}")
    if result.checker:
        notes.append("fails onnx's full check, before and after")
    return "; ".join(notes)


def details(results: list[Result], expected: dict[str, float]) -> str:
    """What was refused, could not be run or did not change, and how the figures go with the corpus' own."""
    lines = ["## Refused, not run, unchanged", ""]
    for result in results:
        lines += [bullet(f"**{result.name}**: {text}") for text in remarks(result)]
    return "\n".join([*lines, "", "## Beside the corpus' own figures", "", agreement(results, expected)])


def remarks(result: Result) -> list[str]:
    if not result.reports:
        return [f"refused with exit code 1: {result.runs[0].refusal}."]
    found = []
    if result.unloadable:
        found.append(
            f"pruned, but can't be scored: onnxruntime refuses the original and the pruned model alike "
            f'({result.unloadable}). `--verify` calls that a warning, "could not verify".'
        )
    unchanged = [report for report in result.reports if not report.changed]
    if unchanged:
        total, group = unchanged[0].totals, left_alone_groups(unchanged[0].left_alone)[0]
        found.append(
            f"unstructured, {unchanged[0].warnings[0]}. The {total.weights} weights selected "
            f"({total.parameters:,} elements) are {total.sparsity_before:.1%} zero as they come; of the rest, "
            f"{len(group.members)} tensors with {group.parameters:,} elements are left alone as {group.reason}."
        )
    return found


def agreement(results: list[Result], expected: dict[str, float]) -> str:
    """Unstructured 50 % beside the corpus' README, where another program has pruned nearly the same weights."""
    known = [result for result in results if result.corpus_rule is not None and result.name in expected]
    ours = {result.name: shown(result.runs[0].score) for result in known}
    theirs = {result.name: f"{expected[result.name]:.3f}" for result in known}
    other = [f"{name} {ours[name]} (there {theirs[name]})" for name in ours if ours[name] != theirs[name]]
    same = [result.name for result in known if f"{result.corpus_rule:.3f}" == theirs[result.name]]
    text = (
        "The README of the corpus has scores after another program has pruned 50 % element by element, small and "
        'depthwise tensors left out (Table 3, "ALL-skip 50 %"). To three decimals '
        f"{len(known) - len(other)} of {len(known)} agree."
    )
    if other:
        text += (
            f" Not so: {', '.join(other)}. That program, which is not in the corpus, seems to take every 4-D kernel "
            "with one input channel for depthwise, also that of an ordinary convolution which reads a single channel. "
            "This rule is guessed from the differences; with it (those kernels left out by `--exclude`) "
            f"{len(same)} of {len(known)} agree."
        )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def version_text(found: Versions) -> str:
    return (
        f"oxiprune {found.oxiprune}, Python {found.python}, numpy {found.numpy}, onnx {found.onnx}, "
        f"onnxruntime {found.onnxruntime}"
    )


def entry_bytes(results: Iterable[Result]) -> str:
    """By how much inline models grow."""
    grown = [
        (file.bytes_after or 0) - file.bytes_before
        for result in results
        for report in result.reports
        if report.changed and len(report.files) == 1
        for file in report.files
    ]
    return f"{min(grown)} to {max(grown)}"


def main() -> None:
    """Measure all models and write the page."""
    models = corpus()
    scorer = load_scorer(models)
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(models.glob("*/model.onnx"))
        results = [measure(model, scorer, Path(folder)) for model in files]
        compactions = [measure_compaction(model, scorer, Path(folder)) for model in files]
    newest = newest_results(BENCHMARKS)
    page = TEXT.format(
        versions=version_text(versions(onnxruntime.__version__)),
        runs=", ".join(map(run_name, RUNS)),
        entry=entry_bytes(results),
        cores=os.cpu_count(),
        table=table(results),
        details=details(results, expected_scores(models)),
        compaction=compaction_section(compactions),
        calibration=calibration_section(),
        peers=peers_table(newest),
        search=search_section(),
        patterns=pattern_tables(newest),
        speed=speed(newest),
    )
    OUTPUT.write_text(page, encoding="utf-8")
    print(f"{OUTPUT} written")


if __name__ == "__main__":
    main()
