// What both ways of running threads share: threads, blocks, warps, the launch, and how an error is told.
#pragma once

#ifdef SHIM_OS_THREADS
#define SHIM_PER_THREAD static thread_local
#else
#define SHIM_PER_THREAD static
#endif

// Named by kernels.
SHIM_PER_THREAD uint3 threadIdx;
SHIM_PER_THREAD uint3 blockIdx;
static dim3 blockDim;
static dim3 gridDim;
constexpr int warpSize = 32;

namespace cuda_shim {

using u32 = uint32_t;
using u64 = uint64_t;

constexpr u32 kLanes = 32;
constexpr u32 kMostThreads = 1024;
constexpr u32 kMostWarps = kMostThreads / kLanes;
constexpr u32 kMostBlocks = 4;
constexpr int kGarbage = 0xC5;

// Guards a barrier or a warp. One each: a lock shared by more would hide races from ThreadSanitizer.
#ifdef SHIM_OS_THREADS
struct Lock {
  std::mutex mutex;
  std::condition_variable changed;
};
struct Guard {
  explicit Guard(Lock& lock) : lock(lock), held(lock.mutex) {}
  Lock& lock;
  std::unique_lock<std::mutex> held;
};
#else
struct Lock {};
struct Guard {
  explicit Guard(Lock&) {}
};
#endif

struct Block;
struct Stack;

struct Thread {
  Block* block;
  uint3 index;
  u32 linear;
  Stack* stack;           // fibers: null before the thread has run
  const char* waits_for;  // null while it can run
  u32 line;
  bool finished;
};

struct Barrier {
  Lock lock;
  u32 alive, waiting, line;
  int count, all, any;
  struct {
    int count, all, any;
  } result;
  Thread* waiters[kMostThreads];
};

enum class Exchange { sync, shuffle, ballot, match, reduce };

struct Request {
  u32 mask;
  Exchange exchange;
  const char* name;
  u64 value;
  u32 source;  // shuffles: the lane that is read
  u64 (*fold)(u64, u64);
  u64 result;
};

struct Warp {
  Lock lock;
  u32 waiting, exited;  // lanes; those beyond the end of the block count as exited
  Request requests[kLanes];
};

struct Block {
  uint3 index;
  bool active;
  u32 ready_count, napping_count;
  void* dynamic_shared;
  char* static_shared;  // the contents of the shared variables while another block runs
  Barrier barrier;
  Warp warps[kMostWarps];
  Thread threads[kMostThreads];
  Thread* ready[kMostThreads];
  Thread* napping[kMostThreads];
};

// Written by loader.py, field for field.
struct Launch {
  u32 grid[3], block[3];
  u64 first_block, blocks;  // of the grid, those that run
  u64 shared_bytes;
  u64 seed;
  char* stacks;
  u64 stack_bytes;
  char* message;
  u64 message_bytes;
};

static const Launch* launch;
static u32 threads_per_block;
static void (*body)(const void*);
static const void* body_arguments;
static Block blocks[kMostBlocks];
SHIM_PER_THREAD Thread* current;

inline void* dynamic_shared() { return current->block->dynamic_shared; }

// xorshift64*, by S. Vigna.
static u64 random_state;
inline u32 random_below(u32 bound) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return u32(((random_state * 0x2545F4914F6CDD1Dull >> 32) * bound) >> 32);
}

// Each mode defines these: how a thread stops for good, waits, is woken (wake_ready follows the last
// make_ready), and lets others run.
[[noreturn]] void stop_everything();
void suspend(Guard& guard, const char* waits_for, u32 line);
void make_ready(Thread& thread);
void wake_ready(Guard& guard);
void nap();
void maybe_preempt();

#ifdef SHIM_OS_THREADS
static std::atomic<bool> failed;
static std::mutex failing;
#else
static bool failed;
#endif

template <class... Values>
[[noreturn]] void fail_at(const Thread& thread, const char* format, Values... values) {
#ifdef SHIM_OS_THREADS
  std::unique_lock<std::mutex> held(failing);
#endif
  if (!failed) {
    const uint3 b = thread.block->index, t = thread.index;
    const int used = __builtin_snprintf(launch->message, launch->message_bytes,
                                        "block (%u, %u, %u), thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y, t.z);
    __builtin_snprintf(launch->message + used, launch->message_bytes - used, format, values...);
    failed = true;
  }
#ifdef SHIM_OS_THREADS
  held.unlock();
#endif
  stop_everything();
}

template <class... Values>
[[noreturn]] void fail(const char* format, Values... values) {
  fail_at(*current, format, values...);
}

// Called when nobody can move, so what other threads wait for is read without their locks.
__attribute__((noinline, no_sanitize("thread"))) [[noreturn]] static void report_deadlock() {
  u32 stuck = 0;
  const Thread* first = nullptr;
  for (const Block& block : blocks)
    for (u32 i = 0; block.active && i < threads_per_block; ++i)
      if (!block.threads[i].finished) {
        if (!first) first = &block.threads[i];
        ++stuck;
      }
  fail_at(*first, "deadlock: it waits at %s, line %u; none of %u threads can move", first->waits_for, first->line,
          stuck);
}

inline uint3 position(u64 linear, const u32 (&extent)[3]) {
  return {u32(linear % extent[0]), u32(linear / extent[0] % extent[1]), u32(linear / extent[0] / extent[1])};
}

// Once a launch: what all blocks that run in this place have in common.
inline void prepare_block(Block& block) {
  block.dynamic_shared = __builtin_malloc(launch->shared_bytes);
  block.active = false;
  for (u32 i = 0; i < threads_per_block; ++i) {
    block.threads[i].block = &block;
    block.threads[i].index = position(i, launch->block);
    block.threads[i].linear = i;
  }
}

inline void start_block(Block& block, u64 linear) {
  block.index = position(launch->first_block + linear, launch->grid);
  block.active = true;
  block.ready_count = block.napping_count = 0;
  block.barrier.alive = threads_per_block;
  block.barrier.waiting = 0;
  __builtin_memset(block.dynamic_shared, kGarbage, launch->shared_bytes);
  for (u32 i = 0; i < threads_per_block; ++i) {
    Thread& thread = block.threads[i];
    thread.stack = nullptr;
    thread.waits_for = nullptr;
    thread.finished = false;
  }
  for (u32 first = 0; first < threads_per_block; first += kLanes) {
    const u32 lanes = threads_per_block - first;
    block.warps[first / kLanes].waiting = 0;
    block.warps[first / kLanes].exited = lanes >= kLanes ? 0 : ~0u << lanes;
  }
}

// CUDA promises no order of blocks, so it differs from seed to seed: a walk by a stride without common factor.
struct BlockOrder {
  u64 count, stride, next;
  void start(u64 blocks_of_grid) {
    count = blocks_of_grid;
    stride = 1;
    next = 0;
    switch (random_below(3)) {
      case 0: return;
      case 1: stride = count - 1; break;
      default: stride = 1 + random_below(u32(count < ~0u ? count : ~0u));
    }
    while (stride == 0 || common_factor(stride, count) != 1) ++stride;
    next = stride % count;
  }
  static u64 common_factor(u64 a, u64 b) {
    while (b != 0) a = std::exchange(b, a % b);
    return a;
  }
  u64 take() { return std::exchange(next, u64((static_cast<unsigned __int128>(next) + stride) % count)); }
};

}  // namespace cuda_shim
