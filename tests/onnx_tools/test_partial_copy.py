"""Copies of files that are changed before all of them is there."""

from __future__ import annotations

import os
import pathlib
import random
from collections.abc import Iterator

import pytest

from onnx_tools.errors import InvalidModelFile
from onnx_tools.partial_copy import PartialCopy
from onnx_tools.temporaries import Temporary
from onnx_tools.wire import Span

SIZE = 300


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "source"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def temporary(tmp_path: pathlib.Path) -> Iterator[Temporary]:
    temporary = Temporary(tmp_path / "target", None)
    temporary.create()
    yield temporary
    temporary.discard()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_and_what_is_left(source: pathlib.Path, temporary: Temporary, seed: int) -> None:
    """Against an array in memory that the same is written to."""
    rng, copy, expected = random.Random(seed), PartialCopy(source, temporary), bytearray(source.read_bytes())
    for _ in range(rng.choice([0, 1, 3, 30])):
        start, stop = sorted(rng.choices(range(SIZE + 1), k=2))
        expected[start:stop] = data = rng.randbytes(stop - start)
        copy.write(memoryview(data), start)
        start, stop = sorted(rng.choices(range(SIZE + 1), k=2))
        found = bytearray(stop - start)
        copy.read(memoryview(found), start)
        assert found == expected[start:stop]
    stamp = copy.complete()
    assert temporary.path.read_bytes() == expected
    assert stamp == copy.complete() == (SIZE, source.stat().st_mtime_ns)


def test_every_byte_is_written_once(
    source: pathlib.Path, temporary: Temporary, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, written, write = PartialCopy(source, temporary), [], os.pwrite

    def counting(descriptor: int, data: memoryview, offset: int) -> int:
        written.extend(range(offset, offset + len(data)))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counting)
    for start in (200, 0, 100, 50):
        copy.write(memoryview(bytes(50)), start)
    copy.complete()
    assert sorted(written) == list(range(SIZE))


def test_assembled_from_the_original(source: pathlib.Path, temporary: Temporary) -> None:
    PartialCopy(source, temporary).complete([b"new", Span(10, 20), b"end"])
    assert temporary.path.read_bytes() == b"new" + source.read_bytes()[10:30] + b"end"


def test_an_original_that_is_gone(source: pathlib.Path, temporary: Temporary) -> None:
    source.unlink()
    with pytest.raises(InvalidModelFile, match="source: cannot be read"):
        PartialCopy(source, temporary)
