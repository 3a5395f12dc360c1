// What a pass that prunes leaves of each tile: its elements, their mask, how many are not zero.
#pragma once
#include "dtypes.cuh"
#include "reduce.cuh"
#include "tensors.cuh"

const u32 NO_MASK = 0, BOOLS = 1, BITS = 2;

// Write the flags of WIDTH neighbours (bit e: element e is kept) as bytes.
template <int WIDTH>
__device__ inline void write_bools(u8* mask, u64 first, u64 size, u32 kept) {
  if (((u64)(mask + first) & (WIDTH - 1)) == 0 && first + WIDTH <= size) {
    u64 bytes = 0;
#pragma unroll
    for (int e = 0; e < WIDTH; e++) bytes |= (u64)(kept >> e & 1) << (8 * e);
    if (WIDTH == 2) *(u16*)(mask + first) = (u16)bytes;
    if (WIDTH == 4) *(u32*)(mask + first) = (u32)bytes;
    if (WIDTH == 8) *(u64*)(mask + first) = bytes;
  } else {
#pragma unroll
    for (int e = 0; e < WIDTH; e++)
      if (first + e < size) mask[first + e] = kept >> e & 1;
  }
}

// The same as bits, the first element lowest. All threads of a warp.
template <int WIDTH>
__device__ inline void write_bits(u8* mask, u64 first, u64 size, u32 kept) {
  const int lanes = 32 / WIDTH;  // so many threads fill a 32-bit word
  const u32 lane = threadIdx.x & (lanes - 1);
#pragma unroll
  for (int e = 0; e < WIDTH; e++)
    if (first + e >= size) kept &= ~(1u << e);
  u32 word = kept << (WIDTH * lane);
#pragma unroll
  for (int distance = 1; distance < lanes; distance <<= 1) word |= __shfl_xor_sync(ALL_LANES, word, distance);
  if (lane) return;
  if (((u64)mask & 3) == 0 && first + 32 <= size) {
    *(u32*)(mask + first / 8) = word;
  } else {
    for (int byte = 0; byte < 4; byte++)
      if (first + 8 * byte < size) mask[first / 8 + byte] = (u8)(word >> (8 * byte));
  }
}

// Counts what is left in the tensor a block works on, and hands it over when the block turns to another.
struct NonzeroCounter {
  u64* counts;
  u32 tensor;
  u64 held;

  __device__ explicit NonzeroCounter(u64* counts) : counts(counts), tensor(0), held(0) {}

  __device__ void turn_to(u32 next) {
    if (next == tensor) return;
    hand_over();
    tensor = next;
  }

  __device__ void hand_over() {
    if (counts) add_to_word(held, &counts[tensor]);
    held = 0;
  }
};

// Zero what falls in one step of a tile (bit e of `kept`: element e of this thread stays), count what is left, and write
// both where that is asked for.
template <class Bits>
__device__ __forceinline__ void finish_step(TileElements<Bits>& elements, const Tensor& tensor, u64 tile, int s, u32 kept,
                                            bool write, u32 mask_kind, NonzeroCounter& nonzero) {
  const int WIDTH = TileElements<Bits>::WIDTH;
  const u64 first = TileElements<Bits>::first_of(tile, s);
  bool changed = false;
#pragma unroll
  for (int e = 0; e < WIDTH; e++) {
    if (!(kept >> e & 1) && elements.step[s].at[e]) {
      elements.step[s].at[e] = 0;
      changed = true;
    }
    nonzero.held += first + e < tensor.size && !is_zero(elements.step[s].at[e]);
  }
  if (changed && write) elements.store_step((Bits*)tensor.data, tensor.size, tile, s);
  if (mask_kind == BOOLS) write_bools<WIDTH>((u8*)tensor.mask, first, tensor.size, kept);
  if (mask_kind == BITS) write_bits<WIDTH>((u8*)tensor.mask, first, tensor.size, kept);
}
