#include "base/thread_team.h"

#include <algorithm>

namespace fathom {
namespace {

// About 30 to 100 us of waiting before a thread goes to sleep: longer than the serial stretches between two loops of
// a decode step, short enough that an idle program uses no processor.
constexpr int kSpins = 4000;

// The gate: loop number (15 bits) | closed | workers inside (16 bits). One word, so that a worker enters a loop only
// while it is open, and the caller that has closed it knows of everyone inside. A number comes again after 32,768
// loops; a worker that slept through all of them takes the loop for one that it has seen, and misses it.
constexpr uint32_t kInside = 0xFFFF;
constexpr uint32_t kClosed = 0x10000;
constexpr uint32_t kLoop = 0x20000;

uint32_t loop_of(uint32_t gate) {
  return gate / kLoop;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) : gate_(kClosed) {
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  workers_.reserve(static_cast<size_t>(threads) - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadTeam::~ThreadTeam() {
  stopping_.store(true, std::memory_order_relaxed);
  next_gate(kClosed);  // nobody enters; whoever waits looks at stopping_
  for (std::thread& thread : workers_) thread.join();
}

void ThreadTeam::run(int64_t items, void* context, Function function) {
  if (items <= 0) return;
  if (workers_.empty() || items == 1) {
    for (int64_t i = 0; i < items; ++i) function(context, i, 0);
    return;
  }
  function_ = function;
  context_ = context;
  items_ = items;
  next_.store(0, std::memory_order_relaxed);
  next_gate(0);
  work(0);
  // No item is left to take: whoever is not inside by now need not come.
  gate_.fetch_or(kClosed, std::memory_order_relaxed);
  for (int spin = 0;; ++spin) {
    const uint32_t emptied = emptied_.load(std::memory_order_acquire);
    if ((gate_.load(std::memory_order_acquire) & kInside) == 0) break;
    if (spin < kSpins) {
      pause();
    } else {
      emptied_.wait(emptied, std::memory_order_acquire);
    }
  }
}

void ThreadTeam::next_gate(uint32_t state) {
  gate_.store((loop_of(gate_.load(std::memory_order_relaxed)) + 1) * kLoop + state, std::memory_order_release);
  gate_.notify_all();
}

void ThreadTeam::work(int thread) {
  for (;;) {
    // Neighbouring items are often neighbours in memory: a thread takes several at once while many are left.
    const int64_t left = items_ - next_.load(std::memory_order_relaxed);
    const int64_t count = std::max<int64_t>(1, left / (4 * size()));
    const int64_t begin = next_.fetch_add(count, std::memory_order_relaxed);
    if (begin >= items_) return;
    const int64_t end = std::min(items_, begin + count);
    for (int64_t item = begin; item < end; ++item) function_(context_, item, thread);
  }
}

void ThreadTeam::worker(int thread) {
  uint32_t seen = 0;
  for (int spin = 0;;) {
    uint32_t gate = gate_.load(std::memory_order_acquire);
    if ((gate & kClosed) != 0 || loop_of(gate) == seen) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      if (spin < kSpins) {
        ++spin;
        pause();
      } else {
        gate_.wait(gate, std::memory_order_acquire);
      }
      continue;
    }
    if (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) continue;
    seen = loop_of(gate);
    work(thread);
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) - 1 == seen * kLoop + kClosed) {
      emptied_.fetch_add(1, std::memory_order_release);
      emptied_.notify_one();
    }
    spin = 0;
  }
}

}  // namespace fathom
