"""`search_file`: the most pruned model that stays within a bar of quality."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace

from onnx_tools.encodings.encode import refuse_encoded
from onnx_tools.errors import VerificationFailed
from onnx_tools.model_copy import ModelCopy, first_step
from onnx_tools.model_file import ModelFile
from onnx_tools.report_parts import versions
from onnx_tools.search.account import Account, Confirmed
from onnx_tools.search.judging import Judge
from onnx_tools.search.lines import Line
from onnx_tools.search.making import Maker
from onnx_tools.search.options import Search, with_shared_statistics
from onnx_tools.search.running import Run
from onnx_tools.search.sensitive import SENSITIVITY, sensitive_line
from onnx_tools.search.trial_log import TrialLog
from onnx_tools.search.trials import Trial, Trials
from onnx_tools.search_report import SearchReport, SearchSettings

_SHOWN = 1_000_000
"""What a trial is in the numbers of a progress bar, which counts elements."""

Progress = Callable[[str, int, int], None]

_DECIDE_NO_TRIAL = ("max_drop", "allocations", "objective", "resolution", "most_trials", "climb", "confidence")
"""Settings that say which trials are made, and nothing about each."""


def search_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    search: Search,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> SearchReport:
    """Write the most pruned model whose quality stays within a bar.

    Each allocation is bisected over its sparsity; from the best on, single weights lose more. Every model that counts
    was made and measured. The answer is made and measured once more before it gets its name.

    An interrupted search goes on where it was, if it is called in the same way: trials are in a log.

    Args:
        path: the model; external data is found beside it.
        output: the new file, its external data `OUTPUT.data`.
        search: what is searched, in which way.
        force: overwrite an existing output.
        progress: told before each trial.

    Raises:
        VerificationFailed: no model is within the bar; or the answer, measured again, is not. Nothing was written.
        InvalidOption: an option that makes no sense; a quality that can't be measured says so.
        PruningError: as `prune_file`, `prune_channels`, `compact_file`, `encode_file`.
    """
    search.check()
    model, target = ModelFile.open(path), pathlib.Path(output)
    refuse_encoded(model)
    settings = search.settings(model)
    plain = {text: search.pruning.line(text) for text in settings.allocations if not _by_curves(search, text)}
    log = TrialLog(search.log or log_beside(target))
    with first_step(model, target, force=force) as place:
        judge = Judge(
            search.quality.measure(model.path), search.max_drop, search.held_out, search.seed, search.confidence
        )
        judge.check()
        trials = _trials(search, model, settings, judge, log, place.parent, progress)
        run = Run(search, trials)
        run.along(_lines(search, settings.allocations, plain, trials, progress))
        answer = run.best() if not settings.climb else run.climbed(run.best())
        confirmed = _written(search, trials, answer, model, target, force)
    return Account(model, settings, run, answer, confirmed).report()


def _lines(
    search: Search, allocations: Iterable[str], plain: Mapping[str, Line], trials: Trials, progress: Progress | None
) -> Iterator[Line]:
    """The lines in the order of their allocations, while trials may be made; curves are measured in their turn."""
    looking = replace(search, method=trials.maker.method)
    for text in allocations:
        if trials.spent():
            break
        path, log = trials.maker.model, trials.log.path
        yield plain.get(text) or sensitive_line(looking, path, trials.judge, log, progress)


def _by_curves(search: Search, allocation: str) -> bool:
    """Whether an allocation needs curves of the model, so that it is made when its turn comes."""
    return allocation == SENSITIVITY and not search.pruning.channels


def log_beside(output: pathlib.Path) -> pathlib.Path:
    """Where the trials of a search are logged that names no file for them."""
    return output.with_name(f"{output.name}.search.jsonl")


def _trials(
    search: Search,
    model: ModelFile,
    settings: SearchSettings,
    judge: Judge,
    log: TrialLog,
    folder: pathlib.Path,
    progress: Progress | None,
) -> Trials:
    packed, shapes = search.packed, search.input_shapes
    method = with_shared_statistics(search.method, folder)
    maker = Maker(model.path, search.selection, method, packed, shapes, search.backend)
    deciding = {key: value for key, value in asdict(settings).items() if key not in _DECIDE_NO_TRIAL}
    deciding |= {"packed": packed, "input_shapes": dict(shapes), "oxiprune": versions().oxiprune}

    def tell(name: str, done: int) -> None:
        if progress is not None:
            progress(f"trial {done + 1}: {name}", done * _SHOWN, search.most_trials * _SHOWN)

    return Trials(maker, search.quality, judge, log, deciding, search.most_trials, folder, tell)


def _written(
    search: Search, trials: Trials, answer: Trial, model: ModelFile, target: pathlib.Path, force: bool
) -> Confirmed:
    """Make the answer again, measure it again, and give it its name."""
    with trials.model_of(answer.recipe, "the answer") as (made, searched, held_out):
        if not trials.judge.passes(searched):
            raise VerificationFailed(
                f"{model.path.name}: the answer dropped {answer.report.searched.drop:.4g}, and measured again it drops "
                f"{searched.drop:.4g}, beyond the bar of {search.max_drop:g}: the quality is not repeatable. Nothing "
                "was written; let the function that measures take its random numbers from a fixed seed"
            )
        with ModelCopy(ModelFile.open(made.path), target, force=force) as copy:
            return Confirmed(searched, held_out, copy.commit())
