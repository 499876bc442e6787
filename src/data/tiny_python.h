#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// What a program of the generated corpus did.
struct ProgramRun {
  std::string output;              ///< each print is a line, "\n" included
  std::vector<std::string> trace;  ///< "x = 5" for each assignment, "print 5" for each print
};

/// Runs a small part of Python 3: assignment (also += -= *=), print, if/elif/else, while, for over range or a list, def
/// with return, list literals, index, append, len, str, upper, strings in double quotes, integers, + - * // %,
/// comparisons, and/or/not.
///
/// `on_arithmetic(op, a, b)` sees each sum, difference and product of integers. `bad_input` names the line of what is
/// not known, an unknown name, a type that does not fit, or a program that does not end within 10,000 steps.
ProgramRun run_program(std::string_view program, const std::function<void(char, int64_t, int64_t)>& on_arithmetic = {});

}  // namespace fathom
