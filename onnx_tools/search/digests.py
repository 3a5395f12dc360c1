"""What a search is about, as SHA-256: another model, other data or another function is another search."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterable

from onnx_tools.file_facts import facts_of
from onnx_tools.model_file import ModelFile


def model_digest(model: ModelFile) -> str:
    """Of a model's files, external data included."""
    return _joined([model.file, *model.data_files()])


def digest_of(texts: Iterable[str]) -> str:
    """Of what texts name: files, all files of folders, the source of module:function; of the texts alone otherwise.

    What a function reads, and modules that its own imports, are not in it.
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text.rpartition(os.sep)[2]}={_joined(_files_of(text))};".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _files_of(text: str) -> list[pathlib.Path]:
    path = pathlib.Path(text)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.is_file():
        return [path]
    return _source_of(text.rpartition(":")[0])


def _source_of(module: str) -> list[pathlib.Path]:
    """The file of a module, of the working directory too; none if it can't be found without importing it."""
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        return []
    finally:
        sys.path.remove(os.getcwd())
    return [pathlib.Path(found.origin)] if found is not None and found.has_location and found.origin else []


def _joined(files: Iterable[pathlib.Path]) -> str:
    hashes = [facts_of(file, hashes=True, compressed=False).sha256 or "" for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
