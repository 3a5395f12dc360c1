"""What would stop the writing of outputs and reports, said before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from onnx_tools.errors import OnnxToolsError, OutputRefused, WriteFailed
from onnx_tools.model_file import ModelFile
from onnx_tools.naming import expand, first_repeated, identity
from oxiprune_gpu import InvalidOption


def check_outputs(
    models: Sequence[Path], targets: Sequence[Path], *, in_place: bool, delete_old_data: bool = False
) -> None:
    """Of several models none may end where another one lies or ends. `targets`: one for each model, or none at all.

    If old data is to be deleted, no two models may use the same.
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
    option: str = "--report",
) -> None:
    """Every report, or what else `option` names, must have a name of its own, in a folder that can be written to.

    `summary`: what is appended to.
    """
    names = [expand(pattern, model) for model in models for pattern in patterns]
    again = first_repeated(names)
    if again is not None:
        raise InvalidOption(f"{option} {again}: two models would write there; put {{stem}} or {{parent}} into the name")
    taken = {identity(path) for path in (*models, *targets)}
    for name in names:
        _check_report(f"{option} {name}", name, models, taken)
    if summary is not None:
        _check_report(f"--github-summary {summary}", summary, models, taken | {identity(name) for name in names})


def _check_report(option: str, name: Path, models: Sequence[Path], taken: set[str]) -> None:
    folder = name.absolute().parent
    if not folder.is_dir():
        raise WriteFailed(f"{option}: the folder {name.parent} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise WriteFailed(f"{option}: the folder {name.parent} cannot be written to; name another")
    if name.is_dir():
        raise WriteFailed(f"{option}: is a folder; name a file")
    if identity(name) in taken or (name.exists() and identity(name) in _data_of(models)):
        raise OutputRefused(f"{option}: a model or another report is stored there; name another file")


def _data_of(models: Sequence[Path]) -> set[str]:
    """The external data files of the models, as far as those can be read; that they can't is said later."""
    files: set[str] = set()
    for model in models:
        with suppress(OnnxToolsError):
            files |= {identity(file) for file in ModelFile.open(model).data_files()}
    return files
