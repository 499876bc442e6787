#include <algorithm>
#include <array>

#include "base/error.h"
#include "data/tasks.h"
#include "data/tiny_python.h"
#include "data/words.h"

namespace fathom {
namespace {

/// More lines than these are not thought of one by one.
constexpr size_t longest_trace = 14;

std::string quoted_list(Random& random, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ", ", random.pick(words::beasts));
  }
  return "[" + text + "]";
}

std::string number_list(Random& random, size_t count, int64_t greatest) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", random.between(1, greatest));
  }
  return "[" + text + "]";
}

std::string draw_program(Random& random) {
  constexpr std::array<std::string_view, 8> names = {"a", "b", "x", "y", "n", "m", "k", "total"};
  const std::string x(names[random.below(4)]);
  std::string y;
  do {
    y = names[random.below(names.size())];
  } while (y == x);
  constexpr std::array<std::string_view, 3> operations = {"+", "-", "*"};
  const std::string op(random.pick(operations));
  const int64_t a = random.between(1, 20);
  const int64_t b = random.between(1, 9);
  const std::string word(random.pick(words::things));
  const std::string other(random.pick(words::fruits));
  switch (random.below(14)) {
    case 0:
      return fmt::format("{0} = {1}\n{2} = {0} {3} {4}\nprint({2})\n", x, a, y, op, b);
    case 1:
      return fmt::format("{0} = {1}\n{0} {2}= {3}\n{4} = {0} + {5}\nprint({0}, {4})\n", x, a, op, b, y,
                         random.between(1, 5));
    case 2:
      return fmt::format("{0} = {1}\nif {0} > {2}:\n    print(\"big\")\nelse:\n    print(\"small\")\n", x, a,
                         random.between(1, 20));
    case 3:
      return fmt::format("{0} = 0\nfor i in range({1}):\n    {0} += i\nprint({0})\n", x, random.between(2, 6));
    case 4:
      return fmt::format("for i in range({0}, {1}):\n    print(i * {2})\n", random.between(1, 3), random.between(4, 7),
                         b);
    case 5:
      return fmt::format("def f({0}):\n    return {0} {1} {2}\n\nprint(f({3}))\nprint(f({4}))\n", x, op, b, a,
                         random.between(1, 12));
    case 6:
      return fmt::format("word = \"{0}\"\nprint(len(word))\nprint(word.upper())\n", word);
    case 7:
      return fmt::format("first = \"{0}\"\nsecond = \"{1}\"\nprint(first + second)\n", word, other);
    case 8:
      return fmt::format("items = {0}\nfor item in items:\n    if item > {1}:\n        print(item)\n",
                         number_list(random, static_cast<size_t>(random.between(3, 5)), 20), random.between(3, 15));
    case 9:
      return fmt::format("items = {0}\nprint(items[{1}])\nprint(len(items))\n",
                         quoted_list(random, static_cast<size_t>(random.between(3, 5))), random.between(0, 2));
    case 10:
      return fmt::format("{0} = {1}\nwhile {0} > 0:\n    print({0})\n    {0} -= {2}\n", x, random.between(3, 9),
                         random.between(1, 3));
    case 11:
      return fmt::format("items = []\nfor i in range({0}):\n    items.append(i * {1})\nprint(items)\n",
                         random.between(2, 5), b);
    case 12:
      return fmt::format("{0} = {1}\nif {0} % 2 == 0:\n    {0} = {0} // 2\nelse:\n    {0} = {0} * 3\nprint({0})\n", x,
                         a);
    default:
      return fmt::format("print(\"{0}\" * {1})\n", random.pick(words::fruits).substr(0, 3), random.between(2, 4));
  }
}

}  // namespace

Exercise code_exercise(Random& random, bool held_out) {
  while (true) {
    const std::string program = draw_program(random);
    if (is_held_out_text(program) != held_out) continue;
    bool shows_held_out = false;
    const ProgramRun run = run_program(program, [&](char operation, int64_t a, int64_t b) {
      shows_held_out = shows_held_out || is_held_out_pair(operation, a, b);
    });
    if (shows_held_out || run.output.empty()) continue;
    Exercise exercise;
    exercise.task = "output";
    exercise.question = "What does this program print?\n\n" + program;
    exercise.question.pop_back();
    if (run.trace.size() <= longest_trace) {
      for (const std::string& step : run.trace) exercise.thoughts += (exercise.thoughts.empty() ? "" : "\n") + step;
    }
    exercise.answer = run.output;
    exercise.answer.pop_back();
    exercise.key = exercise.answer;
    exercise.rule = JudgeRule::equal;
    return exercise;
  }
}

}  // namespace fathom
