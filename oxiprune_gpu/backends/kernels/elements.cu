// Passes over the elements of one tensor that need no selection.
//
// Specialised by -DDTYPE; scan_scores and find_extremes by -DMETRIC too.
#include "metrics.cuh"
#include "scopes.cuh"

typedef DTYPE D;
typedef METRIC<D> Metric;
typedef D::Bits Bits;
typedef D::Key Key;
typedef TileElements<Bits> Elements;

// The elements of a tile that one thread works on, a vector at a time where the data lies well: work(index, bits) for
// each.
template <class Work>
__device__ __forceinline__ void for_each_element_of(u64 tile, const Bits* data, u64 size, Work work) {
  Elements elements;
  elements.load(data, size, tile);
#pragma unroll
  for (int s = 0; s < Elements::STEPS; s++) {
    const u64 first = Elements::first_of(tile, s);
#pragma unroll
    for (int e = 0; e < Elements::WIDTH; e++)
      if (first + e < size) work(first + e, elements.step[s].at[e]);
  }
}

// The same for all tiles of a tensor that fall to this block.
template <class Work>
__device__ __forceinline__ void for_each_element(const Bits* data, u64 size, Work work) {
  for (u64 tile = blockIdx.x; tile < tiles_in<Bits>(size); tile += gridDim.x)
    for_each_element_of(tile, data, size, work);
}

// Write the keys (which are the scores' bits) where there is room for them, and count those of NaN.
extern "C" __global__ void __launch_bounds__(THREADS) scan_scores(const Tensor* tensor, Key* keys, u64* nan) {
  const Metric metric(*tensor);
  u64 found = 0;
  for_each_element((const Bits*)tensor->data, tensor->size, [&](u64 index, Bits bits) {
    const Key key = metric.key(bits, index);
    found += key > D::INFINITY_KEY;
    if (keys) keys[index] = key;
  });
  add_to_word(found, nan);
}

// Lowest and highest key; extremes[0] is all ones before, extremes[1] zero. Counts NaN, whose keys are the highest.
extern "C" __global__ void __launch_bounds__(THREADS) find_extremes(const Tensor* tensor, u64* extremes, u64* nan) {
  const Metric metric(*tensor);
  u64 low = ~0ull, high = 0, found = 0;
  for_each_element((const Bits*)tensor->data, tensor->size, [&](u64 index, Bits bits) {
    const Key key = metric.key(bits, index);
    low = key < low ? key : low;
    high = key > high ? key : high;
    found += key > D::INFINITY_KEY;
  });
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) {
    const u64 other_low = __shfl_xor_sync(ALL_LANES, low, distance);
    const u64 other_high = __shfl_xor_sync(ALL_LANES, high, distance);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  if ((threadIdx.x & 31) == 0) {
    atomicMin(&extremes[0], low);
    atomicMax(&extremes[1], high);
  }
  add_to_word(found, nan);
}

// The number of the first tensor that holds a NaN score goes to the header.
extern "C" __global__ void __launch_bounds__(THREADS)
    find_nan(const Tensor* tensors, u32 count, u64 tiles, Header* header) {
  for_each_run(tensors, count, tiles, [&](const Tensor tensor, u64 first, u64 last) {
    const Metric metric(tensor);
    u64 nan = 0;
#pragma unroll 1
    for (u64 tile = first; tile < last; tile++)
      for_each_element_of(tile, (const Bits*)tensor.data, tensor.size,
                          [&](u64 index, Bits bits) { nan += metric.key(bits, index) > D::INFINITY_KEY; });
    if (nan) report_nan(header, tensor);
  });
}

// NaN counts as nonzero, -0.0 does not.
extern "C" __global__ void __launch_bounds__(THREADS) count_nonzero(const Bits* data, u64 size, u64* nonzero) {
  u64 found = 0;
  for_each_element(data, size, [&](u64, Bits bits) { found += !is_zero(bits); });
  add_to_word(found, nonzero);
}

extern "C" __global__ void __launch_bounds__(THREADS) count_nan(const Bits* data, u64 size, u64* nan) {
  u64 found = 0;
  for_each_element(data, size, [&](u64, Bits bits) {
    found += magnitude<D>(D::widened_bits(bits)) > D::INFINITY_KEY;
  });
  add_to_word(found, nan);
}

// Write the elements in float32 or in float64, whichever is given.
extern "C" __global__ void __launch_bounds__(THREADS)
    convert(const Bits* data, u64 size, float* singles, double* doubles) {
  for_each_element(data, size, [&](u64 index, Bits bits) {
    const D::Score value = D::score(D::widened_bits(bits));
    if (singles) singles[index] = D::to_float(value);
    if (doubles) doubles[index] = D::widened(value);
  });
}

// Set the elements whose byte in the mask is 0 to +0.0.
extern "C" __global__ void __launch_bounds__(THREADS) apply_mask(Bits* data, const u8* kept, u64 size) {
  for (u64 i = (u64)blockIdx.x * THREADS + threadIdx.x; i < size; i += (u64)gridDim.x * THREADS)
    if (!kept[i]) data[i] = 0;
}
