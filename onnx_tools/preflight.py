"""What would stop the writing of outputs and reports, said before the work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from onnx_tools.errors import OnnxToolsError, OutputRefused, WriteFailed
from onnx_tools.model_file import ModelFile
from onnx_tools.naming import expand, first_repeated, identity
from oxiprune_gpu import InvalidOption

_DATA_TAILS = tuple(re.compile(rf"{tail}\Z") for tail in (r"\.data", r"\.data\.[0-9]+", r"\.[0-9]+\.data"))
"""How the names of data files go on after that of their model."""


def check_outputs(
    models: Sequence[Path],
    targets: Sequence[Path],
    *,
    in_place: bool,
    delete_old_data: bool = False,
    inputs: Sequence[Path] = (),
) -> None:
    """Of several models none may end where another one lies or ends. `targets`: one for each model, or none at all.

    None may end where one of the `inputs` lies, files that are read besides the models. If old data is to be deleted,
    no two models may use the same.
    """
    again = first_repeated(targets)
    if again is not None and in_place:
        raise InvalidOption(f"{again}: given twice; give each model once")
    if again is not None:
        raise InvalidOption(f"two models would be written to {again}; put {{stem}} or {{parent}} into the name in -o")
    stored = {identity(model) for model in models}
    for model, target in zip(models, targets, strict=False):
        if identity(target) in stored - {identity(model)}:
            raise OutputRefused(f"{model}: would be written over {target}, another of the models; choose another -o")
    read = {identity(file) for file in inputs}
    for target in targets:
        if identity(target) in read:
            raise OutputRefused(f"{target}: is an input of this run; choose another -o")
    if in_place and delete_old_data and len(models) > 1:
        _refuse_shared_data(models)


def _refuse_shared_data(models: Sequence[Path]) -> None:
    """Deleting one model's old data must not destroy another of the models."""
    users: dict[str, Path] = {}
    for model in models:
        for file in sorted(_data_of([model])):
            if file in users:
                reason = f"{users[file]} uses it too; leave out --delete-old-data"
                raise OutputRefused(f"{model}: its data {file} cannot be deleted: {reason}")
            users[file] = model


@contextmanager
def folders_of(targets: Sequence[Path]) -> Iterator[None]:
    """Make the folders of outputs; remove those again in which nothing came to lie."""
    made: list[Path] = []
    try:
        for target in targets:
            _make(target.parent, made)
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # not empty
                folder.rmdir()


def _make(folder: Path, made: list[Path]) -> None:
    """Make `folder` and those above it; add them to `made`."""
    if folder.is_dir():
        return
    _make(folder.parent, made)
    try:
        folder.mkdir()
    except OSError as error:
        raise WriteFailed(f"{folder}: the folder cannot be made: {error.strerror or error}") from None
    made.append(folder)


def check_reports(
    models: Sequence[Path],
    targets: Sequence[Path],
    patterns: Sequence[str],
    summary: Path | None = None,
    *,
    others: Sequence[tuple[str, str]] = (),
    inputs: Sequence[Path] = (),
) -> None:
    """Every report, and what else is written beside models, must have a name of its own, in a folder we can write to.

    No model, no data file that a model has or could get, and nothing else that is read may be called so.

    Args:
        models: those that are read.
        targets: those that are written, or compared with.
        patterns: of the names of reports.
        summary: what is appended to.
        others: options besides, each with the pattern of the names of what it writes.
        inputs: files that are read besides the models.
    """
    given = [*others, *(("--report", pattern) for pattern in patterns)]
    names = [(option, expand(pattern, model)) for option, pattern in given for model in models]
    names += [("--github-summary", summary)] if summary is not None else []
    taken = {identity(path) for path in (*models, *targets, *inputs)}
    if any(name.exists() for _, name in names):
        taken |= _data_of([*models, *targets])
    homes = {place for target in targets for place in _homes(target)}
    writers: dict[str, str] = {}
    for option, name in names:
        _check_place(f"{option} {name}", name)
        if identity(name) in taken or homes & _could_be_data_of(name):
            raise OutputRefused(f"{option} {name}: a model, its data or an input is stored there; name another file")
        if identity(name) in writers:
            raise InvalidOption(f"{option} {name}: {_why_twice(option, writers[identity(name)], len(models))}")
        writers[identity(name)] = option


def _why_twice(option: str, other: str, models: int) -> str:
    if option != other:
        return f"{other} writes there too; name another file"
    return "two models would write there; put {stem} or {parent} into the name" if models > 1 else "given twice"


def _check_place(option: str, name: Path) -> None:
    folder = name.absolute().parent
    if not folder.is_dir():
        raise WriteFailed(f"{option}: the folder {name.parent} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise WriteFailed(f"{option}: the folder {name.parent} cannot be written to; name another")
    if name.is_dir():
        raise WriteFailed(f"{option}: is a folder; name a file")


def _homes(target: Path) -> set[str]:
    """What the names of a model's data files begin with: beside the file, and beside a link to it."""
    file = Path(identity(target))
    return {str(file), os.path.join(identity(target.absolute().parent), file.name)}


def _could_be_data_of(name: Path) -> set[str]:
    """The models that could get a data file of this name; see `ModelCopy`."""
    places = {identity(name), os.path.join(identity(name.absolute().parent), os.path.normcase(name.name))}
    return {place[: found.start()] for place in places for tail in _DATA_TAILS if (found := tail.search(place))}


def _data_of(models: Sequence[Path]) -> set[str]:
    """The external data files of the models, as far as those can be read; that they can't is said later."""
    files: set[str] = set()
    for model in models:
        with suppress(OnnxToolsError):
            files |= {identity(file) for file in ModelFile.open(model).data_files()}
    return files
