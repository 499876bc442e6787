#pragma once
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"

namespace fathom {

/// Who waits for the answer of a request; called on the engine's thread, so it must return at once and not throw.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  /// One more token; false: no more are wanted, and the request ends as cancelled.
  virtual bool on_token(const SampledToken& token) = 0;
  /// The last call. `error` is the sentence of FinishReason::error.
  virtual void on_end(FinishReason reason, const RequestUsage& usage, const std::string& error) = 0;
  /// The request was not taken (see Engine::submit); then there is no other call.
  virtual void on_refused(const Error& error) = 0;
};

/// How an engine is doing, as of its latest step.
struct EngineState {
  EngineCounters counters;
  int64_t running = 0, waiting = 0;
  int64_t pages = 0, free_pages = 0, kept_pages = 0;
  bool drafting = false;               ///< whether drafts pay at the moment
  std::vector<int64_t> expert_tokens;  ///< see Engine::expert_tokens
};

/// Gives an engine a thread of its own, and every other thread a way to it.
class EngineRunner {
 public:
  /// `engine` is only used by this until it is destroyed.
  explicit EngineRunner(Engine& engine);
  /// Cancels what still runs; every listener hears its end before this returns.
  ~EngineRunner();

  /// Hands a request over and returns the number to cancel it by. Never throws for what the engine refuses: the
  /// listener hears that. After `stop` the listener hears FinishReason::cancelled.
  uint64_t submit(EngineRequest request, std::shared_ptr<EngineListener> listener);
  /// Before the next step the request ends as cancelled; nothing if it has ended.
  void cancel(uint64_t request);
  /// Requests that have not ended, those on their way to the engine included.
  int64_t unfinished() const;
  EngineState state() const;
  /// Cancels everything, ends the thread.
  void stop();

 private:
  struct Arrival {
    uint64_t number;
    EngineRequest request;
    std::shared_ptr<EngineListener> listener;
  };
  struct Open {
    uint64_t number;
    std::shared_ptr<EngineListener> listener;
  };

  void run();
  void take(std::vector<Arrival>& arrivals, std::vector<uint64_t>& cancelled);
  void step();
  void publish();
  void end(int64_t id, FinishReason reason, const RequestUsage& usage, const std::string& error);

  Engine& engine_;
  std::map<int64_t, Open> open_;               // by the engine's number; the engine's thread only
  std::map<uint64_t, int64_t> engine_number_;  // of those in open_

  mutable std::mutex mutex_;  // over what follows
  std::condition_variable wake_;
  std::vector<Arrival> arrivals_;
  std::vector<uint64_t> cancelled_;
  uint64_t next_ = 1;
  int64_t unfinished_ = 0;
  bool stopping_ = false;
  EngineState state_;
  std::jthread thread_;
};

}  // namespace fathom
