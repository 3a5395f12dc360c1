// Compiles the project's CUDA C++ kernels with g++ and runs them on the CPU: g++ -include cuda_shim.h kernel.cu.
// One fiber a CUDA thread, or with -DSHIM_OS_THREADS one OS thread a CUDA thread, which ThreadSanitizer needs.
// loader.py compiles and calls; what a kernel may use is what this header defines.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <tuple>
#include <type_traits>
#include <utility>

// Before the macros below, which the standard library also uses as names.
#ifdef SHIM_OS_THREADS
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#elif !defined(__SANITIZE_ADDRESS__)
#include <link.h>
#endif
#if !defined(__x86_64__) || defined(SHIM_UCONTEXT)
#define SHIM_USES_UCONTEXT 1
#include <ucontext.h>
#endif

#define CUDA_ON_CPU 1

#if defined(__SANITIZE_ADDRESS__)
#define SHIM_ADDRESS_SANITIZER 1
#endif

// A kernel writes its dynamic shared memory as DYNAMIC_SHARED(unsigned, counts); for `extern __shared__ unsigned counts[]`.
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(cuda_shim::dynamic_shared())

// Shared variables are thread-local variables although all blocks run on one OS thread: that puts those of templates and
// inline functions too into one stretch of memory, which is exchanged when another block runs (a section attribute is
// ignored in templates). AddressSanitizer guards plain variables only, and then one block runs at a time.
#if defined(SHIM_OS_THREADS) || defined(SHIM_ADDRESS_SANITIZER)
#define SHIM_ONE_BLOCK_AT_A_TIME 1
#define __shared__ static
#else
#define __shared__ static __thread
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __grid_constant__

#include "shim/vectors.h"

#include "shim/engine.h"

#ifdef SHIM_OS_THREADS
#include "shim/os_threads.h"
#else
#include "shim/stacks.h"

#include "shim/fibers.h"
#endif

#include "shim/barriers.h"
#include "shim/warps.h"

#include "shim/bits.h"
#include "shim/floats.h"
#include "shim/memory.h"

#include "shim/launch.h"
