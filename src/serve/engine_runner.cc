#include "serve/engine_runner.h"

#include <utility>

namespace fathom {

EngineRunner::EngineRunner(Engine& engine) : engine_(engine) {
  publish();
  thread_ = std::jthread([this] { run(); });
}

EngineRunner::~EngineRunner() {
  stop();
}

uint64_t EngineRunner::submit(EngineRequest request, std::shared_ptr<EngineListener> listener) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      arrivals_.push_back({next_, std::move(request), std::move(listener)});
      ++unfinished_;
      wake_.notify_one();
      return next_++;
    }
  }
  listener->on_end(FinishReason::cancelled, {}, {});
  return 0;
}

void EngineRunner::cancel(uint64_t request) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(request);
  wake_.notify_one();
}

int64_t EngineRunner::unfinished() const {
  const std::lock_guard lock(mutex_);
  return unfinished_;
}

EngineState EngineRunner::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void EngineRunner::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void EngineRunner::run() {
  while (true) {
    std::vector<Arrival> arrivals;
    std::vector<uint64_t> cancelled;
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !arrivals_.empty() || !cancelled_.empty() || !open_.empty(); });
      arrivals.swap(arrivals_);
      cancelled.swap(cancelled_);
      stopping = stopping_;
    }
    take(arrivals, cancelled);
    if (stopping) {
      for (const auto& [id, open] : open_) engine_.cancel(id);
    }
    publish();  // before the step: who has its first token may ask how many run
    step();
    publish();
    if (stopping && open_.empty()) return;
  }
}

void EngineRunner::take(std::vector<Arrival>& arrivals, std::vector<uint64_t>& cancelled) {
  for (Arrival& arrival : arrivals) {
    try {
      const int64_t id = engine_.submit(std::move(arrival.request));
      open_[id] = {arrival.number, std::move(arrival.listener)};
      engine_number_[arrival.number] = id;
    } catch (const Error& error) {
      arrival.listener->on_refused(error);
      const std::lock_guard lock(mutex_);
      --unfinished_;
    }
  }
  for (const uint64_t number : cancelled) {
    const auto found = engine_number_.find(number);
    if (found != engine_number_.end()) engine_.cancel(found->second);
  }
}

void EngineRunner::step() {
  if (open_.empty()) return;
  try {
    engine_.step([&](const TokenEvent& event) {
      const auto found = open_.find(event.request);
      if (found == open_.end()) return;
      if (event.token && !found->second.listener->on_token(*event.token)) engine_.cancel(event.request);
      if (event.end) end(event.request, *event.end, *engine_.usage(event.request), event.error);
    });
  } catch (const std::exception& error) {
    // Nothing of a step that broke off can be trusted: all requests end, and the next ones begin anew.
    const std::string sentence = error.what();
    for (const auto& [id, open] : open_) engine_.cancel(id);
    engine_.step([](const TokenEvent&) {});
    engine_.forget();
    while (!open_.empty()) end(open_.begin()->first, FinishReason::error, {}, sentence);
  }
}

void EngineRunner::end(int64_t id, FinishReason reason, const RequestUsage& usage, const std::string& error) {
  const auto found = open_.find(id);
  if (found == open_.end()) return;
  const Open open = std::move(found->second);
  open_.erase(found);
  engine_number_.erase(open.number);
  publish();  // before the listener tells: who hears of the end finds it in the state
  open.listener->on_end(reason, usage, error);
  const std::lock_guard lock(mutex_);
  --unfinished_;
}

void EngineRunner::publish() {
  const std::lock_guard lock(mutex_);
  state_.counters = engine_.counters();
  state_.running = engine_.running();
  state_.waiting = engine_.waiting();
  state_.pages = engine_.pages();
  state_.free_pages = engine_.free_pages();
  state_.kept_pages = engine_.kept_pages();
  state_.drafting = engine_.drafts_pay();
  const auto tokens = engine_.expert_tokens();
  state_.expert_tokens.assign(tokens.begin(), tokens.end());
}

}  // namespace fathom
