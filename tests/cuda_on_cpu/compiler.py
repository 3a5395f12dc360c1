"""Builds shared libraries of kernels with g++, once for each source, set of defines and set of flags."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

HEADER = Path(__file__).with_name("cuda_shim.h")

FLAGS = (
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-strict-aliasing",  # kernels read bits through pointers of other types, and nvcc lets them
)

ENTRY_POINT = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*\(\s*(?P<bound>[^(),]+)[^()]*\)\s*)?(?:void\s+)?(?P<name>\w+)\s*\("
)


class CudaShimError(RuntimeError):
    """A kernel that does not compile, a launch that CUDA would refuse, or a fault found while a kernel ran."""


@cache
def available() -> str:
    """Why kernels can't run on this CPU; nothing when they can."""
    return "" if shutil.which("g++") else "no CUDA kernels on the CPU: g++ is not installed"


def default_build_dir() -> Path:
    """The folder of built kernels: one a user, shared by all processes and runs."""
    return Path(tempfile.gettempdir()) / f"oxiprune-cuda-on-cpu-{os.getuid()}"


def flags_of_environment() -> list[str]:
    """What OXIPRUNE_SHIM_FLAGS adds to every compilation, such as `-fsanitize=address`."""
    return shlex.split(os.environ.get("OXIPRUNE_SHIM_FLAGS", ""))


def build(family: str, source: str, defines: Mapping[str, str], flags: Sequence[str], folder: Path) -> Path:
    """The library for `source` and `defines`, compiled unless it lies in `folder` already.

    Processes may race for it: each compiles under a name of its own, and the last rename wins.

    Raises:
        CudaShimError: g++ is missing or refuses the source.
    """
    if why_not := available():
        raise CudaShimError(why_not)
    flags = [*FLAGS, *(f"-D{name}={value}" for name, value in sorted(defines.items())), *flags]
    key = hashlib.sha256("\0".join([_toolchain(), source, *flags]).encode()).hexdigest()[:20]
    library = folder / f"{family}-{key}.so"
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise CudaShimError(f"{folder} belongs to somebody else; nothing is loaded from there")
    if library.exists():
        return library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        unit = Path(workplace) / f"{family}.cpp"
        unit.write_text(_unit(f"{family}.cu", source))
        built = Path(workplace) / "built.so"
        command = ["g++", *flags, "-include", str(HEADER), str(unit), "-o", str(built)]
        # A sanitizer that is preloaded into this process has no business in the compiler.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if result.returncode:
            raise CudaShimError(f"{family} {dict(defines)} does not compile:\n{result.stderr[-4000:]}")
        built.replace(library)
    return library


@cache
def _toolchain() -> str:
    """The compiler's version and the text of the shim, which every key contains."""
    version = subprocess.run(["g++", "-v"], capture_output=True, text=True, check=True).stderr
    return "\0".join([version, *(path.read_text() for path in [HEADER, *sorted((HEADER.parent / "shim").glob("*.h"))])])


def _unit(name: str, source: str) -> str:
    """A translation unit: the kernels under their own line numbers, then a wrapper for each entry point."""
    wrappers = [f"SHIM_EXPORT({entry['name']}, ({entry['bound'] or '1024'}))" for entry in ENTRY_POINT.finditer(source)]
    return "\n".join([f'#line 1 "{name}"', source, '#line 1 "wrappers"', *wrappers, ""])
