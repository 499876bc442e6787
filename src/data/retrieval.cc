#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "data/grammar.h"
#include "data/story.h"
#include "data/tasks.h"
#include "data/words.h"

namespace fathom {
namespace {

struct Fact {
  std::string sentence, question, key;
};

// What facts are about.
struct Subjects {
  std::vector<std::string_view> colours{words::colours.begin(), words::colours.end()};
  std::vector<std::string_view> containers{words::containers.begin(), words::containers.end()};
  std::vector<std::string_view> things{words::things.begin(), words::things.end()};
};

const Subjects& all_subjects() {
  static const Subjects subjects;
  return subjects;
}

// So few that most facts share a colour or a noun with another one: neither alone tells which is asked for.
Subjects alike_subjects(Random& random, size_t facts) {
  size_t side = 2;
  while (side * side < 2 * facts) ++side;
  Subjects subjects;
  for (auto* list : {&subjects.colours, &subjects.containers, &subjects.things}) {
    random.shuffle(*list);
    list->resize(side);
  }
  return subjects;
}

/// One fact about something that is not yet in `taken`. Where few subjects are all taken or of the other part of the
/// item space, any is drawn.
Fact draw_fact(Random& random, const Subjects& given, const std::string& task, bool held_out,
               std::set<std::string>& taken) {
  constexpr int kTries = 100;
  for (int tries = 0;; ++tries) {
    const Subjects& subjects = tries < kTries ? given : all_subjects();
    Grammar grammar(random);
    Fact fact;
    std::string about;
    if (task == "codes") {
      about = fmt::format("{} {}", random.pick(subjects.colours), random.pick(subjects.containers));
      fact.key = fmt::format("{}", random.between(1000, 9999));
      fact.sentence = fmt::format("The code of the {} is {}.", about, fact.key);
      fact.question = fmt::format("What is the code of the {}?", about);
    } else if (task == "words") {
      about = random.chance(0.5) ? random.pick(words::girls) : random.pick(words::boys);
      fact.key = random.chance(0.5) ? random.pick(words::fruits) : random.pick(words::beasts);
      fact.sentence = fmt::format("The secret word of {} is {}.", about, fact.key);
      fact.question = fmt::format("What is the secret word of {}?", about);
    } else {  // "places"
      about = fmt::format("{} {}", random.pick(subjects.colours), random.pick(subjects.things));
      fact.key = random.pick(words::house_spots);
      fact.sentence = fmt::format("The {} is {}.", about, fact.key);
      fact.question = fmt::format("Where is the {}?", about);
    }
    if (is_held_out_text(fact.question) != held_out || !taken.insert(about).second) continue;
    return fact;
  }
}

int64_t count_words(std::string_view text) {
  return 1 + std::count_if(text.begin(), text.end(), [](char c) { return c == ' ' || c == '\n'; });
}

std::vector<std::string> paragraphs_of(const std::string& text) {
  std::vector<std::string> list;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find("\n\n", at), text.size());
    list.push_back(text.substr(at, end - at));
    at = end + 2;
  }
  return list;
}

}  // namespace

std::vector<std::string> retrieval_tasks() {
  return {"codes", "words", "places"};
}

RetrievalTask retrieval_task(Random& random, const std::string& task, bool held_out, int64_t words, int64_t asked_for,
                             bool alike) {
  const std::vector<std::string> tasks = retrieval_tasks();
  if (!task.empty() && std::find(tasks.begin(), tasks.end(), task) == tasks.end()) {
    throw_bad_input("The kind retrieval has no task \"{}\"", task);
  }
  const auto draw_task = [&] { return !task.empty() ? task : (random.chance(0.6) ? tasks[0] : random.pick(tasks)); };
  // The fact that is asked first stands first; the others are scattered over the filler.
  std::set<std::string> taken;
  std::vector<Fact> facts;
  std::vector<std::string> fact_tasks;
  const auto count = static_cast<size_t>(asked_for > 0 ? asked_for : random.between(2, 5));
  const Subjects subjects = alike ? alike_subjects(random, count) : all_subjects();
  for (size_t i = 0; i < count; ++i) {
    fact_tasks.push_back(draw_task());
    facts.push_back(draw_fact(random, subjects, fact_tasks.back(), held_out, taken));
  }
  std::vector<std::string> parts;
  int64_t have = 0;
  while (have < words) {
    for (std::string& paragraph : paragraphs_of(make_story(random).text)) {
      if (have >= words) break;
      have += count_words(paragraph);
      parts.push_back(std::move(paragraph));
    }
  }
  for (size_t i = 1; i < facts.size(); ++i) {
    const size_t at = random.below(parts.size() + 1);
    parts.insert(parts.begin() + static_cast<std::ptrdiff_t>(at), facts[i].sentence);
  }
  parts.insert(parts.begin(), facts[0].sentence);
  RetrievalTask result;
  for (const std::string& part : parts) result.passage += (result.passage.empty() ? "" : "\n\n") + part;
  for (size_t i = 0; i < facts.size(); ++i) {
    Exercise exercise;
    exercise.task = fact_tasks[i];
    exercise.question = facts[i].question;
    exercise.answer = facts[i].sentence;
    exercise.key = facts[i].key;
    exercise.rule = JudgeRule::contains;
    exercise.distance_bytes =
        static_cast<int64_t>(result.passage.size() - result.passage.find(facts[i].sentence) - facts[i].sentence.size());
    result.exercises.push_back(std::move(exercise));
  }
  return result;
}

}  // namespace fathom
