#include "serve/chat_request.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "constrain/tool_grammar.h"
#include "serve/json_fields.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kReasoner = "deepseek-reasoner";
constexpr size_t kMostStops = 16;
constexpr size_t kMostBiases = 1024;
constexpr int64_t kMostLogprobs = 20;
constexpr size_t kLongestForm = size_t{1} << 20;

uint64_t random_seed() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return random();
}

/// What DeepSeek's own API makes of a temperature (model card of DeepSeek-V3-0324).
double deepseek_temperature(double api) {
  return api <= 1 ? 0.3 * api : api - 0.7;
}

void read_model(JsonFields& fields, const ServedModel& model, AnswerRequest& request) {
  request.model = fields.needed_text("model");
  if (std::find(model.names.begin(), model.names.end(), request.model) != model.names.end()) return;
  // DeepSeek's own names mean whatever is served, without and with thoughts where it can choose.
  if (request.model == "deepseek-chat" || request.model == kReasoner) return;
  throw ApiError(
      404,
      fmt::format("model: \"{}\" is not served here; \"{}\" is.", request.model.substr(0, 80), model.names.front()),
      "model_not_found", "model");
}

void read_logit_bias(JsonFields& fields, const ServedModel& model, SamplingOptions& sampling) {
  const Json* bias = fields.take("logit_bias");
  if (bias == nullptr) return;
  const std::string path = fields.path("logit_bias");
  if (!bias->is_object()) throw_invalid(path, "{}: expected an object from token ids to numbers.", path);
  if (bias->size() > kMostBiases) throw_out_of_range(path, "{}: at most {} tokens can have one.", path, kMostBiases);
  for (const auto& [key, value] : bias->items()) {
    int32_t id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id >= model.config.vocab_size) {
      throw_out_of_range(path, "{}: \"{}\" is no token id from 0 to {}.", path, key.substr(0, 40),
                         model.config.vocab_size - 1);
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      throw_out_of_range(path, "{}: the bias of token {} must be a number from -100 to 100.", path, id);
    }
    sampling.logit_bias.emplace_back(id, value.get<double>());
  }
}

/// The longest answer that can be asked for.
int64_t most_tokens(const ServedModel& model) {
  return model.limits.most_tokens > 0 ? std::min(model.limits.most_tokens, model.context) : model.context;
}

/// Fields that chat and plain completion share. `logprobs` differs and is read by each.
void read_answer_fields(JsonFields& fields, const ServedModel& model, AnswerRequest& request) {
  read_model(fields, model, request);
  SamplingOptions& sampling = request.sampling;
  sampling = model.sampling;
  if (const auto temperature = fields.number("temperature", 0, 2)) {
    sampling.temperature = model.deepseek_temperature ? deepseek_temperature(*temperature) : *temperature;
  }
  if (const auto top_p = fields.number("top_p", 0, 1)) {
    if (*top_p == 0) throw_out_of_range(fields.path("top_p"), "top_p: expected a number above 0 and up to 1, found 0.");
    sampling.top_p = *top_p;
  }
  if (const auto top_k = fields.integer("top_k", -1, INT32_MAX)) sampling.top_k = std::max<int64_t>(*top_k, 0);
  if (const auto min_p = fields.number("min_p", 0, 1)) sampling.min_p = *min_p;
  if (const auto penalty = fields.number("repetition_penalty", 0.01, 100)) sampling.repetition_penalty = *penalty;
  if (const auto penalty = fields.number("presence_penalty", -2, 2)) sampling.presence_penalty = *penalty;
  if (const auto penalty = fields.number("frequency_penalty", -2, 2)) sampling.frequency_penalty = *penalty;
  read_logit_bias(fields, model, sampling);
  const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  sampling.seed = seed ? static_cast<uint64_t>(*seed) : random_seed();

  if (const auto tokens = fields.integer("max_tokens", 1, most_tokens(model))) request.max_tokens = *tokens;
  request.answers = fields.integer("n", 1, model.limits.most_answers).value_or(1);
  request.stop = fields.texts("stop", kMostStops);
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.stream = fields.boolean("stream").value_or(false);
  if (const Json* options = fields.take("stream_options")) {
    if (!request.stream) throw_invalid("stream_options", "stream_options: only a streamed answer has them (stream).");
    JsonFields inner(*options, "stream_options");
    request.include_usage = inner.boolean("include_usage").value_or(false);
    inner.only("include_obfuscation", {false}, "answers are sent without it");
    inner.finish();
  }
  // Who asks changes nothing in an answer: these are taken, and lead nowhere.
  fields.text("user");
  fields.text("user_id");
  fields.text("safety_identifier");
  fields.text("prompt_cache_key");
  fields.take("metadata");
  fields.only("store", {false}, "answers are not stored here");
  fields.only("service_tier", {"auto", "default"}, "there is one tier");
}

void check_form_source(const std::string& path, const std::string& source) {
  if (source.empty()) throw_invalid(path, "{}: it is empty.", path);
  if (source.size() > kLongestForm) throw_out_of_range(path, "{}: it is longer than 1 MiB.", path);
}

/// `response_format`, and `regex` and `grammar`, which are Fathom's own.
AnswerForm read_form(JsonFields& fields) {
  AnswerForm form;
  int forms = 0;
  if (const Json* format = fields.take("response_format")) {
    JsonFields inner(*format, "response_format");
    const std::string type = inner.needed_text("type");
    if (type == "json_object") {
      form.kind = AnswerForm::Kind::json_object;
      ++forms;
    } else if (type == "json_schema") {
      form.kind = AnswerForm::Kind::json_schema;
      ++forms;
      JsonFields schema(inner.need("json_schema"), "response_format.json_schema");
      schema.needed_text("name");
      schema.text("description");
      schema.boolean("strict");  // an answer follows its schema either way
      form.source = schema.need("schema").dump();
      schema.finish();
      check_form_source("response_format.json_schema.schema", form.source);
    } else if (type != "text") {
      throw_invalid("response_format.type",
                    "response_format.type: expected \"text\", \"json_object\" or \"json_schema\", found \"{}\".",
                    type.substr(0, 40));
    }
    inner.finish();
  }
  for (const auto& [name, kind] :
       {std::pair{"regex", AnswerForm::Kind::regex}, {"grammar", AnswerForm::Kind::grammar}}) {
    if (auto source = fields.text(name)) {
      check_form_source(fields.path(name), *source);
      form = {kind, *std::move(source)};
      ++forms;
    }
  }
  if (forms > 1) throw_invalid("response_format", "response_format, regex and grammar: only one of them can be given.");
  return form;
}

/// A message's content: a string, or OpenAI's list of parts, of which only text can be understood.
std::optional<std::string> read_content(JsonFields& fields) {
  const Json* content = fields.take("content");
  if (content == nullptr) return std::nullopt;
  const std::string path = fields.path("content");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) throw_invalid(path, "{}: expected a string or a list of parts.", path);
  std::string text;
  for (size_t index = 0; index < content->size(); ++index) {
    JsonFields part((*content)[index], fmt::format("{}[{}]", path, index));
    const std::string type = part.needed_text("type");
    if (type != "text") {
      throw_invalid(part.path("type"), "{}: this model reads text only, found \"{}\".", part.path("type"),
                    type.substr(0, 40));
    }
    text += part.needed_text("text");
    part.finish();
  }
  return text;
}

std::vector<ToolCall> read_tool_calls(const Json& list, const std::string& path) {
  if (!list.is_array()) throw_invalid(path, "{}: expected a list.", path);
  std::vector<ToolCall> calls;
  for (size_t index = 0; index < list.size(); ++index) {
    JsonFields fields(list[index], fmt::format("{}[{}]", path, index));
    fields.text("id");
    fields.integer("index", 0, INT32_MAX);
    ToolCall call;
    call.type = fields.text("type").value_or("function");
    if (call.type != "function") {
      throw_invalid(fields.path("type"), "{}: expected \"function\".", fields.path("type"));
    }
    JsonFields function(fields.need("function"), fields.path("function"));
    call.name = function.needed_text("name");
    call.arguments = function.needed_text("arguments");
    function.finish();
    fields.finish();
    calls.push_back(std::move(call));
  }
  return calls;
}

/// One message, and what a last one of the assistant can say beside it.
struct ReadMessage {
  ChatMessage message;
  std::optional<std::string> reasoning;
};

ReadMessage read_message(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  ReadMessage result;
  ChatMessage& message = result.message;
  message.role = fields.needed_text("role");
  if (message.role == "developer") message.role = "system";
  message.content = read_content(fields);
  fields.text("name");  // the published templates have no place for it
  const bool assistant = message.role == "assistant";
  if (assistant) {
    if (const Json* calls = fields.take("tool_calls"))
      message.tool_calls = read_tool_calls(*calls, fields.path("tool_calls"));
    message.prefix = fields.boolean("prefix").value_or(false);
    result.reasoning = fields.text("reasoning_content");
    fields.only("refusal", {""}, "a refusal is the message's content here");
  } else if (message.role == "tool") {
    fields.needed_text("tool_call_id");
  } else if (message.role != "system" && message.role != "user") {
    throw_invalid(fields.path("role"), "{}: expected system, user, assistant or tool, found \"{}\".",
                  fields.path("role"), message.role.substr(0, 40));
  }
  fields.finish();
  if (!message.content && (!assistant || message.tool_calls.empty())) {
    if (!(assistant && message.prefix)) throw_invalid(fields.path("content"), "{} is missing.", fields.path("content"));
    message.content = "";
  }
  return result;
}

void read_tools(JsonFields& fields, ChatRequest& request) {
  if (const Json* tools = fields.take("tools")) {
    if (!tools->is_array()) throw_invalid("tools", "tools: expected a list.");
    for (size_t index = 0; index < tools->size(); ++index) {
      const std::string path = fmt::format("tools[{}]", index);
      JsonFields tool((*tools)[index], path);
      if (tool.needed_text("type") != "function") {
        throw_invalid(path + ".type", "{}.type: only \"function\" is known.", path);
      }
      JsonFields function(tool.need("function"), path + ".function");
      ToolDefinition definition;
      definition.name = function.needed_text("name");
      definition.description = function.text("description").value_or("");
      if (const Json* parameters = function.take("parameters")) {
        if (!parameters->is_object()) {
          throw_invalid(path + ".function.parameters", "{}.function.parameters: expected an object, a JSON Schema.",
                        path);
        }
        definition.parameters = parameters->dump();
      }
      definition.strict = function.boolean("strict").value_or(false);
      function.finish();
      tool.finish();
      request.tools.push_back(std::move(definition));
    }
    try {
      check_tools(request.tools);
    } catch (const Error& error) {
      throw ApiError(400, error.what(), {}, "tools");
    }
  }
  ToolChoice& choice = request.tool_choice;
  choice.kind = request.tools.empty() ? ToolChoice::Kind::none : ToolChoice::Kind::automatic;
  choice.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  const Json* wanted = fields.take("tool_choice");
  if (wanted == nullptr) return;
  if (wanted->is_string()) {
    const auto text = wanted->get<std::string>();
    if (text == "none") {
      choice.kind = ToolChoice::Kind::none;
    } else if (text == "auto") {
      choice.kind = request.tools.empty() ? ToolChoice::Kind::none : ToolChoice::Kind::automatic;
    } else if (text == "required") {
      choice.kind = ToolChoice::Kind::required;
    } else {
      throw_invalid("tool_choice", "tool_choice: expected none, auto, required or a function, found \"{}\".",
                    text.substr(0, 40));
    }
  } else {
    JsonFields named(*wanted, "tool_choice");
    if (named.needed_text("type") != "function")
      throw_invalid("tool_choice.type", "tool_choice.type: only \"function\" is known.");
    JsonFields function(named.need("function"), "tool_choice.function");
    choice.kind = ToolChoice::Kind::named;
    choice.name = function.needed_text("name");
    function.finish();
    named.finish();
    if (std::none_of(request.tools.begin(), request.tools.end(),
                     [&](const ToolDefinition& tool) { return tool.name == choice.name; })) {
      throw_invalid("tool_choice.function.name", "tool_choice.function.name: \"{}\" is not among the tools.",
                    choice.name.substr(0, 80));
    }
  }
  if (choice.kind == ToolChoice::Kind::required && request.tools.empty()) {
    throw_invalid("tool_choice", "tool_choice: \"required\" needs tools.");
  }
}

/// Whether the answer begins with thoughts: DeepSeek's `thinking`, OpenAI's `reasoning_effort`, vLLM's and SGLang's
/// `chat_template_kwargs`, or the name that the model was asked by.
bool read_thinking(JsonFields& fields, const ServedModel& model, const std::string& name) {
  std::optional<bool> wanted;
  std::string field;
  const auto want = [&](bool value, const std::string& from) {
    if (wanted && *wanted != value) throw_invalid(from, "{} and {} contradict each other.", field, from);
    wanted = value;
    field = from;
  };
  if (const Json* thinking = fields.take("thinking")) {
    JsonFields inner(*thinking, "thinking");
    const std::string type = inner.needed_text("type");
    if (type != "enabled" && type != "disabled") {
      throw_invalid("thinking.type", "thinking.type: expected \"enabled\" or \"disabled\", found \"{}\".",
                    type.substr(0, 40));
    }
    inner.finish();
    want(type == "enabled", "thinking");
  }
  if (const auto effort = fields.text("reasoning_effort")) {
    static const std::vector<std::string> known = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (std::find(known.begin(), known.end(), *effort) == known.end()) {
      throw_invalid("reasoning_effort", "reasoning_effort: expected one of {}, found \"{}\".", fmt::join(known, ", "),
                    effort->substr(0, 40));
    }
    want(*effort != "none" && *effort != "minimal", "reasoning_effort");
  }
  if (const Json* keywords = fields.take("chat_template_kwargs")) {
    JsonFields inner(*keywords, "chat_template_kwargs");
    if (const auto thinking = inner.boolean("thinking")) want(*thinking, "chat_template_kwargs.thinking");
    if (const auto thinking = inner.boolean("enable_thinking")) want(*thinking, "chat_template_kwargs.enable_thinking");
    inner.finish();
  }
  if (model.can_choose_thinking()) return wanted.value_or(name == kReasoner);
  if (wanted && *wanted != model.can_think()) {
    throw_invalid(field, "{}: this model {}.", field, model.can_think() ? "always thinks" : "has no thinking mode");
  }
  return model.can_think();
}

}  // namespace

std::vector<ChatMessage> read_messages(const Json& messages, const ServedModel& model) {
  ChatRequest request;
  if (!messages.is_array()) throw_invalid("messages", "messages: expected a list.");
  if (messages.size() > static_cast<size_t>(model.limits.most_messages)) {
    throw_out_of_range("messages", "messages: at most {} are taken, found {}.", model.limits.most_messages,
                       messages.size());
  }
  if (messages.empty()) throw_invalid("messages", "messages: expected at least one.");
  std::vector<ChatMessage> result;
  for (size_t index = 0; index < messages.size(); ++index) {
    const std::string path = fmt::format("messages[{}]", index);
    ReadMessage read = read_message(messages[index], path);
    if (read.message.prefix) throw_invalid(path + ".prefix", "{}.prefix: only the last message can have it.", path);
    if (read.reasoning) {
      throw_invalid(path + ".reasoning_content",
                    "{}.reasoning_content: thoughts of earlier answers are not sent back; only a last message with "
                    "\"prefix\": true can have them.",
                    path);
    }
    result.push_back(std::move(read.message));
  }
  return result;
}

ChatRequest read_chat_request(const Json& body, const ServedModel& model) {
  JsonFields fields(body, "");
  ChatRequest request;
  read_answer_fields(fields, model, request);
  if (const auto tokens = fields.integer("max_completion_tokens", 1, most_tokens(model))) {
    if (request.max_tokens > 0 && request.max_tokens != *tokens) {
      throw_invalid("max_completion_tokens", "max_tokens and max_completion_tokens contradict each other.");
    }
    request.max_tokens = *tokens;
  }
  Json messages = fields.need("messages");
  if (messages.is_array() && !messages.empty() && messages.back().is_object()) {
    const std::string path = fmt::format("messages[{}]", messages.size() - 1);
    ReadMessage last = read_message(messages.back(), path);
    if (last.message.prefix) {
      if (!last.message.tool_calls.empty()) {
        throw_invalid(path + ".tool_calls", "{}.tool_calls: a prefix cannot call tools.", path);
      }
      request.prefix = last.message.content.value_or("");
      request.reasoning_prefix = std::move(last.reasoning);
      messages.erase(messages.size() - 1);
    }
  }
  request.messages = read_messages(messages, model);
  if (!model.format) {
    throw ApiError(400, "The model has no chat template that Fathom knows; /v1/completions takes plain prompts.", {},
                   "model");
  }
  request.thinking = read_thinking(fields, model, request.model);
  if (request.reasoning_prefix && !request.thinking) {
    throw_invalid("messages", "messages: reasoning_content of a prefix needs an answer that thinks.");
  }
  request.form = read_form(fields);
  read_tools(fields, request);
  if (request.form.kind != AnswerForm::Kind::text && request.tool_choice.kind != ToolChoice::Kind::none) {
    throw_invalid("response_format", "response_format and tools: only one of them can shape the answer.");
  }
  const auto logprobs = fields.boolean("logprobs");
  const auto top = fields.integer("top_logprobs", 0, kMostLogprobs);
  if (top && !logprobs.value_or(false)) throw_invalid("top_logprobs", "top_logprobs: it needs \"logprobs\": true.");
  if (logprobs.value_or(false)) request.sampling.logprobs = top.value_or(0);
  if (const Json* modalities = fields.take("modalities")) {
    if (*modalities != Json::array({"text"})) throw_invalid("modalities", "modalities: answers are text.");
  }
  fields.finish();
  return request;
}

CompletionRequest read_completion_request(const Json& body, const ServedModel& model, ApiBase base) {
  JsonFields fields(body, "");
  CompletionRequest request;
  read_answer_fields(fields, model, request);
  // As documented: OpenAI's completions are short where nothing is said, DeepSeek's are not.
  if (request.max_tokens == 0 && base == ApiBase::v1) request.max_tokens = std::min<int64_t>(16, most_tokens(model));
  const auto suffix = fields.text("suffix");
  request.fim = suffix.has_value();
  request.suffix = suffix.value_or("");
  request.echo = fields.boolean("echo").value_or(false);
  if (const auto logprobs = fields.integer("logprobs", 0, kMostLogprobs)) {
    if (request.echo) throw_invalid("logprobs", "logprobs: those of an echoed prompt are not computed here.");
    request.sampling.logprobs = *logprobs;
  }
  request.form = read_form(fields);
  if (const auto best = fields.integer("best_of", 1, model.limits.most_answers); best && *best != request.answers) {
    throw_invalid("best_of", "best_of: answers are not ranked here; it can only be equal to n.");
  }

  const Tokenizer& tokenizer = *model.tokenizer;
  const auto control = [&](const char* token) {
    const auto id = tokenizer.added_token(token);
    if (!id) throw_invalid("suffix", "suffix: the model's vocabulary has no {} token.", token);
    return *id;
  };
  const auto bos = tokenizer.added_token(model.tokenizer_config.bos_token);
  const auto add_text = [&](const std::string& text) {
    std::vector<int32_t> ids;
    if (model.tokenizer_config.add_bos_token && bos) ids.push_back(*bos);
    const auto append = [&](const std::vector<int32_t>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    if (request.fim) {
      // Prefix, suffix, middle, as DeepSeek-V3 was trained (report §4.1).
      ids.push_back(control("<｜fim▁begin｜>"));
      append(tokenizer.encode_plain(text));
      ids.push_back(control("<｜fim▁hole｜>"));
      append(tokenizer.encode_plain(request.suffix));
      ids.push_back(control("<｜fim▁end｜>"));
    } else {
      append(tokenizer.encode(text));
    }
    if (ids.empty()) throw_invalid("prompt", "prompt: it is empty.");
    request.prompts.push_back(std::move(ids));
    request.prompt_texts.push_back(text);
  };
  const auto add_ids = [&](const Json& list) {
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(model.config.vocab_size)) {
        throw_out_of_range("prompt", "prompt: expected token ids from 0 to {}.", model.config.vocab_size - 1);
      }
      ids.push_back(id.get<int32_t>());
    }
    if (ids.empty()) throw_invalid("prompt", "prompt: it is empty.");
    if (request.fim) throw_invalid("prompt", "prompt: a suffix needs a prompt of text.");
    request.prompts.push_back(ids);
    request.prompt_texts.push_back(tokenizer.decode(ids));
  };
  const Json* prompt = fields.take("prompt");
  if (prompt == nullptr && base == ApiBase::beta) {
    add_text("Once upon a time,");  // the documented default
  } else if (prompt == nullptr) {
    throw_invalid("prompt", "prompt is missing.");
  } else if (prompt->is_string()) {
    add_text(prompt->get<std::string>());
  } else if (!prompt->is_array() || prompt->empty()) {
    throw_invalid("prompt", "prompt: expected a string, a list of strings, or token ids.");
  } else if (prompt->front().is_number()) {
    add_ids(*prompt);
  } else {
    if (std::ssize(*prompt) * request.answers > model.limits.most_answers) {
      throw_out_of_range("prompt", "prompt: at most {} answers are given to a request.", model.limits.most_answers);
    }
    for (const Json& one : *prompt) {
      if (one.is_string()) {
        add_text(one.get<std::string>());
      } else if (one.is_array()) {
        add_ids(one);
      } else {
        throw_invalid("prompt", "prompt: expected a string, a list of strings, or token ids.");
      }
    }
  }
  fields.finish();
  return request;
}

}  // namespace fathom
