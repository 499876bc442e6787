#include "base/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "base/error.h"

namespace fathom {

namespace {

std::atomic<bool> interrupt_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "the signal handler may only touch lock-free atomics");

extern "C" void on_signal(int signal_number) {
  // The second signal ends the process the way the signal would have: work that does not look at the flag must not be
  // unkillable.
  if (interrupt_flag.exchange(true) && signal_number == SIGINT) {
    ::signal(signal_number, SIG_DFL);
    ::raise(signal_number);
  }
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read that waits for the terminal must return, so that its loop sees the flag
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigemptyset(&ignore.sa_mask);
  ::sigaction(SIGPIPE, &ignore, nullptr);
  ::sigaction(SIGXFSZ, &ignore, nullptr);
}

bool interrupted() {
  return interrupt_flag.load(std::memory_order_relaxed);
}

void clear_interrupt() {
  interrupt_flag.store(false);
}

void check_interrupt() {
  if (interrupted()) throw_failure("interrupted");
}

}  // namespace fathom
