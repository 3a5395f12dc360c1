// Warp intrinsics. Each lane leaves a request; the one that completes a mask works out the result of every lane, so a
// lane that runs ahead can overwrite nothing. Lanes that have ended count as come, but can't be read.
#pragma once

namespace cuda_shim {

inline u32 lane_of(const Thread& thread) { return thread.linear % kLanes; }

inline Warp& warp_of(const Thread& thread) { return thread.block->warps[thread.linear / kLanes]; }

inline Thread& thread_of(const Warp& warp, u32 lane) {
  Block& block = *current->block;
  return block.threads[(&warp - block.warps) * kLanes + lane];
}

template <class Visit>
inline void for_each_lane(u32 mask, Visit visit) {
  for (; mask; mask &= mask - 1) visit(u32(__builtin_ctz(mask)));
}

inline void answer_shuffles(Warp& warp, u32 group) {
  for_each_lane(group, [&](u32 lane) {
    Request& request = warp.requests[lane];
    if (!(group >> request.source & 1))
      fail_at(thread_of(warp, lane), "%s reads lane %u, which takes no part (mask %08x, there: %08x)", request.name,
              request.source, request.mask, group);
    request.result = warp.requests[request.source].value;
  });
}

inline void answer_matches(Warp& warp, u32 group) {
  for_each_lane(group, [&](u32 lane) {
    u32 same = 0;
    for_each_lane(group, [&](u32 other) { same |= u32(warp.requests[other].value == warp.requests[lane].value) << other; });
    warp.requests[lane].result = same;
  });
}

inline u64 ballot_or_reduction(const Warp& warp, u32 group) {
  const u32 first = __builtin_ctz(group);
  u64 folded = warp.requests[first].value;
  u32 votes = 0;
  for_each_lane(group, [&](u32 lane) {
    const Request& request = warp.requests[lane];
    votes |= u32(request.value != 0) << lane;
    if (request.fold && lane != first) folded = request.fold(folded, request.value);
  });
  return warp.requests[first].exchange == Exchange::ballot ? votes : folded;
}

// `group` are the lanes of a complete mask that have not ended.
inline void answer(Warp& warp, u32 group) {
  const Exchange exchange = warp.requests[__builtin_ctz(group)].exchange;
  if (exchange == Exchange::shuffle) {
    answer_shuffles(warp, group);
  } else if (exchange == Exchange::match) {
    answer_matches(warp, group);
  } else if (exchange != Exchange::sync) {
    const u64 result = ballot_or_reduction(warp, group);
    for_each_lane(group, [&](u32 lane) { warp.requests[lane].result = result; });
  }
}

inline bool complete(const Warp& warp, u32 mask) { return ((warp.waiting | warp.exited) & mask) == mask; }

inline void release(Warp& warp, u32 mask, Guard& guard) {
  const u32 group = warp.waiting & mask;
  answer(warp, group);
  warp.waiting &= ~group;
  for_each_lane(group, [&](u32 lane) {
    Thread& thread = thread_of(warp, lane);
    if (thread.waits_for) make_ready(thread);
  });
  wake_ready(guard);
}

inline void check_request(const Warp& warp, const Request& request) {
  if (!(request.mask >> lane_of(*current) & 1))
    fail("%s: its own lane %u is missing from mask %08x", request.name, lane_of(*current), request.mask);
  for_each_lane(warp.waiting & request.mask, [&](u32 lane) {
    const Request& other = warp.requests[lane];
    if (other.mask != request.mask)
      fail("%s: masks differ, %08x here and %08x in lane %u", request.name, request.mask, other.mask, lane);
    if (__builtin_strcmp(other.name, request.name) != 0)
      fail("warp divergence: it is at %s, lane %u of its mask at %s", request.name, lane, other.name);
  });
}

__attribute__((noinline)) static u64 exchange(const Request& request, u32 line) {
  Warp& warp = warp_of(*current);
  Guard guard(warp.lock);
  check_request(warp, request);
  const u32 lane = lane_of(*current);
  warp.requests[lane] = request;
  warp.waiting |= 1u << lane;
  if (complete(warp, request.mask))
    release(warp, request.mask, guard);
  else
    suspend(guard, request.name, line);
  return warp.requests[lane].result;
}

inline void leave_warp() {
  Warp& warp = warp_of(*current);
  Guard guard(warp.lock);
  warp.exited |= 1u << lane_of(*current);
  for (u32 left = warp.waiting; left;) {
    const u32 mask = warp.requests[__builtin_ctz(left)].mask;
    if (complete(warp, mask)) release(warp, mask, guard);
    left &= ~mask;
  }
}

inline void leave_block() {
  current->finished = true;
  leave_warp();
  leave_barrier();
}

template <class Value>
inline u64 packed(Value value) {
  static_assert(sizeof(Value) <= sizeof(u64), "warps exchange values of at most eight bytes");
  u64 bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(Value));
  return bits;
}

template <class Value>
inline Value unpacked(u64 bits) {
  Value value;
  __builtin_memcpy(&value, &bits, sizeof(Value));
  return value;
}

template <class Value>
inline Value shuffle(const char* name, u32 mask, Value value, u32 source, u32 line) {
  return unpacked<Value>(exchange({mask, Exchange::shuffle, name, packed(value), source, nullptr, 0}, line));
}

inline u32 ballot(const char* name, u32 mask, bool vote, u32 line) {
  return u32(exchange({mask, Exchange::ballot, name, vote, 0, nullptr, 0}, line));
}

template <class Value>
inline Value reduce(const char* name, u32 mask, Value value, u64 (*fold)(u64, u64), u32 line) {
  return unpacked<Value>(exchange({mask, Exchange::reduce, name, packed(value), 0, fold, 0}, line));
}

inline u32 my_lane() { return lane_of(*current); }

}  // namespace cuda_shim

inline void __syncwarp(unsigned mask = ~0u, unsigned line = __builtin_LINE()) {
  cuda_shim::exchange({mask, cuda_shim::Exchange::sync, "__syncwarp", 0, 0, nullptr, 0}, line);
}

// The weakest answer that CUDA allows: code that needs another one is wrong.
inline unsigned __activemask() { return 1u << cuda_shim::my_lane(); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, unsigned line = __builtin_LINE()) {
  const unsigned lane = cuda_shim::my_lane();
  return cuda_shim::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)), line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, unsigned line = __builtin_LINE()) {
  const unsigned lane = cuda_shim::my_lane();
  return cuda_shim::shuffle("__shfl_up_sync", mask, value, (lane & (width - 1)) < delta ? lane : lane - delta, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, unsigned line = __builtin_LINE()) {
  const unsigned lane = cuda_shim::my_lane();
  const bool beyond = (lane & (width - 1)) + delta >= unsigned(width);
  return cuda_shim::shuffle("__shfl_down_sync", mask, value, beyond ? lane : lane + delta, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, unsigned line = __builtin_LINE()) {
  const unsigned lane = cuda_shim::my_lane();
  const unsigned source = lane ^ bits;  // lanes of earlier groups can be read, those of later ones can't
  return cuda_shim::shuffle("__shfl_xor_sync", mask, value, source / width > lane / width ? lane : source, line);
}

inline unsigned __ballot_sync(unsigned mask, int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::ballot("__ballot_sync", mask, vote != 0, line);
}
inline int __any_sync(unsigned mask, int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::ballot("__any_sync", mask, vote != 0, line) != 0;
}
inline int __all_sync(unsigned mask, int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::ballot("__all_sync", mask, vote == 0, line) == 0;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value, unsigned line = __builtin_LINE()) {
  return unsigned(cuda_shim::exchange(
      {mask, cuda_shim::Exchange::match, "__match_any_sync", cuda_shim::packed(value), 0, nullptr, 0}, line));
}

#define SHIM_REDUCTION(name, type, expression)                                                         \
  inline type name(unsigned mask, type value, unsigned line = __builtin_LINE()) {                      \
    return cuda_shim::reduce(                                                                          \
        #name, mask, value,                                                                            \
        [](cuda_shim::u64 left, cuda_shim::u64 right) {                                                \
          const type a = static_cast<type>(left), b = static_cast<type>(right);                        \
          return cuda_shim::packed<type>(expression);                                                  \
        },                                                                                             \
        line);                                                                                         \
  }
SHIM_REDUCTION(__reduce_add_sync, unsigned, a + b)
SHIM_REDUCTION(__reduce_min_sync, unsigned, b < a ? b : a)
SHIM_REDUCTION(__reduce_max_sync, unsigned, a < b ? b : a)
SHIM_REDUCTION(__reduce_or_sync, unsigned, a | b)
SHIM_REDUCTION(__reduce_and_sync, unsigned, a & b)
SHIM_REDUCTION(__reduce_xor_sync, unsigned, a ^ b)
SHIM_REDUCTION(__reduce_add_sync, int, int(unsigned(a) + unsigned(b)))
SHIM_REDUCTION(__reduce_min_sync, int, b < a ? b : a)
SHIM_REDUCTION(__reduce_max_sync, int, a < b ? b : a)
#undef SHIM_REDUCTION
