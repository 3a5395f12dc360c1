"""The CPU stand-in for CUDA: right kernels give right results under every schedule, wrong ones are found."""

from __future__ import annotations

import os
import platform

import numpy as np
import pytest

from tests import cuda_on_cpu
from tests.cuda_on_cpu import CpuKernels, CudaShimError

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available())

SMALL = os.environ.get("OXIPRUNE_SHIM_SMALL") == "1"
SEEDS = range(4 if SMALL else 40)

FLAGS = os.environ.get("OXIPRUNE_SHIM_FLAGS", "")
SANITIZED = "-fsanitize" in FLAGS
fibers_only = pytest.mark.skipif("-DSHIM_OS_THREADS" in FLAGS, reason="not for OS threads")

KERNELS = r"""
typedef unsigned long long u64;

extern "C" __global__ void __launch_bounds__(256) add(const float* a, const float* b, float* out, u64 n) {
  const u64 first = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  for (u64 i = first; i < n; i += u64(gridDim.x) * blockDim.x) out[i] = a[i] + b[i];
}

template <class T>
__device__ T block_sum(T value) {
  __shared__ T partial[256];
  partial[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
#ifndef FORGETFUL
    __syncthreads();
#endif
  }
  return partial[0];
}

extern "C" __global__ void __launch_bounds__(256) sums(const unsigned* x, unsigned* out) {
  unsigned sum = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void prefix(unsigned* out) {
  unsigned lane = threadIdx.x, sum = lane;
  for (int d = 1; d < 32; d *= 2) {
    unsigned below = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += below;
  }
  out[lane] = sum;
  out[32 + lane] = __shfl_down_sync(~0u, lane, 3);
  out[64 + lane] = __shfl_xor_sync(~0u, lane, 5);
  out[96 + lane] = __shfl_sync(~0u, lane, 9, 8);
  out[128 + lane] = __ballot_sync(~0u, lane % 3 == 0);
  out[160 + lane] = __match_any_sync(~0u, u64(lane % 4) << 40);
  out[192 + lane] = __reduce_max_sync(~0u, lane ^ 7);
  out[224 + lane] = lane < 8 ? __reduce_add_sync(0xFFu, lane) : __reduce_min_sync(0xFFFFFF00u, lane);
}

// Each block waits until the one before it, by ticket, has told its sum.
extern "C" __global__ void look_back(unsigned* ticket, volatile u64* told, unsigned* waits) {
  __shared__ unsigned tile;
  __shared__ u64 before;
  if (threadIdx.x == 0) tile = atomicAdd(ticket, 1);
  __syncthreads();
  unsigned mine = block_sum(tile + threadIdx.x);
  if (threadIdx.x == 0) {
    before = 0;
    while (tile && !(before = told[tile - 1])) {
      atomicAdd(waits, 1);
      __nanosleep(20);
    }
    __threadfence();
    told[tile] = before + mine;
  }
  __syncthreads();
  // Another block's `before` must not be seen here.
  if (before != 32 * tile * (tile - 1) + 2016 * tile) told[tile] = 0;
}

extern "C" __global__ void diverge(unsigned* out) {
  if (threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void stuck(unsigned* out) {
  if (threadIdx.x == 3) __shfl_sync(0x18u, 1, 0);
  if (threadIdx.x == 4) __syncthreads();
}
extern "C" __global__ void endless(volatile unsigned* flag) {
  while (!*flag) __nanosleep(100);
}
extern "C" __global__ void lane_missing(unsigned* out) { out[0] = __ballot_sync(0x2u, 1); }
extern "C" __global__ void masks_differ(unsigned* out) { __syncwarp(threadIdx.x ? ~0u : 0xFu); }
extern "C" __global__ void outsider(unsigned* out) {
  if (threadIdx.x < 2) out[0] = __shfl_sync(0x3u, threadIdx.x, 5);
}
extern "C" __global__ void deep(unsigned* out) {
  volatile char much[300000];
  for (int i = 0; i < 300000; ++i) much[i] = 1;
  __syncthreads();
}

extern "C" __global__ void floats(const float* x, float* out, double* wide) {
  out[0] = x[0] * x[1];
  out[1] = unflushed_mul(x[0], x[1]);
  out[2] = x[2] * x[3];
  out[3] = unflushed_narrow(unflushed_widen(x[2]));
  wide[0] = unflushed_widen(x[2]);
  wide[1] = x[2];
  wide[2] = add_double(wide[3], wide[3]);
  wide[4] = unflushed_sqrt(wide[3]);
  wide[5] = unflushed_mul_double(wide[3], 0.5);
}
extern "C" __global__ void halves(const unsigned short* x, float* out) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = unflushed_half_to_float(x[i]);
}

extern "C" __global__ void atomics(unsigned* out, u64* wide, float* real, double* fine) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&out[0], 1);
  atomicMax(&out[1], i);
  atomicMin(&out[2], i);
  atomicOr(&out[3], 1u << i % 32);
  atomicSub(&out[4], 2);
  atomicXor(&out[5], i);
  atomicAnd(&out[6], ~(1u << i % 8));
  atomicAdd(&wide[0], u64(i) << 32);
  atomicAdd(real, 0.5f);
  atomicAdd(fine, 0.25);
  unsigned old = __ldcg(&out[7]);
  for (unsigned seen; (seen = atomicCAS(&out[7], old, old + 3)) != old;) old = seen;
}

extern "C" __global__ void reversed(unsigned* x, unsigned* garbage) {
  DYNAMIC_SHARED(unsigned, buffer);
  if (threadIdx.x == 0) *garbage = buffer[0];
  __syncthreads();
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  buffer[threadIdx.x] = x[i];
  __syncthreads();
  x[i] = buffer[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void bits(unsigned* out, unsigned x, unsigned y) {
  out[0] = __brev(x);
  out[1] = __byte_perm(x, y, 0x7031);
  out[2] = __funnelshift_l(x, y, 12);
  out[3] = __funnelshift_r(x, y, 12);
  out[4] = __umulhi(x, y);
  out[5] = __umul64hi(u64(x) << 32, u64(y) << 32) >> 32;
  out[6] = __popc(x) << 16 | __clz(x) << 8 | __ffs(x);
  out[7] = min(x, 7) + max(1u, 5u);
}
struct Row {
  u64 first, second, third;
};
extern "C" __global__ void rows(const Row* table, u64* out) { out[0] = table[1].third; }
extern "C" __global__ void typed(unsigned char* a, const void* b, double c, bool d, int e) {}
"""


@pytest.fixture(scope="module")
def kernels():
    return loader()


def loader(seed=None):
    return CpuKernels(lambda family: KERNELS, seed=seed)


def call(kernels, name, args, grid=1, block=32, shared_mem=0, **defines):
    kernels.kernel("shim", name, defines)((grid,), (block,), args, shared_mem=shared_mem)


def words(count):
    return np.zeros(count, np.uint32)


@pytest.mark.parametrize("n", [1, 31, 256, 257, 2_003 if SMALL else 100_003])
def test_add_with_a_tail(kernels, n):
    a, b = np.random.default_rng(n).random((2, n), np.float32)
    out = np.full(n + 1, -1, np.float32)
    call(kernels, "add", (a, b, out, np.uint64(n)), grid=7, block=256)
    assert (out[:n] == a + b).all()
    assert out[n] == -1


def sums_under(seed, **defines):
    x = np.arange(6 * 256, dtype=np.uint32)
    out = words(6)
    call(loader(seed), "sums", (x, out), grid=6, block=256, **defines)
    return (out == x.reshape(6, 256).sum(1)).all()


def test_a_reduction_over_barriers_under_every_schedule():
    assert all(sums_under(seed) for seed in SEEDS)


@fibers_only
def test_a_missing_barrier_gives_wrong_results_under_some_schedule():
    assert not all(sums_under(seed, FORGETFUL="1") for seed in SEEDS)


def test_only_some_blocks_of_a_huge_grid():
    for seed in SEEDS:
        a, b = np.random.default_rng(seed).random((2, 70), np.float32)
        out = np.zeros(70, np.float32)
        args = (a, b, out, np.uint64(70))
        loader(seed).kernel("shim", "add", {})((2**30,), (1,), args, only=range(33, 70))
        assert (out == np.where(np.arange(70) < 33, 0, a + b)).all()


def test_warp_intrinsics():
    lanes = np.arange(32, dtype=np.uint32)
    for seed in SEEDS:
        out = words(256)
        call(loader(seed), "prefix", (out,))
        prefix, down, xor, first, ballot, match, most, split = out.reshape(8, 32)
        assert (prefix == lanes.cumsum()).all()
        assert (down == np.where(lanes < 29, lanes + 3, lanes)).all()
        assert (xor == lanes ^ 5).all()
        assert (first == lanes // 8 * 8 + 1).all()
        assert (ballot == sum(1 << lane for lane in range(0, 32, 3))).all()
        assert (match == [0x11111111 << lane % 4 for lane in range(32)]).all()
        assert (most == 31).all()
        assert (split == np.where(lanes < 8, 28, 8)).all()


def test_blocks_that_wait_for_each_other():
    waited = 0
    for seed in SEEDS:
        ticket, told, waits = words(1), np.zeros(30, np.uint64), words(1)
        call(loader(seed), "look_back", (ticket, told, waits), grid=30, block=64)
        assert (told == np.cumsum([64 * tile + 63 * 32 for tile in range(30)])).all()
        waited += int(waits[0])
    assert waited or SANITIZED


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("diverge", "barrier divergence: it is at __syncthreads in line"),
        ("stuck", "deadlock: it waits at __shfl_sync"),
        pytest.param("endless", "endless wait", marks=fibers_only),
        ("lane_missing", "own lane [0-9]+ is missing"),
        ("masks_differ", "masks differ"),
        ("outsider", "reads lane 5, which takes no part"),
        pytest.param("deep", "stack overflow", marks=fibers_only),
    ],
)
def test_what_cuda_forbids_is_found_and_named(name, message):
    for seed in SEEDS[:5]:
        with pytest.raises(CudaShimError, match=rf"kernel {name}: block \(.*thread \(.*{message}.*SEED={seed}"):
            call(loader(seed), name, (words(1),), block=64)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((words(1),), "1 arguments for 2 parameters"),
        ((words(1), words(1), words(1)), "3 arguments for 2"),
        ((words(1), np.uint64(1)), "argument 1 is an integer, its parameter is a pointer"),
        ((words(1), np.uint32(1)), "argument 1 has 4 bytes, its parameter has 8"),
        ((words(1), np.zeros(1)), "argument 1 has elements of 8 bytes, its parameter points to 4"),
        ((words(1), np.broadcast_to(words(1), 3)), "argument 1 is a read-only array"),
        ((words(4)[::2], words(1)), "argument 0 is an array with gaps"),
        ((words(1), "x"), "argument 1 has type str"),
    ],
)
def test_wrong_arguments(kernels, args, message):
    with pytest.raises(CudaShimError, match=message):
        call(kernels, "reversed", args)


def test_python_scalars_are_passed_as_cupy_passes_them(kernels):
    read_only = np.broadcast_to(np.float16(1), 1)
    call(kernels, "typed", (words(1), read_only, 1.0, True, np.int32(1)))
    call(kernels, "typed", (None, None, np.float64(1), np.bool_(1), np.int32(1)))
    with pytest.raises(CudaShimError, match="argument 4 has 8 bytes, its parameter has 4"):
        call(kernels, "typed", (None, None, 1.0, True, 1))
    with pytest.raises(CudaShimError, match="argument 2 is an integer, its parameter is a floating-point number"):
        call(kernels, "typed", (None, None, 1, True, np.int32(1)))


def test_tables_of_words_stand_for_arrays_of_structs(kernels):
    out = np.zeros(1, np.uint64)
    call(kernels, "rows", (np.arange(6, dtype=np.uint64), out))
    assert out[0] == 5
    with pytest.raises(CudaShimError, match="argument 0 has 40 bytes, its parameter points to structs of 24 bytes"):
        call(kernels, "rows", (np.arange(5, dtype=np.uint64), out))


@pytest.mark.parametrize(
    ("grid", "block", "shared_mem"),
    [
        ((0,), (1,), 0),
        ((1,), (0,), 0),
        ((1,), (2000,), 0),
        ((1,), (512,), 0),
        ((1, 65536), (1,), 0),
        ((1,), (1,), 1 << 18),
    ],
)
def test_wrong_launches(kernels, grid, block, shared_mem):
    with pytest.raises(CudaShimError, match="kernel sums: "):
        kernels.kernel("shim", "sums", {})(grid, block, (words(1), words(1)), shared_mem=shared_mem)


def test_what_does_not_compile_or_exist(kernels):
    with pytest.raises(CudaShimError, match="no entry point"):
        kernels.kernel("shim", "nothing", {})
    with pytest.raises(CudaShimError, match=r"does not compile(.|\n)*broken\.cu:1:"):
        CpuKernels(lambda family: "void f() { undefined(); }").kernel("broken", "f", {})
    unknown_to_cuda = 'extern "C" __global__ void f(long long* x) { atomicAdd(x, 1); }'
    with pytest.raises(CudaShimError, match="no overload for this type"):
        CpuKernels(lambda family: unknown_to_cuda).kernel("broken", "f", {})


@pytest.mark.skipif(platform.machine() != "x86_64", reason="denormals are flushed on x86-64 only")
def test_denormals_are_flushed_as_cupy_does_and_kept_where_asked(kernels):
    x = np.array([1e-20, 1e-20, 1e-40, 1], np.float32)
    out, wide = np.ones(4, np.float32), np.array([1, 1, 1, 5e-310, 1, 1])
    call(kernels, "floats", (x, out, wide), block=1)
    tiny = x[2]
    assert out.tolist() == [0, x[0] * x[1], 0, tiny]
    assert wide.tolist() == [float(tiny), 0, 5e-310 * 2, 5e-310, 5e-310**0.5, 2.5e-310]
    assert np.float32(1e-20) * np.float32(1e-20) > 0, "the mode is put back"


def test_every_half_becomes_the_right_float(kernels):
    every = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, np.float32)
    call(kernels, "halves", (every, out), grid=64, block=1024)
    np.testing.assert_array_equal(out, every.view(np.float16).astype(np.float32))
    assert (np.signbit(out) == (every >= 0x8000)).all()


def test_atomics():
    for seed in SEEDS:
        out, wide, real, fine = words(8), np.zeros(1, np.uint64), np.zeros(1, np.float32), np.zeros(1)
        out[[2, 6]] = 2**32 - 1
        call(loader(seed), "atomics", (out, wide, real, fine), grid=5, block=96)
        n = 480
        assert out.tolist() == [n, n - 1, 0, 2**32 - 1, 2**32 - 2 * n, 0, 0xFFFFFF00, 3 * n]
        assert (wide[0], real[0], fine[0]) == (sum(range(n)) << 32, n / 2, n / 4)


def test_dynamic_shared_memory_is_its_blocks_own_and_starts_as_garbage():
    for seed in SEEDS:
        x, garbage = np.arange(320, dtype=np.uint32), words(1)
        call(loader(seed), "reversed", (x, garbage), grid=5, block=64, shared_mem=256)
        assert (x.reshape(5, 64) == np.arange(320).reshape(5, 64)[:, ::-1]).all()
        assert garbage[0] == 0xC5C5C5C5


def test_integer_intrinsics(kernels):
    x, y = 0x12345678, 0x9ABCDEF0
    out = words(8)
    call(kernels, "bits", (out, np.uint32(x), np.uint32(y)), block=1)
    both, high = y << 32 | x, x * y >> 32
    wanted = [int(f"{x:032b}"[::-1], 2), 0x9A781256, both >> 20 & 0xFFFFFFFF, both >> 12 & 0xFFFFFFFF, high, high]
    assert out.tolist() == [*wanted, 13 << 16 | 3 << 8 | 4, 12]


@pytest.mark.skipif(SANITIZED, reason="sanitizers run one block at a time")
def test_the_same_seed_repeats_a_run_and_others_differ():
    def waits(seed):
        args = words(1), np.zeros(30, np.uint64), words(1)
        call(loader(seed), "look_back", args, grid=30, block=64)
        return int(args[2][0])

    counts = [waits(seed) for seed in SEEDS]
    assert counts == [waits(seed) for seed in SEEDS]
    assert len(set(counts)) > 1
