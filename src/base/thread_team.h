#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace fathom {

/// A fixed set of threads that work on one loop at a time.
///
/// The caller is thread 0 of the team; the others wait, spinning for a few ten microseconds after the last loop (decode
/// starts a loop every few hundred) and then asleep. A thread that wakes too late for a loop (another program has its
/// processor) is not waited for: the others do its share. Loops do not nest and come from one thread at a time. The
/// body must not throw.
class ThreadTeam {
 public:
  /// `threads` ≥ 1; 0 means one per hardware thread.
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls `body(item, thread)` once for each item in [0, items), on any thread of the team in any order, and returns
  /// when all are done. What an item computes must not depend on who runs it.
  template <typename Body>
  void parallel_for(int64_t items, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(items, const_cast<std::remove_const_t<Plain>*>(&body),
        [](void* context, int64_t item, int thread) { (*static_cast<Plain*>(context))(item, thread); });
  }

 private:
  using Function = void (*)(void* context, int64_t item, int thread);

  void run(int64_t items, void* context, Function function);
  void next_gate(uint32_t state);
  void work(int thread);
  void worker(int thread);

  std::vector<std::thread> workers_;
  Function function_ = nullptr;
  void* context_ = nullptr;
  int64_t items_ = 0;
  std::atomic<bool> stopping_{false};
  // The state of the current loop: its number, whether it is closed to workers, how many are inside (thread_team.cc).
  alignas(64) std::atomic<uint32_t> gate_;
  alignas(64) std::atomic<int64_t> next_{0};  // next item to take
  // Moves when the last worker leaves a closed loop: what a caller asleep waits for.
  alignas(64) std::atomic<uint32_t> emptied_{0};
};

}  // namespace fathom
