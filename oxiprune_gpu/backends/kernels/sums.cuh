// The documented order of addition (docs/design.md, section 3), which every backend keeps by bits.
//
// Terms of a unit are cut into chunks. Inside a chunk term i goes to lane i mod LANES; a lane adds its terms one after
// another; lanes are folded in halves: lane j += lane j + 64, then 32, ... 1. All additions are float64. Lanes that get
// no term stay 0 and need not be there: adding them changes nothing, since no term is negative.
#pragma once
#include "tensors.cuh"

const u32 CHUNK = 16384;
const u32 LANES = 128;
const u32 SLOTS = 4;  // lanes of one thread of a warp that adds a chunk

__device__ __forceinline__ u64 chunks_in(u64 length) { return (length + CHUNK - 1) / CHUNK; }

// a / b, the fast ways first: a 64-bit division is a hundred instructions.
__device__ __forceinline__ u64 quotient(u64 a, u64 b) {
  if (a < b) return 0;
  return (a | b) >> 32 ? a / b : (u32)a / (u32)b;
}

// Neighbours that are loaded or stored at once.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Neighbours {
  T at[COUNT];
};

// Fold the first WIDTH lanes of one thread, which lie equally far apart. Recursive, because a loop over halves is not
// unrolled and would put the lanes into memory.
template <int WIDTH, int COUNT>
__device__ __forceinline__ double fold_slots(double (&lanes)[COUNT]) {
  if constexpr (WIDTH > 1) {
#pragma unroll
    for (int slot = 0; slot < WIDTH / 2; slot++) lanes[slot] = add_double(lanes[slot], lanes[slot + WIDTH / 2]);
    return fold_slots<WIDTH / 2>(lanes);
  }
  return lanes[0];
}

// Add what the threads of a team hold: thread t += thread t + team / 2, and so on. All threads of the warp.
__device__ __forceinline__ double fold_team(double sum, u32 team) {
  for (u32 distance = team / 2; distance; distance /= 2)
    sum = add_double(sum, __shfl_xor_sync(ALL_LANES, sum, distance));
  return sum;
}

// Threads that add one chunk, SLOTS lanes each: a warp, or fewer for units that do not fill its lanes.
__device__ __forceinline__ u32 team_for(u64 unit_size) {
  u32 team = 32;
  while (team > 1 && team / 2 * SLOTS >= unit_size) team /= 2;
  return team;
}

// One chunk of one unit.
struct Piece {
  u64 number;  // of all chunks of all units
  u64 unit;
  u64 first;  // of its terms in the unit
  u32 length;
};

// Call work(piece, exists) for each piece that this thread's team adds in its block's share. All threads of a warp call it alike; where no
// piece is left for a team, its length is 0.
template <class Work>
__device__ __forceinline__ void for_each_piece(u64 units, u64 unit_size, u32 team, Share share, Work work) {
  const u64 chunks = chunks_in(unit_size), pieces = units * chunks;
  const u32 teams = 32 / team;  // in a warp
  const u64 warp = share.number * WARPS + threadIdx.x / 32;
  for (u64 at = warp * teams; at < pieces; at += share.of * WARPS * teams) {
    const u64 number = at + (threadIdx.x & 31) / team;
    const u64 unit = chunks == 1 ? number : quotient(number, chunks);
    const u64 first = (number - unit * chunks) * CHUNK;
    const u64 left = number < pieces ? unit_size - first : 0;
    work(Piece{number, unit, first, left < CHUNK ? (u32)left : CHUNK}, number < pieces);
  }
}
