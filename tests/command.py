"""Running the `oxiprune` command, in this process or as one of its own, and looking at what it left."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from onnx_tools.cli import app

START = "from onnx_tools.cli import main; main()"


def run(*words: object) -> Result:
    """Run the command in this process, which is fast."""
    result = CliRunner().invoke(app, [os.fspath(w) if isinstance(w, pathlib.Path) else str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def spawn(*words: object, code: str = START, **options: object) -> subprocess.Popen[bytes]:
    """Start the command as a process; `code` starts it, and may prepare something before."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", code, *map(os.fspath, map(_word, words))], **options)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[bytes], timeout: float = 60) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")


def refused(result: Result, code: int, *parts: str) -> None:
    """One line of error that holds `parts`, nothing on standard output, and this exit code."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    assert [part for part in parts if part not in result.stderr] == [], result.stderr


def tree(folder: pathlib.Path) -> dict[str, str]:
    """Every file below a folder, with a hash of its content; links as what they are."""
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*"))}


def weight_of(path: pathlib.Path, name: str = "weight") -> NDArray[np.generic]:
    """The values of an initializer of a stored model."""
    model = onnx.load(path)
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def zeros(path: pathlib.Path, name: str = "weight") -> int:
    """The zeros in an initializer of a stored model."""
    return int(np.count_nonzero(weight_of(path, name) == 0))


def _word(word: object) -> str | os.PathLike[str]:
    return word if isinstance(word, os.PathLike) else str(word)


def _digest(path: pathlib.Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
