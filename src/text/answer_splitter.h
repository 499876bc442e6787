#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"
#include "text/tool_call_reader.h"

namespace fathom {

/// One step of an answer. Texts are valid UTF-8 and, but for those of call_begin and call_end, never empty.
struct AnswerEvent {
  enum class Kind {
    reasoning,       ///< more of the thoughts
    content,         ///< more of the answer's text
    call_begin,      ///< a tool is called; `text` is its name
    call_arguments,  ///< more of the arguments of the call begun last, JSON if the model keeps to it
    call_end,
  };
  Kind kind;
  std::string text;
  int call = 0;          ///< of a call: its number in the answer, from 0
  bool complete = true;  ///< of call_end: false if the answer ended inside the call
};

enum class AnswerPart { reasoning, content, call };

/// An answer put together from its events.
struct AnswerParts {
  struct Call {
    std::string name;
    std::string arguments;
    bool complete = false;
  };
  std::string reasoning;
  std::string content;
  std::vector<Call> calls;

  void add(const AnswerEvent& event);
};

struct AnswerSplitOptions {
  ChatFormat format = ChatFormat::deepseek_v3;
  bool begins_thinking = false;   ///< the prompt has opened <think> (`answer_begins_thinking`)
  bool parse_tools = true;        ///< else the tokens of calls are shown as text
  std::vector<std::string> stop;  ///< the content ends before the first of these; thoughts and arguments do not
};

/// Splits an answer, token by token, into thoughts, content and tool calls.
///
/// Thoughts go up to the first `</think>`, written as a token or letter by letter; without one, to the end. In the
/// formats that have thoughts an answer may also open them itself with `<think>`, as R1's does where the prompt has
/// not. A block of calls ends them too, since the grammar of calls begins there.
///
/// Borders belong to no part, and with them go the line ends directly beside them: thoughts neither begin nor end with
/// a line end, content does not behind thoughts, nor before a call, and whitespace behind a call is left out.
///
/// Calls are read as `ToolCallReader` says. Content may follow them, and further blocks; a block may lack its begin
/// or its end, and a call its end if another one or the end of the block follows. A call whose name was cut off by the
/// end of the answer is none. Nothing is thrown, whatever the tokens are. Threads: one at a time.
class AnswerSplitter {
 public:
  /// `tokenizer` outlives it. `bad_input` for an empty stop string.
  AnswerSplitter(const Tokenizer& tokenizer, AnswerSplitOptions options);
  /// What became certain with this token. Nothing after a stop string.
  std::vector<AnswerEvent> push(int32_t id);
  /// The end of the answer: what was held back, and the end of a call that was cut off.
  std::vector<AnswerEvent> finish();
  /// The part that the next token continues, if it does not end it.
  AnswerPart part() const;
  /// A stop string has come: what follows does not belong to the answer.
  bool stopped() const { return matcher_.matched(); }
  /// Tokens of the thoughts so far, the one that ends them included.
  int64_t reasoning_tokens() const;
  /// Calls begun so far.
  int calls() const { return calls_; }

 private:
  /// `opening`: the first letters may still become `<think>`.
  enum class State { opening, reasoning, content, call, ended };
  enum Mark : size_t { calls_begin, calls_end, call_begin, call_end, separator, marks };
  using Kind = AnswerEvent::Kind;

  void read(std::string_view text);
  void read_opening(std::string_view text);
  void read_reasoning(std::string_view text);
  void read_mark(Mark mark);
  void leave_opening();
  void begin_reasoning(const std::string& text);
  void add_reasoning(std::string_view text);
  void add_content(std::string_view text);
  void add_piece(ToolCallReader::Piece piece);
  void end_part();
  void emit(Kind kind, std::string_view text);
  void emit_but_line_ends(Kind kind, std::string_view text);

  const Tokenizer& tokenizer_;
  AnswerSplitOptions options_;
  std::array<std::optional<int32_t>, marks> ids_;
  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::optional<ToolCallReader> reader_;
  State state_;
  std::string held_;          // of the opening or the thoughts: what may be a part of <think> or </think>
  std::string line_ends_;     // at the end of the part so far: they are left out if a border follows
  std::string_view skipped_;  // the characters that are left out at the beginning of the part
  std::vector<AnswerEvent> events_;
  int64_t tokens_ = 0;
  std::optional<int64_t> reasoning_tokens_;  // once they are complete
  int calls_ = 0;
};

}  // namespace fathom
