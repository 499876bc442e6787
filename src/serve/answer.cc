#include "serve/answer.h"

#include <algorithm>
#include <ctime>
#include <random>
#include <tuple>

#include "base/error.h"
#include "serve/api_error.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

double seconds_between(Answer::Clock::time_point from, Answer::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::string random_id(std::string_view prefix) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  constexpr std::string_view letters = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::string id(prefix);
  for (int i = 0; i < 24; ++i) id += letters[random() % letters.size()];
  return id;
}

/// One choice's ear at the engine.
class Answer::Listener : public EngineListener {
 public:
  Listener(std::shared_ptr<Answer> answer, size_t choice) : answer_(std::move(answer)), choice_(choice) {}
  bool on_token(const SampledToken& token) override { return answer_->on_token(choice_, token); }
  void on_end(FinishReason reason, const RequestUsage& usage, const std::string& error) override {
    answer_->on_end(choice_, reason, usage, error);
  }
  void on_refused(const Error& error) override { answer_->on_refused(choice_, error); }

 private:
  std::shared_ptr<Answer> answer_;
  size_t choice_;
};

Answer::Answer(AnswerContext context, const AnswerRequest& request, std::string id)
    : context_(std::move(context)),
      request_(request),
      id_(std::move(id)),
      created_(static_cast<int64_t>(std::time(nullptr))),
      last_write_(Clock::now()) {}

void Answer::start(std::vector<EngineRequest> requests) {
  {
    const std::lock_guard lock(mutex_);
    choices_.resize(requests.size());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const uint64_t ticket =
        context_.runner->submit(std::move(requests[i]), std::make_shared<Listener>(shared_from_this(), i));
    const std::lock_guard lock(mutex_);
    choices_[i].ticket = ticket;
    if (done_ || gone_ || interrupted_) context_.runner->cancel(ticket);
  }
  context_.reply->on_gone([weak = weak_from_this()] {
    if (const auto answer = weak.lock()) answer->on_gone();
  });
}

bool Answer::tick(Clock::time_point now, std::chrono::milliseconds quiet) {
  const std::lock_guard lock(mutex_);
  if (done_) return false;
  if (now >= context_.deadline && !interrupted_) {
    interrupted_ = true;
    cancel_all();
  }
  if (gone_ || now - last_write_ < quiet) return true;
  // A client that reads no replies without a length gets what DeepSeek's API sends: empty lines before the JSON.
  if (streams()) {
    begin_stream();
    write(": keep-alive\n\n");
  } else {
    if (!begun_) {
      HttpHeaders headers = context_.headers;
      headers.emplace_back("content-type", "application/json");
      context_.reply->begin(200, std::move(headers));
      begun_ = true;
    }
    write("\n");
  }
  return true;
}

void Answer::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  cancel_all();
}

void Answer::on_gone() {
  const std::lock_guard lock(mutex_);
  gone_ = true;
  cancel_all();
}

void Answer::cancel_all() {
  for (const Choice& choice : choices_) {
    if (!choice.done && choice.ticket != 0) context_.runner->cancel(choice.ticket);
  }
}

bool Answer::on_token(size_t index, const SampledToken& token) {
  const std::lock_guard lock(mutex_);
  Choice& choice = choices_[index];
  if (done_ || gone_) return false;
  const Clock::time_point now = Clock::now();
  if (first_token_ == Clock::time_point{}) first_token_ = now;
  if (choice.tokens > 0) context_.on_gap(seconds_between(choice.last, now));
  choice.last = now;
  ++choice.tokens;
  return take(index, token);
}

void Answer::on_end(size_t index, FinishReason reason, const RequestUsage& usage, const std::string& error) {
  const std::lock_guard lock(mutex_);
  Choice& choice = choices_[index];
  choice.usage = usage;
  choice.done = true;
  if (done_) return;
  const bool first = index % static_cast<size_t>(request_.answers) == 0;
  context_.permit->spend((first ? usage.prompt_tokens - usage.hit_tokens : 0) + usage.new_tokens);
  if (reason == FinishReason::error) {
    fail(usage.prompt_tokens > 0 ? 400 : 500, error, {});
    return;
  }
  choice.finish = close(index, reason);
  if (streams() && !gone_) {
    Json fields = last_chunk(index);
    fields["finish_reason"] = choice.finish;
    send_chunk(index, std::move(fields));
  }
  finish_if_done();
}

void Answer::on_refused(size_t index, const Error& error) {
  const std::lock_guard lock(mutex_);
  choices_[index].done = true;
  if (done_) return;
  // What is wrong with the request was found before; what is left is a queue that is full.
  error.kind() == ErrorKind::bad_input ? fail(400, error.what(), {}) : fail(503, error.what(), {});
}

void Answer::finish_if_done() {
  if (!std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) { return choice.done; })) return;
  // Who has the answer may ask again at once, and finds it counted and its permit given back.
  report(200);
  if (streams()) {
    if (gone_) return;
    begin_stream();
    if (request_.include_usage) {
      Json chunk = head();
      chunk["choices"] = Json::array();
      chunk["usage"] = usage_json();
      write("data: " + dump(chunk) + "\n\n");
    }
    write("data: [DONE]\n\n");
    context_.reply->end();
    return;
  }
  Json body = head();
  body["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json choice = {{"index", i}};
    choice.update(whole(i));
    choice["finish_reason"] = choices_[i].finish;
    body["choices"].push_back(std::move(choice));
  }
  body["usage"] = usage_json();
  if (begun_) {
    write(dump(body));
    context_.reply->end();
  } else {
    HttpHeaders headers = context_.headers;
    headers.emplace_back("content-type", "application/json");
    context_.reply->send({200, std::move(headers), dump(body)});
  }
}

void Answer::fail(int status, const std::string& sentence, std::string_view code) {
  report(status);
  const std::string body = error_body(status, sentence, code);
  if (!begun_) {
    HttpHeaders headers = context_.headers;
    headers.emplace_back("content-type", "application/json");
    if (status == 503) headers.emplace_back("retry-after", "5");
    context_.reply->send({status, std::move(headers), body});
  } else {
    write(streams() ? "data: " + body + "\n\n" : body);
    context_.reply->end();
  }
  cancel_all();
}

void Answer::report(int status) {
  done_ = true;
  AnswerRecord record;
  record.status = status;
  for (const Choice& choice : choices_) {
    if (!record.finish.empty()) record.finish += ',';
    record.finish += gone_ ? "gone" : choice.finish.empty() ? "error" : choice.finish;
    record.completion_tokens += choice.usage.new_tokens;
    record.drafts += choice.usage.drafts;
    record.accepted += choice.usage.accepted;
  }
  std::tie(record.prompt_tokens, record.hit_tokens) = prompt_tokens();
  record.reasoning_tokens = reasoning_tokens();
  record.seconds = seconds_between(context_.begin, Clock::now());
  if (first_token_ != Clock::time_point{}) record.first_token_seconds = seconds_between(context_.begin, first_token_);
  context_.on_done(record);
  context_.permit.reset();
}

void Answer::begin_stream() {
  if (begun_) return;
  begun_ = true;
  HttpHeaders headers = context_.headers;
  headers.emplace_back("content-type", "text/event-stream; charset=utf-8");
  headers.emplace_back("cache-control", "no-store");
  headers.emplace_back("x-accel-buffering", "no");  // nginx would collect the chunks
  context_.reply->begin(200, std::move(headers));
}

void Answer::write(std::string text) {
  last_write_ = Clock::now();
  context_.reply->write(std::move(text));
}

Json Answer::head() const {
  return {{"id", id_},
          {"object", object()},
          {"created", created_},
          {"model", context_.model->names.front()},
          {"system_fingerprint", context_.model->fingerprint}};
}

// Of the first of each prompt's choices: the others find its pages.
std::pair<int64_t, int64_t> Answer::prompt_tokens() const {
  int64_t tokens = 0;
  int64_t hits = 0;
  for (size_t i = 0; i < choices_.size(); i += static_cast<size_t>(request_.answers)) {
    tokens += choices_[i].usage.prompt_tokens;
    hits += choices_[i].usage.hit_tokens;
  }
  return {tokens, hits};
}

Json Answer::usage_json() const {
  int64_t completion = 0;
  for (const Choice& choice : choices_) completion += choice.usage.new_tokens;
  const auto [prompt, hits] = prompt_tokens();
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_cache_hit_tokens", hits},
          {"prompt_cache_miss_tokens", prompt - hits},
          {"prompt_tokens_details", {{"cached_tokens", hits}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning_tokens()}}}};
}

void Answer::send_chunk(size_t choice, Json fields) {
  if (gone_) return;
  begin_stream();
  Json chunk = head();
  Json entry = {{"index", choice}};
  entry.update(fields);
  chunk["choices"] = Json::array({std::move(entry)});
  if (request_.include_usage) chunk["usage"] = nullptr;
  write("data: " + dump(chunk) + "\n\n");
}

Json Answer::logprob_json(int32_t token, double logprob) const {
  const std::string_view bytes = context_.model->tokenizer->token_bytes(token);
  Json list = Json::array();
  for (const char byte : bytes) list.push_back(static_cast<uint8_t>(byte));
  // A likelihood of nothing has no logarithm that JSON can write; OpenAI's API writes this.
  return {{"token", std::string(bytes)}, {"logprob", std::max(logprob, -9999.0)}, {"bytes", std::move(list)}};
}

namespace {

/// What FinishReason means to a client. A request that the server cut off was not finished for lack of resources.
std::string finish_name(FinishReason reason) {
  if (reason == FinishReason::cancelled) reason = FinishReason::insufficient_system_resource;
  return std::string(finish_reason_name(reason));
}

class ChatAnswer : public Answer {
 public:
  ChatAnswer(AnswerContext context, const ChatRequest& request, const AnswerSplitOptions& splitter)
      : Answer(std::move(context), request, random_id("chatcmpl-")), thinking_(request.thinking) {
    for (int64_t i = 0; i < request.answers; ++i) parts_.emplace_back(*model().tokenizer, splitter);
  }

 protected:
  struct Part {
    Part(const Tokenizer& tokenizer, const AnswerSplitOptions& options) : splitter(tokenizer, options) {}
    AnswerSplitter splitter;
    std::string content, reasoning;
    Json calls = Json::array();
    bool role_sent = false;
    Json content_logprobs = Json::array(), reasoning_logprobs = Json::array();  // not sent yet, if streamed
  };

  bool take(size_t index, const SampledToken& token) override {
    Part& part = parts_[index];
    const AnswerPart before = part.splitter.part();
    const int64_t thoughts = part.splitter.reasoning_tokens();
    const std::vector<AnswerEvent> events = part.splitter.push(token.token);
    // Before the first token an answer that opens with thoughts is not in them yet.
    const bool thought = part.splitter.reasoning_tokens() > thoughts;
    if (request().sampling.logprobs >= 0) add_logprob(part, thought ? AnswerPart::reasoning : before, token);
    hand_out(index, events);
    return !part.splitter.stopped();
  }

  std::string close(size_t index, FinishReason reason) override {
    Part& part = parts_[index];
    const bool stopped = part.splitter.stopped();
    hand_out(index, part.splitter.finish());
    if (stopped) return "stop";
    if (reason == FinishReason::stop && !part.calls.empty()) return "tool_calls";
    return finish_name(reason);
  }

  Json whole(size_t index) override {
    Part& part = parts_[index];
    Json message = {{"role", "assistant"}, {"content", part.content}};
    if (part.content.empty() && !part.calls.empty()) message["content"] = nullptr;
    if (thinking_) message["reasoning_content"] = part.reasoning;
    if (!part.calls.empty()) message["tool_calls"] = part.calls;
    return {{"message", std::move(message)}, {"logprobs", logprobs(part)}};
  }

  Json last_chunk(size_t index) override {
    Part& part = parts_[index];
    Json delta = Json::object();
    if (!part.role_sent) delta = {{"role", "assistant"}, {"content", ""}};
    return {{"delta", std::move(delta)}, {"logprobs", logprobs(part)}};
  }

  std::string_view object() const override { return streams() ? "chat.completion.chunk" : "chat.completion"; }

  int64_t reasoning_tokens() const override {
    int64_t sum = 0;
    for (const Part& part : parts_) sum += part.splitter.reasoning_tokens();
    return sum;
  }

 private:
  void add_logprob(Part& part, AnswerPart where, const SampledToken& token) {
    if (where == AnswerPart::call) return;
    Json entry = logprob_json(token.token, token.logprob);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : token.top_logprobs) {
      entry["top_logprobs"].push_back(logprob_json(top.token, top.logprob));
    }
    (where == AnswerPart::reasoning ? part.reasoning_logprobs : part.content_logprobs).push_back(std::move(entry));
  }

  /// {"content":[…]} and, of answers that think, "reasoning_content"; null where none are asked for. What a stream has
  /// sent is not in the next.
  Json logprobs(Part& part) const {
    if (request().sampling.logprobs < 0) return nullptr;
    Json result = {{"content", std::move(part.content_logprobs)}};
    part.content_logprobs = Json::array();
    if (thinking_) {
      result["reasoning_content"] = std::move(part.reasoning_logprobs);
      part.reasoning_logprobs = Json::array();
    }
    return result;
  }

  void hand_out(size_t index, const std::vector<AnswerEvent>& events) {
    Part& part = parts_[index];
    for (const AnswerEvent& event : events) {
      Json delta;
      switch (event.kind) {
        case AnswerEvent::Kind::reasoning:
          part.reasoning += event.text;
          delta = {{"content", nullptr}, {"reasoning_content", event.text}};
          break;
        case AnswerEvent::Kind::content:
          part.content += event.text;
          delta = {{"content", event.text}};
          break;
        case AnswerEvent::Kind::call_begin: {
          Json call = {{"id", random_id("call_")},
                       {"type", "function"},
                       {"function", {{"name", event.text}, {"arguments", ""}}}};
          part.calls.push_back(call);
          Json entry = {{"index", event.call}};
          entry.update(call);
          delta = {{"tool_calls", Json::array({std::move(entry)})}};
          break;
        }
        case AnswerEvent::Kind::call_arguments: {
          std::string& arguments =
              part.calls.at(static_cast<size_t>(event.call))["function"]["arguments"].get_ref<std::string&>();
          arguments += event.text;
          delta = {{"tool_calls", Json::array({{{"index", event.call}, {"function", {{"arguments", event.text}}}}})}};
          break;
        }
        case AnswerEvent::Kind::call_end:
          continue;
      }
      if (!streams()) continue;
      if (!part.role_sent) {
        part.role_sent = true;
        Json with_role = {{"role", "assistant"}};
        with_role.update(delta);
        delta = std::move(with_role);
      }
      send_chunk(index, {{"delta", std::move(delta)}, {"logprobs", logprobs(part)}, {"finish_reason", nullptr}});
    }
  }

  bool thinking_;
  std::vector<Part> parts_;
};

class CompletionAnswer : public Answer {
 public:
  CompletionAnswer(AnswerContext context, const CompletionRequest& request)
      : Answer(std::move(context), request, random_id("cmpl-")) {
    for (size_t i = 0; i < request.prompts.size() * static_cast<size_t>(request.answers); ++i) {
      parts_.push_back(std::make_unique<Part>(*model().tokenizer, request.stop));
      if (request.echo) parts_.back()->echo = request.prompt_texts[i / static_cast<size_t>(request.answers)];
    }
  }

 protected:
  struct Part {
    Part(const Tokenizer& tokenizer, const std::vector<std::string>& stop) : decoder(tokenizer), matcher(stop) {}
    StreamDecoder decoder;
    StopMatcher matcher;
    std::string echo;  // not sent yet
    std::string text;
    int64_t offset = 0;                // of the next token in the text of all tokens, in bytes
    std::vector<SampledToken> tokens;  // whose log-probabilities are not sent yet
  };

  bool take(size_t index, const SampledToken& token) override {
    Part& part = *parts_[index];
    if (request().sampling.logprobs >= 0) part.tokens.push_back(token);
    hand_out(index, part.matcher.push(part.decoder.push(token.token)));
    return !part.matcher.matched();
  }

  std::string close(size_t index, FinishReason reason) override {
    Part& part = *parts_[index];
    if (!part.matcher.matched()) {
      std::string rest = part.matcher.push(part.decoder.finish());
      if (!part.matcher.matched()) rest += part.matcher.finish();
      hand_out(index, rest);
    }
    return part.matcher.matched() ? "stop" : finish_name(reason);
  }

  Json whole(size_t index) override {
    Part& part = *parts_[index];
    return {{"text", part.echo + part.text}, {"logprobs", logprobs(part)}};
  }

  Json last_chunk(size_t index) override {
    Part& part = *parts_[index];
    return {{"text", std::exchange(part.echo, {})}, {"logprobs", logprobs(part)}};
  }

  std::string_view object() const override { return "text_completion"; }

 private:
  void hand_out(size_t index, const std::string& text) {
    Part& part = *parts_[index];
    part.text += text;
    if (!streams() || text.empty()) return;
    send_chunk(
        index,
        {{"text", std::exchange(part.echo, {}) + text}, {"logprobs", logprobs(part)}, {"finish_reason", nullptr}});
  }

  Json logprobs(Part& part) const {
    if (request().sampling.logprobs < 0) return nullptr;
    Json result = {{"tokens", Json::array()},
                   {"token_logprobs", Json::array()},
                   {"top_logprobs", Json::array()},
                   {"text_offset", Json::array()}};
    for (const SampledToken& token : part.tokens) {
      const Json chosen = logprob_json(token.token, token.logprob);
      result["tokens"].push_back(chosen["token"]);
      result["token_logprobs"].push_back(chosen["logprob"]);
      Json top = Json::object();
      for (const TokenLogprob& other : token.top_logprobs) {
        const Json entry = logprob_json(other.token, other.logprob);
        // Two tokens that are parts of characters can look alike; the likelier one comes first and stays.
        const std::string name = Json(entry["token"]).dump(-1, ' ', false, Json::error_handler_t::replace);
        const auto key = Json::parse(name).get<std::string>();
        if (!top.contains(key)) top[key] = entry["logprob"];
      }
      result["top_logprobs"].push_back(std::move(top));
      result["text_offset"].push_back(part.offset);
      part.offset += std::ssize(model().tokenizer->token_bytes(token.token));
    }
    part.tokens.clear();
    return result;
  }

  std::vector<std::unique_ptr<Part>> parts_;
};

}  // namespace

std::shared_ptr<Answer> make_chat_answer(AnswerContext context, const ChatRequest& request,
                                         const AnswerSplitOptions& splitter) {
  return std::make_shared<ChatAnswer>(std::move(context), request, splitter);
}

std::shared_ptr<Answer> make_completion_answer(AnswerContext context, const CompletionRequest& request) {
  return std::make_shared<CompletionAnswer>(std::move(context), request);
}

}  // namespace fathom
