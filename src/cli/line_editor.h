#pragma once
#include <memory>
#include <string>

namespace fathom {

/// Reads what the user types: with editing and a history file if the standard input is a terminal, else plain lines, so
/// that a conversation can come from a file or a pipe.
class LineEditor {
 public:
  enum class Outcome {
    message,      ///< `text` holds what was entered
    interrupted,  ///< Ctrl-C: the line is thrown away
    end,          ///< Ctrl-D, or the end of the file
  };

  /// The history is kept in `history_path` (empty: not at all); a file that cannot be read or written is no error.
  explicit LineEditor(std::string history_path);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// One message. On a terminal it goes on over a line end that is followed by a backslash, and over line ends in
  /// pasted text: input that is there already when a line ends belongs to the same message.
  Outcome read(std::string& text);
  bool is_terminal() const { return terminal_; }

 private:
  struct Data;
  Outcome read_line(std::string& line, bool continuation);

  bool terminal_;
  std::unique_ptr<Data> data_;
};

/// `$XDG_STATE_HOME/fathom/history`, else `~/.local/state/fathom/history`, its directory made; empty where neither is
/// known.
std::string history_file_path();

}  // namespace fathom
