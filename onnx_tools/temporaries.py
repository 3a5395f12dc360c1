"""Temporary files beside the output, and what is done with whole files: assembling, flushing, deleting."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence

from onnx_tools.errors import WriteFailed
from onnx_tools.file_blocks import read_at, write_at, write_failed
from onnx_tools.wire import FileSpan, Rope

CHUNK = 1 << 18
"""Bytes that are copied at once: what is read is still in the processor's own cache when it is written."""

_SUFFIX = ".oxiprune-tmp"

_RENAMES_OPEN_FILES = os.name != "nt"
"""Whether a file can get another name while it is open."""


Stamp = tuple[int, int]
"""Size and modification time (ns) of a file, to notice a change."""


class Temporary:
    """A temporary file beside `target`.

    If it is to be `like` a file that exists, only its owner can read it until `finish`. Otherwise it has the
    permissions of `mode` less the process's mask, as a file has that `cp` makes.
    """

    def __init__(self, target: pathlib.Path, like: pathlib.Path | None, mode: int = 0o666) -> None:
        # The name is cut so that the whole stays below 255 bytes.
        name = f".{target.name[:40]}.{os.urandom(8).hex()}{_SUFFIX}"
        self.path = target.with_name(name)
        self.descriptor = -1
        self._mode = mode & 0o777
        self._like = like.stat() if like is not None and like.exists() else None

    def create(self) -> None:
        """Create it, open for reading and writing; the name must be free."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self.descriptor = os.open(self.path, flags, self._mode if self._like is None else 0o600)

    def exists(self) -> bool:
        """Whether it still has its temporary name."""
        return os.path.lexists(self.path)

    def is_at(self, name: pathlib.Path) -> bool:
        """Whether it has got `name`: asking the disk, as an interrupt may come between a rename and the next line."""
        if not self.exists():
            return True
        try:
            return os.path.samefile(self.path, name)
        except OSError:
            return False

    def claim(self, name: pathlib.Path) -> None:
        """Take `name`, which nobody may have; `FileExistsError` if somebody does.

        By a hard link, which never overwrites; where the system has none, by an empty file that is replaced at once.
        """
        try:
            os.link(self.path, name)
        except FileExistsError:
            if not self.is_at(name):  # else it worked, and a network file system asked twice
                raise
        except OSError:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            try:
                os.replace(self.path, name)
            except BaseException:
                if self.exists():
                    name.unlink()
                raise
        else:
            with contextlib.suppress(OSError):  # it has its name; `discard` tries again
                self.path.unlink()

    def finish(self) -> None:
        """Take over permissions, flush to the disk, close."""
        self.take_over_permissions()
        self.flush()

    def take_over_permissions(self) -> None:
        """Give it the owner and the permissions of the file that it is `like`; it must have its temporary name."""
        if self._like is not None:
            with contextlib.suppress(OSError, AttributeError):  # only the superuser gives files away
                os.chown(self.path, self._like.st_uid, self._like.st_gid)
            os.chmod(self.path, stat.S_IMODE(self._like.st_mode))

    def flush(self) -> None:
        """Flush it to the disk and close it, whatever it is called by now."""
        if self.descriptor >= 0:
            os.fsync(self.descriptor)
            self._close()

    def discard(self) -> None:
        """Close and remove the file, if it is still there."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def finishing(temporaries: Sequence[Temporary]) -> Iterator[None]:
    """Finish temporaries while the block runs, which may rename and read them; they are on the disk when it ends.

    Flushing waits for the disk, and checking a long model does not. Raises the `OSError` of the system after the block.
    """
    for temporary in temporaries:
        temporary.take_over_permissions()
    errors: list[OSError] = []

    def flush() -> None:
        try:
            for temporary in temporaries:
                temporary.flush()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=flush)
    thread.start()
    if not _RENAMES_OPEN_FILES:
        thread.join()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def writing(where: pathlib.Path) -> Iterator[None]:
    """Turn the system's errors into `WriteFailed`."""
    try:
        yield
    except OSError as error:
        raise write_failed(error, where) from error


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file; whoever reads meanwhile sees the old one or the new one, whole. Raises WriteFailed."""
    try:
        _replace(pathlib.Path(path).resolve(), content)
    except OSError as error:
        raise write_failed(error, os.fspath(path)) from error
    except (RuntimeError, ValueError) as error:  # a loop of links (until Python 3.12), a NUL in the name
        raise WriteFailed(f"{os.fspath(path)!a}: not a usable file name: {error}") from None


def _replace(target: pathlib.Path, content: bytes) -> None:
    """Write a temporary file beside `target` and rename it."""
    temporary = Temporary(target, like=target)
    try:
        temporary.create()
        overwrite(temporary.descriptor, content)
        temporary.finish()
        os.replace(temporary.path, target)
    finally:
        temporary.discard()
    sync_folder(target.parent)


@contextlib.contextmanager
def folder_beside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder beside `target`, for a file that is worked on before `target` is written."""
    try:
        folder = tempfile.TemporaryDirectory(dir=target.resolve().parent, prefix=".", suffix=_SUFFIX)
    except OSError as error:
        raise write_failed(error, target) from error
    with folder as name:
        yield pathlib.Path(name)


def plain_name(file: pathlib.Path) -> str:
    """What a person knows a file by: of a temporary one the name of that which it is made for."""
    if file.name.endswith(_SUFFIX):
        return file.name[1:].rsplit(".", 2)[0]
    return file.name if file.parent.name.endswith(_SUFFIX) else str(file)


def stamp_of(file: pathlib.Path) -> Stamp | None:
    """Return the stamp of a file; None if it can't be looked at."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def overwrite(descriptor: int, data: bytes) -> None:
    """Make `data` the whole content of an open file."""
    write_at(descriptor, memoryview(data), 0)
    os.truncate(descriptor, len(data))


def write_rope(source: int, rope: Rope, descriptor: int, position: int = 0) -> None:
    """Write what `rope` describes from `position` on; its spans lie in `source`.

    Not through a map, to keep memory small.
    """
    buffer = memoryview(bytearray(CHUNK))
    for piece in rope:
        if isinstance(piece, bytes):
            write_at(descriptor, memoryview(piece), position)
            position += len(piece)
            continue
        holder = piece.descriptor if isinstance(piece, FileSpan) else source
        for start in range(piece.offset, piece.offset + piece.length, CHUNK):
            part = buffer[: min(CHUNK, piece.offset + piece.length - start)]
            read_at(holder, part, start)
            write_at(descriptor, part, position)
            position += len(part)


def sync_folder(folder: pathlib.Path) -> None:
    """Flush a rename. Not every system can, and then there is nothing better to do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def delete(files: Mapping[pathlib.Path, object] | list[pathlib.Path]) -> None:
    """Delete `files`, as far as the system lets us."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
