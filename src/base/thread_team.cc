#include "base/thread_team.h"

#include <algorithm>

namespace fathom {
namespace {

// About 30 to 100 us of waiting before a thread goes to sleep: longer than the serial stretches between two loops of
// a decode step, short enough that an idle program uses no processor.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  workers_.reserve(static_cast<size_t>(threads) - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadTeam::~ThreadTeam() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
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
  running_.store(static_cast<int32_t>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  for (int spin = 0;; ++spin) {
    const int32_t left = running_.load(std::memory_order_acquire);
    if (left == 0) break;
    if (spin < kSpins) {
      pause();
    } else {
      running_.wait(left, std::memory_order_acquire);
    }
  }
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
  for (;;) {
    for (int spin = 0; epoch_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < kSpins) {
        pause();
      } else {
        epoch_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stopping_) return;
    work(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace fathom
