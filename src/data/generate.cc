#include "data/generate.h"

#include <algorithm>

#include "base/error.h"
#include "data/dialogue.h"
#include "data/drill.h"
#include "data/story.h"
#include "data/tasks.h"

namespace fathom {
namespace {

ChatMessage message(const char* role, std::string content) {
  ChatMessage result;
  result.role = role;
  result.content = std::move(content);
  return result;
}

std::string with_thoughts(const Exercise& exercise, bool thinking) {
  if (!thinking || exercise.thoughts.empty()) return exercise.answer;
  return "<think>" + exercise.thoughts + "</think>" + exercise.answer;
}

void add_exchange(Document& document, const Exercise& exercise, bool thinking) {
  document.messages.push_back(message("user", exercise.question));
  document.messages.push_back(message("assistant", with_thoughts(exercise, thinking)));
}

/// Sums as running text: the same steps without a conversation around them.
std::string arithmetic_text(Random& random, const std::string& task) {
  std::string text;
  for (int64_t left = random.between(2, 6); left > 0; --left) {
    const Exercise exercise = arithmetic_exercise(random, task, false);
    if (!text.empty()) text += "\n";
    text += exercise.question + " " + exercise.thoughts + (exercise.thoughts.empty() ? "" : " ") + exercise.answer;
  }
  return text;
}

std::string list_text(Random& random, const std::string& task) {
  std::string text;
  for (int64_t left = random.between(2, 5); left > 0; --left) {
    const Exercise exercise = list_exercise(random, task, false);
    text += (text.empty() ? "" : "\n") + exercise.question + " " + exercise.answer;
  }
  return text;
}

/// Lengths are spread over octaves: most are short, the longest come too. (No logarithms: the last bits of those differ
/// between systems.)
int64_t draw_filler(Random& random, int64_t longest) {
  constexpr int64_t least = 20;
  int64_t octaves = 0;
  while (least << (octaves + 1) <= longest) ++octaves;
  const int64_t low = least << random.below(static_cast<size_t>(octaves + 1));
  return random.between(low, std::max(low, std::min(2 * low, longest)));
}

// Most of them are dense, many facts and all of them asked: looking something up is learned from having to do it often.
Document retrieval_document(Random& random, const DocumentOptions& options) {
  Document document;
  const bool dense = random.chance(0.75);
  const int64_t words = dense ? random.between(0, 40) : draw_filler(random, options.longest_retrieval_words);
  const RetrievalTask task =
      retrieval_task(random, options.task, false, words, dense ? random.between(4, 10) : 0, options.alike_facts);
  std::vector<Exercise> asked = task.exercises;
  random.shuffle(asked);
  asked[0].question = task.passage + "\n\n" + asked[0].question;
  for (const Exercise& exercise : asked) add_exchange(document, exercise, false);
  return document;
}

std::string trimmed(std::string_view text) {
  const char* blanks = " \n\r\t";
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(blanks) - begin + 1));
}

/// Without a code fence or a full stop that only dresses the answer.
std::string plain_answer(std::string_view output) {
  std::string text = trimmed(output);
  if (text.starts_with("```") && text.ends_with("```") && text.size() > 6) {
    const size_t line = text.find('\n');
    if (line != std::string::npos) text = trimmed(std::string_view(text).substr(line, text.size() - line - 3));
  }
  if (!text.empty() && text.back() == '.') text.pop_back();
  return text;
}

bool is_word(char character) {
  return (character >= 'a' && character <= 'z') || (character >= '0' && character <= '9');
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

bool contains_words(const std::string& text, const std::string& key) {
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
    const size_t end = at + key.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]))) return true;
  }
  return false;
}

std::string last_number(std::string_view text) {
  const char* digits = "0123456789";
  const size_t last = text.find_last_of(digits);
  if (last == std::string_view::npos) return "";
  size_t begin = last;
  while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
  if (begin > 0 && text[begin - 1] == '-' && (begin == 1 || text[begin - 2] == ' ')) --begin;
  return std::string(text.substr(begin, last - begin + 1));
}

EvaluationItem item_of(DocumentKind kind, const Exercise& exercise) {
  EvaluationItem item;
  item.kind = kind;
  item.task = exercise.task;
  item.thinking = !exercise.thoughts.empty();
  item.messages = {message("user", exercise.question)};
  item.answer = exercise.answer;
  item.key = exercise.key;
  item.rule = exercise.rule;
  item.distance_bytes = exercise.distance_bytes;
  return item;
}

struct KindName {
  DocumentKind kind;
  std::string_view name;
  size_t weight;  // of 100 documents
};
constexpr std::array<KindName, 7> kinds = {{{DocumentKind::story, "story", 24},
                                            {DocumentKind::arithmetic, "arithmetic", 18},
                                            {DocumentKind::retrieval, "retrieval", 22},
                                            {DocumentKind::list, "list", 20},
                                            {DocumentKind::code, "code", 6},
                                            {DocumentKind::dialogue, "dialogue", 10},
                                            {DocumentKind::drill, "drill", 100}}};

size_t weight_of(DocumentKind kind) {
  return kinds[static_cast<size_t>(kind)].weight;
}

void check_task(DocumentKind kind, const std::string& task) {
  if (task.empty()) return;
  const std::vector<std::string> tasks = evaluation_tasks(kind);
  if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) {
    throw_bad_input("The kind {} has no task \"{}\"", document_kind_name(kind), task);
  }
}

}  // namespace

std::string_view document_kind_name(DocumentKind kind) {
  return kinds[static_cast<size_t>(kind)].name;
}

std::optional<DocumentKind> document_kind_from_name(std::string_view name) {
  for (const KindName& kind : kinds) {
    if (kind.name == name) return kind.kind;
  }
  return std::nullopt;
}

DocumentKind draw_kind(Random& random, const std::vector<DocumentKind>& among) {
  size_t total = 0;
  for (const DocumentKind kind : among) total += weight_of(kind);
  size_t drawn = random.below(total);
  for (const DocumentKind kind : among) {
    if (drawn < weight_of(kind)) return kind;
    drawn -= weight_of(kind);
  }
  return among.back();
}

Document make_document(DocumentKind kind, Random& random, const DocumentOptions& options) {
  check_task(kind, options.task);
  Document document;
  switch (kind) {
    case DocumentKind::drill:
      document.text = drill_text(random);
      break;
    case DocumentKind::story:
      document.text = make_story(random).text;
      break;
    case DocumentKind::arithmetic:
      if (random.chance(0.3)) {
        document.text = arithmetic_text(random, options.task);
      } else {
        add_exchange(document, arithmetic_exercise(random, options.task, false), true);
      }
      break;
    case DocumentKind::retrieval:
      document = retrieval_document(random, options);
      break;
    case DocumentKind::list: {
      // Half of them only repeat: a model that copies has made the first step to looking things up.
      std::string task = random.chance(0.5) ? "repeat" : "";
      if (!options.task.empty()) task = options.task;
      if (random.chance(0.3)) {
        document.text = list_text(random, task);
      } else {
        for (int64_t left = random.between(1, 3); left > 0; --left) {
          add_exchange(document, list_exercise(random, task, false), false);
        }
      }
      break;
    }
    case DocumentKind::code:
      // Asked without thinking too, but mostly with: the trace is what there is to learn.
      add_exchange(document, code_exercise(random, false), random.chance(0.8));
      break;
    case DocumentKind::dialogue:
      document.messages = make_dialogue(random);
      break;
  }
  document.kind = kind;
  return document;
}

std::vector<std::string> evaluation_tasks(DocumentKind kind) {
  switch (kind) {
    case DocumentKind::arithmetic:
      return arithmetic_tasks();
    case DocumentKind::retrieval:
      return retrieval_tasks();
    case DocumentKind::list:
      return list_tasks();
    case DocumentKind::code:
      return {"output"};
    case DocumentKind::dialogue:
      return {"story question"};
    case DocumentKind::story:
    case DocumentKind::drill:
      return {};
  }
  return {};
}

EvaluationItem make_item(DocumentKind kind, Random& random, const ItemOptions& options) {
  if (evaluation_tasks(kind).empty()) {
    throw_bad_input("The kind {} has no items with one right answer", document_kind_name(kind));
  }
  check_task(kind, options.task);
  switch (kind) {
    case DocumentKind::arithmetic:
      return item_of(kind, arithmetic_exercise(random, options.task, true));
    case DocumentKind::list:
      return item_of(kind, list_exercise(random, options.task, true));
    case DocumentKind::code: {
      Exercise exercise;
      do {
        exercise = code_exercise(random, true);
      } while (exercise.thoughts.empty());
      return item_of(kind, exercise);
    }
    case DocumentKind::dialogue:
      return item_of(kind, story_question(random, true));
    case DocumentKind::retrieval:
    case DocumentKind::drill:
    case DocumentKind::story:
      break;
  }
  const int64_t words = options.filler_words > 0 ? options.filler_words : draw_filler(random, 900);
  const RetrievalTask task = retrieval_task(random, options.task, true, words);
  Exercise exercise = task.exercises[0];
  exercise.question = task.passage + "\n\n" + exercise.question;
  return item_of(kind, exercise);
}

bool judge(const EvaluationItem& item, std::string_view output) {
  constexpr std::string_view think_end = "</think>";
  if (const size_t thought = output.rfind(think_end); thought != std::string_view::npos) {
    output.remove_prefix(thought + think_end.size());
  }
  switch (item.rule) {
    case JudgeRule::last_number:
      return last_number(output) == item.key;
    case JudgeRule::contains:
      return contains_words(lower(std::string(output)), lower(item.key));
    case JudgeRule::equal:
      return plain_answer(output) == plain_answer(item.key);
  }
  return false;
}

}  // namespace fathom
