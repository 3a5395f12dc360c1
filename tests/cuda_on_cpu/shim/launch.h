// From ctypes to a kernel: SHIM_EXPORT(name, bound) defines what loader.py calls for an entry point.
#pragma once

namespace cuda_shim {

// Read by loader.py, field for field.
struct Parameter {
  u32 bytes;
  char kind;               // 'p' pointer, 'f' floating point, 'i' integer, 'o' anything else
  unsigned char writable;  // the rest is of the value pointed to
  u32 pointee_bytes;       // 0 for void
  u32 pointee_alignment;
};

template <class T>
constexpr Parameter describe() {
  if constexpr (std::is_pointer_v<T>) {
    using Pointee = std::remove_pointer_t<T>;
    if constexpr (std::is_void_v<Pointee>)
      return {sizeof(T), 'p', !std::is_const_v<Pointee>, 0, 1};
    else
      return {sizeof(T), 'p', !std::is_const_v<Pointee>, sizeof(Pointee), alignof(Pointee)};
  } else {
    return {sizeof(T), std::is_floating_point_v<T> ? 'f' : std::is_integral_v<T> ? 'i' : 'o', 0, 0, 1};
  }
}

template <class... Values>
int describe_all(void (*)(Values...), Parameter* parameters) {
  ((*parameters++ = describe<std::remove_cv_t<Values>>()), ...);
  return sizeof...(Values);
}

template <class Call>
bool run(const Launch& wanted, const Call& call) {
  launch = &wanted;
  const u32* grid = wanted.grid;
  const u32* block = wanted.block;
  gridDim = dim3(grid[0], grid[1], grid[2]);
  blockDim = dim3(block[0], block[1], block[2]);
  threads_per_block = block[0] * block[1] * block[2];
  random_state = wanted.seed | 1;
  failed = false;
  body = [](const void* arguments) { (*static_cast<const Call*>(arguments))(); };
  body_arguments = &call;
  const auto mode = float_mode();
  set_float_mode();
  run_blocks(wanted.blocks);
  set_float_mode(mode);
  return !failed;
}

template <class... Values, size_t... Index>
bool run_kernel(void (*kernel)(Values...), const Launch& wanted, void** arguments, std::index_sequence<Index...>) {
  const std::tuple<std::remove_cv_t<Values>...> values(*static_cast<std::remove_cv_t<Values>*>(arguments[Index])...);
  return run(wanted, [&] { kernel(std::get<Index>(values)...); });
}

template <class... Values>
bool run_kernel(void (*kernel)(Values...), const Launch& wanted, void** arguments) {
  return run_kernel(kernel, wanted, arguments, std::index_sequence_for<Values...>());
}

}  // namespace cuda_shim

#define SHIM_EXPORT(name, most_threads)                                                                          \
  extern "C" __attribute__((visibility("default"))) int shim_run_##name(const cuda_shim::Launch* wanted,         \
                                                                        void** arguments) {                      \
    return cuda_shim::run_kernel(name, *wanted, arguments);                                                      \
  }                                                                                                              \
  extern "C" __attribute__((visibility("default"))) int shim_parameters_##name(cuda_shim::Parameter* parameters, \
                                                                               int* bound) {                     \
    *bound = most_threads;                                                                                       \
    return cuda_shim::describe_all(name, parameters);                                                            \
  }
