#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

/// Reads one tool call as it streams, from behind `<｜tool▁call▁begin｜>` to its end.
///
/// Both forms are read whatever the chat format is, since models mix them:
///
///     function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```        (V3, R1)
///     NAME<｜tool▁sep｜>ARGUMENTS                                 (V3.1)
///
/// `function` or the separator may be missing, as may the fence, its `json` and its line ends. A name ends at a line
/// end, a backtick or a brace; the arguments are what is left without the fence and the whitespace around it.
class ToolCallReader {
 public:
  /// What became certain in one step.
  struct Piece {
    std::optional<std::string> name;
    std::string arguments;  ///< the next part of them
  };

  Piece push(std::string_view text);
  /// `<｜tool▁sep｜>`; inside the arguments it is text.
  Piece separator();
  /// The call is over.
  Piece close();
  bool named() const { return named_; }

 private:
  /// In the order in which they follow each other. `fence` skips a fence's language, `fence_end` the blanks behind it.
  enum class Stage { head, name, opening, fence, fence_end, arguments };

  void read(std::string_view text, Piece& piece);
  void read_name(std::string_view text, Piece& piece);
  void read_arguments(std::string_view text, Piece& piece);
  void set_name(std::string_view name, Piece& piece);

  Stage stage_ = Stage::head;
  std::string type_;       // what stood before the separator
  std::string held_;       // text that is not certain yet
  size_t name_bytes_ = 0;  // of `held_`, which are its name if it has one
  bool name_ended_ = false;
  bool fenced_ = false;
  bool named_ = false;
};

}  // namespace fathom
