// Units (rows, columns, slices): sums of their scores in the documented order, and setting them to +0.0. A whole tensor
// is one unit too: that gives the sums that statistics need.
//
// Specialised by -DDTYPE and -DMETRIC as select.cu, and by -DTERM=Deviation where squared deviations are added.
#include "metrics.cuh"
#include "outputs.cuh"
#include "scopes.cuh"
#include "sums.cuh"

#ifndef TERM
#define TERM ElementScore
#endif

typedef DTYPE D;
typedef METRIC<D> Metric;
typedef D::Bits Bits;
typedef D::Key Key;
typedef D::Score Score;

// How a weight is seen: see UnitView in granularity/base.py.
struct View {
  u64 groups, outer, units, inner;
};

// The units of one tensor, and what is to come of them. The row beside it in the table of tensors is that tensor.
struct Units {
  u64 first_block;  // its blocks in the launches that add up
  View view;
  u64 wide;         // columns: see sum_columns
  u64 mean;         // a key: deviations from it are added
  u64 chunk_sums;   // addresses, 0 for none: sums of chunks, where units have several;
  u64 sums;         // sums of units,
  u64 scores;       // or what becomes of them;
  u64 nan;          // a word that is not 0 afterwards if a score is NaN;
  u64 kept;         // which units are kept, a byte each
};

// What is added up: made for a tensor, gives the float64 term of an element. `mean` is a key.
struct ElementScore {
  const Metric metric;
  __device__ ElementScore(const Tensor& tensor, u64) : metric(tensor) {}
  __device__ __forceinline__ double term(Bits bits, u64 index) const {
    return D::widened(D::score(metric.key(bits, index)));
  }
};

struct Deviation {
  const Metric metric;
  const Score mean;
  __device__ Deviation(const Tensor& tensor, u64 mean) : metric(tensor), mean(D::score((Key)mean)) {}
  __device__ __forceinline__ double term(Bits bits, u64 index) const {
    const Score difference = D::difference(D::score(metric.key(bits, index)), mean);
    return D::widened(D::product(difference, difference));
  }
};

// Where sums go is looked up when there is one: held in registers, it would cost more than it saves.

__device__ __forceinline__ void give_unit(const Units& units, u64 unit, double sum) {
  if (units.scores) ((Score*)units.scores)[unit] = Metric::unit_score(sum);
  else ((double*)units.sums)[unit] = sum;
}

// A chunk may be a whole unit. Scores are not negative, so a sum is NaN exactly where one of them is; chunks that hold
// one are counted, where `nan` is given.
__device__ __forceinline__ void give_chunk(const Units& units, u64 number, double sum) {
  if (units.chunk_sums) ((double*)units.chunk_sums)[number] = sum;
  else give_unit(units, number, sum);
  if (units.nan && sum != sum) atomicAdd((u64*)units.nan, 1ull);
}

// Terms are loaded AT_ONCE vectors or elements at a time before any is added, in a turn. Where a turn is WHOLE no place
// in it is past the end, and nothing is asked.

// A turn of vectors: those at `i`, i + LANES, ... of the piece that begins at element `start`.
template <int AT_ONCE, bool WHOLE, class Term>
__device__ __forceinline__ void add_vectors(double (&lanes)[SLOTS], const Bits* data, const Term& term, u64 start,
                                            u32 i, u32 length) {
  typedef Neighbours<Bits, SLOTS> Terms;
  Terms held[AT_ONCE];
#pragma unroll
  for (u32 s = 0; s < AT_ONCE; s++)
    if (WHOLE || i + s * LANES < length) held[s] = *(const Terms*)(data + start + i + s * LANES);
#pragma unroll
  for (u32 s = 0; s < AT_ONCE; s++)
    if (WHOLE || i + s * LANES < length)
#pragma unroll
      for (u32 slot = 0; slot < SLOTS; slot++)
        lanes[slot] = add_double(lanes[slot], term.term(held[s].at[slot], start + i + s * LANES + slot));
}

// Units that lie in one piece, their lengths multiples of SLOTS and their data aligned for it: thread t of a team owns
// the lanes 4t..4t+3.
template <int AT_ONCE>
__device__ __forceinline__ void sum_runs_of(const Tensor& tensor, const Units& units, Share share) {
  const TERM term(tensor, units.mean);
  const u64 length = units.view.inner;
  const Bits* data = (const Bits*)tensor.data;
  const u32 team = team_for(length), thread = (threadIdx.x & 31) % team;
  for_each_piece(units.view.units, length, team, share, [&](const Piece& piece, bool exists) {
    const u64 start = piece.unit * length + piece.first;
    double lanes[SLOTS] = {};
    u32 i = thread * SLOTS;
    for (; i + (AT_ONCE - 1) * LANES < piece.length; i += AT_ONCE * LANES)
      add_vectors<AT_ONCE, true>(lanes, data, term, start, i, piece.length);
    if (i < piece.length) add_vectors<AT_ONCE, false>(lanes, data, term, start, i, piece.length);
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) lanes[slot] = fold_team(lanes[slot], team);
    const double sum = fold_slots<SLOTS>(lanes);
    if (exists && thread == 0) give_chunk(units, piece.number, sum);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_runs(const Tensor* tensors, const Units* table, u32 count) {
  const Share share = share_of_block(table, count);
  const Units& units = table[share.row];
  if (units.view.inner <= LANES) sum_runs_of<1>(tensors[share.row], units, share);
  else sum_runs_of<32 / sizeof(Bits)>(tensors[share.row], units, share);  // 128 bytes in flight a thread
}

// A turn of elements: those at `place` and after, numbers i, i + stride, ... of the piece. The n-th goes to lane
// n mod COUNT of the thread.
template <int AT_ONCE, bool WHOLE, int COUNT, class Term, class Place>
__device__ __forceinline__ void add_elements(double (&lanes)[COUNT], const Bits* data, const Term& term, Place& place,
                                             u32 i, u32 stride, u32 length) {
  static_assert(AT_ONCE % COUNT == 0, "every turn begins with the first lane");
  u64 index[AT_ONCE];
  Bits held[AT_ONCE];
#pragma unroll
  for (u32 n = 0; n < AT_ONCE; n++) {
    index[n] = place.next();
    if (WHOLE || i + n * stride < length) held[n] = data[index[n]];
  }
#pragma unroll
  for (u32 n = 0; n < AT_ONCE; n++)
    if (WHOLE || i + n * stride < length)
      lanes[n % COUNT] = add_double(lanes[n % COUNT], term.term(held[n], index[n]));
}

// All terms of a piece that belong to a thread: number `i`, which stands at `place`, and every stride-th after it.
template <int AT_ONCE, int COUNT, class Term, class Place>
__device__ __forceinline__ void add_terms(double (&lanes)[COUNT], const Bits* data, const Term& term, Place place,
                                          u32 i, u32 stride, u32 length) {
  for (; i + (AT_ONCE - 1) * stride < length; i += AT_ONCE * stride)
    add_elements<AT_ONCE, true>(lanes, data, term, place, i, stride, length);
  if (i < length) add_elements<AT_ONCE, false>(lanes, data, term, place, i, stride, length);
}

// Index of every stride-th term of a unit. Term i stands at i, and after each `inner` terms the other units' are
// skipped.
struct Scattered {
  u64 index, column, inner, skip;  // column: place of the term in its run of `inner`
  u64 index_step, column_step;

  __device__ Scattered(const View& view, u64 unit, u64 i, u64 stride)
      : inner(view.inner), skip((view.units - 1) * view.inner) {
    const u64 group = quotient(unit, view.units), run = quotient(i, inner), runs = quotient(stride, inner);
    index = group * view.outer * view.units * inner + (unit - group * view.units) * inner + i + run * skip;
    column = i - run * inner;
    index_step = stride + runs * skip;
    column_step = stride - runs * inner;
  }

  __device__ __forceinline__ u64 next() {
    const u64 here = index;
    index += index_step;
    column += column_step;
    if (column >= inner) {
      column -= inner;
      index += skip;
    }
    return here;
  }
};

// Units that lie anyhow: thread t of a team owns the lanes t, t + team, ...: neighbours read neighbours.
template <int AT_ONCE>
__device__ __forceinline__ void sum_scattered_of(const Tensor& tensor, const Units& units, Share share) {
  const TERM term(tensor, units.mean);
  const View view = units.view;
  const u64 unit_size = view.outer * view.inner;
  const u32 team = team_for(unit_size), thread = (threadIdx.x & 31) % team;
  for_each_piece(view.groups * view.units, unit_size, team, share, [&](const Piece& piece, bool exists) {
    double lanes[SLOTS] = {};
    const Scattered place(view, piece.unit, piece.first + thread, team);
    add_terms<AT_ONCE>(lanes, (const Bits*)tensor.data, term, place, thread, team, piece.length);
    const double sum = fold_team(fold_slots<SLOTS>(lanes), team);
    if (exists && thread == 0) give_chunk(units, piece.number, sum);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_scattered(const Tensor* tensors, const Units* table, u32 count) {
  const Share share = share_of_block(table, count);
  const Units& units = table[share.row];
  if (units.view.outer * units.view.inner <= LANES) sum_scattered_of<SLOTS>(tensors[share.row], units, share);
  else sum_scattered_of<4 * SLOTS>(tensors[share.row], units, share);
}

struct Column {
  u64 index, step;
  __device__ __forceinline__ u64 next() {
    const u64 here = index;
    index += step;
    return here;
  }
};

// Columns of matrices (groups, rows, columns): a block adds one chunk of COLUMNS columns. Its threads stand in ROWS
// rows; row r owns the lanes r, r + ROWS, ... of its columns.
template <int COLUMNS>
__device__ __forceinline__ void sum_columns_of(const Tensor& tensor, const Units& units, Share share) {
  const View view = units.view;
  const u32 ROWS = THREADS / COLUMNS;
  const int COUNT = LANES / ROWS, AT_ONCE = 16;
  __shared__ double parts[ROWS][COLUMNS];
  const ElementScore term(tensor, 0);
  const u32 row = threadIdx.x / COLUMNS, place = threadIdx.x % COLUMNS;
  const u64 chunks = chunks_in(view.outer), strips = (view.units + COLUMNS - 1) / COLUMNS;
  for (u64 tile = share.number; tile < view.groups * chunks * strips; tile += share.of) {
    const u64 above = quotient(tile, strips), group = quotient(above, chunks), chunk = above - group * chunks;
    const u64 column = (tile - above * strips) * COLUMNS + place, first = chunk * CHUNK;
    const u64 left = column < view.units ? view.outer - first : 0;
    double lanes[COUNT] = {};
    const Column down = {(group * view.outer + first + row) * view.units + column, ROWS * view.units};
    add_terms<AT_ONCE>(lanes, (const Bits*)tensor.data, term, down, row, ROWS, left < CHUNK ? (u32)left : CHUNK);
    parts[row][place] = fold_slots<COUNT>(lanes);
    __syncthreads();
    for (u32 half = ROWS / 2; half; half /= 2) {
      if (row < half) parts[row][place] = add_double(parts[row][place], parts[row + half][place]);
      __syncthreads();
    }
    // The first row reads its own here, so the next tile may be written without another barrier.
    if (row == 0 && left) give_chunk(units, (group * view.units + column) * chunks + chunk, parts[0][place]);
  }
}

// `wide`: 32 columns a block; else as many as a sector of 32 bytes holds, for matrices that would occupy few blocks.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_columns(const Tensor* tensors, const Units* table, u32 count) {
  const Share share = share_of_block(table, count);
  const Units& units = table[share.row];
  if (units.wide) sum_columns_of<32>(tensors[share.row], units, share);
  else sum_columns_of<32 / sizeof(Bits)>(tensors[share.row], units, share);
}

// Add the chunks of each unit one after another: a warp a unit, which loads the next 32 while it adds these.
__device__ __forceinline__ void add_chunks_of(const Units& units, Share share) {
  const u32 lane = threadIdx.x & 31;
  const u64 count = units.view.groups * units.view.units, chunks = chunks_in(units.view.outer * units.view.inner);
  for (u64 unit = share.number * WARPS + threadIdx.x / 32; unit < count; unit += share.of * WARPS) {
    const double* mine = (const double*)units.chunk_sums + unit * chunks;
    double total = 0, following = lane < chunks ? mine[lane] : 0;
    for (u64 first = 0; first < chunks; first += 32) {
      const double held = following;
      following = first + 32 + lane < chunks ? mine[first + 32 + lane] : 0;
#pragma unroll
      for (int chunk = 0; chunk < 32; chunk++) total = add_double(total, __shfl_sync(ALL_LANES, held, chunk));
    }
    if (lane == 0) give_unit(units, unit, total);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) add_chunks(const Units* table, u32 count) {
  const Share share = share_of_block(table, count);
  if (table[share.row].chunk_sums) add_chunks_of(table[share.row], share);
}

// Random scores of units need no sums. They are NaN where `nan` says that the weight holds one: nothing is then pruned.
extern "C" __global__ void __launch_bounds__(THREADS)
    random_unit_scores(u64 seed, u64 units, Score* scores, const u64* nan) {
  const bool refused = *nan != 0;
  for (u64 unit = (u64)blockIdx.x * THREADS + threadIdx.x; unit < units; unit += (u64)gridDim.x * THREADS)
    scores[unit] = refused ? D::score(D::NAN_KEY) : Random<D>::seeded_unit_score(seed + unit);
}

// Zero the elements of units that fall, and write the mask of elements, each where it is given. A thread takes WIDTH
// neighbours in a (units, inner) slab, looks once which of them fall, and goes down every shares-th slab of its group.
template <int WIDTH>
__device__ __forceinline__ void prune_strips(Bits* data, u8* mask, const u8* kept, const View& view, u64 shares) {
  typedef Neighbours<Bits, WIDTH> Values;
  typedef Neighbours<u8, WIDTH> Flags;
  const u64 slab = view.units * view.inner, strips = slab / WIDTH;
  const u64 items = view.groups * shares * strips, threads = (u64)gridDim.x * THREADS;
  for (u64 item = (u64)blockIdx.x * THREADS + threadIdx.x; item < items; item += threads) {
    const u64 above = quotient(item, strips), group = quotient(above, shares);
    const u64 first = (item - above * strips) * WIDTH;
    Flags flags;
    bool all = true, any = false;
#pragma unroll
    for (int e = 0; e < WIDTH; e++) {
      flags.at[e] = kept[group * view.units + quotient(first + e, view.inner)] != 0;
      all &= flags.at[e] != 0;
      any |= flags.at[e] != 0;
    }
    for (u64 outer = above - group * shares; outer < view.outer; outer += shares) {
      const u64 index = (group * view.outer + outer) * slab + first;
      if (mask) *(Flags*)(mask + index) = flags;
      if (!data || all) continue;
      Values values = {};
      if (any) values = *(const Values*)(data + index);
#pragma unroll
      for (int e = 0; e < WIDTH; e++)
        if (!flags.at[e]) values.at[e] = 0;
      *(Values*)(data + index) = values;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    prune_units(Bits* data, u8* mask, const u8* kept, u64 groups, u64 outer, u64 units, u64 inner, u64 shares) {
  const int WIDTH = Vector<Bits>::LENGTH;
  const View view = {groups, outer, units, inner};
  const bool aligned = units * inner % WIDTH == 0 && ((u64)data & 15) == 0 && ((u64)mask & (WIDTH - 1)) == 0;
  if (aligned) prune_strips<WIDTH>(data, mask, kept, view, shares);
  else prune_strips<1>(data, mask, kept, view, shares);
}

// The units of elements that follow each other.
struct UnitsInOrder {
  const View& view;
  u64 column, unit, outer, group;  // column: place of the element in its run of `inner`

  __device__ __forceinline__ UnitsInOrder(const View& view, u64 index) : view(view) {
    const u64 run = quotient(index, view.inner), slab = quotient(run, view.units);
    group = quotient(slab, view.outer);
    outer = slab - group * view.outer;
    unit = run - slab * view.units;
    column = index - run * view.inner;
  }

  __device__ __forceinline__ u64 next() {
    const u64 here = group * view.units + unit;
    if (++column < view.inner) return here;
    column = 0;
    if (++unit < view.units) return here;
    unit = 0;
    if (++outer < view.outer) return here;
    outer = 0;
    group++;
    return here;
  }
};

// Of every tensor before the first NaN, zero the elements of units that fall; write masks, and count what is left:
// `nonzero` has one word a tensor, by its number. Row r of `table` belongs to the tensor whose scope is r.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply_units(const Tensor* tensors, u32 count, u64 tiles, const Units* table, u64* nonzero, u32 mask_kind,
                const Header* header) {
  typedef TileElements<Bits> Elements;
  const u64 first_nan = header->first_nan;
  NonzeroCounter counter(nonzero);
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    if (tensor.number >= first_nan) return;
    const View view = table[tensor.scope].view;
    const u8* stay = (const u8*)table[tensor.scope].kept;
    counter.turn_to((u32)tensor.number);
    for (u64 tile = first; tile < last; tile++) {
      Elements elements;
      elements.load((const Bits*)tensor.data, tensor.size, tile);
#pragma unroll
      for (int s = 0; s < Elements::STEPS; s++) {
        const u64 index = Elements::first_of(tile, s);
        UnitsInOrder units(view, index);
        u32 kept = 0;
#pragma unroll
        for (int e = 0; e < Elements::WIDTH; e++) {
          const u64 unit = units.next();
          kept |= (u32)(index + e >= tensor.size || stay[unit] != 0) << e;
        }
        finish_step(elements, tensor, tile, s, kept, true, mask_kind, counter);
      }
    }
  });
  counter.hand_over();
}
