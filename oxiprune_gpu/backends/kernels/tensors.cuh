// Every launch works on a table of tensors, be it one or hundreds, cut into tiles of 16 KiB.
//
// Tensors that compete together share a scope. The tables are arrays of 64-bit words, written by
// backends/cuda_tables.py: the order of the fields here is the order there.
#pragma once
#include "types.cuh"

const u32 TILE_BYTES = 16384;

struct Tensor {
  u64 data;        // address of the elements
  u64 size;        // elements
  u64 first_tile;  // of all tiles of the table
  u64 scope;       // index, in the table of scopes, of the one it competes in
  u64 gradient;    // address of the gradient in the score dtype, for the metric that has one
  u64 seed;        // for the metric that has one
  u64 mask;        // address of the mask, 0 for none
  u64 number;      // its place among all tensors of a plan, whatever their dtypes
  u64 scope_tile;  // its first tile among those of its scope
};

// What is known of one scope, while its k lowest elements are looked for and after.
struct Scope {
  u64 k;           // elements to prune
  u64 size;        // elements
  u64 first_tile;  // its place among the tiles of the launch, or of the plan when it has several dtypes
  u64 tiles;
  u64 mode;        // where the threshold is looked for: see select.cu
  u64 low;         // bracket: keys between which the threshold lies, we hope
  u64 high;
  u64 below;       // keys below low, equal to low, between, equal to high
  u64 at_low;
  u64 between;
  u64 at_high;
  u64 capacity;    // candidates that can be held
  u64 candidates;  // index of the first one
  u64 sample;      // index of the first sampled key
  u64 sampled;     // sampled keys
  u64 first_rank;  // ranks in the sample of low and of high; high's may lie past the end
  u64 last_rank;
  u64 rank;        // of the threshold among the keys still looked at, from 1
  u64 threshold;   // its digits found so far, then the key
  u64 ties_fall;   // how many keys equal to the threshold fall, of how many
  u64 ties;
  u64 done;        // tiles that have been counted in this pass
  u64 last_tensor; // number of its last tensor
};

struct Header {
  u64 first_nan;  // number of the first tensor that holds a NaN; all ones for none. From its scope on nothing is written.
};

// The row of a table that this block works on, and what the block is among those that share the row.
struct Share {
  u32 row;
  u64 number, of;
};

// The blocks of a launch are dealt out to the rows of a table: row r has those from rows[r].first_block on, at least
// one. The rows may be cut from a longer table.
template <class Row>
__device__ __forceinline__ Share share_of_block(const Row* rows, u32 count) {
  const u64 origin = rows[0].first_block, block = origin + blockIdx.x;
  const u32 row = row_of(count, block, [=](u32 other) { return rows[other].first_block; });
  const u64 end = row + 1 < count ? rows[row + 1].first_block : origin + gridDim.x;
  return Share{row, block - rows[row].first_block, end - rows[row].first_block};
}

struct Tiles {
  u64 first, last;
};

// The run of tiles this block works on: long runs, so that few blocks meet in one tensor.
__device__ __forceinline__ Tiles tiles_of_block(u64 tiles) {
  return Tiles{tiles * blockIdx.x / gridDim.x, tiles * (blockIdx.x + 1) / gridDim.x};
}

// The row of a table that a place belongs to: the last one that does not begin after it. first_of(row) ascends.
template <class FirstOf>
__device__ __forceinline__ u32 row_of(u32 count, u64 place, FirstOf first_of) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (first_of(middle) <= place) low = middle; else high = middle;
  }
  return low;
}

// The tensor that a tile belongs to: the last one that does not begin after it and is not empty.
__device__ inline u32 tensor_of_tile(const Tensor* tensors, u32 count, u64 tile) {
  return row_of(count, tile, [=](u32 row) { return tensors[row].first_tile; });
}

template <class Bits>
__device__ __forceinline__ u64 tiles_in(u64 size) {
  const u64 length = TILE_BYTES / sizeof(Bits);
  return (size + length - 1) / length;
}

// One tile in registers: STEPS times a vector for each thread of the block.
template <class Bits>
struct TileElements {
  static const int WIDTH = Vector<Bits>::LENGTH;
  static const int STEPS = TILE_BYTES / 16 / THREADS;
  static const u64 LENGTH = TILE_BYTES / sizeof(Bits);
  Vector<Bits> step[STEPS];

  static __device__ __forceinline__ u64 first_of(u64 tile, int step) {
    return tile * LENGTH + ((u64)step * THREADS + threadIdx.x) * WIDTH;
  }

  // Elements past the end are 0; those who count must ask whether an element is there.
  __device__ __forceinline__ void load(const Bits* data, u64 size, u64 tile) {
    const bool whole = ((u64)data & 15) == 0 && (tile + 1) * LENGTH <= size;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const u64 first = first_of(tile, s);
      if (whole) {
        step[s] = *(const Vector<Bits>*)(data + first);
      } else {
#pragma unroll
        for (int e = 0; e < WIDTH; e++) step[s].at[e] = first + e < size ? data[first + e] : (Bits)0;
      }
    }
  }

  __device__ __forceinline__ void store_step(Bits* data, u64 size, u64 tile, int s) const {
    const u64 first = first_of(tile, s);
    if (((u64)data & 15) == 0 && first + WIDTH <= size) {
      *(Vector<Bits>*)(data + first) = step[s];
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; e++)
        if (first + e < size) data[first + e] = step[s].at[e];
    }
  }
};
