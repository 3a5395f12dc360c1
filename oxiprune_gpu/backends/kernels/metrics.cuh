// Metrics: one functor each, made for a tensor, that gives the keys of its elements. To add one: a functor here and a
// row in METRIC_FUNCTORS (backends/cuda_tables.py).
//
// `key(bits, index)` gets an element's bits and its index in the tensor. A NaN in the weight must give a NaN key.
// `unit_score(sum)` makes the score of a unit of the float64 sum of its elements' scores, rounding once.
#pragma once
#include "dtypes.cuh"
#include "tensors.cuh"

template <class D>
struct L1 {
  __device__ explicit L1(const Tensor&) {}
  __device__ __forceinline__ typename D::Key key(typename D::Bits bits, u64) const {
    return magnitude<D>(D::widened_bits(bits));
  }
  static __device__ __forceinline__ typename D::Score unit_score(double sum) { return D::rounded(sum); }
};

template <class D>
struct L2 {
  __device__ explicit L2(const Tensor&) {}
  __device__ __forceinline__ typename D::Key key(typename D::Bits bits, u64) const {
    const typename D::Score w = D::score(D::widened_bits(bits));
    return magnitude<D>(D::key(D::product(w, w)));
  }
  static __device__ __forceinline__ typename D::Score unit_score(double sum) { return D::rounded(unflushed_sqrt(sum)); }
};

// |w * g| with the gradient g.
template <class D>
struct Gradient {
  const typename D::Score* gradient;
  __device__ explicit Gradient(const Tensor& tensor) : gradient((const typename D::Score*)tensor.gradient) {}
  __device__ __forceinline__ typename D::Key key(typename D::Bits bits, u64 index) const {
    return magnitude<D>(D::key(D::product(D::score(D::widened_bits(bits)), gradient[index])));
  }
  static __device__ __forceinline__ typename D::Score unit_score(double sum) { return D::rounded(sum); }
};

// The stream x -> x * MULTIPLIER + INCREMENT (mod 2^64), reached by jumping: element i takes output i + 1.
struct Stream {
  u64 state, steps;

  __device__ explicit Stream(u64 seed) : state(seed), steps(0) {}

  __device__ inline u64 output(u64 seed, u64 step) {
    const u64 multiplier = 6364136223846793005ull, increment = 1442695040888963407ull;
    if (step == steps + 1) {
      state = state * multiplier + increment;
    } else {
      // Doubling: m, c take one state to the state 1, 2, 4, ... steps later.
      u64 m = multiplier, c = increment;
      state = seed;
      for (u64 left = step; left; left >>= 1) {
        if (left & 1) state = state * m + c;
        c *= m + 1;
        m *= m;
      }
    }
    steps = step;
    return state;
  }
};

// Uniform float32 scores in [0, 1]: the upper half of the state, rounded once. NaN weights are found all the same.
template <class D>
struct Random {
  u64 seed;
  mutable Stream stream;
  __device__ explicit Random(const Tensor& tensor) : seed(tensor.seed), stream(tensor.seed) {}
  __device__ __forceinline__ typename D::Key key(typename D::Bits bits, u64 index) const {
    const u64 state = stream.output(seed, index + 1);
    if (magnitude<D>(D::widened_bits(bits)) > D::INFINITY_KEY) return D::NAN_KEY;
    return D::key(D::from_float(score_of(state)));
  }
  static __device__ __forceinline__ float score_of(u64 state) {
    return unflushed_mul(__uint2float_rn((u32)(state >> 32)), 2.3283064365386963e-10f);  // 2^-32
  }
  // Sums of random scores are for statistics; a unit takes the first output of a stream of its own.
  static __device__ __forceinline__ typename D::Score unit_score(double sum) { return D::rounded(sum); }
  static __device__ __forceinline__ typename D::Score seeded_unit_score(u64 seed) {
    return D::from_float(score_of(Stream(seed).output(seed, 1)));
  }
};
