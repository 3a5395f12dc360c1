"""Facts about files that a report shows: size, SHA-256, and what the file weighs compressed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_tools.errors import InvalidModelFile
from onnx_tools.model_file import ModelFile
from onnx_tools.report import FileReport

_LEVEL = 3
_CHUNK = 1 << 22


@dataclass(frozen=True)
class FileFacts:
    """Facts about one file; None where they were not asked for."""

    name: str
    size: int
    sha256: str | None
    compressed: int | None


def facts_of(file: pathlib.Path, *, hashes: bool, compressed: bool) -> FileFacts:
    """Look at a file. `hashes`: its SHA-256; `compressed`: its bytes after zstd at level 3."""
    try:
        digest = _sha256(file) if hashes else None
        return FileFacts(file.name, file.stat().st_size, digest, _compressed_size(file) if compressed else None)
    except OSError as error:
        raise InvalidModelFile(f"{file}: cannot be read: {error.strerror or error}") from error


def bytes_on_disk(model: ModelFile) -> int:
    """The size of a model's files together."""
    return sum(file.stat().st_size for file in (model.file, *model.data_files()))


def file_reports(before: Sequence[FileFacts], after: Sequence[FileFacts | None] | None) -> tuple[FileReport, ...]:
    """The model file and its data files, each as it was and as it is; `after` is None when nothing was written.

    None in `after` stands for a file that is there no more: it has no name, and no bytes.
    """
    gone = FileFacts("", 0, None, 0)
    now = [None] * len(before) if after is None else [each or gone for each in after]
    pairs = zip(before, now, strict=True)
    return tuple(
        FileReport(
            role="data" if index else "model",
            name_before=old.name,
            name_after=(new.name or None) if new else None,
            bytes_before=old.size,
            bytes_after=new.size if new else None,
            sha256_before=old.sha256,
            sha256_after=new.sha256 if new else None,
            compressed_before=old.compressed,
            compressed_after=new.compressed if new and old.compressed is not None else None,
        )
        for index, (old, new) in enumerate(pairs)
    )


def _sha256(file: pathlib.Path) -> str:
    import hashlib

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _compressed_size(file: pathlib.Path) -> int:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    size = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())
