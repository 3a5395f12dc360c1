"""Trials: a model is made, measured, and noted in the log."""

from __future__ import annotations

import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from onnx_tools.plain import plain_value
from onnx_tools.quality import Measured, Quality
from onnx_tools.search.judging import Judge
from onnx_tools.search.making import Made, Maker, Recipe, recipe_text
from onnx_tools.search.trial_log import TrialLog
from onnx_tools.search_report import Score, TrialReport, WeightSparsity
from oxiprune_gpu import PruningError


@dataclass(frozen=True)
class Trial:
    """A trial, what it was made by, and what is kept of its weights."""

    report: TrialReport
    recipe: Recipe
    weights: tuple[WeightSparsity, ...]


@dataclass(eq=False)
class Trials:
    """All trials of a search, each made once.

    Args:
        maker, quality, judge: make a model, measure it, and say whether it is within the bar.
        log: trials that it has are not made again.
        settings: what decides the outcome of a trial besides its recipe; a part of its key.
        most: how many trials there may be, those from the log included: so that a search that goes on takes the way
            that it would have taken.
        folder: for the models; each has gone when its trial is over.
        tell: told what is tried, and the number of trials before.
    """

    maker: Maker
    quality: Quality
    judge: Judge
    log: TrialLog
    settings: Mapping[str, Any]
    most: int
    folder: pathlib.Path
    tell: Callable[[str, int], None]
    done: dict[str, Trial] = field(default_factory=dict)

    def spent(self) -> bool:
        """Whether no more trials may be made."""
        return len(self.done) >= self.most

    def run(self, allocation: str, asked: float | None, recipe: Recipe) -> Trial:
        """The trial of a recipe: of this run, from the log, or made.

        Raises what making and measuring do; the log then has the error.
        """
        key = self._key(recipe)
        if key not in self.done:
            name = allocation if asked is None else f"{allocation} {asked:.4g}"
            self.tell(name, len(self.done))
            logged = self.log.get(key)
            found = _read(logged) if logged is not None else None
            content = found or self._made(key, name, recipe)
            self.done[key] = self._trial(key, allocation, asked, recipe, content)
        return self.done[key]

    @contextmanager
    def model_of(self, recipe: Recipe, name: str) -> Iterator[tuple[Made, Score, Score | None]]:
        """The model of a recipe, made anew, and its scores; the file is there while the block runs."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            made = self.maker.make(recipe, pathlib.Path(folder))
            yield made, *self.judge.scores(self._measured(made.path), name)

    def _measured(self, path: pathlib.Path) -> Measured:
        return self.quality.measure(path)

    def _key(self, recipe: Recipe) -> str:
        text = json.dumps({**self.settings, "recipe": recipe_text(recipe)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _made(self, key: str, name: str, recipe: Recipe) -> _Content:
        """Make the model, measure it, and note both."""
        try:
            with self.model_of(recipe, name) as (made, searched, held_out):
                content = _Content(made.sparsity, made.bytes, made.macs, searched, held_out, made.weights)
        except PruningError as error:
            self.log.add(key, "error", f"{name}: {error}")
            raise
        self.log.add(key, "trial", {"name": name, "recipe": recipe_text(recipe), **plain_value(content)})
        return content

    def _trial(self, key: str, allocation: str, asked: float | None, recipe: Recipe, content: _Content) -> Trial:
        passed = self.judge.passes(content.searched)
        report = TrialReport(
            len(self.done) + 1,
            key,
            allocation,
            asked,
            content.sparsity,
            content.bytes,
            content.macs,
            content.searched,
            content.held_out,
            passed,
        )
        return Trial(report, recipe, content.weights)


@dataclass(frozen=True)
class _Content:
    """What the log keeps of a trial; the bar is not in it, so another bar finds the same trials."""

    sparsity: float
    bytes: int | None
    macs: int | None
    searched: Score
    held_out: Score | None
    weights: tuple[WeightSparsity, ...]


def _read(entry: Mapping[str, Any]) -> _Content | None:
    """The content of an entry of the log; None if it is not one, and the trial must be made."""
    try:
        held_out = entry["held_out"]
        return _Content(
            float(entry["sparsity"]),
            _count(entry["bytes"]),
            _count(entry["macs"]),
            _score(entry["searched"]),
            None if held_out is None else _score(held_out),
            tuple(
                WeightSparsity(str(each["name"]), int(each["parameters"]), int(each["kept"]))
                for each in entry["weights"]
            ),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _score(entry: Mapping[str, Any]) -> Score:
    low, high = (None if entry[end] is None else float(entry[end]) for end in ("low", "high"))
    return Score(float(entry["quality"]), float(entry["drop"]), low, high, _count(entry["cases"]))
