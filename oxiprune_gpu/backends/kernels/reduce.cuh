// Sums and scans over a warp and over a block. All are of integers, so their order does not matter.
#pragma once
#include "types.cuh"

__device__ __forceinline__ u64 warp_sum(u64 value) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// Sum over the lanes up to this one.
__device__ __forceinline__ u64 warp_scan(u64 value) {
  const u32 lane = threadIdx.x & 31;
#pragma unroll
  for (int distance = 1; distance < 32; distance <<= 1) {
    const u64 other = __shfl_up_sync(ALL_LANES, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

struct Scan {
  u64 before, total;
};

// Sum over the threads before this one, and over all of the block. `parts` is shared scratch of WARPS words; the
// block must have passed a barrier since it was last read.
__device__ inline Scan block_scan(u64 value, u64* parts) {
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u64 upto = warp_scan(value);
  if (lane == 31) parts[warp] = upto;
  __syncthreads();
  Scan scan = {upto - value, 0};
#pragma unroll
  for (u32 w = 0; w < WARPS; w++) {
    if (w < warp) scan.before += parts[w];
    scan.total += parts[w];
  }
  return scan;
}

// Add up a count over the block and give it to one word in device memory.
__device__ inline void add_to_word(u64 value, u64* word) {
  const u64 sum = warp_sum(value);
  if ((threadIdx.x & 31) == 0 && sum) atomicAdd(word, sum);
}
