"""What a model is fed with to compare its outputs: a user's .npz, or seeded random numbers."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_tools.errors import OnnxToolsError
from onnx_tools.temporaries import plain_name
from oxiprune_gpu.errors import InvalidOption

Feed = dict[str, NDArray[Any]]
"""Arrays by the names of inputs, for one run."""

LONGEST_BATCH = 64
"""How much of a long first axis is fed at once where the model leaves it open."""

_MOST_RANDOM_ELEMENTS = 1 << 27
_RANDOM_SIZES = (16, 64, 224, 512)
"""Tried for open dimensions where a model does not run with 1; 512 are a common window of sound."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    **{
        f"tensor({name})": np.dtype(name)
        for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    },
}


class NoRandomInputs(OnnxToolsError):
    """An input of a kind that random numbers can't be made for."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input as onnxruntime tells it: its type, like "tensor(float)", and its dimensions, named or None where open.

    No dimensions: a scalar, or nothing is known.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type of its elements; None for text and for what is no tensor."""
        return _DTYPES.get(self.type)

    def __str__(self) -> str:
        """The kind of array it wants."""
        kind = self.type if self.dtype is None else self.dtype.name
        return f"{kind} of shape ({', '.join('?' if size is None else str(size) for size in self.shape)})"


def read_data(path: pathlib.Path, inputs: Sequence[InputSpec]) -> Feed:
    """Read an .npz with an array for each input; other arrays in it, like labels, are left out.

    Raises `InvalidOption`, naming the input and what it wants, where the arrays do not fit.
    """
    return fitting(path, _load(pathlib.Path(path)), inputs, f"Make the file with {_savez(inputs)}")


def fitting(where: object, arrays: Mapping[str, Any], inputs: Sequence[InputSpec], way_out: str) -> Feed:
    """The arrays that go with the inputs; what else is there, such as labels, is left out. Raises as `read_data`.

    `where` they are from and `way_out`, what to do where one is missing, are for errors.
    """
    for spec in inputs:
        if spec.name not in arrays:
            there = ", ".join(repr(name) for name in sorted(map(str, arrays))) or "none"
            raise InvalidOption(
                f"{where}: no array for the input {spec.name!r}, which wants {spec}; there are: {there}. {way_out}"
            )
        _check(where, spec, arrays[spec.name])
    return {spec.name: arrays[spec.name] for spec in inputs}


def _savez(inputs: Sequence[InputSpec]) -> str:
    """The call of numpy that makes a file with an array for each input."""
    names = [spec.name for spec in inputs]
    if all(name.isidentifier() for name in names):
        return f"np.savez('inputs.npz', {', '.join(f'{name}=array' for name in names)})"
    return f"np.savez('inputs.npz', **{{{', '.join(f'{name!r}: array' for name in names)}}})"


def _load(path: pathlib.Path) -> Feed:
    try:
        with path.open("rb") as file:  # numpy leaves it open where the archive is damaged
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InvalidOption(f"{path}: a single array; an .npz with an array for each input is needed")
            with loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except InvalidOption:
        raise
    except OSError as error:
        raise InvalidOption(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy, zipfile and zlib each raise their own for damaged files
        raise InvalidOption(f"{path}: not an .npz of plain arrays: {one_line(error)}") from None


def _check(path: object, spec: InputSpec, array: NDArray[Any]) -> None:
    found = f"{array.dtype.name} of shape {array.shape}"
    if array.size == 0 and 0 not in spec.shape:
        raise InvalidOption(f"{path}: the array for the input {spec.name!r} is empty: {found}")
    if spec.dtype is None and spec.type != "tensor(string)":
        raise InvalidOption(f"{path}: the input {spec.name!r} wants {spec}, which an .npz cannot hold")
    matches = array.dtype.kind in "US" if spec.dtype is None else array.dtype == spec.dtype
    if not (matches and _fits(spec, array.shape)):
        more = (
            ", or more along a fixed first axis, whole times" if spec.shape and isinstance(spec.shape[0], int) else ""
        )
        raise InvalidOption(f"{path}: the input {spec.name!r} wants {spec}{more}; the array is {found}")


def _fits(spec: InputSpec, shape: tuple[int, ...]) -> bool:
    if not spec.shape:
        return True
    if len(shape) != len(spec.shape):
        return False
    rest = zip(spec.shape[1:], shape[1:], strict=True)
    return _repeats(spec, shape) is not None and all(not isinstance(want, int) or want == size for want, size in rest)


def _repeats(spec: InputSpec, shape: tuple[int, ...]) -> int | None:
    """How often a fixed first dimension goes into the array's; 1 for open ones, None if it does not."""
    first = spec.shape[0] if spec.shape else None
    if not isinstance(first, int) or shape[0] == first:
        return 1
    return shape[0] // first if first > 0 and shape[0] > 0 and shape[0] % first == 0 else None


def sliced(data: Mapping[str, NDArray[Any]], inputs: Sequence[InputSpec], batch: int = LONGEST_BATCH) -> Iterator[Feed]:
    """Cut `data`, which fits the inputs, along the first axis into the feeds of single runs.

    A fixed first dimension is fed in slices of that size, and what has just that size is fed to each of them. Open
    ones are cut in batches of `batch` where all inputs but scalars have the same length there; else all is fed at once.
    """
    repeats = {_repeats(spec, data[spec.name].shape) or 1 for spec in inputs if data[spec.name].ndim} - {1}
    if len(repeats) > 1:
        raise InvalidOption(f"the arrays hold different numbers of batches: {sorted(repeats)}")
    if repeats:
        count = repeats.pop()
        for index in range(count):
            yield {spec.name: _part(spec, data[spec.name], index, count) for spec in inputs}
        return
    lengths = {data[spec.name].shape[0] for spec in inputs if data[spec.name].ndim}
    is_open = all(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs if data[spec.name].ndim)
    length = lengths.pop() if len(lengths) == 1 and is_open else 0
    if length <= batch:
        yield dict(data)
    for start in range(0, length if length > batch else 0, batch):
        yield {name: array[start : start + batch] if array.ndim else array for name, array in data.items()}


def _part(spec: InputSpec, array: NDArray[Any], index: int, count: int) -> NDArray[Any]:
    fixed = bool(spec.shape) and isinstance(spec.shape[0], int)
    if array.ndim == 0 or (_repeats(spec, array.shape) == 1 if fixed else array.shape[0] != count):
        return array
    size = array.shape[0] // count
    return array[index * size : (index + 1) * size]


def random_feeds(inputs: Sequence[InputSpec], seed: int) -> Iterator[Feed]:
    """Yield random feeds of several sizes, to be tried until one runs: open dimensions are 1 first.

    A named dimension has the same size everywhere. Floats are standard normal, integers 0 or 1. Raises
    `NoRandomInputs` for inputs that are text or no tensors, or too large.
    """
    for spec in inputs:
        if spec.dtype is None:
            raise NoRandomInputs(f"the input {spec.name!r} wants {spec}")
    yield _random_feed(inputs, seed, 1, False)
    if any(not isinstance(size, int) for spec in inputs for size in spec.shape):
        for size in _RANDOM_SIZES:
            for only_last in (True, False):
                yield _random_feed(inputs, seed, size, only_last)


def _random_feed(inputs: Sequence[InputSpec], seed: int, size: int, only_last: bool) -> Feed:
    """Open dimensions become `size`, but 1 on the first axis, and on all but the last if `only_last`."""
    random = np.random.default_rng(seed)
    named: dict[str, int] = {}
    feed: Feed = {}
    for spec in inputs:
        shape = []
        for axis, wanted in enumerate(spec.shape):
            open_size = 1 if axis == 0 or (only_last and axis < len(spec.shape) - 1) else size
            if isinstance(wanted, str):
                open_size = named.setdefault(wanted, open_size)
            shape.append(wanted if isinstance(wanted, int) else open_size)
        feed[spec.name] = _random_array(spec, shape, random)
    return feed


def _random_array(spec: InputSpec, shape: list[int], random: np.random.Generator) -> NDArray[Any]:
    dtype = spec.dtype
    assert dtype is not None
    if min(shape, default=1) < 0 or len(shape) > 64 or math.prod(shape) > _MOST_RANDOM_ELEMENTS:
        raise NoRandomInputs(f"the input {spec.name!r} is too large: {spec}")
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape, np.float32).astype(dtype)


def one_line(error: BaseException, *files: pathlib.Path) -> str:
    """The message of an error on one line, cut to a readable length; temporary ones of `files` as people know them."""
    text = str(error)
    for file in files:
        text = text.replace(str(file), plain_name(file))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."
