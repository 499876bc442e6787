#include "text/answer_splitter.h"

#include <algorithm>
#include <utility>

#include "text/control_tokens.h"

namespace fathom {
namespace {

constexpr std::string_view blanks = " \t\r\n";
constexpr std::string_view line_end = "\n";

std::string_view without_leading(std::string_view text, std::string_view characters) {
  text.remove_prefix(std::min(text.find_first_not_of(characters), text.size()));
  return text;
}

/// Bytes at the end of `text` that begin `mark` and are not all of it.
size_t begun_mark(std::string_view text, std::string_view mark) {
  size_t length = std::min(text.size(), mark.size() - 1);
  while (length > 0 && text.substr(text.size() - length) != mark.substr(0, length)) --length;
  return length;
}

bool has_thoughts(ChatFormat format) {
  return format != ChatFormat::deepseek_v3 && format != ChatFormat::deepseek_v3_first;
}

}  // namespace

void AnswerParts::add(const AnswerEvent& event) {
  switch (event.kind) {
    case AnswerEvent::Kind::reasoning:
      reasoning += event.text;
      break;
    case AnswerEvent::Kind::content:
      content += event.text;
      break;
    case AnswerEvent::Kind::call_begin:
      calls.push_back({event.text, "", false});
      break;
    case AnswerEvent::Kind::call_arguments:
      calls.back().arguments += event.text;
      break;
    case AnswerEvent::Kind::call_end:
      calls.back().complete = event.complete;
      break;
  }
}

AnswerSplitter::AnswerSplitter(const Tokenizer& tokenizer, AnswerSplitOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)), decoder_(tokenizer), matcher_(options_.stop) {
  namespace names = control_tokens;
  ids_[calls_begin] = tokenizer.added_token(names::calls_begin);
  ids_[calls_end] = tokenizer.added_token(names::calls_end);
  ids_[call_begin] = tokenizer.added_token(names::call_begin);
  ids_[call_end] = tokenizer.added_token(names::call_end);
  ids_[separator] = tokenizer.added_token(names::tool_sep);
  state_ = options_.begins_thinking || has_thoughts(options_.format) ? State::opening : State::content;
}

std::vector<AnswerEvent> AnswerSplitter::push(int32_t id) {
  if (state_ == State::ended) return {};
  ++tokens_;
  const auto mark = std::find(ids_.begin(), ids_.end(), std::optional(id));
  if (mark == ids_.end()) {
    read(decoder_.push(id));
  } else {
    read(decoder_.finish());
    if (options_.parse_tools) {
      read_mark(static_cast<Mark>(mark - ids_.begin()));
    } else {
      read(tokenizer_.token_bytes(id));
    }
  }
  return std::exchange(events_, {});
}

std::vector<AnswerEvent> AnswerSplitter::finish() {
  if (state_ == State::ended) return {};
  read(decoder_.finish());
  if (state_ == State::call) {
    if (reader_->named()) {
      add_piece(reader_->close());
      events_.push_back({Kind::call_end, "", calls_ - 1, false});
    }
  } else if (state_ != State::ended) {
    end_part();
    emit(state_ == State::reasoning ? Kind::reasoning : Kind::content, line_ends_);
  }
  if (state_ == State::reasoning) reasoning_tokens_ = tokens_;
  state_ = State::ended;
  return std::exchange(events_, {});
}

AnswerPart AnswerSplitter::part() const {
  if (state_ == State::reasoning) return AnswerPart::reasoning;
  return state_ == State::call ? AnswerPart::call : AnswerPart::content;
}

int64_t AnswerSplitter::reasoning_tokens() const {
  if (reasoning_tokens_) return *reasoning_tokens_;
  const bool thinks = state_ == State::reasoning || (state_ == State::opening && options_.begins_thinking);
  return thinks ? tokens_ : 0;
}

void AnswerSplitter::read(std::string_view text) {
  if (text.empty()) return;
  switch (state_) {
    case State::opening:
      read_opening(text);
      break;
    case State::reasoning:
      read_reasoning(text);
      break;
    case State::content:
      add_content(text);
      break;
    case State::call:
      add_piece(reader_->push(text));
      break;
    case State::ended:
      break;
  }
}

void AnswerSplitter::read_opening(std::string_view text) {
  // Blanks may stand before <think>; a long run of them is not looked at again and again.
  const bool only_blanks = held_.empty() || blanks.find(held_.back()) != std::string_view::npos;
  held_ += text;
  if (only_blanks && without_leading(text, blanks).empty()) return;
  const std::string_view begin = without_leading(held_, blanks);
  const std::string_view mark = control_tokens::think_begin;
  if (begin.size() < mark.size() && mark.starts_with(begin)) return;
  if (begin.starts_with(mark)) {
    begin_reasoning(std::string(begin.substr(mark.size())));
  } else {
    leave_opening();
  }
}

/// There is no `<think>`.
void AnswerSplitter::leave_opening() {
  const std::string text = std::exchange(held_, {});
  if (options_.begins_thinking) {
    begin_reasoning(text);
  } else {
    state_ = State::content;
    add_content(text);
  }
}

void AnswerSplitter::begin_reasoning(const std::string& text) {
  held_.clear();
  state_ = State::reasoning;
  skipped_ = line_end;
  read_reasoning(text);
}

void AnswerSplitter::read_reasoning(std::string_view text) {
  held_ += text;
  const std::string all = std::exchange(held_, {});
  const size_t end = all.find(control_tokens::think_end);
  if (end == std::string::npos) {
    const size_t certain = all.size() - begun_mark(all, control_tokens::think_end);
    add_reasoning(std::string_view(all).substr(0, certain));
    held_ = all.substr(certain);
    return;
  }
  add_reasoning(std::string_view(all).substr(0, end));
  line_ends_.clear();
  reasoning_tokens_ = tokens_;
  state_ = State::content;
  skipped_ = line_end;
  add_content(std::string_view(all).substr(end + control_tokens::think_end.size()));
}

void AnswerSplitter::add_reasoning(std::string_view text) {
  text = without_leading(text, skipped_);
  if (text.empty()) return;
  skipped_ = {};
  emit_but_line_ends(Kind::reasoning, text);
}

void AnswerSplitter::add_content(std::string_view text) {
  text = without_leading(text, skipped_);
  if (text.empty()) return;
  skipped_ = {};
  emit_but_line_ends(Kind::content, matcher_.push(text));
  if (!matcher_.matched()) return;
  emit(Kind::content, std::exchange(line_ends_, {}));
  state_ = State::ended;
}

/// The part that is being read is over: nothing of it is held back but line ends.
void AnswerSplitter::end_part() {
  if (state_ == State::opening) leave_opening();
  if (state_ == State::reasoning) add_reasoning(std::exchange(held_, {}));
  if (state_ == State::content) emit_but_line_ends(Kind::content, matcher_.finish());
}

void AnswerSplitter::read_mark(Mark mark) {
  if (state_ == State::ended) return;
  if (state_ == State::call) {
    if (mark == separator) {
      add_piece(reader_->separator());
      return;
    }
    add_piece(reader_->close());
    events_.push_back({Kind::call_end, "", calls_ - 1});
  } else {
    const bool begins = mark == calls_begin || mark == call_begin;
    if (state_ == State::opening) leave_opening();
    if (!begins && state_ != State::content) return;  // in thoughts, where it has no meaning
    end_part();
    if (state_ == State::ended) return;
    if (state_ == State::reasoning) reasoning_tokens_ = tokens_ - 1;
  }
  line_ends_.clear();
  skipped_ = blanks;
  state_ = mark == call_begin ? State::call : State::content;
  if (state_ == State::call) reader_.emplace();
}

void AnswerSplitter::add_piece(ToolCallReader::Piece piece) {
  if (piece.name) events_.push_back({Kind::call_begin, *std::move(piece.name), calls_++});
  emit(Kind::call_arguments, piece.arguments);
}

void AnswerSplitter::emit(Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (!events_.empty() && events_.back().kind == kind) {
    events_.back().text += text;
  } else {
    events_.push_back({kind, std::string(text), kind == Kind::call_arguments ? calls_ - 1 : 0});
  }
}

/// Holds line ends at the end back.
void AnswerSplitter::emit_but_line_ends(Kind kind, std::string_view text) {
  const size_t size = text.find_last_not_of(line_end) + 1;
  if (size > 0) {
    emit(kind, std::exchange(line_ends_, {}));
    emit(kind, text.substr(0, size));
  }
  line_ends_ += text.substr(size);
}

}  // namespace fathom
