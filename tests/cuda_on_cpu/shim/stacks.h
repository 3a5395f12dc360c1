// Stacks for fibers, and the switch from one to another.
#pragma once

#ifdef SHIM_ADDRESS_SANITIZER
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old, size_t* size_old);
extern "C" void __asan_unpoison_memory_region(const volatile void* address, size_t size);
#endif

namespace cuda_shim {

struct Stack {
#ifdef SHIM_USES_UCONTEXT
  ucontext_t context;
#else
  void* pointer;
#endif
  const void* low;
  size_t bytes;
  void* fake;  // AddressSanitizer's
};

static Stack main_stack;
static Stack stacks[kMostBlocks * kMostThreads];
static Stack* free_stacks[kMostBlocks * kMostThreads];
static u32 free_stack_count, used_stack_count;

constexpr u64 kCanary = 0x5AFE57ACC0FFEE11;

void run_threads();

#ifndef SHIM_USES_UCONTEXT
// Stores rsp at *from after pushing what the System V ABI makes the callee keep, and goes on where `to` was left.
// MXCSR is the same in all fibers.
extern "C" __attribute__((visibility("hidden"))) void cuda_shim_switch(void** from, void* to);
asm(R"(
  .text
  .hidden cuda_shim_switch
  .globl cuda_shim_switch
  .type cuda_shim_switch, @function
cuda_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_shim_switch, . - cuda_shim_switch
)");
#endif

// The thread that runs on a new stack has been made current already, so this takes nothing.
[[noreturn]] static void first_frame() {
#ifdef SHIM_ADDRESS_SANITIZER
  const void* low;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &low, &bytes);
  if (!main_stack.low) {
    main_stack.low = low;
    main_stack.bytes = bytes;
  }
#endif
  run_threads();
  __builtin_unreachable();
}

inline void prepare(Stack& stack) {
  const size_t number = &stack - stacks;
  char* low = launch->stacks + number * launch->stack_bytes;
  stack.low = low;
  stack.fake = nullptr;
  // Stacks lie a power of two apart: were their tops too, they would fight for the same cache lines.
  stack.bytes = launch->stack_bytes - number % 64 * 256;
#ifdef SHIM_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(low, launch->stack_bytes);
#endif
  *reinterpret_cast<u64*>(low) = kCanary;
#ifdef SHIM_USES_UCONTEXT
  getcontext(&stack.context);
  stack.context.uc_stack.ss_sp = low;
  stack.context.uc_stack.ss_size = stack.bytes;
  stack.context.uc_link = nullptr;
  makecontext(&stack.context, first_frame, 0);
#else
  void** top = reinterpret_cast<void**>(low + stack.bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(first_frame);
  for (int kept_register = 0; kept_register < 6; ++kept_register) *--top = nullptr;
  stack.pointer = top;
#endif
}

inline Stack* take_stack() {
  Stack* stack = free_stack_count ? free_stacks[--free_stack_count] : &stacks[used_stack_count++];
  prepare(*stack);
  return stack;
}

inline void give_stack_back(Stack* stack) { free_stacks[free_stack_count++] = stack; }

inline bool overflowed(const Stack& stack) { return *static_cast<const u64*>(stack.low) != kCanary; }

// With `for_good` nothing comes back to `from`.
inline void switch_stacks(Stack& from, Stack& to, bool for_good) {
#ifdef SHIM_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake, to.low, to.bytes);
#else
  (void)for_good;
#endif
#ifdef SHIM_USES_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  cuda_shim_switch(&from.pointer, to.pointer);
#endif
#ifdef SHIM_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

}  // namespace cuda_shim
