// Loads and stores with cache hints, fences and atomics. Atomics take the types that CUDA has overloads for and no others,
// so that what compiles here compiles there; they may let other threads run first.
#pragma once

namespace cuda_shim {

template <class T, class... Allowed>
constexpr bool one_of = (std::is_same_v<T, Allowed> || ...);

template <class T>
struct Same {
  using type = T;
};
template <class T>
using same = typename Same<T>::type;

// For values that other threads write: really read or written, each time.
template <class T>
inline T load(const T* address) {
  if constexpr (sizeof(T) <= 8) {
    T value;
    __atomic_load(address, &value, __ATOMIC_RELAXED);
    return value;
  }
  asm volatile("" ::: "memory");
  return *address;
}

template <class T>
inline void store(T* address, T value) {
  if constexpr (sizeof(T) <= 8) {
    __atomic_store(address, &value, __ATOMIC_RELAXED);
  } else {
    *address = value;
    asm volatile("" ::: "memory");
  }
}

// Replaces *address by change(*address) and returns what was there.
template <class T, class Change>
inline T update(T* address, Change change) {
  maybe_preempt();
  T old = load(address), wanted = change(old);
  while (!__atomic_compare_exchange(address, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    wanted = change(old);
  return old;
}

inline void fence() {
#ifdef __SANITIZE_THREAD__
  asm volatile("" ::: "memory");  // ThreadSanitizer knows no fences
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
  maybe_preempt();
}

}  // namespace cuda_shim

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldlu(const T* address) {
  return *address;
}
template <class T>
T __ldca(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  cuda_shim::maybe_preempt();
  return cuda_shim::load(address);
}
template <class T>
T __ldcv(const T* address) {
  cuda_shim::maybe_preempt();
  return cuda_shim::load(address);
}
template <class T>
void __stcs(T* address, cuda_shim::same<T> value) {
  *address = value;
}
template <class T>
void __stcg(T* address, cuda_shim::same<T> value) {
  cuda_shim::store(address, value);
  cuda_shim::maybe_preempt();
}

inline void __threadfence() { cuda_shim::fence(); }
inline void __threadfence_block() { cuda_shim::fence(); }
inline void __threadfence_system() { cuda_shim::fence(); }
inline void __nanosleep(unsigned) { cuda_shim::nap(); }

// Words of types.cuh that other blocks write meanwhile: others run between any two of them, or right after.
inline unsigned long long load_shared_word(const unsigned long long* word) {
  cuda_shim::maybe_preempt();
  return cuda_shim::load(word);
}
inline void store_shared_word(unsigned long long* word, unsigned long long value) {
  cuda_shim::store(word, value);
  cuda_shim::maybe_preempt();
}

#define SHIM_ATOMIC(name, expression, ...)                                                            \
  template <class T>                                                                                  \
  T name(T* address, cuda_shim::same<T> value) {                                                      \
    static_assert(cuda_shim::one_of<T, __VA_ARGS__>, #name ": CUDA has no overload for this type");   \
    return cuda_shim::update(address, [value](T old) -> T { return expression; });                    \
  }
SHIM_ATOMIC(atomicAdd, T(old + value), int, unsigned, unsigned long long, float, double)
SHIM_ATOMIC(atomicSub, T(old - value), int, unsigned)
SHIM_ATOMIC(atomicMax, old < value ? value : old, int, unsigned, long long, unsigned long long)
SHIM_ATOMIC(atomicMin, value < old ? value : old, int, unsigned, long long, unsigned long long)
SHIM_ATOMIC(atomicOr, old | value, int, unsigned, unsigned long long)
SHIM_ATOMIC(atomicAnd, old& value, int, unsigned, unsigned long long)
SHIM_ATOMIC(atomicXor, old ^ value, int, unsigned, unsigned long long)
SHIM_ATOMIC(atomicExch, value, int, unsigned, unsigned long long, float)
#undef SHIM_ATOMIC

template <class T>
T atomicCAS(T* address, cuda_shim::same<T> expected, cuda_shim::same<T> value) {
  static_assert(cuda_shim::one_of<T, int, unsigned, unsigned long long, unsigned short>,
                "atomicCAS: CUDA has no overload for this type");
  cuda_shim::maybe_preempt();
  __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
