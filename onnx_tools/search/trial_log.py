"""The log of a search: a line of JSON a trial, so that an interrupted search goes on where it was."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from onnx_tools.errors import OutputRefused
from onnx_tools.temporaries import writing

_MOST_BYTES = 1 << 28


class TrialLog:
    """Entries by their key, in a file that only grows; an entry is there whole or not at all.

    Each line is an object: `key`, and `trial` or `error`. Lines that are none, as the last one of a process that was
    killed, are passed over; `damaged` counts them.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Read the log at `path`, if there is one. Raises OutputRefused for a file that is no log."""
        self.path = path
        self.damaged = 0
        self._entries: dict[str, dict[str, Any]] = {}
        for line in _lines(path):
            self._read(line)
        if self.damaged and not self._entries:
            raise OutputRefused(f"{path}: is no log of a search; name another file with --log")

    def get(self, key: str) -> dict[str, Any] | None:
        """What was found for `key`; None if that is not known yet, or was an error."""
        trial: dict[str, Any] | None = self._entries.get(key, {}).get("trial")
        return trial

    def add(self, key: str, kind: str, content: Any) -> None:
        """Append an entry, and have it on the disk. `kind`: "trial" or "error". Raises WriteFailed."""
        entry = {"key": key, kind: content}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with writing(self.path), self.path.open("ab+") as stream:
            stream.write(b"" if _ends_a_line(stream) else b"\n")
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._entries[key] = entry

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not _says(entry):
            self.damaged += 1
        else:
            self._entries[entry["key"]] = entry


def _says(entry: dict[str, Any]) -> bool:
    """Whether an entry has a trial or an error."""
    return isinstance(entry.get("trial"), dict) or isinstance(entry.get("error"), str)


def _lines(path: pathlib.Path) -> list[bytes]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise OutputRefused(f"{path}: the log cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _MOST_BYTES:
        raise OutputRefused(f"{path}: longer than {_MOST_BYTES:,} bytes, no log of a search; name another with --log")
    return [line for line in content.split(b"\n") if line.strip()]


def _ends_a_line(stream: Any) -> bool:
    if not stream.seek(0, os.SEEK_END):
        return True
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")
