#pragma once
#include <CLI/CLI.hpp>
#include <string>

namespace fathom {

/// Help that fits a terminal of 100 columns: descriptions are wrapped, and an option shows its value's name, not its
/// type and range.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() {
    column_width(kNameWidth);
    label("SUBCOMMAND", "COMMAND");
    label("Subcommands", "Commands");
  }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0) return {};
    std::string type = option->get_type_name();
    return " " + type.substr(0, type.find(':'));
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (option->get_required()) text += " (required)";
    if (!option->get_default_str().empty()) text += " (default " + option->get_default_str() + ")";
    return wrapped(text);
  }

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = text.find("\n\n\n"); at != std::string::npos; at = text.find("\n\n\n")) text.erase(at, 1);
    return text;
  }

  std::string make_subcommand(const CLI::App* command) const override {
    std::stringstream out;
    CLI::detail::format_help(out, command->get_name(), wrapped(command->get_description()), column_width_);
    return out.str();
  }

 private:
  static constexpr size_t kNameWidth = 34;
  static constexpr size_t kLineWidth = 100;

  static std::string wrapped(const std::string& text) {
    std::string result;
    size_t column = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find(' ', begin), text.size());
      const size_t length = end - begin;
      if (column > 0 && column + 1 + length > kLineWidth - kNameWidth) {
        result += '\n';
        column = 0;
      }
      if (column > 0) {
        result += ' ';
        ++column;
      }
      result.append(text, begin, length);
      column += length;
      begin = end + 1;
    }
    return result;
  }
};

}  // namespace fathom
