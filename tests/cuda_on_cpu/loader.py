"""Calls kernels on the CPU with the manners of `cupy.RawKernel`, but checks what CuPy leaves unchecked."""

from __future__ import annotations

import ctypes
import hashlib
import math
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.cuda_on_cpu import compiler
from tests.cuda_on_cpu.compiler import CudaShimError, available

__all__ = ["CpuKernel", "CpuKernels", "CudaShimError", "available", "current_seed"]

MOST_THREADS = 1024
MOST_SHARED_BYTES = 227 * 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS_A_SIDE = (1024, 1024, 64)
MOST_PARAMETERS = 256
STACK_BYTES = 64 * 1024
SANITIZED_STACK_BYTES = 256 * 1024
STACKS = 4 * MOST_THREADS
_WIDEST_ELEMENT = 8  # wider ones are structs, which tables of words hold
ROOM_BELOW_STACKS = 1 << 20  # so that a stack that overflows lives until that is noticed

# Modules keep the state of a launch in static variables and share the stacks.
_one_launch_at_a_time = threading.Lock()


@cache
def current_seed() -> int:
    """The seed of this process: OXIPRUNE_SHIM_SEED, or else a random one."""
    given = os.environ.get("OXIPRUNE_SHIM_SEED")
    return int(given) if given else secrets.randbelow(2**32)


class CpuKernels:
    """A loader of kernels that compiles them for the CPU.

    Args:
        source_of: gives the text of a family of kernels.
        seed: chooses the order of blocks and threads; `current_seed()` if it is None. The order also depends on the
            kernel and the shape of the launch, but not on earlier launches.
        build_dir: where compiled kernels are kept; a folder of the user's in the temporary folder if it is None.
        flags: more flags for g++, before those of OXIPRUNE_SHIM_FLAGS.
    """

    def __init__(
        self,
        source_of: Callable[[str], str],
        *,
        seed: int | None = None,
        build_dir: Path | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self._source_of = source_of
        self._seed = current_seed() if seed is None else seed
        self._build_dir = build_dir or compiler.default_build_dir()
        self._flags = [*flags, *compiler.flags_of_environment()]
        self._libraries: dict[tuple[str, tuple[tuple[str, str], ...]], ctypes.CDLL] = {}

    def kernel(self, family: str, name: str, defines: Mapping[str, str]) -> CpuKernel:
        """The entry point `name` of a family, specialised by `defines`.

        Raises:
            CudaShimError: the source does not compile, or has no such entry point.
        """
        key = (family, tuple(sorted(defines.items())))
        if key not in self._libraries:
            path = compiler.build(family, self._source_of(family), defines, self._flags, self._build_dir)
            self._libraries[key] = ctypes.CDLL(str(path))
        library = self._libraries[key]
        if not hasattr(library, f"shim_run_{name}"):
            raise CudaShimError(f'{family} has no entry point `extern "C" __global__ void {name}(...)`')
        return CpuKernel(library, name, self._seed, sanitized=any("address" in flag for flag in self._flags))


class _Launch(ctypes.Structure):
    """`cuda_shim::Launch`."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("first_block", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("shared_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("stacks", ctypes.c_void_p),
        ("stack_bytes", ctypes.c_uint64),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_uint64),
    )


class _Parameter(ctypes.Structure):
    """`cuda_shim::Parameter`."""

    _fields_ = (
        ("bytes", ctypes.c_uint32),
        ("kind", ctypes.c_char),
        ("writable", ctypes.c_ubyte),
        ("pointee_bytes", ctypes.c_uint32),
        ("pointee_alignment", ctypes.c_uint32),
    )


class CpuKernel:
    """A compiled kernel, called as `cupy.RawKernel` is; it has run to its end when the call returns."""

    def __init__(self, library: ctypes.CDLL, name: str, seed: int, *, sanitized: bool) -> None:
        self.name = name
        self._seed = seed
        self._stack_bytes = SANITIZED_STACK_BYTES if sanitized else STACK_BYTES
        parameters = (_Parameter * MOST_PARAMETERS)()
        bound = ctypes.c_int()
        count = library[f"shim_parameters_{name}"](parameters, ctypes.byref(bound))
        self._parameters = list(parameters[:count])
        self._most_threads = bound.value
        self._run = library[f"shim_run_{name}"]

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
        only: range | None = None,
    ) -> None:
        """Runs the kernel.

        Args:
            grid: blocks along up to three axes.
            block: threads along up to three axes.
            args: arrays for pointers (None for a null pointer), numpy scalars by their bytes, a Python int as 8 bytes,
                a float as 8, a bool as 1.
            shared_mem: bytes of dynamic shared memory.
            only: the blocks of the grid that run, all if it is None. No GPU has this: it lets a test look at the far
                end of something huge.

        Raises:
            CudaShimError: the launch or an argument is wrong, or the kernel did what CUDA forbids.
        """
        values = self._checked_arguments(args)
        grid, block = (
            self._checked_shape("grid", grid, MOST_BLOCKS),
            self._checked_shape("block", block, MOST_THREADS_A_SIDE),
        )
        self._check_size(block, shared_mem)
        chosen = range(math.prod(grid)) if only is None else only
        addresses = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(value) for value in values))
        message = ctypes.create_string_buffer(1024)
        stacks = _stacks(self._stack_bytes)
        launch = _Launch(
            (ctypes.c_uint32 * 3)(*grid),
            (ctypes.c_uint32 * 3)(*block),
            chosen.start,
            len(chosen),
            shared_mem,
            _seed_of_launch(self._seed, self.name, grid, block),
            stacks,
            self._stack_bytes,
            ctypes.cast(message, ctypes.c_char_p),
            len(message),
        )
        with _one_launch_at_a_time:
            succeeded = self._run(ctypes.byref(launch), addresses)
        if not succeeded:
            raise self._error(message.value.decode())

    def _error(self, what: str) -> CudaShimError:
        return CudaShimError(f"kernel {self.name}: {what} (OXIPRUNE_SHIM_SEED={self._seed})")

    def _checked_shape(self, what: str, shape: tuple[int, ...], most: tuple[int, ...]) -> tuple[int, ...]:
        padded = (*shape, 1, 1)[:3]
        if not 1 <= len(shape) <= 3 or any(not 1 <= side <= limit for side, limit in zip(padded, most, strict=True)):
            raise self._error(f"{what} {shape} is not one to three numbers from 1 to {most}")
        return padded

    def _check_size(self, block: tuple[int, ...], shared_mem: int) -> None:
        threads = math.prod(block)
        if threads > min(MOST_THREADS, self._most_threads):
            raise self._error(f"block {block} has {threads} threads, more than {min(MOST_THREADS, self._most_threads)}")
        if not 0 <= shared_mem <= MOST_SHARED_BYTES:
            raise self._error(f"{shared_mem} bytes of shared memory are not 0 to {MOST_SHARED_BYTES}")

    def _checked_arguments(self, args: tuple[Any, ...]) -> list[Any]:
        if len(args) != len(self._parameters):
            raise self._error(f"{len(args)} arguments for {len(self._parameters)} parameters")
        return [self._checked(i, *pair) for i, pair in enumerate(zip(args, self._parameters, strict=True))]

    def _checked(self, number: int, argument: Any, parameter: _Parameter) -> Any:
        """The argument as a ctypes value that stays valid as long as it is referred to."""
        value, kind = _as_c(argument)
        wanted = parameter.kind.decode()
        problem = ""
        if kind == "":
            problem = f"has type {type(argument).__name__}, which CuPy can't pass"
        elif ctypes.sizeof(value) != parameter.bytes:
            problem = f"has {ctypes.sizeof(value)} bytes, its parameter has {parameter.bytes}"
        elif wanted in "pfi" and kind != wanted:
            problem = f"is {_KINDS[kind]}, its parameter is {_KINDS[wanted]}"
        elif isinstance(argument, np.ndarray):
            problem = _problem_with_array(argument, parameter)
        if problem:
            raise self._error(f"argument {number} {problem}")
        return value


_KINDS = {"p": "a pointer", "f": "a floating-point number", "i": "an integer", "o": "something else"}


def _as_c(argument: Any) -> tuple[Any, str]:
    """What CuPy would pass for this argument, and its kind, which is empty for what it can't pass."""
    if argument is None:
        return ctypes.c_void_p(0), "p"
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data), "p"
    if isinstance(argument, np.generic):
        value = (ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes())
        return value, {"f": "f", "i": "i", "u": "i", "b": "i"}.get(argument.dtype.kind, "o")
    if isinstance(argument, bool):
        return ctypes.c_bool(argument), "i"
    if isinstance(argument, int):
        return (ctypes.c_int64 if argument < 2**63 else ctypes.c_uint64)(argument), "i"
    if isinstance(argument, float):
        return ctypes.c_double(argument), "f"
    return None, ""


def _problem_with_array(array: np.ndarray[Any, Any], parameter: _Parameter) -> str:
    """What is wrong with passing this array for a pointer, if anything is."""
    bytes_each = parameter.pointee_bytes
    if parameter.writable and not array.flags.writeable:
        return "is a read-only array, its parameter points to values that are not const"
    is_table = bytes_each > _WIDEST_ELEMENT and bytes_each % array.itemsize == 0
    if is_table and array.nbytes % bytes_each:
        return f"has {array.nbytes} bytes, its parameter points to structs of {bytes_each} bytes"
    if bytes_each > 1 and not is_table and array.itemsize != bytes_each:
        return f"has elements of {array.itemsize} bytes, its parameter points to {bytes_each} bytes"
    if not array.flags.forc:
        return "is an array with gaps or reordered axes: strides are not passed to kernels"
    if array.ctypes.data % parameter.pointee_alignment:
        return f"is an array that is not aligned to {parameter.pointee_alignment} bytes"
    return ""


def _seed_of_launch(seed: int, name: str, grid: tuple[int, ...], block: tuple[int, ...]) -> int:
    text = f"{seed} {name} {grid} {block}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@cache
def _stacks(stack_bytes: int) -> int:
    """The address of the stacks for threads, which all kernels use in turn. Memory is used where it is touched only."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    region = mmap.mmap(-1, ROOM_BELOW_STACKS + STACKS * stack_bytes, flags=flags)
    _regions.append(region)
    return ctypes.addressof(ctypes.c_char.from_buffer(region)) + ROOM_BELOW_STACKS


_regions: list[mmap.mmap] = []
