#include <algorithm>
#include <array>
#include <span>

#include "base/error.h"
#include "data/grammar.h"
#include "data/tasks.h"
#include "data/words.h"

namespace fathom {
namespace {

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

struct Category {
  std::string_view name;
  std::span<const std::string_view> words;
};

const std::array<Category, 3>& categories() {
  static const std::array<Category, 3> list = {
      {{"fruits", words::fruits}, {"animals", words::beasts}, {"things", words::things}}};
  return list;
}

std::vector<std::string> draw_words(Random& random, size_t count) {
  std::vector<std::string> list;
  const Category& category = random.pick(categories());
  const bool mixed = random.chance(0.3);
  while (list.size() < count) {
    const Category& from = mixed ? random.pick(categories()) : category;
    const std::string word(from.words[random.below(from.words.size())]);
    if (std::find(list.begin(), list.end(), word) == list.end()) list.push_back(word);
  }
  return list;
}

std::vector<int64_t> draw_numbers(Random& random, size_t count) {
  std::vector<int64_t> list;
  while (list.size() < count) {
    const int64_t number = random.between(1, 99);
    if (std::find(list.begin(), list.end(), number) == list.end()) list.push_back(number);
  }
  return list;
}

std::vector<std::string> as_text(const std::vector<int64_t>& numbers) {
  std::vector<std::string> text;
  for (const int64_t number : numbers) text.push_back(std::to_string(number));
  return text;
}

// Items of any kind, few alike: what follows in a copy can only be looked up.
Exercise of_copy(Random& random) {
  std::vector<std::string> list;
  const size_t count = static_cast<size_t>(random.between(3, 14));
  const bool numbers = random.chance(0.3);
  while (list.size() < count) {
    if (numbers || random.chance(0.2)) {
      list.push_back(std::to_string(random.between(0, 9999)));
      continue;
    }
    const Category& from = random.pick(categories());
    std::string item(from.words[random.below(from.words.size())]);
    if (random.chance(0.4)) item = std::string(random.pick(words::colours)) + " " + item;
    list.push_back(item);
  }
  Exercise exercise;
  exercise.question = fmt::format("Repeat this list: {}.", joined(list));
  exercise.key = joined(list);
  return exercise;
}

Exercise of_words(Random& random, const std::string& task) {
  std::vector<std::string> list = draw_words(random, static_cast<size_t>(random.between(3, 6)));
  Exercise exercise;
  const std::string given = joined(list);
  if (task == "sort words") {
    exercise.question = fmt::format("Sort these words: {}.", given);
    std::sort(list.begin(), list.end());
    exercise.key = joined(list);
  } else if (task == "reverse") {
    exercise.question = fmt::format("Reverse this list: {}.", given);
    std::reverse(list.begin(), list.end());
    exercise.key = joined(list);
  } else if (task == "count") {
    exercise.question = fmt::format("How many words are in this list: {}?", given);
    exercise.key = std::to_string(list.size());
  } else if (task == "pick") {
    constexpr std::array<std::string_view, 4> names = {"first", "second", "third", "last"};
    const size_t which = random.below(names.size());
    exercise.question = fmt::format("What is the {} word in this list: {}?", names[which], given);
    exercise.key = which == 3 ? list.back() : list[which];
  } else {  // "first letter"
    const char letter = random.pick(list)[0];
    exercise.question = fmt::format("Which words in this list begin with {}: {}?", letter, given);
    std::erase_if(list, [&](const std::string& word) { return word[0] != letter; });
    exercise.key = joined(list);
  }
  return exercise;
}

Exercise of_numbers(Random& random, const std::string& task) {
  std::vector<int64_t> list = draw_numbers(random, static_cast<size_t>(random.between(3, 6)));
  Exercise exercise;
  const std::string given = joined(as_text(list));
  if (task == "sort numbers") {
    const bool down = random.chance(0.4);
    exercise.question = fmt::format("Sort these numbers{}: {}.", down ? " from greatest to least" : "", given);
    std::sort(list.begin(), list.end());
    if (down) std::reverse(list.begin(), list.end());
    exercise.key = joined(as_text(list));
  } else if (task == "extreme") {
    const bool greatest = random.chance(0.5);
    exercise.question = fmt::format("What is the {} of these numbers: {}?", greatest ? "greatest" : "least", given);
    const auto [least, most] = std::minmax_element(list.begin(), list.end());
    exercise.key = std::to_string(greatest ? *most : *least);
  } else {  // "filter"
    const int64_t wanted = list[random.below(list.size())] % 2;
    exercise.question = fmt::format("Which of these numbers are {}: {}?", wanted == 0 ? "even" : "odd", given);
    std::erase_if(list, [&](int64_t number) { return number % 2 != wanted; });
    exercise.key = joined(as_text(list));
  }
  return exercise;
}

}  // namespace

std::vector<std::string> list_tasks() {
  return {"repeat", "sort words", "reverse", "count", "pick", "first letter", "sort numbers", "extreme", "filter"};
}

Exercise list_exercise(Random& random, const std::string& task, bool held_out) {
  const std::vector<std::string> tasks = list_tasks();
  const std::string name = task.empty() ? tasks[random.below(tasks.size())] : task;
  const auto found = std::find(tasks.begin(), tasks.end(), name);
  if (found == tasks.end()) throw_bad_input("The kind list has no task \"{}\"", name);
  while (true) {
    Exercise exercise = found == tasks.begin()      ? of_copy(random)
                        : found - tasks.begin() < 6 ? of_words(random, name)
                                                    : of_numbers(random, name);
    if (is_held_out_text(exercise.question) != held_out) continue;
    exercise.task = name;
    exercise.answer = exercise.key;
    exercise.rule = JudgeRule::equal;
    return exercise;
  }
}

}  // namespace fathom
