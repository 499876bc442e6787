#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

/// Whose fault an error is; the command line turns it into the exit code.
enum class ErrorKind {
  bad_input,  ///< something the user gave (file, field, flag, request) is wrong: exit code 2
  failure,    ///< the input was fine and the work could not be done (disk full, out of memory): exit code 1
};

/// The one exception of Fathom. `what()` is a whole sentence that names the file, tensor, field or request, what was
/// expected and what was found. The library never prints and never exits; who calls it decides what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& sentence) : std::runtime_error(sentence), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws an `Error` of kind `bad_input` with a formatted sentence.
template <typename... Args>
[[noreturn]] void throw_bad_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::bad_input, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an `Error` of kind `failure` with a formatted sentence.
template <typename... Args>
[[noreturn]] void throw_failure(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::failure, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom
