// Set the elements below the threshold of their scope to +0.0, and as many of those equal to it as must fall: the ones
// that come first. Writes masks and counts what is left.
//
// Ties need the number of equal keys in all tiles before. Tiles are handed out in order by tickets, publish their own
// count, and look back over their predecessors until one knows its whole prefix (Merrill and Garland, "Single-pass
// parallel prefix scan with decoupled look-back", 2016). A tile waits only for tiles that are being worked on. Where
// all ties of a scope fall, nobody waits. A scope of several dtypes takes several launches: publish_ties goes before
// them, and then nobody waits either.
//
// Specialised as select.cu.
#include "metrics.cuh"
#include "outputs.cuh"
#include "scopes.cuh"

typedef DTYPE D;
typedef METRIC<D> Metric;
typedef D::Bits Bits;
typedef D::Key Key;
typedef TileElements<Bits> Elements;

const int WIDTH = Elements::WIDTH;
const int STEPS = Elements::STEPS;

// A tile's word for look-back: nothing yet; its own ties; ties of all tiles up to it.
const u64 OWN = 1ull << 62, PREFIX = 2ull << 62, COUNT = OWN - 1;

// Ties in the tiles of the scope before `tile`. One warp.
__device__ inline u64 look_back(const u64* published, u64 tile, u64 first_tile) {
  u64 before = 0;
  for (u64 end = tile; end > first_tile;) {
    const u32 lane = threadIdx.x & 31;
    const bool exists = end - first_tile > lane;
    u64 word;
    for (;;) {
      word = exists ? load_shared_word(&published[end - 1 - lane]) : PREFIX;
      if (__all_sync(ALL_LANES, word >= OWN)) break;
      __nanosleep(20);
    }
    const u32 knows = __ballot_sync(ALL_LANES, word >= PREFIX);
    const u32 stop = knows ? __ffs(knows) - 1 : 31;
    before += warp_sum(lane <= stop ? word & COUNT : 0);
    if (knows) break;
    end -= 32;
  }
  return before;
}

// Publish the ties of a tile and learn how many come before it. Called by all threads; `own` is alike in all.
__device__ inline u64 ties_before_tile(u64* published, u64 tile, u64 first_tile, u64 own) {
  __shared__ u64 before;
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) store_shared_word(&published[tile], (tile == first_tile ? PREFIX : OWN) | own);
    const u64 found = look_back(published, tile, first_tile);
    if (threadIdx.x == 0) {
      if (tile != first_tile) store_shared_word(&published[tile], PREFIX | (found + own));
      before = found;
    }
  }
  __syncthreads();
  return before;
}

// A tile in registers, and a bit an element: whether its key is below the threshold, and whether it equals it. Bits take
// the place of the keys, which would cost a register each. Element e of step s has bit s * WIDTH + e.
struct ScoredTile {
  Elements elements;
  u32 below, equal;

  __device__ __forceinline__ ScoredTile(const Tensor& tensor, u64 tile, Key threshold) : below(0), equal(0) {
    static_assert(STEPS * WIDTH <= 32, "a word has a bit for each element");
    const Metric metric(tensor);
    elements.load((const Bits*)tensor.data, tensor.size, tile);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const u64 first = Elements::first_of(tile, s);
#pragma unroll
      for (int e = 0; e < WIDTH; e++) {
        if (first + e >= tensor.size) continue;
        const Key key = metric.key(elements.step[s].at[e], first + e);
        below |= (u32)(key < threshold) << (s * WIDTH + e);
        equal |= (u32)(key == threshold) << (s * WIDTH + e);
      }
    }
  }

  static __device__ __forceinline__ u32 of_step(u32 bits, int s) { return bits >> (s * WIDTH) & ((1u << WIDTH) - 1); }
};

// Number, inside the scope, of the first tie among each thread's elements of each step.
struct TieNumbers {
  u64 first[STEPS];
};

// The steps' counts travel through one scan, 16 bits each: a block has at most 2,048 elements a step. `equal` has the
// bits of a ScoredTile.
__device__ inline TieNumbers number_ties(u32 equal, u64* published, u64 tile, u64 first_tile) {
  static_assert(STEPS == 4, "four counts fill a word");
  __shared__ u64 parts[WARPS];
  u64 packed = 0;
#pragma unroll
  for (int s = 0; s < STEPS; s++) packed |= (u64)__popc(ScoredTile::of_step(equal, s)) << (16 * s);
  const Scan scan = block_scan(packed, parts);
  u64 own = 0;
#pragma unroll
  for (int s = 0; s < STEPS; s++) own += scan.total >> (16 * s) & 0xffff;
  u64 before = ties_before_tile(published, tile, first_tile, own);
  TieNumbers numbers;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    numbers.first[s] = before + (scan.before >> (16 * s) & 0xffff);
    before += scan.total >> (16 * s) & 0xffff;
  }
  return numbers;
}

// The lowest `count` of some bits.
__device__ __forceinline__ u32 lowest_bits(u32 bits, u64 count) {
  u32 rest = bits;
  for (u64 taken = 0; taken < count && rest; taken++) rest &= rest - 1;
  return bits ^ rest;
}

// Set what falls in one tile to zero. `numbers` is read only where some ties of the scope stay.
__device__ inline void apply_to_tile(ScoredTile& scored, const Tensor& tensor, u64 tile, const Scope& scope,
                                     bool some_stay, const TieNumbers& numbers, bool write, u32 mask_kind,
                                     NonzeroCounter& nonzero) {
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    u32 ties = ScoredTile::of_step(scored.equal, s);
    if (some_stay) {
      const u64 first = numbers.first[s];
      ties = lowest_bits(ties, first < scope.ties_fall ? scope.ties_fall - first : 0);
    }
    const u32 kept = ScoredTile::of_step(~scored.below, s) & ~ties;
    finish_step(scored.elements, tensor, tile, s, kept, write, mask_kind, nonzero);
  }
}

// Publish the ties of every tile of the scopes some of whose ties stay; `published` as below.
extern "C" __global__ void __launch_bounds__(THREADS)
    publish_ties(const Tensor* tensors, u32 count, u64 tiles, const Scope* scopes, u64* published) {
  __shared__ u64 parts[WARPS];
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    const Scope& scope = scopes[tensor.scope];
    if (scope.ties_fall == scope.ties) return;
    for (u64 tile = first; tile < last; tile++) {
      const ScoredTile scored(tensor, tile, (Key)scope.threshold);
      const u64 own = block_scan(__popc(scored.equal), parts).total;
      if (threadIdx.x == 0) published[scope.first_tile + tensor.scope_tile + tile] = OWN | own;
      __syncthreads();  // all have read the parts before the next tile writes them
    }
  });
}

// Prune every tensor whose scope comes before the first NaN. `published` holds one word a tile, zero at the start or
// what publish_ties wrote; `ticket` is zero at the start; `nonzero` has one word a tensor, by its number, or is null.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const Tensor* tensors, u32 count, u64 tiles, const Scope* scopes, u64* tickets, u64* published,
          u64* nonzero, u32 mask_kind, u32 write, const Header* header) {
  __shared__ u64 ticket;
  const u64 first_nan = load_shared_word(&header->first_nan);
  NonzeroCounter counter(nonzero);
  for (;;) {
    if (threadIdx.x == 0) ticket = atomicAdd(tickets, 1ull);
    __syncthreads();
    const u64 tile = ticket;
    if (tile >= tiles) break;
    const Tensor tensor = tensors[tensor_of_tile(tensors, count, tile)];
    const Scope scope = scopes[tensor.scope];
    if (scope.last_tensor >= first_nan) break;  // tickets ascend, and so do scopes
    const u64 own_tile = tile - tensor.first_tile;
    ScoredTile scored(tensor, own_tile, (Key)scope.threshold);
    TieNumbers numbers;
    const bool some_stay = scope.ties_fall != scope.ties;
    if (some_stay)
      numbers = number_ties(scored.equal, published, scope.first_tile + tensor.scope_tile + own_tile, scope.first_tile);
    counter.turn_to((u32)tensor.number);
    apply_to_tile(scored, tensor, own_tile, scope, some_stay, numbers, write, mask_kind, counter);
    __syncthreads();  // all have read what is shared before the next tile writes it
  }
  counter.hand_over();
}
