"""Peak memory of `oxiprune prune` on models of 1.5 GB: weights inline and in external data, written anew and in place.

python benchmarks/memory.py [--folder DIR] [--elements N]

Needs 3.5 GB of disk in DIR (default: the folder for temporary files). Exits 1 if a run takes LIMIT_MIB or more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import common
import numpy as np

LIMIT_MIB = 450
LARGEST = 100_000_000
"""Elements of the largest weight; eleven more have a quarter of that."""

WAYS = {
    "2:4": ["--granularity", "2:4"],
    "unstructured": ["-s", "0.6"],
    "row": ["-s", "0.7", "--granularity", "row"],
    "global": ["-s", "0.9", "--allocation", "global"],
}
"""Each leaves more zeros than the one before, so that all have work also in place."""

_BLOCK = 1 << 20
_FLOAT = 1
_COMMAND = [sys.executable, "-c", "from onnx_tools.cli import main; main()"]


def generate(folder: Path, largest: int, *, external: bool) -> Path:
    """Write a model of MatMul nodes, a block at a time: whoever starts the command must stay small himself.

    Python's onnx is not imported for the same reason, so this writes protobuf by hand.
    """
    sides = [int(largest**0.5), *[int((largest // 4) ** 0.5)] * 11]
    path, offset = folder / "model.onnx", 0
    pieces: list[tuple[bytes, int]] = []
    for index, side in enumerate(sides):
        size = 4 * side * side
        node = _text(1, f"x{index}") + _text(1, f"w{index}") + _text(2, f"y{index}") + _text(4, "MatMul")
        pieces.append((_field(1, node), 0))
        tensor = _number(1, side) + _number(1, side) + _number(2, _FLOAT) + _text(8, f"w{index}")
        if external:
            entries = (("location", "weights.bin"), ("offset", offset), ("length", size))
            tensor += b"".join(_field(13, _text(1, key) + _text(2, str(value))) for key, value in entries)
            pieces.append((_field(5, tensor + _number(14, 1)), 0))
        else:
            head = tensor + _key(9) + _varint(size)
            pieces.append((_key(5) + _varint(len(head) + size) + head, size))
        pieces += [(_field(11, _value(f"x{index}", side)), 0), (_field(12, _value(f"y{index}", side)), 0)]
        offset += size
    ends = _text(2, "generated")
    length = len(ends) + sum(len(head) + size for head, size in pieces)
    start = _number(1, 8) + _field(8, _number(2, 17)) + _key(7) + _varint(length)
    with path.open("wb") as file:
        file.write(start)
        for head, size in pieces:
            file.write(head)
            file.writelines(_values(size))
        file.write(ends)
    if external:
        with path.with_name("weights.bin").open("wb") as file:
            file.writelines(_values(offset))
    return path


def measure(folder: Path, largest: int) -> Iterator[tuple[str, common.Usage]]:
    """Run the command in every way."""
    for layout in ("external", "inline"):
        model = generate(folder, largest, external=layout == "external")
        gigabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        out = folder / "out.onnx"
        for place in ("output", "in place"):
            for way, options in WAYS.items():
                words = ["prune", str(model), "--quiet", *options]
                words += ["-o", str(out)] if place == "output" else ["--in-place", "--delete-old-data"]
                yield f"{layout}, {gigabytes:.2f} GB, {place}, {way}", common.run_command([*_COMMAND, *words])
                for file in folder.glob("out.onnx*"):
                    file.unlink()
        for file in folder.iterdir():
            file.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the models are generated, and deleted again")
    parser.add_argument("--elements", type=int, default=LARGEST, help=f"of the largest weight (default {LARGEST:,})")
    asked = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        if shutil.disk_usage(name).free < 40 * asked.elements:
            parser.error(f"{name}: {40 * asked.elements / 1e9:.1f} GB of disk are needed")
        print("peak MiB   CPU s  clock s")
        for what, used in measure(Path(name), asked.elements):
            print(f"{used.rss_mib:8.0f} {used.cpu:7.1f} {used.wall:8.1f}  {what}", flush=True)
            worst = max(worst, used.rss_mib)
    nothing = common.run_command([*_COMMAND[:2], "import onnx_tools.commands"])
    print(f"{nothing.rss_mib:8.0f} {nothing.cpu:7.1f} {nothing.wall:8.1f}  the imports alone")
    print(f"highest: {worst:.0f} MiB, limit {LIMIT_MIB} MiB")
    return 1 if worst >= LIMIT_MIB else 0


def _values(size: int) -> Iterable[bytes]:
    """`size` bytes of float32 normals: one block again and again, scaled, so that no two are equal."""
    block = np.random.default_rng(11).standard_normal(_BLOCK // 4, np.float32)
    for index, start in enumerate(range(0, size, _BLOCK)):
        yield (block * np.float32(1 + index / 4096)).tobytes()[: size - start]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _key(field: int) -> bytes:
    return _varint(field << 3 | 2)


def _field(field: int, content: bytes) -> bytes:
    return _key(field) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _field(field, text.encode())


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _value(name: str, side: int) -> bytes:
    """A ValueInfoProto: float32 of shape (1, side)."""
    shape = b"".join(_field(1, _number(1, size)) for size in (1, side))
    return _text(1, name) + _field(2, _field(1, _number(1, _FLOAT) + _field(2, shape)))


if __name__ == "__main__":
    sys.exit(main())
