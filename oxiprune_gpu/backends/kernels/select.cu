// The threshold of every scope: the key of its k-th lowest score, exactly.
//
// A hashed sample suggests a bracket. One pass counts the keys below it and collects the few between its ends; their
// rank decides, digit by digit (radix), which one is the threshold. Keys equal to an end of the bracket are counted
// apart, so constant, sparse or coarse data collects nothing. Where the bracket misses or too much lies between, the
// same digit passes go over all keys instead: slower, never wrong. The host does not look at anything in between: the
// scope's mode, in device memory, tells every kernel what is left to do.
//
// After Floyd and Rivest, "Expected time bounds for selection" (1975): two pivots from a sample.
//
// Specialised by -DDTYPE=F32|F16|BF16|F64 and -DMETRIC=<functor of metrics.cuh>.
#include "metrics.cuh"
#include "scopes.cuh"

typedef DTYPE D;
typedef METRIC<D> Metric;
typedef D::Bits Bits;
typedef D::Key Key;
typedef TileElements<Bits> Elements;

const u32 BRACKET_THREADS = 1024;
const u32 DIGIT_BITS = 11;
const u32 BINS = 1u << DIGIT_BITS;

// A well mixed 64-bit number (the finaliser of MurmurHash3, by Austin Appleby, public domain).
__device__ inline u64 mixed(u64 x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

// Sample i of a scope lies anywhere in the i-th of equal strata of its tiles. Grid: (scopes, any).
extern "C" __global__ void __launch_bounds__(THREADS)
    sample_keys(const Tensor* tensors, u32 count, const Scope* scopes, Key* samples) {
  const Scope scope = scopes[blockIdx.x];
  const u64 places = scope.tiles * Elements::LENGTH;
  for (u64 i = (u64)blockIdx.y * THREADS + threadIdx.x; i < scope.sampled; i += (u64)gridDim.y * THREADS) {
    const u64 stratum = places / scope.sampled;
    const u64 place = i * stratum + mixed(i + scope.sampled) % stratum;
    const u64 tile = scope.first_tile + place / Elements::LENGTH;
    const Tensor tensor = tensors[tensor_of_tile(tensors, count, tile)];
    const u64 first = (tile - tensor.first_tile) * Elements::LENGTH;
    const u64 held = tensor.size - first < Elements::LENGTH ? tensor.size - first : Elements::LENGTH;
    const u64 index = first + place % Elements::LENGTH % held;
    samples[scope.sample + i] = Metric(tensor).key(((const Bits*)tensor.data)[index], index);
  }
}

// The key of `rank`, from 1, among some keys; one block of BRACKET_THREADS, eight bits at a time.
__device__ inline Key key_of_rank(const Key* keys, u64 count, u64 rank) {
  __shared__ u32 bins[256];
  __shared__ u64 found_rank;
  __shared__ u32 found_bin;
  Key prefix = 0;
  for (int shift = D::KEY_BITS - 8; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) bins[threadIdx.x] = 0;
    __syncthreads();
    for (u64 i = threadIdx.x; i < count; i += BRACKET_THREADS) {
      const Key key = keys[i];
      const bool matches = shift + 8 == (int)D::KEY_BITS || (key ^ prefix) >> (shift + 7) >> 1 == 0;
      if (matches) atomicAdd(&bins[(key >> shift) & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      u32 held = 0;
      for (int b = 0; b < 8; b++) held += bins[threadIdx.x * 8 + b];
      u64 before = warp_scan(held) - held;
      for (int b = 0; b < 8; b++) {
        const u32 here = bins[threadIdx.x * 8 + b];
        if (rank > before && rank <= before + here) {
          found_rank = rank - before;
          found_bin = threadIdx.x * 8 + b;
        }
        before += here;
      }
    }
    __syncthreads();
    rank = found_rank;
    prefix |= (Key)found_bin << shift;
  }
  return prefix;
}

// Turn the sampled ranks of each scope into the ends of its bracket. One block a scope.
extern "C" __global__ void __launch_bounds__(BRACKET_THREADS) find_bracket(Scope* scopes, const Key* samples) {
  Scope* scope = scopes + blockIdx.x;
  const u64 sampled = scope->sampled, first = scope->first_rank, last = scope->last_rank;
  if (sampled == 0) return;
  const Key* keys = samples + scope->sample;
  const Key low = first ? key_of_rank(keys, sampled, first) : 0;
  const Key high = last <= sampled ? key_of_rank(keys, sampled, last) : D::INFINITY_KEY;
  if (threadIdx.x == 0) {
    scope->low = low;
    scope->high = high;
  }
}

// Keys that a block has collected from one tile, on their way to device memory.
struct Collected {
  Key keys[Elements::LENGTH];
  u32 count;
  u64 place;
};

// Give the collected keys of a block a place among the candidates of its scope. Past the capacity they are counted
// only: the scope is then searched whole.
__device__ inline void keep_collected(Collected& collected, Scope* scope, Key* candidates) {
  __syncthreads();
  const u32 held = collected.count;
  if (threadIdx.x == 0 && held) collected.place = atomicAdd(&scope->between, (u64)held);
  __syncthreads();
  if (held) {
    const u64 capacity = scope->capacity;
    for (u32 i = threadIdx.x; i < held; i += THREADS) {
      const u64 place = collected.place + i;
      if (place < capacity) candidates[scope->candidates + place] = collected.keys[i];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) collected.count = 0;
  __syncthreads();
}

// What the pass found says where the threshold is. One thread.
__device__ inline void locate_threshold(Scope* scope) {
  const u64 k = scope->k, below = load_shared_word(&scope->below), at_low = load_shared_word(&scope->at_low);
  const u64 between = load_shared_word(&scope->between), at_high = load_shared_word(&scope->at_high);
  scope->done = 0;
  scope->mode = FOUND;
  if (k > below && k <= below + at_low) {
    scope->threshold = scope->low;
    scope->ties_fall = k - below;
    scope->ties = at_low;
  } else if (k > below + at_low + between && k <= below + at_low + between + at_high) {
    scope->threshold = scope->high;
    scope->ties_fall = k - below - at_low - between;
    scope->ties = at_high;
  } else if (k > below && k <= below + at_low + between && between <= scope->capacity) {
    scope->mode = CANDIDATES;
    scope->rank = k - below - at_low;
  } else {
    scope->mode = WHOLE;
    scope->rank = k;
  }
}

// Count the keys around the bracket of each scope that has one, and collect those between its ends.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_between(const Tensor* tensors, u32 count, u64 tiles, Scope* scopes, Key* candidates, Header* header) {
  __shared__ Collected collected;
  if (threadIdx.x == 0) collected.count = 0;
  __syncthreads();
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    Scope* scope = scopes + tensor.scope;
    if (scope->mode != SEARCH) return;
    const Key low = (Key)scope->low, high = (Key)scope->high;
    const Metric metric(tensor);
    u64 below = 0, at_low = 0, at_high = 0, nan = 0;
    Elements elements;
    for (u64 tile = first; tile < last; tile++) {
      elements.load((const Bits*)tensor.data, tensor.size, tile);
#pragma unroll
      for (int s = 0; s < Elements::STEPS; s++) {
        const u64 index = Elements::first_of(tile, s);
#pragma unroll
        for (int e = 0; e < Elements::WIDTH; e++) {
          if (index + e >= tensor.size) continue;
          const Key key = metric.key(elements.step[s].at[e], index + e);
          below += key < low;
          at_low += key == low;
          at_high += key == high && high != low;
          nan += key > D::INFINITY_KEY;
          if (key > low && key < high) collected.keys[atomicAdd(&collected.count, 1u)] = key;
        }
      }
      keep_collected(collected, scope, candidates);
    }
    add_to_word(below, &scope->below);
    add_to_word(at_low, &scope->at_low);
    add_to_word(at_high, &scope->at_high);
    if (nan) report_nan(header, tensor);
    if (completes_pass(scope, last - first) && threadIdx.x == 0) locate_threshold(scope);
  });
}

// Counts of keys by one digit. Runs of equal digits cost one addition to shared memory, and two copies halve the
// threads that meet in one bin.
struct Digits {
  u32 bins[2][BINS];

  __device__ void clear() {
    for (u32 i = threadIdx.x; i < 2 * BINS; i += THREADS) (&bins[0][0])[i] = 0;
    __syncthreads();
  }

  __device__ void give_to(u64* histogram) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < BINS; i += THREADS) {
      const u64 held = (u64)bins[0][i] + bins[1][i];
      if (held) atomicAdd(&histogram[i], held);
    }
  }
};

// One thread's way into the digits.
struct DigitCounter {
  Digits& digits;
  const Key prefix;
  const u32 shift, bits;
  u32 run_bin, run;

  __device__ DigitCounter(Digits& digits, Key prefix, u32 shift, u32 bits)
      : digits(digits), prefix(prefix), shift(shift), bits(bits), run_bin(0), run(0) {}

  __device__ __forceinline__ void add(Key key) {
    const u32 above = shift + bits;  // digits above it are known, and must match
    if (above < D::KEY_BITS && (key ^ prefix) >> above) return;
    const u32 bin = (u32)(key >> shift) & ((1u << bits) - 1);
    if (bin != run_bin) {
      flush();
      run_bin = bin;
    }
    run++;
  }

  __device__ __forceinline__ void flush() {
    if (run) atomicAdd(&digits.bins[(threadIdx.x >> 5) & 1][run_bin], run);
    run = 0;
  }
};

// Find the bin that holds the rank looked for, and clear the bins. All threads of one block, once the histogram of a
// scope is complete.
__device__ inline void take_digit(Scope* scope, u64* histogram, u32 shift) {
  __shared__ u64 parts[WARPS];
  const u32 each = BINS / THREADS;
  u64 held[each], sum = 0;
#pragma unroll
  for (u32 b = 0; b < each; b++) {
    sum += held[b] = load_shared_word(&histogram[threadIdx.x * each + b]);
    histogram[threadIdx.x * each + b] = 0;
  }
  const u64 rank = scope->rank, prefix = scope->threshold;
  u64 before = block_scan(sum, parts).before;
  __syncthreads();  // all have read rank and prefix
  if (threadIdx.x == 0) scope->done = 0;
#pragma unroll
  for (u32 b = 0; b < each; b++) {
    if (rank > before && rank <= before + held[b]) {
      scope->rank = rank - before;
      scope->threshold = prefix | (u64)(threadIdx.x * each + b) << shift;
      if (shift == 0) {
        scope->ties_fall = rank - before;
        scope->ties = held[b];
        scope->mode = FOUND;
      }
    }
    before += held[b];
  }
  __syncthreads();
}

// One digit of the threshold of each scope whose threshold is not found yet, from the highest digit to the lowest.
// `histograms` holds BINS words for each scope, zero before the first pass and after each.
extern "C" __global__ void __launch_bounds__(THREADS)
    take_digits(const Tensor* tensors, u32 count, u64 tiles, Scope* scopes, const Key* candidates, u64* histograms,
                u32 shift, u32 bits, Header* header) {
  __shared__ Digits digits;
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    Scope* scope = scopes + tensor.scope;
    const u64 mode = scope->mode;
    if (mode == FOUND) return;
    digits.clear();
    DigitCounter counter(digits, (Key)scope->threshold, shift, bits);
    if (mode == CANDIDATES) {
      // Every block of the scope takes its share of them.
      const u64 begin = tensor.scope_tile, between = scope->between;
      const u64 stop = between * (begin + last) / scope->tiles;
      for (u64 i = between * (begin + first) / scope->tiles + threadIdx.x; i < stop; i += THREADS)
        counter.add(candidates[scope->candidates + i]);
    } else {
      const Metric metric(tensor);
      bool nan = false;
      Elements elements;
      for (u64 tile = first; tile < last; tile++) {
        elements.load((const Bits*)tensor.data, tensor.size, tile);
#pragma unroll
        for (int s = 0; s < Elements::STEPS; s++) {
          const u64 index = Elements::first_of(tile, s);
#pragma unroll
          for (int e = 0; e < Elements::WIDTH; e++) {
            if (index + e >= tensor.size) continue;
            const Key key = metric.key(elements.step[s].at[e], index + e);
            nan |= key > D::INFINITY_KEY;
            counter.add(key);
          }
        }
      }
      if (nan) report_nan(header, tensor);
    }
    counter.flush();
    u64* histogram = histograms + tensor.scope * BINS;
    digits.give_to(histogram);
    if (completes_pass(scope, last - first)) take_digit(scope, histogram, shift);
  });
}
