#include "data/corpus_reader.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/utf8.h"
#include "formats/json.h"

namespace fathom {
namespace {

bool is_jsonl(const std::string& path) {
  return std::filesystem::path(path).extension() == ".jsonl";
}

std::string_view without_return(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

}  // namespace

CorpusReader::CorpusReader(std::vector<std::string> files, std::string separator)
    : files_(std::move(files)), separator_(std::move(separator)) {
  for (const std::string& path : files_) total_bytes_ += MappedFile(path).size();
}

bool CorpusReader::next(CorpusDocument& document) {
  while (file_index_ < files_.size()) {
    if (!file_) {
      file_ = std::make_unique<MappedFile>(files_[file_index_]);
      at_ = 0;
      line_ = 0;
    }
    if (next_in_file(document)) return true;
    done_bytes_ += file_->size();
    at_ = 0;
    file_.reset();
    ++file_index_;
  }
  return false;
}

bool CorpusReader::next_in_file(CorpusDocument& document) {
  const std::string& path = files_[file_index_];
  const std::string_view whole(reinterpret_cast<const char*>(file_->data()), file_->size());
  const bool lines = is_jsonl(path);
  document = CorpusDocument{};
  document.where = path;
  if (!lines && separator_.empty()) {
    if (at_ == whole.size()) return false;
    document.text = std::string(whole);
    at_ = whole.size();
  }
  const int64_t first_line = line_ + 1;
  while (at_ < whole.size()) {
    const size_t end = std::min(whole.find('\n', at_), whole.size());
    const std::string_view line = whole.substr(at_, end - at_);
    at_ = std::min(end + 1, whole.size());
    ++line_;
    if (lines) {
      if (without_return(line).empty()) continue;
      document.where = fmt::format("{}, line {}", path, line_);
      read_json_line(line, document);
      return true;
    }
    if (without_return(line) == separator_) {
      if (!document.text.empty()) break;
      continue;
    }
    document.text.append(line);
    if (end < whole.size()) document.text += '\n';
  }
  if (document.text.empty()) return false;
  if (!separator_.empty()) document.where = fmt::format("{}, from line {}", path, first_line);
  if (const size_t valid = utf8_valid_prefix(document.text); valid != document.text.size()) {
    throw_bad_input("{}: expected UTF-8 text, found the byte 0x{:02x} at offset {} of the document", document.where,
                    static_cast<uint8_t>(document.text[valid]), valid);
  }
  return true;
}

void CorpusReader::read_json_line(std::string_view line, CorpusDocument& document) const {
  const nlohmann::json json = parse_json(line, document.where);
  if (!json.is_object()) {
    throw_bad_input("{}: expected an object with \"text\" or \"messages\", found {}", document.where, json.type_name());
  }
  const auto text = json.find("text");
  const auto messages = json.find("messages");
  if ((text == json.end()) == (messages == json.end())) {
    throw_bad_input("{}: expected either \"text\" or \"messages\", found {}", document.where,
                    text == json.end() ? "neither" : "both");
  }
  if (text == json.end()) {
    document.messages = chat_messages_from_json(*messages, document.where);
    if (document.messages.empty()) throw_bad_input("{}: messages: expected at least one, found none", document.where);
    return;
  }
  if (!text->is_string()) {
    throw_bad_input("{}: text: expected a string, found {}", document.where, text->type_name());
  }
  document.text = text->get<std::string>();
}

}  // namespace fathom
