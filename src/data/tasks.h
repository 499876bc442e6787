#pragma once
#include <string>
#include <vector>

#include "data/generate.h"
#include "data/random.h"

namespace fathom {

/// A question, what is thought and what is answered; the parts of documents and of evaluation items.
struct Exercise {
  std::string task;
  std::string question;
  std::string thoughts;  ///< empty: answered at once
  std::string answer;
  std::string key;
  JudgeRule rule = JudgeRule::contains;
  int64_t distance_bytes = 0;
};

/// Exercises of a kind, from the training part or the held-out part of its item space. `task`: empty, or one of the
/// kind's tasks.
Exercise arithmetic_exercise(Random& random, const std::string& task, bool held_out);
Exercise list_exercise(Random& random, const std::string& task, bool held_out);
Exercise code_exercise(Random& random, bool held_out);

/// A text with 2 to 5 facts in it (or `facts`) and a question about each, the first about the fact that stands first.
/// `words` of filler lie between the first fact and the end. `alike`: most facts are about things that share their
/// colour or their noun.
struct RetrievalTask {
  std::string passage;
  std::vector<Exercise> exercises;
};
RetrievalTask retrieval_task(Random& random, const std::string& task, bool held_out, int64_t words, int64_t facts = 0,
                             bool alike = false);

std::vector<std::string> arithmetic_tasks();
std::vector<std::string> list_tasks();
std::vector<std::string> retrieval_tasks();

}  // namespace fathom
