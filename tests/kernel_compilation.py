"""Compile every kernel with NVRTC, without a GPU, and read the PTX. A program: scripts/check-kernels runs it.

It compiles what CuPy would compile, with the options CuPy gives, for every architecture that this NVRTC knows. The PTX
must hold no instruction that flushes denormal numbers, no product fused with a sum, no memory that threads spill to.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from oxiprune_gpu.backends.cuda_tables import kernel_instances
from oxiprune_gpu.backends.kernels import source_of

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)
PTX_ARCHITECTURE = 90
MACHINE_GROUP, MACHINE_METRIC = "4", "L1"
"""Groups of every length, and units of every metric, are compiled to PTX; to machine code only these, unless all are
asked for: it is always the same text, and takes long."""

FORBIDDEN = {
    "flushes denormal numbers": re.compile(r"^\s*\S+\.ftz\b.*$", re.MULTILINE),
    "fuses a product with a sum": re.compile(r"^\s*fma\..*$", re.MULTILINE),
    "spills to local memory": re.compile(r"^\s*\.local .*$", re.MULTILINE),
}
_ENTRY = re.compile(r"\.entry\s+(\w+)\(")


class Job(NamedTuple):
    """One family, specialised, for one architecture: 90 for sm_90; PTX where `ptx` is set."""

    family: str
    defines: tuple[tuple[str, str], ...]
    architecture: int
    ptx: bool

    def __str__(self) -> str:
        return f"{self.family} {' '.join(value for _, value in self.defines)} sm_{self.architecture}"


def compiled(job: Job) -> str:
    """The PTX, or nothing where machine code was made. Raises NVRTCError with the compiler's words."""
    from cupy_backends.cuda.libs import nvrtc

    kind = "compute" if job.ptx else "sm"
    defines = [f"-D{name}={value}" for name, value in job.defines]
    program = nvrtc.createProgram(source_of(job.family), f"{job.family}.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("-std=c++17", *defines, f"-arch={kind}_{job.architecture}", "-ftz=true"))
        if not job.ptx:
            return ""
        text = nvrtc.getPTX(program)
        return text.decode() if isinstance(text, bytes) else str(text)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{job}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


def complaints(job: Job) -> Iterator[str]:
    """What is wrong with one job's code."""
    try:
        ptx = compiled(job)
    except RuntimeError as error:
        yield str(error)
        return
    entries = _ENTRY.split(ptx)[1:]
    for name, body in zip(entries[::2], entries[1::2], strict=True):
        for what, pattern in FORBIDDEN.items():
            if found := pattern.findall(body):
                yield f"{job}: {name} {what}: {len(found)} times, first {found[0].strip()}"
    if job.ptx and not entries:
        yield f"{job}: no kernel in it"


def jobs(only: str | None, *, all_of_them: bool = False) -> list[Job]:
    """Every instance as PTX, and for every architecture those that stand for the others, or all of them."""
    from cupy_backends.cuda.libs import nvrtc

    known = [arch for arch in ARCHITECTURES if arch in nvrtc.getSupportedArchs()]
    print(f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))}: sm_{', sm_'.join(map(str, known))}", flush=True)
    instances = [(family, defines) for family, defines in kernel_instances() if only in (None, family)]
    machine = [instance for instance in instances if all_of_them or _stands_for_others(*instance)]
    kinds = [(arch, False, machine) for arch in known] + [(PTX_ARCHITECTURE, True, instances)]
    return [
        Job(family, tuple(sorted(defines.items())), arch, ptx)
        for arch, ptx, wanted in kinds
        for family, defines in wanted
    ]


def _stands_for_others(family: str, defines: dict[str, str]) -> bool:
    if family in ("groups", "units"):
        return defines["METRIC"] == MACHINE_METRIC and defines.get("OF", MACHINE_GROUP) == MACHINE_GROUP
    return True


def broken_source_is_noticed() -> bool:
    """The check itself works: an undefined dtype is an error."""
    return any(complaints(Job("elements", (("DTYPE", "F31"), ("METRIC", "L1")), PTX_ARCHITECTURE, True)))


def main() -> int:
    """Compile everything; 0 when there is nothing to say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--family", help="only this one")
    parser.add_argument("--ptx-only", action="store_true", help="read the PTX, make no machine code")
    parser.add_argument("--all", action="store_true", help="make machine code of every instance; takes long")
    options = parser.parse_args()
    work = [job for job in jobs(options.family, all_of_them=options.all) if job.ptx or not options.ptx_only]
    if not broken_source_is_noticed():
        print("a broken source was not noticed")
        return 1
    bad = 0
    with ThreadPoolExecutor() as pool:
        for number, found in enumerate(pool.map(lambda job: list(complaints(job)), work), 1):
            bad += len(found)
            print(*found, sep="\n", end="\n" if found else "", flush=True)
            if number % 100 == 0:
                print(f"{number} of {len(work)}", flush=True)
    print(f"{len(work)} compilations, {bad} complaints")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
