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
    report_deadlock();
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
      report_deadlock();
  } catch (const Stopped&) {
  }
}

// The OS threads of a launch meet the main thread before and after each block. Two locks: with one, a thread that has
// ended early would seem to come before one that starts late, and their races would be hidden.
struct Rounds {
  std::mutex starting, ending;
  std::condition_variable started, ended;
  u64 round = 0;
  u32 running = 0;
  bool over = false;
};

inline void run_rounds(Thread& thread, Rounds& rounds) {
  for (u64 next = 1;; ++next) {
    {
      std::unique_lock<std::mutex> held(rounds.starting);
      rounds.started.wait(held, [&] { return rounds.round == next || rounds.over; });
      if (rounds.over) return;
    }
    run_thread(thread);
    const std::lock_guard<std::mutex> held(rounds.ending);
    if (--rounds.running == 0) rounds.ended.notify_one();
  }
}

inline void run_round(Rounds& rounds) {
  std::unique_lock<std::mutex> held(rounds.ending);
  rounds.running = threads_per_block;
  {
    const std::lock_guard<std::mutex> start(rounds.starting);
    ++rounds.round;
  }
  rounds.started.notify_all();
  rounds.ended.wait(held, [&] { return rounds.running == 0; });
}

inline void end_rounds(Rounds& rounds) {
  const std::lock_guard<std::mutex> held(rounds.starting);
  rounds.over = true;
  rounds.started.notify_all();
}

inline void run_blocks(u64 blocks_of_grid) {
  static std::thread os_threads[kMostThreads];
  Rounds rounds;
  BlockOrder order;
  order.start(blocks_of_grid);
  Block& block = blocks[0];
  prepare_block(block);
  for (u32 i = 0; i < threads_per_block; ++i)
    os_threads[i] = std::thread(run_rounds, std::ref(block.threads[i]), std::ref(rounds));
  for (u64 done = 0; done < blocks_of_grid && !failed; ++done) {
    start_block(block, order.take());
    alive_and_waiting = threads_per_block * kOneAlive;
    run_round(rounds);
  }
  end_rounds(rounds);
  for (u32 i = 0; i < threads_per_block; ++i) os_threads[i].join();
  __builtin_free(block.dynamic_shared);
}

}  // namespace cuda_shim
