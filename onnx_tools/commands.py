"""What the commands do: several models, progress, reports on the terminal and in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnx_tools.errors import NothingSelected, VerificationFailed, WriteFailed
from onnx_tools.naming import expand
from onnx_tools.renderers import json_renderer, write_report
from onnx_tools.renderers.text import printable
from onnx_tools.report import Report, VerificationReport, to_dict
from onnx_tools.rewrite import Extras, Progress, prune_file
from onnx_tools.weight_selection import Selection
from oxiprune_gpu import InvalidOption, PruningConfig, PruningError

_WORTH_A_BAR = 8_000_000
"""Elements from which on a progress bar is shown; fewer are done before it could be read."""


@dataclass(frozen=True)
class Checks:
    """Checks beyond the comparison of bytes."""

    data: Path | None
    max_drift: float | None
    seed: int
    runtime: bool = True

    def run(self, before: Path, after: Path) -> VerificationReport:
        """Verify the model at `after`, made from the one at `before`."""
        from onnx_tools.verify import verify_files

        return verify_files(
            before, after, data=self.data, runtime=self.runtime, max_drift=self.max_drift, seed=self.seed
        )


@dataclass(frozen=True)
class PruneJob:
    """What is done to each model."""

    config: PruningConfig
    selection: Selection
    gradients: Mapping[str, Any] | None
    checks: Checks | None
    force: bool
    delete_old_data: bool
    dry_run: bool


@dataclass(frozen=True)
class View:
    """How results are shown. `reports`: files to write, `{stem}` and `{parent}` in their names."""

    reports: tuple[str, ...]
    quiet: bool
    as_json: bool
    compressed: bool

    @property
    def extras(self) -> Extras:
        """What the reports hold: statistics and hashes only where a report is kept."""
        kept = bool(self.reports) or self.as_json
        return Extras(statistics=kept, hashes=bool(self.reports), compressed=self.compressed)


def make_config(sparsity: float, metric: str, granularity: str, min_nonzero: int) -> PruningConfig:
    """The configuration for texts of the command line."""
    metric = "taylor" if metric.startswith("taylor:") else metric
    config = PruningConfig(sparsity, metric, granularity, min_nonzero)
    config.check()
    return config


def read_gradients(metric: str) -> Mapping[str, Any] | None:
    """The gradients that the metric `taylor:FILE.npz` names; None for other metrics."""
    name, _, file = metric.partition(":")
    if name != "taylor" or not file:
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, AttributeError, EOFError, KeyError) as error:
        raise InvalidOption(
            f"--metric {metric}: {file} can't be read as .npz of gradients by weight: {error}"
        ) from None


def prune_models(pairs: Sequence[tuple[Path, Path | None]], job: PruneJob, view: View) -> int:
    """Prune each model into its output; return the exit code."""
    _check_report_names([model for model, _ in pairs], view)

    def prune(pair: tuple[Path, Path | None], progress: Progress | None) -> Report:
        model, output = pair
        return prune_file(
            model,
            output,
            config=job.config,
            selection=job.selection,
            gradients=job.gradients,
            force=job.force,
            delete_old_data=job.delete_old_data,
            dry_run=job.dry_run,
            verify=job.checks.run if job.checks else None,
            extras=view.extras,
            progress=progress,
        )

    return _for_each([(model, partial(prune, (model, output))) for model, output in pairs], view)


def inspect_models(models: Sequence[Path], view: View) -> int:
    """Show each model; return the exit code."""
    from onnx_tools.inspection import inspect_file

    _check_report_names(models, view)

    def inspect(model: Path, progress: Progress | None) -> Report:
        return inspect_file(model, hashes=view.extras.hashes, compressed=view.compressed, progress=progress)

    return _for_each([(model, partial(inspect, model)) for model in models], view)


def verify_models(before: Path, after: Path, checks: Checks, *, quiet: bool, as_json: bool) -> int:
    """Verify one model against another; return the exit code."""
    report = checks.run(before, after)
    if as_json:
        sys.stdout.write(json_renderer.render(report))
    elif not quiet:
        from onnx_tools.renderers.table_renderer import print_verification

        print_verification(report, _console())
    for check in report.checks:
        if check.outcome == "failed" or (check.outcome == "warning" and (quiet or as_json)):
            sys.stderr.write(f"{'error' if check.outcome == 'failed' else 'warning'}: {_checked_line(check)}\n")
    return 1 if report.failed else 0


def exit_code(error: Exception) -> int:
    """1 when nothing was selected or a check failed, 2 for everything else."""
    return 1 if isinstance(error, NothingSelected | VerificationFailed) else 2


def one_line(error: Exception) -> str:
    """An error on one line, fit for a terminal."""
    if isinstance(error, PruningError):
        return _line(str(error))
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        return _line(f"{error.filename or 'the system'}: {error.strerror or error}")
    return _line(f"unexpected {type(error).__name__}: {error} (OXIPRUNE_DEBUG=1 shows where; please report it)")


def _for_each(jobs: Sequence[tuple[Path, Callable[[Progress | None], Report]]], view: View) -> int:
    """Run every job, also after one has failed; show and keep its report; return the worst exit code."""
    worst, shown = 0, []
    for model, job in jobs:
        try:
            with _progress(model, view) as progress:
                report = job(progress)
            for pattern in view.reports:
                write_report(report, _report_name(pattern, model))
            shown.append(report)
            _show(report, view)
        except (PruningError, OSError) as error:
            prefix = f"{model}: " if len(jobs) > 1 and str(model) not in str(error) else ""
            sys.stderr.write(f"error: {prefix}{one_line(error)}\n")
            worst = max(worst, exit_code(error))
    if view.as_json and shown:
        _print_json(shown, several=len(jobs) > 1)
    return worst


def _print_json(reports: Sequence[Report], *, several: bool) -> None:
    if several:
        sys.stdout.write(json.dumps([to_dict(report) for report in reports], indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write(json_renderer.render(reports[0]))


def _show(report: Report, view: View) -> None:
    if not view.quiet and not view.as_json:
        from onnx_tools.renderers.table_renderer import print_report

        print_report(report, _console())
        return
    for warning in report.warnings:
        sys.stderr.write(f"warning: {_line(warning)}\n")


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def _progress(model: Path, view: View) -> Iterator[Progress | None]:
    """A progress bar on a terminal, for models that take long enough."""
    if view.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(model.name), total=None, visible=False)

        def tell(name: str, done: int, total: int) -> None:
            label = f"{printable(model.name)}: {printable(name)[:40]}"
            bar.update(task, description=label, completed=done, total=total, visible=total >= _WORTH_A_BAR)

        yield tell


def _report_name(pattern: str, model: Path) -> Path:
    return Path(expand(pattern, model))


def _check_report_names(models: Sequence[Path], view: View) -> None:
    """Reports are written last; what would stop them is said first."""
    names = [_report_name(pattern, model) for model in models for pattern in view.reports]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidOption(f"--report {name}: two reports would go there; use {{stem}} or {{parent}} in the name")
        if not name.absolute().parent.is_dir():
            raise WriteFailed(f"--report {name}: the folder {name.parent} does not exist; create it first")
        if name.is_dir():
            raise WriteFailed(f"--report {name}: is a folder; name a file")


def _checked_line(check: Any) -> str:
    return _line(f"{check.name}: {check.detail}")


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
