"""Calibration: a model run on data, and what the inputs of each of its weights come to."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Collection, Sequence
from typing import Self

from onnx_tools.calibration.data import Data, Feeds, read_feeds
from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.calibration.jobs import in_groups, jobs_of
from onnx_tools.calibration.observed import Observed, ObservedWeight, observe
from onnx_tools.calibration.running import Runner, Told
from onnx_tools.calibration.splitting import PART, read_part
from onnx_tools.calibration.store import Store, verdict
from onnx_tools.calibration.sums import Statistics
from onnx_tools.calibration.view import MatrixView
from onnx_tools.errors import PatternMatchesNothing
from onnx_tools.file_facts import facts_of
from onnx_tools.model_file import ModelFile
from onnx_tools.rewrite import Progress
from onnx_tools.shared_bytes import twins
from onnx_tools.temporaries import folder_beside, writing
from onnx_tools.verification.feeds import Feed, InputSpec
from oxiprune_gpu.errors import InvalidOption

CPU = ("CPUExecutionProvider",)
MEMORY = 1 << 30


class Calibration:
    """What the inputs of the weights of a model are on some data. Made by `Calibration.collect`.

    `source`: the data, in words; `runs`: how often the model was run to go through it. `weights`: the names of those
    that were observed, in the order in which they are first read; `unobserved`: the others, each with the reason.

    The statistics lie in files and are read when they are asked for; without a cache they go with this object.
    """

    def __init__(self, observed: Observed, feeds: Feeds, store: Store) -> None:
        self.source = feeds.source
        self.runs = feeds.count
        self.unobserved = {each.name: each.reason for each in observed.unobserved}
        self._store = store
        self._observed: dict[str, ObservedWeight] = {}
        for each in observed.weights:
            why = _why_not(each, store)
            if why:
                self.unobserved[each.weight.name] = why
            else:
                self._observed[each.weight.name] = each
        self.weights = tuple(self._observed)

    @classmethod
    def collect(
        cls,
        model: str | os.PathLike[str],
        data: Data,
        *,
        only: Collection[str] | None = None,
        hessian: bool = False,
        cache: str | os.PathLike[str] | None = None,
        memory: int = MEMORY,
        providers: Sequence[str] = CPU,
        progress: Progress | None = None,
    ) -> Self:
        """Run a model on data in onnxruntime and add up what the inputs of its weights are.

        Args:
            model: the path of an ONNX file. Its weights are read where they lie, external data too, never copied.
            data: an .npz with an array for each input, a folder with an .npy for each, "module:function" or an iterable
                that gives dicts of arrays, or "random:SEED:COUNT" for random numbers, which are never taken unasked.
            only: names of the weights to observe; None for all.
            hessian: whether products of features are added up too, for SparseGPT and least-squares repair.
            cache: a folder for the statistics, made if it is not there. What is in it for the same model and data, told
                by their SHA-256, is not computed again, so that work that was stopped goes on where it was.
            memory: bytes that may be taken for values, sums and work on them, beside what onnxruntime takes to run the
                model, and the arrays of an .npz. What does not fit is observed in several runs over the data.
            providers: of onnxruntime, as ("CUDAExecutionProvider", "CPUExecutionProvider").
            progress: told what is done next, how many runs of the model are done, and of how many.

        Raises:
            InvalidOption: the data does not fit the model, is empty or holds NaN; the model does not run on it; or
                `memory` does not do for one weight.
            InvalidModelFile: onnxruntime does not load the model. RuntimeMissing: onnxruntime is not installed.
            PatternMatchesNothing: no weight has a name that `only` holds.
            WriteFailed: the disk is full, or the cache can't be written.
        """
        runner = Runner(ModelFile.open(model), tuple(providers), hessian)
        observed = wanted(runner.file, only)
        jobs = jobs_of(observed.weights)
        tapped = runner.tapped(jobs, shapes=True)
        with folder_beside(pathlib.Path(tempfile.gettempdir()) / "data") as kept:
            feeds = feeds_for(tapped, data, kept)
            store = _store(runner, feeds, cache)
            todo = [job for job in jobs if not store.has(job.observation)]
            shapes = tapped.run(feeds.largest(), feeds.source) if todo else {}
            tapped.close()
            groups = in_groups(todo, shapes, memory, hessian=hessian)
            for number, group in enumerate(groups):
                found = runner.observe(group, feeds, Told(progress, number, len(groups), feeds.count))
                for job, each in zip(group, found, strict=True):
                    store.save(job.observation, *each)
            return cls(observed, feeds, store)

    def view(self, name: str) -> MatrixView:
        """How the stored elements of a weight are matrices, with features in the order of its statistics."""
        return self._named(name).view

    def statistics(self, name: str) -> Statistics:
        """What the inputs of a weight come to, read from its file; those of all its readers, added up."""
        weight = self._named(name)
        parts = [self._store.load(each) for each in weight.observations]
        found = [part.for_groups(weight.view.shape[0]) for part in parts if part is not None]
        return sum(found[1:], start=found[0])

    def _named(self, name: str) -> ObservedWeight:
        if name not in self._observed:
            reason = self.unobserved.get(name, "no weight of the model has that name")
            raise PatternMatchesNothing(f"weight '{name}' was not observed: {reason}")
        return self._observed[name]


def feeds_for(tapped: Tapped, data: Data, folder: pathlib.Path) -> Feeds:
    """Data for a model. Raises as `read_feeds` and `read_part`."""
    inputs = [InputSpec(each.name, each.type, tuple(each.shape)) for each in tapped.inputs]

    def read(each: Data) -> Feeds:
        return read_feeds(each, inputs, lambda feed: _runs(tapped, feed), folder)

    return read_part(data, read) if isinstance(data, str) and data.startswith(PART) else read(data)


def wanted(file: ModelFile, only: Collection[str] | None) -> Observed:
    """The weights that are asked for. Raises `PatternMatchesNothing` for a name that no weight has."""
    observed = observe(file.skeleton, twins(file))
    if only is None:
        return observed
    names = {each.weight.name for each in observed.weights} | {each.name for each in observed.unobserved}
    for name in only:
        if name not in names:
            raise PatternMatchesNothing(f"no weight of the model has the name '{name}'")
    return Observed(
        tuple(each for each in observed.weights if each.weight.name in only),
        tuple(each for each in observed.unobserved if each.name in only),
    )


def _why_not(weight: ObservedWeight, store: Store) -> str:
    """Why the statistics of a weight are of no use; "" if they are."""
    return verdict({store.state(each) for each in weight.observations})


def _store(runner: Runner, feeds: Feeds, cache: str | os.PathLike[str] | None) -> Store:
    """Where statistics lie: in the cache, or in a temporary folder that goes with the store."""
    file = runner.file
    if cache is not None:
        digests = [facts_of(each, hashes=True, compressed=False).sha256 for each in (file.file, *file.data_files())]
        key = " ".join([*map(str, digests), feeds.digest])
        return Store(pathlib.Path(cache), key, hessian=runner.hessian)
    with writing(pathlib.Path(tempfile.gettempdir())):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="oxiprune-"))
    store = Store(folder, "", hessian=runner.hessian)
    weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
    return store


def _runs(tapped: Tapped, feed: Feed) -> bool:
    try:
        tapped.run(feed, "random")
    except InvalidOption:
        return False
    return True
