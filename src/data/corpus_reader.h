#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "text/chat_template.h"

namespace fathom {

/// One document of a corpus: a text, or a conversation.
struct CorpusDocument {
  std::string text;                   ///< empty if there are messages
  std::vector<ChatMessage> messages;  ///< empty if it is a text
  std::string where;                  ///< "FILE, line 3" or "FILE", for sentences
};

/// Reads documents from files, one after the other: `NAME.jsonl` holds a JSON object per line with `text` or `messages`
/// (other fields are passed over), any other file is plain text.
///
/// Plain text is one document, or, with a separator, the documents between the lines that are equal to it (empty ones
/// are dropped). Files are mapped: memory is one document. Errors: `bad_input` names file and line: not JSON, neither
/// `text` nor `messages` or both, not UTF-8.
class CorpusReader {
 public:
  explicit CorpusReader(std::vector<std::string> files, std::string separator = {});

  /// False at the end.
  bool next(CorpusDocument& document);
  /// Of all files together, and of what was read so far.
  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t bytes_read() const { return done_bytes_ + at_; }

 private:
  bool next_in_file(CorpusDocument& document);
  void read_json_line(std::string_view line, CorpusDocument& document) const;

  std::vector<std::string> files_;
  std::string separator_;
  size_t file_index_ = 0;
  std::unique_ptr<MappedFile> file_;
  size_t at_ = 0;
  int64_t line_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
};

}  // namespace fathom
