// How the kernels of the selection walk over the table and know that a pass over a scope is complete.
#pragma once
#include "reduce.cuh"
#include "tensors.cuh"

// Where the threshold of a scope is looked for.
const u64 SEARCH = 0;      // between the ends of a bracket that a sample suggests: one pass counts and collects
const u64 WHOLE = 1;       // among all keys, digit by digit
const u64 CANDIDATES = 2;  // among the keys that were collected, digit by digit
const u64 FOUND = 3;

// Call work(tensor, first, last) for each run of tiles of one tensor that this block works on; the tiles are numbered
// inside the tensor. All threads of the block call it alike.
template <class Work>
__device__ __forceinline__ void for_each_run(const Tensor* tensors, u32 count, u64 tiles, Work work) {
  const Tiles mine = tiles_of_block(tiles);
  for (u64 tile = mine.first; tile < mine.last;) {
    const u32 t = tensor_of_tile(tensors, count, tile);
    const u64 end = t + 1 < count ? tensors[t + 1].first_tile : tiles;
    const u64 last = end < mine.last ? end : mine.last;
    work(tensors[t], tile - tensors[t].first_tile, last - tensors[t].first_tile);
    tile = last;
  }
}

// Say that so many tiles of a scope are counted; true in exactly one block: the one that says it last. What the other
// blocks wrote before they said so can then be read, past the caches that are not coherent.
__device__ inline bool completes_pass(Scope* scope, u64 tiles) {
  __shared__ u32 complete;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) complete = atomicAdd(&scope->done, tiles) + tiles == scope->tiles;
  __syncthreads();
  const bool last = complete;
  __syncthreads();  // all have read it before the next run writes it
  if (last) __threadfence();
  return last;
}

__device__ __forceinline__ void report_nan(Header* header, const Tensor& tensor) {
  atomicMin(&header->first_nan, tensor.number);
}
