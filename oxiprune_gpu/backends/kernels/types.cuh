// Integer names, the few operations that must not flush denormal numbers to zero, and words that blocks share.
//
// CuPy compiles everything with -ftz=true: a float32 operation written as an expression flushes, and so does the plain
// conversion to double. Instructions named in PTX without .ftz do not. Compiled for the CPU (tests), the shim brings
// its own versions of these functions.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

const u32 ALL_LANES = 0xffffffffu;
const u32 THREADS = 256;  // of every block, unless a kernel says otherwise
const u32 WARPS = THREADS / 32;

#ifndef CUDA_ON_CPU

__device__ __forceinline__ float unflushed_mul(float a, float b) {
  float product;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
  return product;
}

__device__ __forceinline__ float unflushed_sub(float a, float b) {
  float difference;
  asm("sub.rn.f32 %0, %1, %2;" : "=f"(difference) : "f"(a), "f"(b));
  return difference;
}

__device__ __forceinline__ float unflushed_div(float a, float b) {
  float quotient;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
  return quotient;
}

__device__ __forceinline__ double unflushed_widen(float a) {
  double wide;
  asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(a));
  return wide;
}

__device__ __forceinline__ float unflushed_narrow(double a) {
  float narrow;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(narrow) : "d"(a));
  return narrow;
}

__device__ __forceinline__ float unflushed_half_to_float(u16 bits) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
  return wide;
}

// Named intrinsics: the compiler never fuses them with a neighbour. Doubles are not flushed.
__device__ __forceinline__ double unflushed_mul_double(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add_double(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub_double(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double div_double(double a, double b) { return __ddiv_rn(a, b); }
__device__ __forceinline__ double unflushed_sqrt(double a) { return __dsqrt_rn(a); }

// A word that other blocks write while this one reads it.
__device__ __forceinline__ u64 load_shared_word(const u64* word) { return *(const volatile u64*)word; }
__device__ __forceinline__ void store_shared_word(u64* word, u64 value) { *(volatile u64*)word = value; }

#endif

// Sixteen bytes, the most that one thread loads at once.
template <class T>
struct alignas(16) Vector {
  static const int LENGTH = 16 / sizeof(T);
  T at[LENGTH];
};
