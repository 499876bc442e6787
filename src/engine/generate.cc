#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/session.h"

namespace fathom {

namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "length";
}

double GenerationTimings::tokens_per_second() const {
  return decode_tokens > 0 && decode_ms > 0 ? 1000.0 * static_cast<double>(decode_tokens) / decode_ms : 0;
}

Generation generate(const SequenceModel& model, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks) {
  if (request.max_new_tokens < 1) {
    throw_bad_input("max_new_tokens must be at least 1; {} was given", request.max_new_tokens);
  }
  Sampler sampler(request.sampling);
  sampler.observe_prompt(request.prompt);
  AnswerText answer(tokenizer, request.stop);

  Generation result;
  const auto prefill_start = std::chrono::steady_clock::now();
  std::span<const float> logits = model.prefill(request.prompt);
  result.timings.prefill_ms = milliseconds_since(prefill_start);
  result.timings.reused_tokens = model.reused_tokens ? model.reused_tokens() : 0;
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  result.timings.prefill_tokens = prompt_tokens - result.timings.reused_tokens;

  while (true) {
    SampledToken sampled = sampler.sample(logits);
    const int32_t token = sampled.token;
    if (std::find(request.end_tokens.begin(), request.end_tokens.end(), token) != request.end_tokens.end()) {
      result.finish_reason = FinishReason::stop;
      break;
    }
    result.tokens.push_back(token);
    if (request.sampling.logprobs >= 0) result.logprobs.push_back(std::move(sampled));
    const std::string text = answer.push(token);
    result.text += text;
    const bool go_on = !callbacks.on_token || callbacks.on_token(token, text);
    if (answer.stopped()) {
      result.finish_reason = FinishReason::stop;
      break;
    }
    if (!go_on) {
      result.finish_reason = FinishReason::cancelled;
      break;
    }
    const auto generated = static_cast<int64_t>(result.tokens.size());
    if (generated == request.max_new_tokens || prompt_tokens + generated > model.context) {
      result.finish_reason = FinishReason::length;
      break;
    }
    const auto decode_start = std::chrono::steady_clock::now();
    logits = model.decode(token);
    result.timings.decode_ms += milliseconds_since(decode_start);
    ++result.timings.decode_tokens;
  }

  if (!answer.stopped()) {
    const std::string rest = answer.finish();
    if (answer.stopped()) result.finish_reason = FinishReason::stop;
    result.text += rest;
    if (!rest.empty() && callbacks.on_token) callbacks.on_token(-1, rest);
  }
  return result;
}

Generation generate(Session& session, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks) {
  SequenceModel model;
  model.prefill = [&](std::span<const int32_t> tokens) { return session.prefill(tokens, callbacks.on_prefill); };
  model.decode = [&](int32_t token) { return session.decode(token); };
  model.reused_tokens = [&] { return session.reused_tokens(); };
  model.context = session.context();
  return generate(model, tokenizer, request, callbacks);
}

AnswerText::AnswerText(const Tokenizer* tokenizer, const std::vector<std::string>& stop) : matcher_(stop) {
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
  if (!stop.empty() && !decoder_) {
    throw_bad_input("stop strings need a tokenizer.json, which the checkpoint does not have");
  }
}

std::string AnswerText::push(int32_t token) {
  return decoder_ ? matcher_.push(decoder_->push(token)) : std::string();
}

std::string AnswerText::finish() {
  if (!decoder_ || stopped()) return {};
  std::string rest = matcher_.push(decoder_->finish());
  return stopped() ? rest : rest + matcher_.finish();
}

StopMatcher::StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& text : stop_) {
    if (text.empty()) throw_bad_input("a stop string must not be empty");
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (matched_) return {};
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stop_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    matched_ = true;
    std::string before = pending_.substr(0, first);
    pending_.clear();
    return before;
  }
  // The longest tail that begins a stop string may still become one.
  size_t held = 0;
  for (const std::string& stop : stop_) {
    for (size_t length = std::min(stop.size() - 1, pending_.size()); length > held; --length) {
      if (std::string_view(pending_).substr(pending_.size() - length) == std::string_view(stop).substr(0, length)) {
        held = length;
        break;
      }
    }
  }
  std::string certain = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::finish() {
  return std::exchange(pending_, {});
}

}  // namespace fathom
