"""Every backend that the tests run over: numpy, the CUDA backend on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends import Backend, NumpyBackend, backend_on_gpu, kernels
from oxiprune_gpu.backends.base import Plan, PlanMember, Statistics
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from oxiprune_gpu.backends.cuda_tables import DeviceWeight
from oxiprune_gpu.granularity import GroupView, UnitView
from oxiprune_gpu.metrics import ImportanceMetric
from tests import cuda_on_cpu
from tests.cuda_on_cpu.loader import CpuKernels, current_seed
from tests.kernel_mutants import with_fault


def source_of(family: str) -> str:
    """The source of a family of kernels, with the fault in it that OXIPRUNE_KERNEL_MUTANT names: see kernel_mutants."""
    name, source = os.environ.get("OXIPRUNE_KERNEL_MUTANT"), kernels.source_of(family)
    return with_fault(name, source) if name else source


def cuda_on_cpu_backend() -> Backend:
    """The CUDA backend over numpy arrays and kernels compiled for the CPU; any number of blocks must do."""
    return CudaBackend(np, CpuKernels(source_of), blocks=random.Random(current_seed()).choice([1, 3, 16, 64]))


class Uploaded(NamedTuple):
    """A weight on the device, and the array on the host it came from."""

    weight: DeviceWeight
    host: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.host.shape

    def upload(self) -> None:
        self.weight.bits.set(np.ascontiguousarray(self.host).reshape(-1).view(self.weight.bits.dtype))

    def download(self) -> None:
        self.host[...] = self.weight.bits.get().view(self.host.dtype).reshape(self.host.shape)


class UploadingBackend(Backend):
    """The CUDA backend for arrays on the host: carries them to the GPU, and back what has been written."""

    name = "cuda"
    few_features = 32

    def __init__(self) -> None:
        import cupy

        self._xp = cupy
        self._inner = backend_on_gpu()

    def adopt(self, array: np.ndarray, dtype: np.dtype | None = None) -> Uploaded:
        bits = self._xp.asarray(np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}"))
        return Uploaded(self._inner.adopt(bits.reshape(array.shape), dtype or array.dtype), array)

    def empty_mask(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.bool_)

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def own_mask(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def packed_mask(self, mask: np.ndarray) -> np.ndarray:
        return np.packbits(mask.reshape(-1), bitorder="little")

    def element_scores(self, weight: Uploaded, metric: ImportanceMetric, name: str) -> np.ndarray:
        return self._inner.element_scores(weight.weight, metric, name).get()

    def unit_scores(self, weight: Uploaded, view: UnitView, metric: ImportanceMetric, name: str) -> np.ndarray:
        return self._inner.unit_scores(weight.weight, view, metric, name).get()

    def kept_units(self, scores: np.ndarray, k: int) -> np.ndarray:
        return self._inner.kept_units(self._xp.asarray(scores), k).get()

    def prune_elements(
        self, weight: Uploaded, metric: ImportanceMetric, k: int, name: str, *, mask: Any = None, write: bool = True
    ) -> None:
        prune = self._inner.prune_elements
        self._carried(weight, mask, lambda own: prune(weight.weight, metric, k, name, mask=own, write=write))

    def prune_units(
        self, weight: Uploaded, view: UnitView, kept: np.ndarray, *, mask: Any = None, write: bool = True
    ) -> None:
        own_kept = self._xp.asarray(kept)
        prune = self._inner.prune_units
        self._carried(weight, mask, lambda own: prune(weight.weight, view, own_kept, mask=own, write=write))

    def prune_groups(
        self,
        weight: Uploaded,
        view: GroupView,
        metric: ImportanceMetric,
        name: str,
        *,
        mask: Any = None,
        write: bool = True,
    ) -> None:
        prune = self._inner.prune_groups
        self._carried(weight, mask, lambda own: prune(weight.weight, view, metric, name, mask=own, write=write))

    def plan(self, members: Sequence[PlanMember], metric: ImportanceMetric, k: int | None = None) -> UploadingPlan:
        masks = [None if m.mask is None else self._xp.empty(m.mask.shape, m.mask.dtype) for m in members]
        own = [m._replace(weight=m.weight.weight, mask=mask) for m, mask in zip(members, masks, strict=True)]
        return UploadingPlan(self._inner.plan(own, metric, k), members, masks)

    def spread_losses(
        self,
        left: np.ndarray,
        fallen: np.ndarray,
        lost: np.ndarray,
        shares: np.ndarray,
        diagonal: np.ndarray,
        groups: GroupView | None,
        name: str,
    ) -> None:
        own = [self._xp.asarray(array) for array in (left, fallen, lost, shares, diagonal)]
        self._inner.spread_losses(*own, groups, name)
        for array, carried in zip((left, fallen, lost), own, strict=False):
            array[...] = carried.get()

    def apply_mask(self, weight: np.ndarray, mask: np.ndarray) -> None:
        uploaded = self.adopt(weight)
        self._inner.apply_mask(uploaded.weight.bits, self._xp.asarray(mask))
        self._download(uploaded)

    def count_nonzero(self, weight: Uploaded) -> int:
        return self._inner.count_nonzero(weight.weight)

    def statistics(self, weight: Uploaded, metric: ImportanceMetric, name: str) -> Statistics:
        return self._inner.statistics(weight.weight, metric, name)

    def _carried(self, weight: Uploaded, mask: np.ndarray | None, work: Callable[[Any], None]) -> None:
        """Do the work with a mask on the device; the weight comes back also when it fails."""
        own = None if mask is None else self._xp.empty(mask.shape, np.bool_)
        try:
            work(own)
        finally:
            self._download(weight)
        if mask is not None:
            mask[...] = own.get()

    def _download(self, weight: Uploaded) -> None:
        weight.download()


class UploadingPlan(Plan):
    """A plan on the GPU for arrays on the host; they are carried anew for each run."""

    def __init__(self, inner: Plan, members: Sequence[PlanMember], masks: list[Any]) -> None:
        self._inner = inner
        self._members = members
        self._masks = masks
        self.nonzero = np.zeros(len(members), np.int64)

    def run(self) -> None:
        for member in self._members:
            member.weight.upload()
        self._inner.run()
        self.nonzero[...] = self._inner.nonzero.get()
        for member, mask in zip(self._members, self._masks, strict=True):
            member.weight.download()
            if mask is not None:
                member.mask[...] = mask.get()

    def check(self) -> None:
        self._inner.check()


class CountingKernels:
    """A loader that counts launches, by the name of the kernel."""

    def __init__(self) -> None:
        self._inner = CpuKernels(source_of)
        self.launches: Counter[str] = Counter()

    def kernel(self, family: str, name: str, defines: Mapping[str, str]) -> kernels.Kernel:
        kernel = self._inner.kernel(family, name, defines)

        def launch(*arguments: Any, **options: Any) -> None:
            self.launches[name] += 1
            kernel(*arguments, **options)

        return launch


BACKENDS: dict[str, Callable[[], Backend]] = {
    "numpy": NumpyBackend,
    "cuda-on-cpu": cuda_on_cpu_backend,
    "cuda": UploadingBackend,
}
"""Every backend, made for arrays on the host."""


def why_not(name: str) -> str:
    """Why a backend can't be tested here; nothing when it can. A GPU is asked for by the marker `gpu`."""
    return cuda_on_cpu.available() if name == "cuda-on-cpu" else ""
