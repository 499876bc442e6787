#include <array>

#include "base/error.h"
#include "data/grammar.h"
#include "data/tasks.h"
#include "data/words.h"

namespace fathom {
namespace {

struct Pair {
  int64_t a, b;
};

/// Two numbers with one or two digits, from the part of the space that is asked for; `fits` says which pairs make
/// sense.
template <typename Fits>
Pair draw_pair(Random& random, char operation, bool held_out, Fits&& fits) {
  while (true) {
    const int64_t least = held_out || random.chance(0.85) ? 10 : 1;
    const Pair pair{random.between(least, 99), random.between(least, 99)};
    if (fits(pair) && is_held_out_pair(operation, pair.a, pair.b) == held_out) return pair;
  }
}

std::string sum_steps(Pair pair) {
  const int64_t units = pair.a % 10 + pair.b % 10;
  const int64_t carry = units / 10;
  std::string text = fmt::format("Units: {} + {} = {}.", pair.a % 10, pair.b % 10, units);
  if (pair.a < 10 && pair.b < 10) return text;
  text += carry > 0 ? fmt::format(" Write {}, carry 1.", units % 10) : fmt::format(" Write {}, carry 0.", units);
  text += fmt::format(" Tens: {} + {} + {} = {}.", pair.a / 10, pair.b / 10, carry, pair.a / 10 + pair.b / 10 + carry);
  return text;
}

std::string difference_steps(Pair pair) {
  const int64_t upper = pair.a % 10;
  const int64_t lower = pair.b % 10;
  const int64_t borrow = upper < lower ? 1 : 0;
  std::string text;
  if (borrow > 0) {
    text = fmt::format("Units: {} is less than {}, borrow 1. {} - {} = {}.", upper, lower, upper + 10, lower,
                       upper + 10 - lower);
  } else {
    text = fmt::format("Units: {} - {} = {}, borrow 0.", upper, lower, upper - lower);
  }
  if (pair.a < 10) return text;
  return text +
         fmt::format(" Tens: {} - {} - {} = {}.", pair.a / 10, pair.b / 10, borrow, pair.a / 10 - pair.b / 10 - borrow);
}

Exercise addition(Random& random, bool held_out) {
  const Pair pair = draw_pair(random, '+', held_out, [](Pair) { return true; });
  Exercise exercise;
  exercise.question = fmt::format("What is {} + {}?", pair.a, pair.b);
  exercise.thoughts = sum_steps(pair);
  exercise.answer = fmt::format("{} + {} = {}.", pair.a, pair.b, pair.a + pair.b);
  exercise.key = std::to_string(pair.a + pair.b);
  return exercise;
}

Exercise subtraction(Random& random, bool held_out) {
  const Pair pair = draw_pair(random, '-', held_out, [](Pair p) { return p.a >= p.b; });
  Exercise exercise;
  exercise.question = fmt::format("What is {} - {}?", pair.a, pair.b);
  exercise.thoughts = difference_steps(pair);
  exercise.answer = fmt::format("{} - {} = {}.", pair.a, pair.b, pair.a - pair.b);
  exercise.key = std::to_string(pair.a - pair.b);
  return exercise;
}

/// Products have no pairs of two-digit numbers; a tenth of the questions is held out by its text instead, but never
/// one of the little table.
Exercise multiplication(Random& random, bool held_out) {
  while (true) {
    const int64_t b = random.between(2, 9);
    const int64_t a = held_out || random.chance(0.5) ? random.between(11, 99) : random.between(2, 9);
    Exercise exercise;
    exercise.question = fmt::format("What is {} * {}?", a, b);
    const int64_t tens = a / 10 * 10 * b;
    const int64_t units = a % 10 * b;
    const bool out = a > 10 && is_held_out_text(exercise.question);
    // The sum at the end must not show a held-out sum either.
    if (out != held_out || (a > 10 && is_held_out_pair('+', tens, units))) continue;
    if (a > 10) {
      exercise.thoughts = fmt::format("{} * {} = {}. {} * {} = {}. {} + {} = {}.", a / 10 * 10, b, tens, a % 10, b,
                                      units, tens, units, a * b);
    }
    exercise.answer = fmt::format("{} * {} = {}.", a, b, a * b);
    exercise.key = std::to_string(a * b);
    return exercise;
  }
}

Exercise comparison(Random& random, bool held_out) {
  while (true) {
    const int64_t a = random.between(1, 99);
    const int64_t b = random.between(1, 99);
    const bool greater = random.chance(0.5);
    Exercise exercise;
    exercise.question = fmt::format("Which is {}, {} or {}?", greater ? "greater" : "less", a, b);
    if (a == b || is_held_out_text(exercise.question) != held_out) continue;
    const int64_t chosen = (a > b) == greater ? a : b;
    exercise.thoughts =
        a / 10 == b / 10 ? fmt::format("Tens: {} and {} are equal. Units: {} and {}.", a / 10, b / 10, a % 10, b % 10)
                         : fmt::format("Tens: {} and {}.", a / 10, b / 10);
    exercise.answer = fmt::format("{} is {}.", chosen, greater ? "greater" : "less");
    exercise.key = std::to_string(chosen);
    return exercise;
  }
}

Exercise word_problem(Random& random, bool held_out) {
  const bool more = random.chance(0.5);
  const Pair pair = draw_pair(random, more ? '+' : '-', held_out, [&](Pair p) { return more || p.a > p.b; });
  constexpr std::array<std::string_view, 14> goods = {"apples",  "pears", "marbles", "shells",  "coins",
                                                      "buttons", "nuts",  "stamps",  "pencils", "books",
                                                      "cards",   "beads", "plums",   "stones"};
  const bool girl = random.chance(0.5);
  Grammar grammar(random);
  grammar.set("h", std::string(girl ? random.pick(words::girls) : random.pick(words::boys)));
  std::string other;
  do {
    other = random.chance(0.5) ? random.pick(words::girls) : random.pick(words::boys);
  } while (other == grammar.get("h"));
  grammar.set("f", other);
  grammar.set("he", girl ? "she" : "he");
  grammar.set("him", girl ? "her" : "him");
  grammar.set("goods", std::string(random.pick(goods)));
  grammar.set("a", std::to_string(pair.a));
  grammar.set("b", std::to_string(pair.b));
  const int64_t result = more ? pair.a + pair.b : pair.a - pair.b;
  grammar.set("c", std::to_string(result));
  Exercise exercise;
  exercise.question = grammar.expand(
      more ? "{$h has $a $goods. $f gives $him $b more.|There are $a $goods in the box. $h puts $b more into it.|$h "
             "finds "
             "$a $goods and later $b more.} How many $goods are there now?"
           : "{$h has $a $goods. ^$he gives $b of them to $f.|There are $a $goods in the box. $h takes $b of them "
             "out.|$h has $a $goods and loses $b of them.} How many $goods are left?");
  exercise.thoughts = (more ? fmt::format("We add: {} + {}. ", pair.a, pair.b) + sum_steps(pair)
                            : fmt::format("We subtract: {} - {}. ", pair.a, pair.b) + difference_steps(pair));
  exercise.answer = grammar.expand(more ? "There are $c $goods now." : "$c $goods are left.");
  exercise.key = std::to_string(result);
  return exercise;
}

}  // namespace

bool is_held_out_pair(char operation, int64_t a, int64_t b) {
  if (a < 10 || b < 10 || a > 99 || b > 99) return false;
  if (operation != '-' && a > b) std::swap(a, b);
  return mix64(static_cast<uint64_t>(operation) * 10'000 + static_cast<uint64_t>(a * 100 + b)) % 10 == 0;
}

bool is_held_out_text(std::string_view question) {
  return mix64(hash_text(question)) % 10 == 0;
}

std::vector<std::string> arithmetic_tasks() {
  return {"addition", "subtraction", "multiplication", "comparison", "word problem"};
}

Exercise arithmetic_exercise(Random& random, const std::string& task, bool held_out) {
  // By weight: sums are what the model is measured by.
  constexpr std::array<std::string_view, 10> drawn = {"addition",     "addition",    "addition",       "addition",
                                                      "subtraction",  "subtraction", "multiplication", "comparison",
                                                      "word problem", "word problem"};
  const std::string name = task.empty() ? std::string(random.pick(drawn)) : task;
  Exercise exercise;
  if (name == "addition") {
    exercise = addition(random, held_out);
  } else if (name == "subtraction") {
    exercise = subtraction(random, held_out);
  } else if (name == "multiplication") {
    exercise = multiplication(random, held_out);
  } else if (name == "comparison") {
    exercise = comparison(random, held_out);
  } else if (name == "word problem") {
    exercise = word_problem(random, held_out);
  } else {
    throw_bad_input("The kind arithmetic has no task \"{}\"", name);
  }
  exercise.task = name;
  exercise.rule = JudgeRule::last_number;
  return exercise;
}

}  // namespace fathom
