// __syncthreads and its relatives. Threads that have ended don't count. Two barriers are told apart by their lines, not by
// return addresses: the optimiser may duplicate a call.
#pragma once

namespace cuda_shim {

inline void release(Barrier& barrier, Guard& guard) {
  barrier.result = {barrier.count, barrier.all, barrier.any};
  for (u32 i = 0; i < barrier.waiting; ++i) make_ready(*barrier.waiters[i]);
  barrier.waiting = 0;
  wake_ready(guard);
}

// The result stays valid until all threads have read it: the next barrier is complete only when all have come.
__attribute__((noinline)) static decltype(Barrier::result) wait_at_barrier(bool vote, u32 line) {
  Barrier& barrier = current->block->barrier;
  Guard guard(barrier.lock);
  if (barrier.waiting == 0) {
    barrier.line = line;
    barrier.count = barrier.any = 0;
    barrier.all = 1;
  } else if (barrier.line != line) {
    fail("barrier divergence: it is at __syncthreads in line %u, others wait in line %u", line, barrier.line);
  }
  barrier.count += vote;
  barrier.all &= vote;
  barrier.any |= vote;
  if (barrier.waiting + 1 == barrier.alive) {
    release(barrier, guard);
  } else {
    barrier.waiters[barrier.waiting++] = current;
    suspend(guard, "__syncthreads", line);
  }
  return barrier.result;
}

inline void leave_barrier() {
  Barrier& barrier = current->block->barrier;
  Guard guard(barrier.lock);
  --barrier.alive;
  if (barrier.alive && barrier.waiting == barrier.alive) release(barrier, guard);
}

}  // namespace cuda_shim

inline void __syncthreads(unsigned line = __builtin_LINE()) { cuda_shim::wait_at_barrier(false, line); }
inline int __syncthreads_count(int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::wait_at_barrier(vote != 0, line).count;
}
inline int __syncthreads_and(int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::wait_at_barrier(vote != 0, line).all;
}
inline int __syncthreads_or(int vote, unsigned line = __builtin_LINE()) {
  return cuda_shim::wait_at_barrier(vote != 0, line).any;
}
