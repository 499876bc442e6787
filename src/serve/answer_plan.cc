#include "serve/answer_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "constrain/grammar_text.h"
#include "constrain/json_grammar.h"
#include "constrain/regex_grammar.h"
#include "constrain/tool_grammar.h"
#include "engine/generate.h"
#include "formats/json.h"
#include "serve/api_error.h"
#include "text/chat_prompt.h"
#include "text/control_tokens.h"
#include "text/tool_calls.h"

namespace fathom {
namespace {

/// The answer's grammar; null for free text. `field` names it where it cannot be compiled.
std::shared_ptr<const Constraint> form_constraint(const AnswerForm& form, bool in_chat, ConstraintCache& constraints) {
  using Kind = AnswerForm::Kind;
  if (form.kind == Kind::text) return nullptr;
  JsonLayout layout;
  layout.leading_line_ends = in_chat;
  const auto make = [&] {
    switch (form.kind) {
      case Kind::json_object:
        return json_grammar(true, layout);
      case Kind::json_schema:
        return json_schema_grammar(parse_ordered_json(form.source, "the schema"), layout);
      case Kind::regex:
        return regex_grammar(form.source);
      default:
        return grammar_from_text(form.source);
    }
  };
  const std::string field = form.kind == Kind::regex     ? "regex"
                            : form.kind == Kind::grammar ? "grammar"
                                                         : "response_format";
  try {
    return constraints.get(fmt::format("{}{} {}", static_cast<int>(form.kind), in_chat ? " chat" : "", form.source),
                           make);
  } catch (const Error& error) {
    throw ApiError(error.kind() == ErrorKind::bad_input ? 400 : 500, field + ": " + error.what(), {}, field);
  }
}

std::shared_ptr<const Constraint> call_constraint(ChatFormat format, const ChatRequest& request, const CallRules& rules,
                                                  ConstraintCache& constraints) {
  std::string key =
      fmt::format("calls {} {} {} {}", static_cast<int>(format), rules.only, rules.parallel, rules.with_begin);
  for (const ToolDefinition& tool : request.tools) {
    key += fmt::format("\n{} {} {}", tool.name, tool.strict, tool.strict ? tool.parameters : std::string());
  }
  try {
    return constraints.get(key, [&] { return tool_call_grammar(format, request.tools, rules); });
  } catch (const Error& error) {
    throw ApiError(error.kind() == ErrorKind::bad_input ? 400 : 500, std::string("tools: ") + error.what(), {},
                   "tools");
  }
}

std::vector<int32_t> control_id(const ServedModel& model, std::string_view token) {
  const auto id = model.tokenizer->added_token(token);
  // Vocabularies without </think> write it with ordinary tokens.
  return id ? std::vector<int32_t>{*id} : model.tokenizer->encode(token);
}

ChatOptions chat_options(const ChatRequest& request) {
  ChatOptions options;
  options.thinking = request.thinking;
  if (request.tool_choice.kind != ToolChoice::Kind::none) options.tools = request.tools;
  return options;
}

std::vector<ChatTurn> turns_of(const std::vector<ChatMessage>& messages) {
  std::vector<ChatTurn> turns;
  for (const ChatMessage& message : messages) turns.push_back({message, std::nullopt});
  return turns;
}

/// One request for each answer to a prompt, which stands in `field`, with seeds of their own.
void add_requests(const AnswerRequest& request, const ServedModel& model, const EngineRequest& first,
                  const std::string& field, std::vector<EngineRequest>& requests) {
  const auto length = std::ssize(first.prompt);
  if (length > model.context) {
    throw ApiError(400,
                   fmt::format("The prompt has {} tokens; the context of this server holds {}.", length, model.context),
                   "context_length_exceeded", field);
  }
  for (int64_t i = 0; i < request.answers; ++i) {
    EngineRequest one = bounded(first, model.context);
    one.sampling.seed += static_cast<uint64_t>(i);
    requests.push_back(std::move(one));
  }
}

EngineRequest engine_request(const AnswerRequest& request, const ServedModel& model) {
  EngineRequest result;
  result.sampling = request.sampling;
  const int64_t most = model.limits.most_tokens > 0 ? model.limits.most_tokens : model.context;
  result.max_new_tokens = request.max_tokens > 0 ? request.max_tokens : most;
  if (!request.ignore_eos) result.end_tokens = model.end_tokens;
  return result;
}

}  // namespace

std::shared_ptr<const Constraint> ConstraintCache::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& entry) { return entry.first == key; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return kept_.front().second;
}

void ConstraintCache::keep(const std::string& key, std::shared_ptr<const Constraint> constraint) {
  const std::lock_guard lock(mutex_);
  kept_.emplace_front(key, std::move(constraint));
  if (kept_.size() > kMost) kept_.pop_back();
}

std::vector<int32_t> chat_ids(const std::vector<ChatMessage>& messages, const ServedModel& model, bool thinking) {
  ChatOptions options;
  options.thinking = thinking;
  return chat_prompt_ids(*model.tokenizer, model.tokenizer_config, *model.format, turns_of(messages), options);
}

ChatPlan plan_chat(const ChatRequest& request, const ServedModel& model, ConstraintCache& constraints) {
  const ChatFormat format = *model.format;
  const Tokenizer& tokenizer = *model.tokenizer;
  const ChatOptions options = chat_options(request);
  const std::vector<ChatTurn> turns = turns_of(request.messages);

  ChatPlan plan;
  EngineRequest engine = engine_request(request, model);
  engine.prompt = chat_prompt_ids(tokenizer, model.tokenizer_config, format, turns, options);
  bool thinks = answer_begins_thinking(format, turns, options);
  const auto append = [&](const std::vector<int32_t>& ids) {
    engine.prompt.insert(engine.prompt.end(), ids.begin(), ids.end());
  };
  if (request.prefix) {
    // Text that the answer goes on from is in its answer, so thoughts end before it.
    if (request.reasoning_prefix) append(tokenizer.encode_plain(*request.reasoning_prefix));
    if (thinks && !request.prefix->empty()) {
      append(control_id(model, control_tokens::think_end));
      thinks = false;
    }
    append(tokenizer.encode_plain(*request.prefix));
  }

  const ToolChoice& choice = request.tool_choice;
  if (choice.kind == ToolChoice::Kind::none) {
    engine.constraint = form_constraint(request.form, true, constraints);
    if (engine.constraint && thinks) engine.constraint_after = control_id(model, control_tokens::think_end);
  } else {
    if (tool_control_tokens(tokenizer).empty()) {
      throw ApiError(400, "tools: the model's vocabulary has no tokens for tool calls.", {}, "tools");
    }
    CallRules rules;
    rules.only = choice.name;
    rules.parallel = choice.parallel;
    if (choice.kind == ToolChoice::Kind::automatic) {
      // Text is free; whatever the model begins as a call becomes one that can be read.
      engine.constraint_after = control_id(model, control_tokens::calls_begin);
      engine.constraint_optional = true;
    } else if (thinks) {
      engine.constraint_after = control_id(model, control_tokens::think_end);
      rules.with_begin = true;
    } else {
      append(forced_call_prefix(tokenizer, false));
    }
    engine.constraint = call_constraint(format, request, rules, constraints);
  }

  plan.splitter.format = format;
  plan.splitter.begins_thinking = thinks;
  plan.splitter.parse_tools = choice.kind != ToolChoice::Kind::none;
  plan.splitter.stop = request.stop;
  add_requests(request, model, engine, "messages", plan.requests);
  return plan;
}

std::vector<EngineRequest> plan_completion(const CompletionRequest& request, const ServedModel& model,
                                           ConstraintCache& constraints) {
  std::vector<EngineRequest> requests;
  EngineRequest engine = engine_request(request, model);
  engine.constraint = form_constraint(request.form, false, constraints);
  for (const std::vector<int32_t>& prompt : request.prompts) {
    engine.prompt = prompt;
    add_requests(request, model, engine, "prompt", requests);
  }
  return requests;
}

}  // namespace fathom
