// N:M: of every OF neighbours along a line all but the `keep` with the highest scores become +0.0; of equal scores the
// lowest index falls first.
//
// The tensor is seen as (outer, length, inner), neighbours along length. One thread takes whole groups, a patch of
// them, so that keys and ranks stay in registers. Where inner is 1 a patch is as many vectors in a row as hold whole
// groups; else it is OF runs, one a member of the group, and neighbouring threads take neighbouring runs.
//
// Specialised by -DDTYPE, -DMETRIC and -DOF, 2 to 32.
#include "metrics.cuh"
#include "outputs.cuh"
#include "scopes.cuh"

typedef DTYPE D;
typedef METRIC<D> Metric;
typedef D::Bits Bits;
typedef D::Key Key;

const int WIDTH = Vector<Bits>::LENGTH;
const int MOST_VECTORS = 12;  // of a patch: more would not leave enough registers, and make long code

// Length of a wide run: the more runs a patch has, the shorter they are.
const int WIDE_BYTES = OF <= 4 ? 16 : OF <= 8 ? 8 : OF <= 16 ? 4 : 2;
const int WIDE = WIDE_BYTES > sizeof(Bits) ? WIDE_BYTES / sizeof(Bits) : 1;

template <int N>
struct alignas(N * sizeof(Bits)) Run {
  Bits at[N];
};

__device__ constexpr int common_divisor(int a, int b) { return b ? common_divisor(b, a % b) : a; }

// Vectors in a row that hold whole groups. Element `member` of a group stands in `run`, there at `place`.
struct InARow {
  static const int LENGTH = WIDTH;
  static const int RUNS = OF / common_divisor(OF, WIDTH);
  static const int GROUPS = RUNS * WIDTH / OF;
  static __device__ constexpr int run(int group, int member) { return (group * OF + member) / WIDTH; }
  static __device__ constexpr int place(int group, int member) { return (group * OF + member) % WIDTH; }
};

// One run a member: neighbouring groups lie beside each other.
template <int N>
struct Interleaved {
  static const int LENGTH = N;
  static const int RUNS = OF;
  static const int GROUPS = N;
  static __device__ constexpr int run(int, int member) { return member; }
  static __device__ constexpr int place(int group, int) { return group; }
};

// Which members stay, as bits. A member's rank is the number of those that fall before it.
__device__ __forceinline__ u32 staying(const Key (&keys)[OF], u32 fall) {
  u32 ranks[OF];
#pragma unroll
  for (int i = 0; i < OF; i++) ranks[i] = OF - 1 - i;  // as if all that follow fell before it
#pragma unroll
  for (int i = 0; i < OF; i++) {
#pragma unroll
    for (int j = i + 1; j < OF; j++) {
      const u32 before = keys[i] <= keys[j];
      ranks[j] += before;
      ranks[i] -= before;
    }
  }
  u32 stay = 0;
#pragma unroll
  for (int i = 0; i < OF; i++) stay |= (u32)(ranks[i] >= fall) << i;
  return stay;
}

// How one tensor is seen: see GroupView in granularity/base.py. The row beside it in the table of tensors is that tensor.
struct Lines {
  u64 first_block;
  u64 outer, length, inner;
  u64 tail_falls;  // how many of the last length % OF
};

// Write N flags (bit e: element e is kept) as bytes.
template <int N>
__device__ __forceinline__ void write_flags(u8* mask, u32 kept) {
  if (((u64)mask & (N - 1)) == 0) {
    u64 bytes = 0;
#pragma unroll
    for (int e = 0; e < N; e++) bytes |= (u64)(kept >> e & 1) << (8 * e);
    if (N == 1) *mask = (u8)bytes;
    if (N == 2) *(u16*)mask = (u16)bytes;
    if (N == 4) *(u32*)mask = (u32)bytes;
    if (N == 8) *(u64*)mask = bytes;
  } else {
#pragma unroll
    for (int e = 0; e < N; e++) mask[e] = kept >> e & 1;
  }
}

// Clear the bits of those of N neighbours that fall. `first` is a multiple of N, so they lie in one word of the mask.
template <int N>
__device__ __forceinline__ void clear_bits(u8* mask, u64 first, u32 kept) {
  const u32 falling = ~kept & ((1u << N) - 1);
  if (falling) atomicAnd((u32*)mask + first / 32, ~(falling << (first & 31)));
}

struct Options {
  u32 fall;  // how many of each group
  u32 write, mask_kind;
};

// What a thread has come across; it sees fewer than 2^32 elements of a tensor.
struct Found {
  u32 nan, nonzero;
};

// The runs that begin at `first` and every `distance` elements after it. A patch in which fewer than RUNS are present
// is the end of a line, whose last members are missing: they have the highest key, so that none falls for them.
template <class Layout>
struct Patch {
  static const int N = Layout::LENGTH, RUNS = Layout::RUNS;
  Run<N> runs[RUNS];
  u64 first, distance;
  u32 present;

  __device__ __forceinline__ void load(const Tensor& tensor, u64 from, u64 apart, u32 runs_present) {
    first = from;
    distance = apart;
    present = runs_present;
#pragma unroll
    for (int r = 0; r < RUNS; r++)
      runs[r] = r < present ? *(const Run<N>*)((const Bits*)tensor.data + first + r * distance) : Run<N>();
  }

  __device__ __forceinline__ void prune(const Tensor& tensor, const Metric& metric, Options options, Found& found) {
    u32 kept[RUNS] = {};
#pragma unroll
    for (int g = 0; g < Layout::GROUPS; g++) {
      Key keys[OF];
#pragma unroll
      for (int m = 0; m < OF; m++) {
        const int r = Layout::run(g, m), e = Layout::place(g, m);
        keys[m] = r < present ? metric.key(runs[r].at[e], first + r * distance + e) : (Key)-1;
        found.nan += r < present && keys[m] > D::INFINITY_KEY;
      }
      const u32 stay = options.fall ? staying(keys, options.fall) : ALL_LANES;
#pragma unroll
      for (int m = 0; m < OF; m++) kept[Layout::run(g, m)] |= (stay >> m & 1) << Layout::place(g, m);
    }
#pragma unroll
    for (int r = 0; r < RUNS; r++)
      if (r < present) store(tensor, r, kept[r], options, found);
  }

  __device__ __forceinline__ void store(const Tensor& tensor, int r, u32 kept, Options options, Found& found) {
    const u64 place = first + r * distance;
    bool changed = false;
#pragma unroll
    for (int e = 0; e < N; e++) {
      found.nonzero += (kept >> e & 1) && !is_zero(runs[r].at[e]);
      if (kept >> e & 1) continue;
      runs[r].at[e] = 0;
      changed = true;
    }
    if (changed && options.write) *(Run<N>*)((Bits*)tensor.data + place) = runs[r];
    if (options.mask_kind == BOOLS) write_flags<N>((u8*)tensor.mask + place, kept);
    if (options.mask_kind == BITS) clear_bits<N>((u8*)tensor.mask, place, kept);
  }
};

struct Division {
  u64 whole, rest;
};

// Most weights have fewer than 2^32 elements, and a division of 64 bits costs many times one of 32.
__device__ __forceinline__ Division divided(u64 number, u64 by) {
  if ((number | by) >> 32) return Division{number / by, number % by};
  return Division{(u32)number / (u32)by, (u32)number % (u32)by};
}

// Every group from number `begin` on, and the ends of the lines; N neighbouring groups a thread.
template <int N>
__device__ __forceinline__ void prune_lines(const Tensor& tensor, const Lines& lines, Share share, u64 begin,
                                            Options options, Found& found) {
  const Metric metric(tensor);
  const u64 groups = lines.length / OF, across = lines.inner / N;
  const u32 rest = lines.length % OF;
  const u64 rows = groups + (rest > 0);
  for (u64 item = begin + share.number * THREADS + threadIdx.x; item < lines.outer * rows * across;
       item += share.of * THREADS) {
    const Division inside = divided(item, across), row = divided(inside.whole, rows);
    const u64 first = (row.whole * lines.length + row.rest * OF) * lines.inner + inside.rest * N;
    Patch<Interleaved<N>> patch;
    const bool filled = row.rest < groups;
    patch.load(tensor, first, lines.inner, filled ? OF : rest);
    const u32 fall = filled ? options.fall : (u32)lines.tail_falls;
    patch.prune(tensor, metric, Options{fall, options.write, options.mask_kind}, found);
  }
}

// Short patches are loaded several at a time, so that enough bytes are under way.
__device__ __forceinline__ void prune_in_a_row(const Tensor& tensor, Share share, u64 patches, Options options,
                                               Found& found) {
  const int AT_ONCE = InARow::RUNS >= 4 ? 1 : 4 / InARow::RUNS;
  const Metric metric(tensor);
  for (u64 begin = share.number * THREADS * AT_ONCE + threadIdx.x; begin < patches;
       begin += share.of * THREADS * AT_ONCE) {
    Patch<InARow> some[AT_ONCE];
#pragma unroll
    for (int s = 0; s < AT_ONCE; s++) {
      const u64 patch = begin + s * THREADS;
      if (patch < patches) some[s].load(tensor, patch * InARow::RUNS * WIDTH, WIDTH, InARow::RUNS);
    }
#pragma unroll
    for (int s = 0; s < AT_ONCE; s++)
      if (begin + s * THREADS < patches) some[s].prune(tensor, metric, options, found);
  }
}

// Find the tensor that a block works on, do the work, and leave word of what was found: the first NaN in the header,
// what is left in `counts`, one word a tensor by its number, if there are any.
template <class Work>
__device__ __forceinline__ void work_on_share(const Tensor* tensors, const Lines* table, u32 count, u64* counts,
                                              u32 scanned, Header* header, Work work) {
  const Share share = share_of_block(table, count);
  const Tensor tensor = tensors[share.row];
  if (scanned && tensor.number >= header->first_nan) return;
  Found found = {};
  work(tensor, table[share.row], share, found);
  if (found.nan) report_nan(header, tensor);
  if (counts) add_to_word(found.nonzero, &counts[tensor.number]);
}

// With `scanned`, find_nan has been there before, and tensors from the first NaN on are left alone. Without, NaN ranks
// above infinity, and the header says afterwards where there was one. Masks of bits are all ones before.
// Three kernels, since each needs other numbers of registers:

// any lines;
extern "C" __global__ void __launch_bounds__(THREADS)
    prune_groups(const Tensor* tensors, const Lines* table, u32 count, u32 keep, u32 scanned, u32 write, u32 mask_kind, u64* counts,
                 Header* header) {
  const Options options = {OF - keep, write, mask_kind};
  work_on_share(tensors, table, count, counts, scanned, header,
                [&](const Tensor& tensor, const Lines& lines, Share share, Found& found) {
                  prune_lines<1>(tensor, lines, share, 0, options, found);
                });
}

// lines whose inner is a multiple of WIDE, of tensors that begin at multiples of 16 bytes;
extern "C" __global__ void __launch_bounds__(THREADS)
    prune_wide_groups(const Tensor* tensors, const Lines* table, u32 count, u32 keep, u32 scanned, u32 write, u32 mask_kind,
                      u64* counts, Header* header) {
  const Options options = {OF - keep, write, mask_kind};
  work_on_share(tensors, table, count, counts, scanned, header,
                [&](const Tensor& tensor, const Lines& lines, Share share, Found& found) {
                  prune_lines<WIDE>(tensor, lines, share, 0, options, found);
                });
}

// and groups in a row, of tensors that begin at multiples of 16 bytes and are all groups.
extern "C" __global__ void __launch_bounds__(THREADS)
    prune_groups_in_a_row(const Tensor* tensors, const Lines* table, u32 count, u32 keep, u32 scanned, u32 write, u32 mask_kind,
                          u64* counts, Header* header) {
  if constexpr (InARow::RUNS <= MOST_VECTORS) {
    const Options options = {OF - keep, write, mask_kind};
    work_on_share(tensors, table, count, counts, scanned, header,
                  [&](const Tensor& tensor, const Lines&, Share share, Found& found) {
                    const u64 patches = tensor.size / (InARow::RUNS * WIDTH);
                    prune_in_a_row(tensor, share, patches, options, found);
                    const Lines rest = {0, 1, tensor.size, 1, 0};
                    prune_lines<1>(tensor, rest, share, patches * InARow::GROUPS, options, found);
                  });
  }
}

// Set the bits of all elements in the masks of bits, before groups are pruned.
extern "C" __global__ void __launch_bounds__(THREADS) keep_all(const Tensor* tensors, u32 count, u64 tiles) {
  typedef TileElements<Bits> Elements;
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    for (u64 tile = first; tile < last; tile++)
#pragma unroll
      for (int s = 0; s < Elements::STEPS; s++)
        write_bits<WIDTH>((u8*)tensor.mask, Elements::first_of(tile, s), tensor.size, (1u << WIDTH) - 1);
  });
}
