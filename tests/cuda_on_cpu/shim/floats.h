// Floating point as CuPy compiles it, with -ftz=true: float32 arithmetic flushes denormal operands and results to zero.
// Here MXCSR does that on x86-64, for float64 too, which a GPU never flushes; kernels add, multiply and take roots of
// doubles through the functions below, which are right for denormals on both. Other machines than x86-64 flush nothing.
// Copies, comparisons of bits and fabs flush nothing here; on a GPU fabs(float) does.
#pragma once

namespace cuda_shim {

#if defined(__x86_64__)
static const u32 ieee_mode = 0x1F80;          // MXCSR at the start of a process: all exceptions masked
static const u32 gpu_mode = 0x1F80 | 0x8040;  // flush to zero, denormals are zero

inline u32 float_mode() {
  u32 mode;
  asm volatile("stmxcsr %0" : "=m"(mode));
  return mode;
}
inline void set_float_mode(u32 mode) { asm volatile("ldmxcsr %0" : : "m"(mode)); }
inline void set_float_mode() { set_float_mode(gpu_mode); }

// One statement: the compiler doesn't know MXCSR and would move the operation out from between two of them.
#define SHIM_UNFLUSHED_BINARY(name, type, instruction, fallback)                                    \
  inline type name(type a, type b) {                                                                \
    asm("ldmxcsr %[ieee]\n\t" instruction " %[b], %[a]\n\tldmxcsr %[gpu]"                           \
        : [a] "+x"(a)                                                                               \
        : [b] "x"(b), [ieee] "m"(cuda_shim::ieee_mode), [gpu] "m"(cuda_shim::gpu_mode));            \
    return a;                                                                                       \
  }
#define SHIM_UNFLUSHED_UNARY(name, to, from, instruction, fallback)                                 \
  inline to name(from a) {                                                                          \
    to result;                                                                                      \
    asm("ldmxcsr %[ieee]\n\t" instruction " %[a], %[result]\n\tldmxcsr %[gpu]"                      \
        : [result] "=x"(result)                                                                     \
        : [a] "x"(a), [ieee] "m"(cuda_shim::ieee_mode), [gpu] "m"(cuda_shim::gpu_mode));            \
    return result;                                                                                  \
  }
#else
inline int float_mode() { return 0; }
inline void set_float_mode(int) {}
inline void set_float_mode() {}
#define SHIM_UNFLUSHED_BINARY(name, type, instruction, fallback) \
  inline type name(type a, type b) { return fallback; }
#define SHIM_UNFLUSHED_UNARY(name, to, from, instruction, fallback) \
  inline to name(from a) { return fallback; }
#endif

}  // namespace cuda_shim

SHIM_UNFLUSHED_BINARY(unflushed_mul, float, "mulss", a* b)
SHIM_UNFLUSHED_BINARY(unflushed_sub, float, "subss", a - b)
SHIM_UNFLUSHED_BINARY(unflushed_div, float, "divss", a / b)
SHIM_UNFLUSHED_BINARY(unflushed_add, float, "addss", a + b)
SHIM_UNFLUSHED_BINARY(unflushed_add, double, "addsd", a + b)
SHIM_UNFLUSHED_BINARY(unflushed_mul_double, double, "mulsd", a* b)
SHIM_UNFLUSHED_BINARY(sub_double, double, "subsd", a - b)
SHIM_UNFLUSHED_BINARY(div_double, double, "divsd", a / b)
SHIM_UNFLUSHED_UNARY(unflushed_widen, double, float, "cvtss2sd", a)
SHIM_UNFLUSHED_UNARY(unflushed_narrow, float, double, "cvtsd2ss", static_cast<float>(a))
SHIM_UNFLUSHED_UNARY(unflushed_sqrt, double, double, "sqrtsd", sqrt(a))
#undef SHIM_UNFLUSHED_BINARY
#undef SHIM_UNFLUSHED_UNARY

inline double add_double(double a, double b) { return unflushed_add(a, b); }

template <class To, class From>
inline To shim_bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are reinterpreted between equal sizes");
  return cuda_shim::unpacked<To>(cuda_shim::packed(from));
}
inline unsigned __float_as_uint(float x) { return shim_bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return shim_bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return shim_bits_as<float>(x); }
inline float __int_as_float(int x) { return shim_bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return shim_bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return shim_bits_as<double>(x); }

// No operation below meets a denormal float.
inline float unflushed_half_to_float(unsigned short half) {
  const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1F, mantissa = half & 0x3FF;
  if (exponent == 0x1F) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  return __uint_as_float(sign | __float_as_uint(static_cast<float>(mantissa) * 0x1p-24f));
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return unflushed_add(a, b); }
inline double __dsub_rn(double a, double b) { return sub_double(a, b); }
inline double __dmul_rn(double a, double b) { return unflushed_mul_double(a, b); }
inline double __dsqrt_rn(double a) { return unflushed_sqrt(a); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __ull2float_rn(unsigned long long a) { return static_cast<float>(a); }
inline double __ull2double_rn(unsigned long long a) { return static_cast<double>(a); }
