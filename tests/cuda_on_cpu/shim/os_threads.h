// One OS thread a CUDA thread, and the blocks one after the other: slow, and what ThreadSanitizer understands.
#pragma once

namespace cuda_shim {

struct Stopped {};

// Threads alive in the upper half, threads that wait in the lower. Relaxed, lest it order what the kernel left unordered.
static std::atomic<u64> alive_and_waiting;
constexpr u64 kOneAlive = u64(1) << 32;

inline bool nobody_moves(u64 counts) { return counts >> 32 != 0 && counts >> 32 == (counts & 0xFFFFFFFF); }

[[noreturn]] inline void stop_everything() { throw Stopped(); }

inline void suspend(Guard& guard, const char* waits_for, u32 line) {
  Thread& thread = *current;
  thread.waits_for = waits_for;
  thread.line = line;
  if (nobody_moves(alive_and_waiting.fetch_add(1, std::memory_order_relaxed) + 1))
    fail("deadlock: it waits at %s, line %u, as all others do", waits_for, line);
  // A failure elsewhere is seen by the clock: whoever fails may hold another lock than this.
  while (thread.waits_for && !failed) guard.lock.changed.wait_for(guard.held, std::chrono::milliseconds(20));
  if (failed) throw Stopped();
}

inline void make_ready(Thread& thread) {
  thread.waits_for = nullptr;
  alive_and_waiting.fetch_sub(1, std::memory_order_relaxed);
}

inline void wake_ready(Guard& guard) { guard.lock.changed.notify_all(); }

inline void nap() {
  std::this_thread::yield();
  if (failed.load(std::memory_order_relaxed)) throw Stopped();
}

inline void maybe_preempt() {}

void leave_block();
void set_float_mode();

inline void run_thread(Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  set_float_mode();
  try {
    body(body_arguments);
    leave_block();
    if (nobody_moves(alive_and_waiting.fetch_sub(kOneAlive, std::memory_order_relaxed) - kOneAlive))
      fail("deadlock: it has ended, and all others wait for more");
  } catch (const Stopped&) {
  }
}

inline void run_blocks(u64 blocks_of_grid) {
  static std::thread os_threads[kMostThreads];
  BlockOrder order;
  order.start(blocks_of_grid);
  Block& block = blocks[0];
  prepare_block(block);
  for (u64 done = 0; done < blocks_of_grid && !failed; ++done) {
    start_block(block, order.take());
    alive_and_waiting = threads_per_block * kOneAlive;
    for (u32 i = 0; i < threads_per_block; ++i) os_threads[i] = std::thread(run_thread, std::ref(block.threads[i]));
    for (u32 i = 0; i < threads_per_block; ++i) os_threads[i].join();
  }
  __builtin_free(block.dynamic_shared);
}

}  // namespace cuda_shim
