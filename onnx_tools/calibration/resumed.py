"""A model that is run again and again, and starts each time where the run before was cut."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_tools.calibration.cuts import Cuts
from onnx_tools.calibration.instrumented import Tapped
from onnx_tools.calibration.observed import Place
from onnx_tools.model_file import ModelFile
from onnx_tools.temporaries import writing
from onnx_tools.verification.feeds import Feed
from onnx_tools.wire import Path

Changed = Mapping[Path, NDArray[Any]]
"""Other values of stored tensors, by their path."""

_SHARE = 4
"""Of what is free on the disk, one part of so many may be taken."""


class Run(Protocol):
    """A model that gives values for feeds, which come in order."""

    def run(self, number: int, feed: Feed, source: str) -> Mapping[Place, Any]:
        """The values for one feed. Raises `InvalidOption` if the model does not run on it."""

    def close(self) -> None:
        """Give back the memory that it takes. No feed is to come."""


@dataclass(frozen=True)
class Whole:
    """A model that is run from its inputs on."""

    tapped: Tapped

    def run(self, number: int, feed: Feed, source: str) -> Mapping[Place, Any]:
        """See `Run.run`."""
        return self.tapped.run(feed, source)

    def close(self) -> None:
        """See `Run.close`."""
        self.tapped.close()


@dataclass(frozen=True)
class Held:
    """Values at a place where all runs were cut, in files, one a feed. `changed`: what had other values then."""

    place: int
    folder: pathlib.Path
    types: Mapping[str, int]
    changed: Changed

    def feed(self, number: int, names: Container[str]) -> Feed:
        """Those values of one feed that have these names."""
        with np.load(self.folder / f"{number}.npz", allow_pickle=False) as arrays:
            return {name: arrays[f"arr_{i}"] for i, name in enumerate(self.types) if name in names}

    def keep(self, number: int, values: Mapping[Place, Any]) -> None:
        """Write the values of one feed. Raises `WriteFailed`."""
        path = self.folder / f"{number}.npz"
        with writing(path):
            np.savez(path, *(values[Place(name)] for name in self.types))


class Resumed:
    """`most`: bytes that the values between two runs may take for one feed; larger ones are computed again.

    Files lie in `folder`, and take at most a quarter of what is free there.
    """

    def __init__(
        self, file: ModelFile, cuts: Cuts, providers: Sequence[str], folder: pathlib.Path, most: int, feeds: int
    ) -> None:
        self._file = file
        self._cuts = cuts
        self._providers = providers
        self._folder = folder
        self._cut = 0
        self._most = most
        self._feeds = feeds
        with writing(folder):
            folder.mkdir()
        self.held: Held | None = None

    def begin(self, places: Sequence[Place], place: int, changed: Changed) -> Run:
        """A run that gives values which nodes in front of `place` make, or read; later ones start there.

        What has changed since the last one must be read by no node in front of `place` in its order; what is, is found,
        and the model is run from its inputs on.
        """
        if self.held is not None and not self._still_true(self.held, changed):
            self.replace(None)
        more = () if self.held is not None and place <= self.held.place else self._cuts.kept(place)
        tapped = self._tapped([*places, *map(Place, more)], changed)
        types = {name: tapped.types[Place(name)] for name in more}
        if None in types.values():
            tapped.close()
            tapped, more = self._tapped(places, changed), ()
        if not more:
            return _Section(self, tapped, self.held, None)
        known = {name: kind for name, kind in types.items() if kind is not None}
        self._cut += 1
        return _Section(self, tapped, self.held, Held(place, self._folder / str(self._cut), known, dict(changed)))

    def fits(self, held: Held, values: Mapping[Place, Any]) -> bool:
        """Whether values of a feed are few enough to be kept of all of them."""
        size = sum(int(values[Place(name)].nbytes) for name in held.types)
        return size <= self._most and size * self._feeds * _SHARE <= shutil.disk_usage(self._folder).free

    def replace(self, held: Held | None) -> None:
        """Start there from now on; from the inputs without it."""
        if self.held is not None:
            shutil.rmtree(self.held.folder, ignore_errors=True)
        self.held = held

    def _still_true(self, held: Held, changed: Changed) -> bool:
        other = (path for path, values in changed.items() if held.changed.get(path) is not values)
        return all(self._cuts.first_use(path) >= held.place for path in other)

    def _tapped(self, places: Sequence[Place], changed: Changed) -> Tapped:
        given = {} if self.held is None else self.held.types
        return Tapped(self._file, places, self._providers, changed=changed, given=given)


class _Section:
    """A run from where the one before was cut to the next cut."""

    def __init__(self, model: Resumed, tapped: Tapped, start: Held | None, end: Held | None) -> None:
        self._model = model
        self._tapped = tapped
        self._start = start
        self._end = end
        self._inputs = {each.name for each in tapped.inputs}

    def run(self, number: int, feed: Feed, source: str) -> Mapping[Place, Any]:
        """See `Run.run`."""
        given = {} if self._start is None else self._start.feed(number, self._inputs)
        values = self._tapped.run({**feed, **given}, source)
        if self._end is not None and number == 0:
            self._open(self._end, values)
        if self._end is not None:
            self._end.keep(number, values)
        return values

    def close(self) -> None:
        """See `Run.close`."""
        self._tapped.close()
        if self._end is not None:
            self._model.replace(self._end)

    def _open(self, end: Held, values: Mapping[Place, Any]) -> None:
        if not self._model.fits(end, values):
            self._end = None
            return
        with writing(end.folder):
            end.folder.mkdir()
