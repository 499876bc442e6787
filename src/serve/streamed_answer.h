#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

/// Takes server-sent events apart as their bytes come, and finds fault with what the APIs do not send: of fields, only
/// `data` is known; lines end in LF or CR LF; an event has at most `kMostBytes`. Comments (": keep-alive") are passed
/// over.
class EventReader {
 public:
  static constexpr size_t kMostBytes = 1 << 20;

  /// Gets the data of an event, its lines joined by LF; false: no more are wanted.
  using OnData = std::function<bool(std::string_view data)>;

  /// Takes the next bytes. False once something is wrong with them, which `fault` then says; for ever.
  bool push(std::string_view bytes, const OnData& on_data);
  /// What is wrong: "an event stream with a line that …"; empty: nothing.
  const std::string& fault() const { return fault_; }
  /// Whether the stream may end here: no event has begun that is not whole.
  bool between_events() const { return line_.empty() && !has_data_; }

 private:
  bool take_line(const OnData& on_data);

  std::string line_;  // not whole yet
  std::string data_;  // of the event's lines so far
  bool has_data_ = false;
  std::string fault_;
};

/// A chat completion with one choice as a client reads it from its stream. Finds fault with whatever is not as the API
/// has it: other types, changing ids, no `finish_reason`, no `usage` (which was asked for), no [DONE], or more behind.
class StreamedAnswer {
 public:
  /// Gets told of every piece of text or thought; false: no more are wanted.
  using OnPiece = std::function<bool()>;

  /// Takes the next bytes of the body. False if something is wrong, which `fault` then says.
  bool push(std::string_view bytes, const OnPiece& on_piece);
  /// What is wrong: "a chunk without its fields"; empty: nothing.
  const std::string& fault() const { return fault_; }
  /// What is wrong if the stream ends here; empty: nothing.
  std::string fault_at_end() const;

  /// All that a client can see of an answer: how it ended, thoughts, text, each on lines of its own.
  std::string whole() const;

  // Of `usage`:
  int64_t prompt_tokens = 0, output_tokens = 0;
  std::optional<int64_t> hit_tokens;

 private:
  struct Chunk;

  bool wrong(std::string fault);
  bool take(std::string_view data, const OnPiece& on_piece);
  bool take_chunk(const Chunk& chunk, const OnPiece& on_piece);
  bool take_usage(const Chunk& chunk);

  EventReader events_;
  std::string fault_, id_, text_, reasoning_, finish_;
  bool usage_ = false;
  bool done_ = false;
};

/// A server's words as part of a sentence: cut, and visible ASCII.
std::string printable(std::string_view text);

/// The message of {"error":{"message":…}}, or the beginning of what it is instead, printable.
std::string error_message(const std::string& body);

}  // namespace fathom
