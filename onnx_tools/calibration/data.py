"""What a model is run on to see the inputs of its weights: real data, checked and read as often as it is needed."""

from __future__ import annotations

import hashlib
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from onnx_tools.temporaries import writing
from onnx_tools.verification.feeds import (
    Feed,
    InputSpec,
    NoRandomInputs,
    fitting,
    one_line,
    random_feeds,
    read_data,
    sliced,
)
from oxiprune_gpu.errors import InvalidOption

Data = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""A path (.npz, folder of .npy), "module:function", "random:SEED:COUNT", or arrays by the names of inputs: all at once
in a dict, or run by run in many."""

BATCH = 16
"""How much of a long first axis is fed at once where the model leaves it open."""

_KINDS = (
    "calibration data is an .npz with an array for each input, a folder with an .npy for each, module:function "
    "that gives dicts of arrays, or random:SEED:COUNT for random numbers"
)
Runs = Callable[[Feed], bool]
"""Asked of a feed: does the model run on it?"""


@dataclass(frozen=True)
class Feeds:
    """Checked feeds that can be read again and again. `_largest`: the number of the first with the most elements.

    `inputs`: what is fed, as it was asked for. `digest`: SHA-256 of all that is fed, in order. `source`: where it is
    from, in words. They hold the arrays of an .npz in memory; those of a folder are mapped; what code gives lies in
    temporary files.
    """

    source: str
    digest: str
    count: int
    inputs: tuple[InputSpec, ...]
    _largest: int
    _again: Callable[[], Iterator[Feed]]

    def __iter__(self) -> Iterator[Feed]:
        return self._again()

    def largest(self) -> Feed:
        """The feed with the most elements."""
        return next(islice(self._again(), self._largest, None))


def read_feeds(data: Data, inputs: Sequence[InputSpec], runs: Runs, folder: pathlib.Path) -> Feeds:
    """Read and check data for a model with these inputs.

    `runs`: told a random feed, says whether the model runs on it; real data is not tried. `folder`: an empty one for
    what code gives, to be there as long as the feeds are read.

    Raises `InvalidOption`, which names the input and what it wants, for data that does not fit, holds NaN, is empty or
    can't be read. Random numbers come for "random:SEED:COUNT" only.
    """
    text = os.fspath(data) if isinstance(data, str | os.PathLike) else ""
    path = pathlib.Path(text)
    if isinstance(data, Mapping):
        arrays = _checked("the data given", data, inputs)
        return _summed("the data given", arrays, inputs)
    if not text:
        return _kept("the data given", data, inputs, folder)
    if text.startswith("random:"):
        return _kept(text, _random(text, inputs, runs), inputs, folder)
    if path.is_dir():
        return _summed(text, _folder(path, inputs), inputs)
    if path.suffix == ".npz" or path.is_file():
        return _summed(text, read_data(path, inputs), inputs)
    if ":" in text:
        return _kept(text, _called(text), inputs, folder)
    raise InvalidOption(f"{text}: no such file; {_KINDS}")


def _folder(path: pathlib.Path, inputs: Sequence[InputSpec]) -> Feed:
    """The arrays of a folder, mapped, by the stems of their names."""
    arrays: Feed = {}
    for file in sorted(path.glob("*.npy")):
        try:
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InvalidOption(f"{file}: not an .npy of a plain array: {one_line(error)}") from None
    way_out = f"Write it with np.save('{path}/{inputs[0].name}.npy', array)" if inputs else ""
    return fitting(path, arrays, inputs, way_out)


def _called(text: str) -> Iterable[Mapping[str, Any]]:
    """What a function gives that is named as module:function."""
    try:
        with working_folder_imported():
            found: Iterable[Mapping[str, Any]] = function_named(text)()
    except Exception as error:  # whatever a user's code raises
        raise InvalidOption(f"{text}: {type(error).__name__}: {one_line(error)}; {_KINDS}") from error
    return found


def function_named(text: str) -> Callable[..., Any]:
    """The function that is named as module:function. Raises whatever importing it raises."""
    module, _, name = text.rpartition(":")
    with working_folder_imported():
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


@contextmanager
def working_folder_imported() -> Iterator[None]:
    """Modules of the working directory are found meanwhile."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _random(text: str, inputs: Sequence[InputSpec], runs: Runs) -> Iterator[Feed]:
    """Random feeds of the first size that the model runs on."""
    try:
        seed, count = (int(part) for part in text.split(":")[1:])
    except ValueError:
        raise InvalidOption(f"{text}: random data is random:SEED:COUNT, as in random:0:128") from None
    if seed < 0 or count < 1:
        raise InvalidOption(f"{text}: the seed is 0 or more, and the count 1 or more")
    try:
        size = next((i for i, feed in enumerate(random_feeds(inputs, seed)) if runs(feed)), None)
        if size is None:
            raise NoRandomInputs("the model runs on none of the sizes that were tried")
        for number in range(count):
            yield from islice(random_feeds(inputs, seed + number), size, size + 1)
    except NoRandomInputs as error:
        raise InvalidOption(f"{text}: could not run on random inputs: {error}; give real data") from None


def _summed(source: str, arrays: Feed, inputs: Sequence[InputSpec]) -> Feeds:
    """Feeds cut out of arrays that stay where they are."""

    def again() -> Iterator[Feed]:
        return sliced(arrays, inputs, BATCH)

    return looked_through(source, again(), again, inputs)


def _kept(source: str, feeds: Any, inputs: Sequence[InputSpec], folder: pathlib.Path) -> Feeds:
    """Feeds that come once, kept in files: each pass must see the same."""
    if not isinstance(feeds, Iterable):
        raise InvalidOption(f"{source}: gives {type(feeds).__name__}, not dicts of arrays; {_KINDS}")
    kept: list[pathlib.Path] = []

    def once() -> Iterator[Feed]:
        for number, feed in enumerate(_given(source, feeds)):
            checked = _checked(f"{source}, item {number}", feed, inputs)
            kept.append(folder / f"{number}.npz")
            arrays: dict[str, Any] = {f"a{i}": array for i, array in enumerate(checked.values())}
            with writing(kept[-1]):
                np.savez(kept[-1], **arrays)
            yield checked

    def again() -> Iterator[Feed]:
        for path in kept:
            with np.load(path) as arrays:
                yield {spec.name: _typed(arrays[f"a{i}"], spec) for i, spec in enumerate(inputs)}

    return looked_through(source, once(), again, inputs)


def _typed(array: Any, spec: InputSpec) -> Any:
    """An array of a file; one of bfloat16 comes as bytes."""
    return array.view(spec.dtype) if array.dtype.kind == "V" else array


def _given(source: str, feeds: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from feeds
    except InvalidOption:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InvalidOption(f"{source}: {type(error).__name__}: {one_line(error)}") from error


def _checked(where: str, feed: Any, inputs: Sequence[InputSpec]) -> Feed:
    if not isinstance(feed, Mapping):
        raise InvalidOption(f"{where}: {type(feed).__name__}, not a dict of arrays by the names of inputs")
    arrays = {str(name): np.asarray(value) for name, value in feed.items()}
    return fitting(where, arrays, inputs, "Give a dict with an array for each input")


def looked_through(
    source: str, feeds: Iterator[Feed], again: Callable[[], Iterator[Feed]], inputs: Sequence[InputSpec]
) -> Feeds:
    """Look through all feeds once: for NaN, for what identifies them, and for the largest. `again`: gives the same.

    Raises `InvalidOption` for NaN, and where there is no feed.
    """
    digest, count, largest, most = hashlib.sha256(), 0, 0, -1
    for feed in feeds:
        for name, array in feed.items():
            _refuse_nan(source, name, array)
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            digest.update(_bytes(array))
        size = sum(array.size for array in feed.values())
        largest, most = (count, size) if size > most else (largest, most)
        count += 1
    if not count:
        raise InvalidOption(f"{source}: empty; at least one input is needed")
    return Feeds(source, digest.hexdigest(), count, tuple(inputs), largest, again)


def _bytes(array: Any) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.kind in "OUS" else np.ascontiguousarray(array).tobytes()


def _refuse_nan(source: str, name: str, array: Any) -> None:
    if array.dtype.kind not in "fV" or array.dtype.names:
        return
    count = int(np.isnan(array).sum())
    if count:
        raise InvalidOption(f"{source}: the array for the input {name!r} holds {count} NaN; take them out")
