// Fibers: stacks that the host thread switches between by itself. The switch is a few instructions of assembly on
// x86-64 and swapcontext elsewhere; address and thread sanitizers are told of it.
//
// A fiber belongs to the host thread that made it. Its stack has a guard page below it.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__x86_64__)
// Saves what a function must preserve, and the stack, at `save`; goes on with what was saved at `load`.
extern "C" void cuda_emulator_switch_stack(void** save, void* load);
#endif

namespace cuda_emulator {

class Fiber {
 public:
  // The host thread's own stack: something to switch back to.
  Fiber();
  // A new stack. The first switch to it calls `entry`, which calls Entered first, and never returns. `index` colours
  // the stack, so that many stacks do not share the same lines of the cache.
  Fiber(void (*entry)(), int index);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves `from`, which must be the running fiber, and continues `to` where it left off.
  static void Switch(Fiber& from, Fiber& to) {
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    cuda_emulator_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
    SwitchTold(from, to);
#endif
  }

  static void Entered();

 private:
  // With the sanitizers told.
  static void SwitchTold(Fiber& from, Fiber& to);

  char* mapping_ = nullptr;    // guard page and stack; null: the host thread's
  char* stack_low_ = nullptr;  // for the sanitizer
  size_t stack_bytes_ = 0;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* sanitizer_state_ = nullptr;
};

}  // namespace cuda_emulator
