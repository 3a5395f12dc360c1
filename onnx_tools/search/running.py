"""A search under way: lines are bisected, and the best allocation is climbed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from onnx_tools.errors import VerificationFailed
from onnx_tools.search.bisection import highest_passing
from onnx_tools.search.climbing import Kept, climb
from onnx_tools.search.lines import Line
from onnx_tools.search.making import sparsities
from onnx_tools.search.options import Search
from onnx_tools.search.trials import Trial, Trials
from oxiprune_gpu import InvalidOption

CLIMB = "climb"
"""What the trials of a climb are called where others have an allocation."""

_WORTH_A_QUESTION = 0.05
"""A step of a climb makes at least so much of a resolution of sparsity."""


@dataclass
class Run:
    """A search under way."""

    search: Search
    trials: Trials
    notes: list[str] = field(default_factory=list)

    def along(self, lines: Iterable[Line]) -> None:
        """Bisect each line. With the sparsity as objective, the later ones only where they are better than the best."""
        levels = round(1 / self.search.resolution)
        above = 0
        for line in lines:
            found = highest_passing(
                partial(self._passes, line, levels),
                levels - 1,
                above=above,
                spent=self.trials.spent,
            )
            if not found.monotone:
                self.notes.append(f"allocation {line.text}: quality is not monotone, more passed where less had failed")
            if self.search.objective == "sparsity" and not self.search.pruning.channels:
                above = found.level

    def best(self) -> Trial:
        """The best trial within the bar. Raises VerificationFailed if there is none."""
        passed = [trial for trial in self.trials.done.values() if trial.report.passed]
        if not passed:
            sure = "" if self.search.confidence is None else f", with confidence {self.search.confidence:g}"
            nearest = min(self.trials.done.values(), key=lambda trial: trial.report.searched.drop).report
            raise VerificationFailed(
                f"{self.trials.maker.model.name}: none of {len(self.trials.done)} trials drops by "
                f"{self.search.max_drop:g} or less{sure}; the nearest, sparsity {nearest.sparsity:.4g}, drops by "
                f"{nearest.searched.drop:.4g}. Nothing was written; the trials are in {self.trials.log.path}. Raise "
                "--max-drop, or leave weights out"
            )
        return min(passed, key=self._cost)

    def climbed(self, start: Trial) -> Trial:
        """The best trial after a climb from `start`."""
        elements = sum(weight.parameters for weight in start.weights)
        least = round(elements * self.search.resolution * _WORTH_A_QUESTION)

        def passes(kept: Kept) -> bool:
            policy = self.search.pruning.of_weights(sparsities(start.weights, kept))
            return self.trials.run(CLIMB, None, policy).report.passed

        climb({weight.name: weight.kept for weight in start.weights}, passes, least=least, spent=self.trials.spent)
        return self.best()

    def _passes(self, line: Line, levels: int, level: int) -> bool:
        sparsity = level / levels
        recipe = line.at(sparsity)
        return recipe is not None and self.trials.run(line.text, sparsity, recipe).report.passed

    def _cost(self, trial: Trial) -> float:
        """What the objective wants little of."""
        if self.search.objective == "sparsity":
            return -trial.report.sparsity
        cost = trial.report.bytes if self.search.objective == "bytes" else trial.report.macs
        if cost is None:
            raise InvalidOption("objective macs: the operations of no layer are known; --input-shape may tell them")
        return cost
