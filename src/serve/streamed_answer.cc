#include "serve/streamed_answer.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace fathom {

namespace {

/// Whether the field holds text, which is added.
bool append(const nlohmann::json& delta, const char* field, std::string& to) {
  const auto found = delta.find(field);
  if (found == delta.end() || found->is_null()) return false;
  const auto& text = found->get_ref<const std::string&>();
  to += text;
  return !text.empty();
}

}  // namespace

bool EventReader::push(std::string_view bytes, const OnData& on_data) {
  while (fault_.empty() && !bytes.empty()) {
    const size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    if (line_.size() + data_.size() > kMostBytes) {
      fault_ = "an event stream with an event of more than 1 MiB";
      break;
    }
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
    if (!take_line(on_data)) break;
  }
  return fault_.empty();
}

/// False if nothing more is to be read.
bool EventReader::take_line(const OnData& on_data) {
  if (!line_.empty() && line_.back() == '\r') line_.pop_back();
  const std::string line = std::exchange(line_, {});
  if (line.find('\r') != std::string::npos) {
    fault_ = "an event stream with a carriage return inside a line";
    return false;
  }
  if (line.empty()) {
    if (!std::exchange(has_data_, false)) return true;
    return on_data(std::exchange(data_, {}));
  }
  if (line.front() == ':') return true;
  if (!line.starts_with("data:")) {
    fault_ = "an event stream with a line that is neither data nor a comment";
    return false;
  }
  if (has_data_) data_ += '\n';
  has_data_ = true;
  data_ += line.substr(line.size() > 5 && line[5] == ' ' ? 6 : 5);
  return true;
}

struct StreamedAnswer::Chunk {
  nlohmann::json json;
};

bool StreamedAnswer::push(std::string_view bytes, const OnPiece& on_piece) {
  const bool good = events_.push(bytes, [&](std::string_view data) { return take(data, on_piece); });
  if (!good) fault_ = events_.fault();
  return fault_.empty();
}

std::string StreamedAnswer::fault_at_end() const {
  if (!done_) return "a stream that ended without [DONE]";
  return events_.between_events() ? "" : "a stream that ended inside an event";
}

std::string StreamedAnswer::whole() const {
  return finish_ + '\n' + reasoning_ + '\n' + text_;
}

bool StreamedAnswer::wrong(std::string fault) {
  fault_ = std::move(fault);
  return false;
}

bool StreamedAnswer::take(std::string_view data, const OnPiece& on_piece) {
  if (done_) return wrong("an event behind [DONE]");
  if (data == "[DONE]") {
    if (finish_.empty()) return wrong("[DONE] without a finish_reason");
    if (!usage_) return wrong("[DONE] without usage");
    done_ = true;
    return true;
  }
  const Chunk chunk{nlohmann::json::parse(data, nullptr, false)};
  if (!chunk.json.is_object()) return wrong("an event that is no JSON object");
  if (chunk.json.contains("error")) return wrong("an error in the stream: " + error_message(std::string(data)));
  try {
    return take_chunk(chunk, on_piece);
  } catch (const nlohmann::json::exception&) {
    return wrong("a chunk without its fields, or with other types");
  }
}

bool StreamedAnswer::take_chunk(const Chunk& chunk, const OnPiece& on_piece) {
  const nlohmann::json& json = chunk.json;
  if (json.at("object").get_ref<const std::string&>() != "chat.completion.chunk") {
    return wrong("a chunk of another object");
  }
  const auto& id = json.at("id").get_ref<const std::string&>();
  if (id_.empty()) id_ = id;
  if (id != id_) return wrong("chunks with different ids");
  const nlohmann::json& choices = json.at("choices");
  if (!choices.is_array() || choices.size() > 1) return wrong("a chunk with several choices");
  if (choices.empty()) return take_usage(chunk);
  const nlohmann::json& choice = choices.front();
  if (choice.at("index").get<int64_t>() != 0) return wrong("a choice with another index than 0");
  if (!finish_.empty()) return wrong("a choice behind its finish_reason");
  const nlohmann::json& delta = choice.at("delta");
  const bool text = append(delta, "content", text_);
  const bool thought = append(delta, "reasoning_content", reasoning_);
  if (const auto finish = choice.find("finish_reason"); finish != choice.end() && !finish->is_null()) {
    finish_ = finish->get<std::string>();
    if (finish_ == "insufficient_system_resource") return wrong("an answer that the server cut off");
  }
  return !(text || thought) || on_piece();
}

bool StreamedAnswer::take_usage(const Chunk& chunk) {
  if (usage_) return wrong("usage twice");
  const nlohmann::json& usage = chunk.json.at("usage");
  prompt_tokens = usage.at("prompt_tokens").get<int64_t>();
  output_tokens = usage.at("completion_tokens").get<int64_t>();
  if (const auto details = usage.find("prompt_tokens_details"); details != usage.end() && details->is_object()) {
    if (details->contains("cached_tokens")) hit_tokens = details->at("cached_tokens").get<int64_t>();
  }
  usage_ = true;
  return true;
}

std::string printable(std::string_view text) {
  constexpr size_t kMost = 200;
  std::string result(text.substr(0, kMost));
  for (char& character : result) {
    if (character < 0x20 || character > 0x7e) character = '?';
  }
  return result;
}

std::string error_message(const std::string& body) {
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
  if (json.is_object() && json.contains("error") && json["error"].is_object() && json["error"].contains("message") &&
      json["error"]["message"].is_string()) {
    return printable(json["error"]["message"].get_ref<const std::string&>());
  }
  return printable(body);
}

}  // namespace fathom
