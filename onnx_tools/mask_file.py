"""Masks of weights as an artifact: which elements are kept, in an .npz file that numpy loads.

The file holds one entry a weight, `NAME:64x32x3x3` (a name that is unprintable or longer than 200 letters is replaced
by `:NUMBER`): a 1-D uint8 array, the mask in row-major order as `numpy.packbits(mask, bitorder="little")` packs it, and
as the bits of a `PrunePlan` lie. The first element is the lowest bit of the first byte, 1 means kept, and the last byte
is filled with zeros. The entry `oxiprune` is a text in JSON: for each mask its weight's whole name, shape, entry, and
how many elements it keeps; and the names of the weights that were left dense on purpose. Equal masks give equal bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_tools.errors import InvalidMasks
from onnx_tools.temporaries import Temporary, sync_folder, writing

Mask = NDArray[np.bool_]

_INDEX = "oxiprune"
_MOST_INDEX = 1 << 28
_MOST_LETTERS = 200
_SLAB = 1 << 22
"""Elements written at a time; a multiple of 8."""


@dataclass(frozen=True)
class Entry:
    """One mask: its shape, how it is read, and how many elements it keeps, where that is known without reading."""

    shape: tuple[int, ...]
    read: Callable[[], Mask]
    kept: int | None = None


class Masks(Mapping[str, Mask]):
    """Masks by the name of their weight, True where an element is kept; those of a file are read when asked for.

    `dense`: weights that were left dense on purpose. `label`: what errors call the masks.
    """

    def __init__(self, entries: Mapping[str, Entry], dense: Iterable[str], label: str) -> None:
        self._entries = entries
        self.dense = frozenset(dense)
        self.label = label

    @classmethod
    def of(cls, masks: Mapping[str, Any] | str | os.PathLike[str]) -> Masks:
        """The masks of a file, or of a mapping from names to arrays of bool."""
        if isinstance(masks, Masks):
            return masks
        if isinstance(masks, str | os.PathLike):
            return _opened(pathlib.Path(masks))
        arrays = {name: _checked(name, mask) for name, mask in masks.items()}
        entries = {
            name: Entry(mask.shape, partial(np.asarray, mask), int(np.count_nonzero(mask)))
            for name, mask in arrays.items()
        }
        return cls(entries, (), "the mapping")

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a mask, without reading it."""
        return self._entries[name].shape

    def kept(self, name: str) -> int:
        """How many elements a mask keeps; it is read only where nobody has counted them."""
        kept = self._entries[name].kept
        return int(np.count_nonzero(self[name])) if kept is None else kept

    @property
    def sparsity(self) -> float:
        """The fraction of elements that all masks together prune, below 1; 0 without masks."""
        total = sum(math.prod(entry.shape) for entry in self._entries.values())
        return below_one(total - sum(map(self.kept, self)), total)

    def __getitem__(self, name: str) -> Mask:
        return self._entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def below_one(part: int, total: int) -> float:
    """The fraction, as a sparsity: the largest number below 1 for the whole."""
    return min(part / total, math.nextafter(1.0, 0.0)) if total else 0.0


def load_masks(path: str | os.PathLike[str]) -> dict[str, Mask]:
    """All masks of a file: a bool array of the weight's shape by its name, True where an element is kept.

    Raises `InvalidMasks` if the file can't be read or is damaged. `Masks.of(path)` reads one mask at a time.
    """
    return dict(Masks.of(path))


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Any], dense: Iterable[str] = ()) -> None:
    """Write masks to a file, which may exist; whoever reads meanwhile sees the old file or the new one, whole.

    Args:
        path: the file.
        masks: arrays of bool by name of weight, True where an element is kept; `masks_of` gives those of a model.
        dense: names of more weights that are to stay dense, so that `apply_masks` does not miss masks for them.

    Raises:
        InvalidMasks: a mask is no array of bool.
        WriteFailed: the system refuses.
    """
    given = Masks.of(masks)
    with _Writer(path) as writer:
        for name, mask in given.items():
            writer.add(name, mask)
        writer.commit({*dense, *given.dense})


class _Writer:
    """Writes masks one weight at a time, as a context manager; nothing is at `path` before `commit`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._target = pathlib.Path(path).resolve()
        self._temporary = Temporary(self._target, like=self._target)
        self._index: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with writing(self._target):
            self._temporary.create()
        self._stream = os.fdopen(os.dup(self._temporary.descriptor), "wb")
        self._zip = zipfile.ZipFile(self._stream, "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in (self._zip, self._stream):
            with contextlib.suppress(OSError):  # what is given up, a full disk may refuse to end
                file.close()
        self._temporary.discard()

    def add(self, name: str, mask: Mask) -> None:
        """Add the mask of a weight."""
        entry = _entry_name(name, mask.shape, len(self._index))
        flat = np.ascontiguousarray(mask).reshape(-1)
        with writing(self._target), self._entry(entry) as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": ((flat.size + 7) // 8,)}
            np.lib.format.write_array_header_1_0(out, header)
            for start in range(0, flat.size, _SLAB):
                out.write(np.packbits(flat[start : start + _SLAB], bitorder="little").tobytes())
        kept = int(np.count_nonzero(flat))
        self._index.append({"name": name, "shape": list(mask.shape), "entry": entry, "kept": kept})

    def commit(self, dense: Iterable[str] = ()) -> None:
        """Write the index, flush, and put the file in its place."""
        index = json.dumps({"version": 1, "masks": self._index, "dense": sorted(dense)}, separators=(",", ":"))
        with writing(self._target):
            with self._entry(_INDEX) as out:
                np.lib.format.write_array(out, np.array(index.encode()))
            self._zip.close()
            self._stream.flush()
            self._temporary.finish()
            os.replace(self._temporary.path, self._target)
        sync_folder(self._target.parent)

    def _entry(self, name: str) -> IO[bytes]:
        return self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _entry_name(name: str, shape: tuple[int, ...], number: int) -> str:
    """A name of its own for each weight, that zip archives of all systems can hold."""
    plain = name.isprintable() and 0 < len(name) <= _MOST_LETTERS and "\\" not in name and not name.startswith(":")
    return f"{name if plain else f':{number}'}:{'x'.join(map(str, shape))}"


def _checked(name: str, mask: Any) -> Mask:
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise InvalidMasks(f"mask of weight '{name}' has dtype {array.dtype}: masks are arrays of bool, True = kept")
    return array


def _opened(path: pathlib.Path) -> Masks:
    try:
        with contextlib.ExitStack() as until_read:
            archive = until_read.enter_context(zipfile.ZipFile(path))
            entries, dense = _contents(archive, path.name)
            until_read.pop_all()  # one archive for all reads: opening it again lists all of its entries again
    except OSError as error:
        raise InvalidMasks(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # numpy, zipfile, zlib and json each raise their own for damaged files
        raise InvalidMasks(f"{path}: is no file of masks, as `prune --save-masks` writes it: {error}") from None
    return Masks(entries, dense, path.name)


def _contents(archive: zipfile.ZipFile, label: str) -> tuple[dict[str, Entry], list[str]]:
    """The masks of an archive, and the names of the weights that they leave dense."""
    index = _read_index(archive)
    entries = {
        _text(item["name"]): _entry_of(archive, item["entry"], tuple(item["shape"]), item["kept"], item["name"], label)
        for item in index["masks"]
    }
    if len(entries) != len(index["masks"]):
        raise ValueError("a name is given twice")
    return entries, [_text(name) for name in index["dense"]]


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the name {name!r:.40} of a weight is no text")
    return name


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no entry {name}") from None


def _read_index(archive: zipfile.ZipFile) -> Any:
    info = _member(archive, _INDEX)
    if info.file_size > _MOST_INDEX:
        raise ValueError("its index is too long")
    with archive.open(info) as stream:
        text = np.lib.format.read_array(stream, allow_pickle=False)
    index = json.loads(text.item())
    if index["version"] != 1:
        raise ValueError(f"version {index['version']} is not known")
    return index


def _entry_of(archive: zipfile.ZipFile, entry: str, shape: tuple[int, ...], kept: int, name: str, label: str) -> Entry:
    info = _member(archive, entry)
    if not all(type(size) is int and size >= 0 for size in (*shape, kept)):
        raise ValueError(f"shape {list(shape)} and count {kept} of mask '{name}' are impossible")

    def read() -> Mask:
        try:
            return _unpacked(archive, info, shape, kept)
        except Exception as error:  # as in _opened
            raise InvalidMasks(f"{label}: the mask of weight '{name}' is damaged: {error}") from None

    return Entry(shape, read, kept)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...], kept: int) -> Mask:
    size = math.prod(shape)
    length = (size + 7) // 8
    with archive.open(info) as stream:
        np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream)
        packed = stream.read(length + 1)
    if header != ((length,), False, np.dtype(np.uint8)) or len(packed) != length:
        raise ValueError(f"{len(packed)} bytes do not fit shape {list(shape)}")
    mask = np.unpackbits(np.frombuffer(packed, np.uint8), count=size, bitorder="little").view(np.bool_).reshape(shape)
    if np.count_nonzero(mask) != kept:
        raise ValueError(f"it keeps {np.count_nonzero(mask)} elements, not {kept}")
    return mask
