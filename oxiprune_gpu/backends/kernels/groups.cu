// N:M: of every OF neighbours along a line all but the `keep` with the highest scores become +0.0; of equal scores the
// lowest index falls first.
//
// The tensor is seen as (outer, length, inner), neighbours along length. One thread takes whole groups, a patch of
// them, so that keys and ranks stay in registers. Where inner is 1 a patch is as many vectors in a row as hold whole
// groups; else it is OF runs, one a member of the group, and neighbouring threads take neighbouring runs.
//
// Specialised by -DDTYPE, -DMETRIC and -DOF, 2 to 32.
#include "metrics.cuh"
#include "reduce.cuh"

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

struct Options {
  u32 fall;  // how many of each group
  bool write;
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

  // Returns how many scores are NaN.
  __device__ __forceinline__ u32 prune(const Tensor& tensor, const Metric& metric, Options options) {
    u32 kept[RUNS] = {}, nan = 0;
#pragma unroll
    for (int g = 0; g < Layout::GROUPS; g++) {
      Key keys[OF];
#pragma unroll
      for (int m = 0; m < OF; m++) {
        const int r = Layout::run(g, m), e = Layout::place(g, m);
        keys[m] = r < present ? metric.key(runs[r].at[e], first + r * distance + e) : (Key)-1;
        nan += r < present && keys[m] > D::INFINITY_KEY;
      }
      const u32 stay = options.fall ? staying(keys, options.fall) : ALL_LANES;
#pragma unroll
      for (int m = 0; m < OF; m++) kept[Layout::run(g, m)] |= (stay >> m & 1) << Layout::place(g, m);
    }
#pragma unroll
    for (int r = 0; r < RUNS; r++)
      if (r < present) store(tensor, r, kept[r], options);
    return nan;
  }

  __device__ __forceinline__ void store(const Tensor& tensor, int r, u32 kept, Options options) {
    const u64 place = first + r * distance;
    bool changed = false;
#pragma unroll
    for (int e = 0; e < N; e++) {
      if (kept >> e & 1) continue;
      runs[r].at[e] = 0;
      changed = true;
    }
    if (changed && options.write) *(Run<N>*)((Bits*)tensor.data + place) = runs[r];
    if (tensor.mask) write_flags<N>((u8*)tensor.mask + place, kept);
  }
};

struct Lines {
  u64 outer, length, inner;
  u32 tail_falls;  // how many of the last length % OF
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
__device__ __forceinline__ u64 prune_lines(const Tensor& tensor, const Metric& metric, Lines lines, u64 begin,
                                           Options options) {
  const u64 groups = lines.length / OF, across = lines.inner / N;
  const u32 rest = lines.length % OF;
  const u64 rows = groups + (rest > 0);
  u64 nan = 0;
  for (u64 item = begin + (u64)blockIdx.x * THREADS + threadIdx.x; item < lines.outer * rows * across;
       item += (u64)gridDim.x * THREADS) {
    const Division inside = divided(item, across), row = divided(inside.whole, rows);
    const u64 first = (row.whole * lines.length + row.rest * OF) * lines.inner + inside.rest * N;
    Patch<Interleaved<N>> patch;
    const bool filled = row.rest < groups;
    patch.load(tensor, first, lines.inner, filled ? OF : rest);
    nan += patch.prune(tensor, metric, Options{filled ? options.fall : lines.tail_falls, options.write});
  }
  return nan;
}

// Short patches are loaded several at a time, so that enough bytes are under way.
__device__ __forceinline__ u64 prune_in_a_row(const Tensor& tensor, const Metric& metric, u64 patches,
                                              Options options) {
  const int AT_ONCE = InARow::RUNS >= 4 ? 1 : 4 / InARow::RUNS;
  u64 nan = 0;
  for (u64 begin = (u64)blockIdx.x * THREADS * AT_ONCE + threadIdx.x; begin < patches;
       begin += (u64)gridDim.x * THREADS * AT_ONCE) {
    Patch<InARow> some[AT_ONCE];
#pragma unroll
    for (int s = 0; s < AT_ONCE; s++) {
      const u64 patch = begin + s * THREADS;
      if (patch < patches) some[s].load(tensor, patch * InARow::RUNS * WIDTH, WIDTH, InARow::RUNS);
    }
#pragma unroll
    for (int s = 0; s < AT_ONCE; s++)
      if (begin + s * THREADS < patches) nan += some[s].prune(tensor, metric, options);
  }
  return nan;
}

// With `scanned`, `nan` holds the number of NaN scores, and nothing is done if there are any. Without, NaN ranks above
// infinity, and the number of NaN scores is added to `nan`. Three kernels, since each needs other numbers of registers:

// any lines;
extern "C" __global__ void __launch_bounds__(THREADS)
    prune_groups(const Tensor* tensors, u64 outer, u64 length, u64 inner, u64 tail_falls, u32 keep, u32 scanned,
                 u32 write, u64* nan) {
  if (scanned && *nan) return;
  const Tensor tensor = tensors[0];
  const Options options = {OF - keep, write != 0};
  const u64 found = prune_lines<1>(tensor, Metric(tensor), Lines{outer, length, inner, (u32)tail_falls}, 0, options);
  if (!scanned) add_to_word(found, nan);
}

// lines whose inner is a multiple of WIDE, of a tensor that begins at a multiple of 16 bytes;
extern "C" __global__ void __launch_bounds__(THREADS) prune_wide_groups(const Tensor* tensors, u64 outer, u64 length,
                                                                        u64 inner, u64 tail_falls, u32 keep,
                                                                        u32 scanned, u32 write, u64* nan) {
  if (scanned && *nan) return;
  const Tensor tensor = tensors[0];
  const Options options = {OF - keep, write != 0};
  const u64 found = prune_lines<WIDE>(tensor, Metric(tensor), Lines{outer, length, inner, (u32)tail_falls}, 0, options);
  if (!scanned) add_to_word(found, nan);
}

// and groups in a row, of a tensor that begins at a multiple of 16 bytes and is all groups.
extern "C" __global__ void __launch_bounds__(THREADS)
    prune_groups_in_a_row(const Tensor* tensors, u32 keep, u32 scanned, u32 write, u64* nan) {
  if constexpr (InARow::RUNS <= MOST_VECTORS) {
    if (scanned && *nan) return;
    const Tensor tensor = tensors[0];
    const Metric metric(tensor);
    const Options options = {OF - keep, write != 0};
    const u64 patches = tensor.size / (InARow::RUNS * WIDTH);
    u64 found = prune_in_a_row(tensor, metric, patches, options);
    found += prune_lines<1>(tensor, metric, Lines{1, tensor.size, 1, 0}, patches * InARow::GROUPS, options);
    if (!scanned) add_to_word(found, nan);
  }
}
