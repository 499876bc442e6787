#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling.h"
#include "serve/served_model.h"
#include "text/chat_template.h"

namespace fathom {

class JsonFields;

/// What a chat and a plain completion ask for in the same words.
struct AnswerRequest {
  std::string model;         ///< as the client wrote it
  SamplingOptions sampling;  ///< with a seed of its own where the client gave none; logprobs included
  int64_t max_tokens = 0;    ///< 0: as many as the context holds
  int64_t answers = 1;       ///< to each prompt; the i-th has the seed + i
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;
  bool ignore_eos = false;
};

/// The form that an answer must have.
struct AnswerForm {
  enum class Kind { text, json_object, json_schema, regex, grammar };
  Kind kind = Kind::text;
  std::string source;  ///< the schema's JSON text, the expression, the grammar
};

struct ToolChoice {
  enum class Kind { none, automatic, required, named };
  Kind kind = Kind::none;
  std::string name;      ///< of `named`
  bool parallel = true;  ///< several calls in one answer
};

/// POST /v1/chat/completions.
struct ChatRequest : AnswerRequest {
  std::vector<ChatMessage> messages;
  /// The answer begins with these (DeepSeek's prefix completion); they are not in `messages`.
  std::optional<std::string> prefix;
  std::optional<std::string> reasoning_prefix;
  bool thinking = false;
  AnswerForm form;
  std::vector<ToolDefinition> tools;
  ToolChoice tool_choice;
};

/// POST /v1/completions, and FIM where it has a suffix.
struct CompletionRequest : AnswerRequest {
  std::vector<std::vector<int32_t>> prompts;  ///< ids, begin of text included
  std::vector<std::string> prompt_texts;      ///< for `echo`
  std::string suffix;
  bool fim = false;  ///< `suffix` is given
  bool echo = false;
  AnswerForm form;
};

/// Which of the addresses a request came to: DeepSeek's beta has prefix completion, strict tools and longer answers.
/// Fathom takes these everywhere; the beta form only changes what a field left out means.
enum class ApiBase { v1, beta };

/// Reads the body of a request. Throws ApiError naming the field: 400 for a wrong form, a contradiction, or a field
/// that is unknown or means what this server or model cannot do; 404 for another model; 422 for a value out of its
/// range.
ChatRequest read_chat_request(const nlohmann::ordered_json& body, const ServedModel& model);
CompletionRequest read_completion_request(const nlohmann::ordered_json& body, const ServedModel& model, ApiBase base);

/// The messages of a request on their own, for `/tokenize`: a list of OpenAI's messages, tool calls included.
std::vector<ChatMessage> read_messages(const nlohmann::ordered_json& messages, const ServedModel& model);

}  // namespace fathom
