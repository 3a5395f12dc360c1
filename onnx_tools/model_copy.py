"""A model being rewritten: temporary copies, changed in place, and one commit.

Everything is written to temporary files in the output's folder and flushed to the disk. The rename of the model file
is the only commit: data files lie under names that nothing refers to before it. So whoever is killed, at any moment,
leaves the old model or the new one, whole. What may be left over, and can be deleted, are `.*.oxiprune-tmp` files and
data files beside the model that it doesn't use.

A name that was free is taken only if it still is, and nothing is committed if the input changed since it was read.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

from onnx_tools.errors import InvalidModelFile, OnnxToolsError, OutputRefused
from onnx_tools.file_blocks import FileBlocks, contents, write_at
from onnx_tools.model_file import ModelFile, dtype_of, iter_tensors, serialised_for, tensor_at
from onnx_tools.partial_copy import CopiedBlocks, PartialCopy
from onnx_tools.temporaries import (
    Stamp,
    Temporary,
    delete,
    finishing,
    folder_beside,
    overwrite,
    stamp_of,
    sync_folder,
    write_rope,
    writing,
)
from onnx_tools.wire import Edit, FileSpan, Path, Records, Rope, Span, join, rewrite, rope_length

_LONGEST_TAIL = 1 << 20
"""The longest tail of a file that is moved inside it, in memory."""

_Names = dict[pathlib.Path, pathlib.Path]
"""Data files of the input, each with the name that its copy gets."""

Written = Callable[[Mapping[pathlib.Path, str]], Rope]
"""Gives whole records of the model, when told what each data file of the input is called in the new model."""


@dataclass(frozen=True, slots=True)
class CommittedFiles:
    """What a commit left on the disk."""

    model: pathlib.Path
    data: tuple[pathlib.Path, ...]
    """The external data files that the new model uses, in the order of first use in the old one."""
    unused: frozenset[pathlib.Path] = frozenset()
    """Those of the old model that no new one stands for."""


class ModelCopy:
    """A copy of `model` that is changed and then committed, as a context manager.

    `output` is the new model file, or None to replace the model itself. `force` permits to overwrite an existing
    output. `delete_old_data` deletes, after an in-place commit and as far as the system lets us, the data files that
    the commit has put new ones in the place of; other models may share them, so it is off by default.

    Leaving the block without `commit` removes every temporary and changes nothing.

    External data goes to `OUT.data` (of several files: `OUT.data.0`, `OUT.data.1`, ...) with `output`. In place, each
    changed data file gets a fresh name, `MODEL.data` or `MODEL.1.data` and so on, and unchanged ones stay.

    In place, a model given by a symbolic link is changed where the link leads, and its new data lies beside that file.
    If old data was found beside the link, as in a Hugging Face cache, all of it gets fresh names, and links to these
    beside the link, so that the model still loads by both. The link to deleted old data stays, leading nowhere.

    A file that gives a singular message twice (`ModelFile.regular` is False) can't be patched: if anything of it
    changes, protobuf serialises the whole model anew.
    """

    def __init__(
        self,
        model: ModelFile,
        output: pathlib.Path | None,
        *,
        force: bool = False,
        delete_old_data: bool = False,
    ) -> None:
        self._model = model
        self._output = output
        self._force = force
        self._delete_old_data = delete_old_data
        self._target = model.file
        self._in_place = True
        self._data_files: tuple[pathlib.Path, ...] = ()
        self._temporaries: list[Temporary] = []
        self._copies: dict[pathlib.Path, PartialCopy] = {}
        self._patched: set[Path] = set()
        self._replaced: dict[Path, onnx.TensorProto] = {}
        self._metadata: dict[str, str] = {}
        self._records: dict[Path, Written] = {}
        self._inserted: dict[Path, list[Written]] = {}
        self._data_ropes: dict[pathlib.Path, Rope] = {}
        self._moved: dict[Path, int] = {}
        self._unused: set[pathlib.Path] = set()
        self._spool: Temporary | None = None
        self._placed: list[pathlib.Path] = []
        self._first: Temporary | None = None
        self._stamps: dict[pathlib.Path, Stamp | None] = {}
        self._open = False

    def __enter__(self) -> Self:
        """Check the output. Raises `OutputRefused` or `InvalidExternalData`; nothing is written yet."""
        self._data_files = self._model.data_files()
        self._stamps = {self._model.file: self._model.stamp, **{file: stamp_of(file) for file in self._data_files}}
        if self._output is not None:
            with writing(self._output):
                self._target = _resolved(self._output)
                self._in_place = False
                self._check_output()
        if self._target.exists():
            _refuse_read_only(self._target)
        if self._data_files:
            _refuse_odd_name(self._target)
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if self._first is None or not self._first.is_at(self._target):
            delete(self._placed)
        for copy in self._copies.values():
            copy.close()
        for temporary in self._temporaries:
            temporary.discard()

    def blocks(
        self, path: Path, shape: tuple[int, ...] | None = None, dtype: np.dtype[Any] | None = None
    ) -> FileBlocks:
        """Return the tensor at `path`, which has a `ModelFile.location`, to be read and changed in the copy.

        `shape` and `dtype` are the tensor's own unless given; they must take the same bytes. Raises `WriteFailed` if
        the copy cannot be written, `ValueError` for a tensor without location.
        """
        self._check_open(path)
        tensor = tensor_at(self._model.skeleton, path)
        location = self._model.location(path, tensor)
        shape = tuple(tensor.dims) if shape is None else shape
        dtype = dtype_of(tensor) if dtype is None else dtype
        if location is None or path in self._replaced:
            raise ValueError(f"tensor {tensor.name!r} has no bytes of its own in the copy; use replace_tensor")
        if dtype is None or math.prod(shape) * dtype.itemsize != location.length:
            raise ValueError(f"tensor {tensor.name!r}: {dtype} of shape {shape} does not take {location.length} bytes")
        self._patched.add(path)
        return CopiedBlocks(self._begun(location.file), location.offset, shape, dtype)

    def replace_tensor(self, path: Path, tensor: onnx.TensorProto) -> None:
        """Put `tensor`, whose values are inside it, in the place of the one at `path` when committing."""
        self._check_open(path)
        tensor_at(self._model.skeleton, path)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or path in self._patched:
            raise ValueError(f"tensor {tensor.name!r} is external, or is patched already")
        self._replaced[path] = tensor

    def replace_record(self, path: Path, written: Written) -> None:
        """Put records in the place of the message at `path` when committing; nothing else of it may be changed."""
        self._check_open(path)
        self._records[path] = written

    def insert_records(self, path: Path, written: Written) -> None:
        """Put records in front of the message at `path` when committing, after those put there before."""
        self._check_open(path)
        self._inserted.setdefault(path, []).append(written)

    def rearrange_data(self, file: pathlib.Path, rope: Rope, offsets: Mapping[Path, int]) -> None:
        """Make the copy of a data file, which is not patched, from `rope`, whose spans lie in it.

        `offsets`: where the tensors lie that have moved in it.
        """
        self._check_open(())
        self._data_ropes[file] = rope
        self._moved |= offsets

    def leave_out(self, file: pathlib.Path) -> None:
        """Copy a data file no more: nothing in the new model lies in it."""
        self._check_open(())
        self._unused.add(file)

    def store(self, data: memoryview) -> FileSpan:
        """Keep bytes that a rope can refer to, in a temporary file: they may be more than memory holds."""
        self._check_open(())
        with writing(self._target):
            if self._spool is None:
                self._spool = self._temporary(self._target, self._model.file)
            descriptor = self._spool.descriptor
            span = FileSpan(descriptor, os.fstat(descriptor).st_size, data.nbytes)
            write_at(descriptor, data.cast("B"), span.offset)
        return span

    def set_metadata(self, key: str, text: str) -> None:
        """Append the metadata entry `key` when committing, and cut those of that key that are there."""
        self._check_open(())
        self._metadata[key] = text

    def commit(self, check: Callable[[pathlib.Path], None] | None = None) -> CommittedFiles:
        """Make the copy the model.

        Raises `WriteFailed`, `OutputRefused` if somebody took the name of the output meanwhile, or `InvalidModelFile`
        if somebody changed the input; and then nothing was changed.

        `check` is called with the finished copy, which loads as it is, before it gets its name; what it raises comes
        out of here, and then nothing was changed either.
        """
        self._check_open(())
        self._open = False
        with writing(self._target):
            return self._commit(check)

    def _check_open(self, path: Path) -> None:
        if not self._open:
            raise ValueError(f"the copy is not open, or committed: {path}")

    def _check_output(self) -> None:
        target = self._target
        if not target.parent.is_dir():
            raise OutputRefused(f"{target}: the folder {target.parent} does not exist; create it first")
        if target.exists():
            self._check_overwriting(target)
        owned = _data_files_of(target) if target.exists() else set()
        for name in self._output_names().values():
            if os.path.lexists(name) and (name not in owned or self._is_input(name)):
                raise _not_ours(name, is_input=self._is_input(name))

    def _check_overwriting(self, target: pathlib.Path) -> None:
        if not target.is_file():
            raise OutputRefused(f"{target}: not a file; choose another output name")
        if any(target.samefile(file) for file in self._data_files):
            raise OutputRefused(f"{target}: holds the weights of the input; choose another output name")
        if self._is_input(target):
            raise OutputRefused(f"{target}: is the input; choose another output name; only --in-place replaces it")
        if not self._force:
            raise OutputRefused(f"{target}: exists; choose another output name, or overwrite it with --force")

    def _is_input(self, path: pathlib.Path) -> bool:
        return path.exists() and any(path.samefile(file) for file in (self._model.file, *self._data_files))

    def _output_names(self) -> _Names:
        """Names of the data files beside `output`."""
        base = f"{self._target.name}.data"
        if len(self._data_files) == 1:
            return {self._data_files[0]: self._target.with_name(base)}
        return {file: self._target.with_name(f"{base}.{index}") for index, file in enumerate(self._data_files)}

    def _fresh_names(self, files: list[pathlib.Path]) -> _Names:
        """Names beside the target that nothing has yet."""
        names: _Names = {}
        number = 0
        for file in files:
            while any(
                os.path.lexists(folder / _numbered(self._target.name, number))
                for folder in (self._target.parent, self._model.path.parent)
            ):
                number += 1
            name = self._target.with_name(_numbered(self._target.name, number))
            names[file] = name
            number += 1
        return names

    def _temporary(self, like: pathlib.Path, source: pathlib.Path) -> Temporary:
        """Create a temporary file. It takes over owner and permissions of the file `like`, if there is one.

        If not, it is as private as `source`, the file of the input that its content is made from.
        """
        # As private as the input, but ours to write: a read-only output would refuse the next run.
        temporary = Temporary(self._target, like, source.stat().st_mode | stat.S_IWUSR)
        self._temporaries.append(temporary)  # before it exists: an interrupt must not leave it behind
        temporary.create()
        return temporary

    def _begun(self, source: pathlib.Path) -> PartialCopy:
        """Return the copy of a file of the input, beginning it when first asked."""
        if source not in self._copies:
            is_model = source == self._model.file
            like = source if self._in_place else self._target if is_model else self._output_names()[source]
            if stamp_of(source) != self._stamps[source]:
                raise _changed(source)
            with writing(self._target):
                self._copies[source] = PartialCopy(source, self._temporary(like, source))
        return self._copies[source]

    def _copy_of(self, source: pathlib.Path) -> Temporary:
        """Return the copy of a file of the input once all of it is copied."""
        copy = self._begun(source)
        with writing(self._target):
            stamp = copy.complete(self._data_ropes.get(source))
        if stamp != self._stamps[source]:
            raise _changed(source)
        return copy.temporary

    def _commit(self, check: Callable[[pathlib.Path], None] | None) -> CommittedFiles:
        names = {file: name for file, name in self._names().items() if file not in self._unused}
        interim = self._interim(names)
        copies = {source: self._copy_of(source) for source in names}
        self._first = self._write_model(interim, reuse=interim == names)
        second = None if interim == names else self._write_model(names, reuse=False)
        with finishing([self._first, *copies.values(), *([] if second is None else [second])]):
            for source, name in interim.items():
                self._place(copies[source], name)
            if check is not None:
                check(self._first.path)
        for folder in {self._target.parent, self._model.path.parent}:
            sync_folder(folder)
        self._take_name(self._first)
        sync_folder(self._target.parent)
        if second is not None:
            names = self._move_data(interim, names, second)
        if self._in_place and self._delete_old_data:
            delete([*names, *self._unused])
        data = tuple(names.get(file, file) for file in self._data_files if file not in self._unused)
        return CommittedFiles(self._target, data, frozenset(self._unused))

    def _names(self) -> _Names:
        if not self._in_place:
            return self._output_names()
        linked = self._model.path != self._model.file
        changed = self._copies.keys() | self._data_ropes.keys()
        return self._fresh_names([file for file in self._data_files if linked or file in changed])

    def _interim(self, names: _Names) -> _Names:
        """Names for the first step: a data file of the model that is overwritten must stay until the commit."""
        taken = [source for source, name in names.items() if os.path.lexists(name)]
        return {**names, **self._fresh_names(taken)}

    def _write_model(self, names: _Names, *, reuse: bool) -> Temporary:
        """Write the model with all edits into a temporary, with `reuse` into the copy itself where that is cheap."""
        copy = self._copy_of(self._model.file)
        edits, insertions = self._edits(names), self._insertions(names)
        if not self._model.regular and (edits or insertions or self._metadata):
            overwrite(copy.descriptor, self._model.skeleton.SerializeToString())
        size = os.fstat(copy.descriptor).st_size
        with contents(copy.descriptor, size) as data:
            rope = rewrite(data, edits, insertions) + self._metadata_entries()
            kept = rope[0].length if isinstance(rope[0], Span) and rope[0].offset == 0 else 0
            tail = rope[1:] if kept else rope
            if reuse and self._spool is None and rope_length(tail) <= _LONGEST_TAIL:
                tail_bytes = join(data, tail)
                rope = []
        if not rope:
            write_at(copy.descriptor, memoryview(tail_bytes), kept)
            os.truncate(copy.descriptor, kept + len(tail_bytes))
            return copy
        result = self._temporary(self._target, self._model.file)
        write_rope(copy.descriptor, rope, result.descriptor)
        return result

    def _edits(self, names: _Names) -> dict[Path, Edit]:
        """Return what changes in the model besides payloads, insertions and appended metadata."""
        edits: dict[Path, Edit] = {p: serialised_for(self._model.skeleton, p, t) for p, t in self._replaced.items()}
        edits |= {path: Records(written(_texts(names))) for path, written in self._records.items()}
        for index, entry in enumerate(self._model.skeleton.metadata_props):
            if entry.key in self._metadata:
                edits[("metadata_props", index),] = None
        for path, tensor in iter_tensors(self._model.skeleton) if names else ():
            file = self._model.data_file(tensor)
            if file in names and not any(path[:end] in edits for end in range(1, len(path) + 1)):
                edits |= _relocated(path, tensor, names[file].name, self._moved.get(path))
        return edits

    def _insertions(self, names: _Names) -> dict[Path, Rope]:
        texts = _texts(names)
        return {path: [p for one in written for p in one(texts)] for path, written in self._inserted.items()}

    def _metadata_entries(self) -> Rope:
        """The new entries as a piece of a ModelProto; protobuf lets a repeated field go on at the end of a file."""
        addition = onnx.ModelProto()
        for key, text in self._metadata.items():
            addition.metadata_props.add(key=key, value=text)
        return [addition.SerializeToString()]

    def _place(self, temporary: Temporary, name: pathlib.Path) -> None:
        """Give a data file its final name, which must be free; and a link beside the model's, if it was found there.

        Not by replacing an empty file of that name: some file systems write a file to the disk before it replaces one.
        """
        try:
            temporary.claim(name)
            self._placed.append(name)
            if self._in_place and self._model.path != self._model.file:
                link = self._model.path.with_name(name.name)
                link.symlink_to(os.path.relpath(name, link.parent.resolve()))
                self._placed.append(link)
        except FileExistsError:
            raise OutputRefused(f"{name}: was created by someone else just now; start again") from None

    def _take_name(self, finished: Temporary) -> None:
        """The commit, unless the input changed, or an output that may not be overwritten came to be."""
        for file, stamp in self._stamps.items():
            if stamp_of(file) != stamp:
                raise _changed(file)
        if self._in_place or self._force:
            os.replace(finished.path, self._target)
            return
        try:
            finished.claim(self._target)
        except FileExistsError:
            raise OutputRefused(
                f"{self._target}: was created by someone else meanwhile; choose another output name, or overwrite it "
                "by force"
            ) from None

    def _move_data(self, interim: _Names, names: _Names, second: Temporary) -> _Names:
        """After the commit: give data its lasting names, in steps of which each leaves a whole model.

        The old model's data, which nothing uses any more, is replaced by a copy of the new; the model that uses that
        replaces the first; the interim data goes. No hard link, since onnx.load refuses data that has two names. If
        the system refuses a step, the interim names are the lasting ones, and the old model's data goes.
        """
        moved = [source for source, name in names.items() if interim[source] != name]
        try:
            finished = {source: self._copy_again(interim[source], names[source]) for source in moved}
            for source, temporary in finished.items():
                os.replace(temporary.path, names[source])
            sync_folder(self._target.parent)
            os.replace(second.path, self._target)
        except (OSError, OnnxToolsError):
            pass  # the committed model stands
        finally:
            used, unused = (names, interim) if second.is_at(self._target) else (interim, names)
            sync_folder(self._target.parent)
            delete([unused[source] for source in moved])
        return used

    def _copy_again(self, source: pathlib.Path, like: pathlib.Path) -> Temporary:
        """Copy a data file that was placed already, for the place of `like`, and flush it."""
        temporary = self._temporary(like, source)
        with contextlib.closing(PartialCopy(source, temporary)) as copy:
            copy.complete()
        temporary.finish()
        return temporary


@contextlib.contextmanager
def first_step(model: ModelFile, output: pathlib.Path, *, force: bool) -> Iterator[pathlib.Path]:
    """Where the first of two steps on the way from `model` to `output` writes: a file beside it, gone with the block.

    What would refuse the output after the work, refuses it now.
    """
    with ModelCopy(model, output, force=force):
        pass
    with folder_beside(output) as folder:
        yield folder / output.name


def _changed(file: pathlib.Path) -> InvalidModelFile:
    return InvalidModelFile(f"{file}: changed since it was read; start again")


def _not_ours(name: pathlib.Path, *, is_input: bool) -> OutputRefused:
    if is_input:
        return OutputRefused(f"{name}: not ours to overwrite: the input uses it; choose another output name")
    advice = "if an interrupted run left it, delete it, otherwise choose another output name"
    return OutputRefused(f"{name}: not ours to overwrite: no output of this name uses it; {advice}")


def _resolved(output: pathlib.Path) -> pathlib.Path:
    try:
        return pathlib.Path(output).resolve()
    except (RuntimeError, ValueError) as error:
        raise OutputRefused(f"{output}: not a usable file name: {error}") from None


def _refuse_read_only(target: pathlib.Path) -> None:
    """A rename asks for no permission to write the file it replaces; whoever took that away meant it to stay."""
    if not target.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise OutputRefused(f"{target}: is read-only; choose another output name, or make it writable first")


def _refuse_odd_name(target: pathlib.Path) -> None:
    """Data is named after the model, and protobuf holds only names that are UTF-8."""
    try:
        target.name.encode()
    except UnicodeEncodeError:
        raise OutputRefused(f"{target!a}: the name is not UTF-8; choose another output name") from None


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}.data" if number else f"{name}.data"


def _data_files_of(path: pathlib.Path) -> set[pathlib.Path]:
    """Return the data files that the model at `path` uses; none if it is not a model that works."""
    try:
        return set(ModelFile.open(path).data_files())
    except OnnxToolsError:
        return set()


def _texts(names: _Names) -> dict[pathlib.Path, str]:
    return {file: name.name for file, name in names.items()}


def _relocated(path: Path, tensor: onnx.TensorProto, name: str, offset: int | None) -> dict[Path, Edit]:
    """Return the edits that give the external data of `tensor` another file name, and another offset if it moved."""
    wanted = {"location": name} | ({} if offset is None else {"offset": str(offset)})
    return {
        (*path, ("external_data", index)): onnx.StringStringEntryProto(
            key=entry.key, value=wanted[entry.key]
        ).SerializeToString()
        for index, entry in enumerate(tensor.external_data)
        if entry.value != wanted.get(entry.key, entry.value)
    }
