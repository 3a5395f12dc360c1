// Runs the threads of up to four blocks on one OS thread. A thread that must wait picks the next one itself and switches
// to it; a thread that ends hands its stack to the next, so threads that never wait follow each other without a switch.
#pragma once

namespace cuda_shim {

// How this launch is scheduled, drawn from its seed.
struct Schedule {
  u32 in_flight;         // blocks
  bool latest_first;     // run what became ready last, so one warp gets far ahead; else anything that is ready
  bool descending;       // order in which threads become ready at the start of a block
  u32 preemption_period;  // atomics and fences between two preemptions, on average
};

static Schedule schedule;
static BlockOrder block_order;
static u64 blocks_left;
static Block* running;  // the block whose shared variables are in place
static u32 until_preemption;
static u32 polls;  // atomics since a thread was last seen to get anywhere; a nap counts as many
constexpr u32 kMostPolls = 1u << 28;
constexpr u32 kPollsPerNap = 64;

#ifdef SHIM_ONE_BLOCK_AT_A_TIME
static char* shared_variables;
static size_t shared_variable_bytes;
inline void find_shared_variables() {}
#else
static __thread char shared_anchor;
static char* shared_variables;
static size_t shared_variable_bytes;

// This library's thread-local memory holds the shared variables and nothing else.
inline void find_shared_variables() {
  *static_cast<volatile char*>(&shared_anchor) = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void*) {
        const auto here = reinterpret_cast<uintptr_t>(&shared_variables);
        bool is_this = false;
        size_t bytes = 0;
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          const auto& part = library->dlpi_phdr[i];
          is_this |= part.p_type == PT_LOAD && here - library->dlpi_addr - part.p_vaddr < part.p_memsz;
          if (part.p_type == PT_TLS) bytes = part.p_memsz;
        }
        if (!is_this) return 0;
        shared_variables = static_cast<char*>(library->dlpi_tls_data);
        shared_variable_bytes = bytes;
        return 1;
      },
      nullptr);
}
#endif

inline void put_in_place(Block& block) {
  if (running == &block) return;
  if (shared_variable_bytes) {
    if (running) __builtin_memcpy(running->static_shared, shared_variables, shared_variable_bytes);
    __builtin_memcpy(shared_variables, block.static_shared, shared_variable_bytes);
  }
  running = &block;
}

inline void begin_block(Block& block) {
  --blocks_left;
  start_block(block, block_order.take());
  for (u32 i = 0; i < threads_per_block; ++i)
    block.ready[i] = &block.threads[schedule.descending ? i : threads_per_block - 1 - i];
  block.ready_count = threads_per_block;
  char* shared = running == &block ? shared_variables : block.static_shared;
  if (shared_variable_bytes) __builtin_memset(shared, kGarbage, shared_variable_bytes);
}

inline void make_ready(Thread& thread) {
  thread.waits_for = nullptr;
  polls = 0;
  thread.block->ready[thread.block->ready_count++] = &thread;
}

inline void wake_ready(Guard&) {}

// A block with a thread to run: the running one while it has any, for exchanging shared variables costs time.
inline Block* block_to_run(bool prefer_another) {
  if (!prefer_another && running->ready_count) return running;
  const u32 first = random_below(schedule.in_flight);
  for (u32 i = 0; i < schedule.in_flight; ++i) {
    Block& block = blocks[(first + i) % schedule.in_flight];
    if (block.active && block.ready_count) return &block;
  }
  for (u32 i = 0; i < schedule.in_flight; ++i) {
    Block& block = blocks[(first + i) % schedule.in_flight];
    if (!block.active || !block.napping_count) continue;
    block.ready_count = std::exchange(block.napping_count, 0);
    __builtin_memcpy(block.ready, block.napping, block.ready_count * sizeof(Thread*));
    return &block;
  }
  return nullptr;
}

inline Thread* take_next(bool prefer_another = false) {
  Block* block = block_to_run(prefer_another);
  if (!block) return nullptr;
  put_in_place(*block);
  const u32 last = block->ready_count - 1;
  const u32 taken = schedule.latest_first ? last : random_below(last + 1);
  Thread* thread = block->ready[taken];
  block->ready[taken] = block->ready[last];
  block->ready_count = last;
  return thread;
}

inline void make_current(Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
}

[[noreturn]] inline void stop_everything() {
  switch_stacks(*current->stack, main_stack, true);
  __builtin_unreachable();
}

inline void continue_with(Thread* next) {
  Thread* from = current;
  if (!next) report_deadlock();
  if (next == from) return;
  if (overflowed(*from->stack)) fail("stack overflow: more than %u bytes", u32(launch->stack_bytes));
  if (!next->stack) next->stack = take_stack();
  make_current(*next);
  switch_stacks(*from->stack, *next->stack, false);
}

inline void suspend(Guard&, const char* waits_for, u32 line) {
  current->waits_for = waits_for;
  current->line = line;
  continue_with(take_next());
}

inline void let_others_run(u32 cost) {
  polls += cost;
  if (polls > kMostPolls) fail("endless wait: it polls for something that no thread will do");
  Block& block = *current->block;
  block.napping[block.napping_count++] = current;
  continue_with(take_next(random_below(4) == 0));
}

inline void nap() { let_others_run(kPollsPerNap); }

// At atomics and fences, where the order of threads is most often wrong.
inline void maybe_preempt() {
  if (--until_preemption) return;
  until_preemption = 1 + random_below(2 * schedule.preemption_period);
  let_others_run(until_preemption);
}

void leave_block();

// What to run after the current thread has ended; null when all is done.
inline Thread* finish_current() {
  Block& block = *current->block;
  polls = 0;
  leave_block();
  if (overflowed(*current->stack)) fail("stack overflow: more than %u bytes", u32(launch->stack_bytes));
  if (!block.barrier.alive) {
    block.active = false;
    if (blocks_left) begin_block(block);
  }
  Thread* next = take_next();
  if (next) return next;
  for (const Block& other : blocks)
    if (other.active) report_deadlock();
  return nullptr;
}

inline void run_threads() {
  for (;;) {
    body(body_arguments);
    Stack* stack = current->stack;
    Thread* next = finish_current();
    if (!next) break;
    make_current(*next);
    if (!next->stack) {
      next->stack = stack;
      continue;
    }
    give_stack_back(stack);
    switch_stacks(*stack, *next->stack, true);
  }
  switch_stacks(*current->stack, main_stack, true);
}

inline void draw_schedule(u64 blocks_of_grid) {
  constexpr u32 periods[] = {4, 32, 256, 4096};
#ifdef SHIM_ONE_BLOCK_AT_A_TIME
  schedule.in_flight = 1;
#else
  schedule.in_flight = 1 + random_below(u32(blocks_of_grid < kMostBlocks ? blocks_of_grid : kMostBlocks));
#endif
  schedule.latest_first = random_below(3) == 0;
  schedule.descending = random_below(2) == 0;
  schedule.preemption_period = periods[random_below(4)];
  until_preemption = 1 + random_below(2 * schedule.preemption_period);
  block_order.start(blocks_of_grid);
}

inline void run_blocks(u64 blocks_of_grid) {
  draw_schedule(blocks_of_grid);
  find_shared_variables();
  free_stack_count = used_stack_count = polls = 0;
  main_stack.low = nullptr;
  running = nullptr;
  blocks_left = blocks_of_grid;
  for (u32 i = 0; i < kMostBlocks; ++i) {
    blocks[i].active = false;
    if (i >= schedule.in_flight) continue;
    prepare_block(blocks[i]);
    blocks[i].static_shared = static_cast<char*>(__builtin_malloc(shared_variable_bytes));
    begin_block(blocks[i]);
  }
  running = &blocks[0];
  if (shared_variable_bytes) __builtin_memset(shared_variables, kGarbage, shared_variable_bytes);
  Thread* first = take_next();
  first->stack = take_stack();
  make_current(*first);
  switch_stacks(main_stack, *first->stack, false);
  for (u32 i = 0; i < schedule.in_flight; ++i) {
    __builtin_free(blocks[i].dynamic_shared);
    __builtin_free(blocks[i].static_shared);
  }
}

}  // namespace cuda_shim
