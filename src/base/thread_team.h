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
/// starts a loop every few hundred) and then asleep. Loops do not nest and come from one thread at a time. The body
/// must not throw.
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
  void work(int thread);
  void worker(int thread);

  std::vector<std::thread> workers_;
  Function function_ = nullptr;
  void* context_ = nullptr;
  int64_t items_ = 0;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> epoch_{0};   // one more for each loop; workers wait for it to move
  alignas(64) std::atomic<int64_t> next_{0};     // next item to take
  alignas(64) std::atomic<int32_t> running_{0};  // workers that have not finished the current loop
};

}  // namespace fathom
