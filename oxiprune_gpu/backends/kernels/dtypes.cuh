// What a weight's elements are: their bits, and the score dtype they are scored in (float32; float64 for float64).
//
// A key is the bits of a score as an unsigned integer. Scores are not negative, so keys have the order of scores;
// every NaN has a key above INFINITY_KEY.
#pragma once
#include "types.cuh"

struct Single {
  typedef float Score;
  typedef u32 Key;
  static const u32 KEY_BITS = 32;
  static const u32 INFINITY_KEY = 0x7f800000u;
  static const u32 NAN_KEY = 0xffffffffu;

  static __device__ __forceinline__ u32 key(float score) { return __float_as_uint(score); }
  static __device__ __forceinline__ float score(u32 key) { return __uint_as_float(key); }
  static __device__ __forceinline__ float product(float a, float b) { return unflushed_mul(a, b); }
  static __device__ __forceinline__ float difference(float a, float b) { return unflushed_sub(a, b); }
  static __device__ __forceinline__ float quotient(float a, float b) { return unflushed_div(a, b); }
  static __device__ __forceinline__ float from_float(float a) { return a; }
  static __device__ __forceinline__ float to_float(float a) { return a; }
  static __device__ __forceinline__ double widened(float a) { return unflushed_widen(a); }
  static __device__ __forceinline__ float rounded(double a) { return unflushed_narrow(a); }
};

struct Double {
  typedef double Score;
  typedef u64 Key;
  static const u32 KEY_BITS = 64;
  static const u64 INFINITY_KEY = 0x7ff0000000000000ull;
  static const u64 NAN_KEY = 0xffffffffffffffffull;

  static __device__ __forceinline__ u64 key(double score) { return (u64)__double_as_longlong(score); }
  static __device__ __forceinline__ double score(u64 key) { return __longlong_as_double((long long)key); }
  static __device__ __forceinline__ double product(double a, double b) { return unflushed_mul_double(a, b); }
  static __device__ __forceinline__ double difference(double a, double b) { return sub_double(a, b); }
  static __device__ __forceinline__ double quotient(double a, double b) { return div_double(a, b); }
  static __device__ __forceinline__ double from_float(float a) { return unflushed_widen(a); }
  static __device__ __forceinline__ float to_float(double a) { return unflushed_narrow(a); }
  static __device__ __forceinline__ double widened(double a) { return a; }
  static __device__ __forceinline__ double rounded(double a) { return a; }
};

// `widened_bits` gives an element in the score dtype, as bits.
struct F32 : Single {
  typedef u32 Bits;
  static __device__ __forceinline__ u32 widened_bits(u32 bits) { return bits; }
};

struct F16 : Single {
  typedef u16 Bits;
  static __device__ __forceinline__ u32 widened_bits(u16 bits) { return __float_as_uint(unflushed_half_to_float(bits)); }
};

struct BF16 : Single {
  typedef u16 Bits;
  static __device__ __forceinline__ u32 widened_bits(u16 bits) { return (u32)bits << 16; }
};

struct F64 : Double {
  typedef u64 Bits;
  static __device__ __forceinline__ u64 widened_bits(u64 bits) { return bits; }
};

template <class Bits>
__device__ __forceinline__ bool is_zero(Bits bits) {
  return (Bits)(bits << 1) == 0;
}

template <class D>
__device__ __forceinline__ typename D::Key magnitude(typename D::Key bits) {
  return bits & (D::NAN_KEY >> 1);
}
