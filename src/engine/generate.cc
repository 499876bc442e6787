#include "engine/generate.h"

#include <algorithm>

#include "base/error.h"
#include "engine/session.h"

namespace fathom {

double GenerationTimings::tokens_per_second() const {
  return decode_tokens > 0 ? static_cast<double>(decode_tokens) * 1000 / decode_ms : 0;
}

AnswerBuilder::AnswerBuilder(const Tokenizer* tokenizer, const GenerationRequest& request)
    : request_(request), matcher_(request.stop) {
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
  if (!request.stop.empty() && !decoder_) {
    throw_bad_input("stop strings need a tokenizer.json, which the checkpoint does not have");
  }
}

std::string AnswerBuilder::add(const SampledToken& token) {
  if (stopped()) return {};
  if (generation_.tokens.empty()) first_ = Clock::now();
  generation_.tokens.push_back(token.token);
  if (request_.sampling.logprobs >= 0) generation_.logprobs.push_back(token);
  std::string text = decoder_ ? matcher_.push(decoder_->push(token.token)) : std::string();
  generation_.text += text;
  return text;
}

std::string AnswerBuilder::end(FinishReason reason, const RequestUsage& usage) {
  const auto milliseconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
  };
  const Clock::time_point now = Clock::now();
  if (generation_.tokens.empty()) first_ = now;
  std::string rest;
  if (decoder_ && !stopped()) {
    rest = matcher_.push(decoder_->finish());
    if (!stopped()) rest += matcher_.finish();
  }
  generation_.text += rest;
  generation_.finish_reason = stopped() ? FinishReason::stop : reason;
  GenerationTimings& timings = generation_.timings;
  timings.reused_tokens = usage.hit_tokens;
  timings.prefill_tokens = usage.prompt_tokens - usage.hit_tokens;
  timings.prefill_ms = milliseconds(begin_, first_);
  timings.decode_tokens = std::max<int64_t>(0, std::ssize(generation_.tokens) - 1);
  timings.decode_ms = milliseconds(first_, now);
  timings.drafts = usage.drafts;
  timings.accepted = usage.accepted;
  timings.mask_ms = usage.mask_seconds * 1000;
  return rest;
}

EngineRequest bounded(EngineRequest request, int64_t context) {
  const auto length = std::ssize(request.prompt);
  if (length > context) throw_bad_input("The prompt has {} tokens; the context holds {}.", length, context);
  // The last token of an answer needs no position.
  request.max_new_tokens = std::min(request.max_new_tokens, context + 1 - length);
  return request;
}

Generation generate(Session& session, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks) {
  AnswerBuilder answer(tokenizer, request);
  Engine& engine = session.engine();
  const int64_t id = engine.submit(bounded(request, session.context()));
  bool done = false;
  bool first = false;
  bool unwanted = false;
  std::string error;
  const auto on_event = [&](const TokenEvent& event) {
    std::string text;
    if (event.token && !answer.stopped() && !unwanted) {
      first = true;
      text = answer.add(*event.token);
      unwanted = callbacks.on_token && !callbacks.on_token(event.token->token, text);
      if (unwanted || answer.stopped()) engine.cancel(id);
    }
    if (!event.end) return;
    done = true;
    error = event.error;
    text = answer.end(unwanted ? FinishReason::cancelled : *event.end, *engine.usage(id));
    if (!text.empty() && callbacks.on_token) callbacks.on_token(-1, text);
  };
  try {
    while (!done) {
      engine.step(on_event);
      const RequestUsage* usage = engine.usage(id);
      if (!first && !done && callbacks.on_prefill && usage != nullptr) {
        callbacks.on_prefill(usage->prefilled, usage->prompt_tokens - usage->hit_tokens);
      }
    }
  } catch (...) {
    engine.cancel(id);
    while (engine.running() + engine.waiting() > 0) engine.step([](const TokenEvent&) {});
    throw;
  }
  if (!error.empty()) throw_bad_input("{}", error);
  return answer.generation();
}

}  // namespace fathom
