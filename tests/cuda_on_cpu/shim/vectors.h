// CUDA's vector types, with the sizes and alignments of the CUDA C++ Programming Guide, table "Built-in Vector Types".
#pragma once

#define SHIM_VECTORS(element, name, alignment2, alignment4)                                             \
  struct alignas(alignment2) name##2 {                                                                  \
    element x, y;                                                                                       \
  };                                                                                                    \
  struct alignas(alignment4) name##4 {                                                                  \
    element x, y, z, w;                                                                                 \
  };                                                                                                    \
  inline name##2 make_##name##2(element x, element y) { return {x, y}; }                                \
  inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

SHIM_VECTORS(signed char, char, 2, 4)
SHIM_VECTORS(unsigned char, uchar, 2, 4)
SHIM_VECTORS(short, short, 4, 8)
SHIM_VECTORS(unsigned short, ushort, 4, 8)
SHIM_VECTORS(int, int, 8, 16)
SHIM_VECTORS(unsigned, uint, 8, 16)
SHIM_VECTORS(long long, longlong, 16, 16)
SHIM_VECTORS(unsigned long long, ulonglong, 16, 16)
SHIM_VECTORS(float, float, 8, 16)
SHIM_VECTORS(double, double, 16, 16)
#undef SHIM_VECTORS

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
