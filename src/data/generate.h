#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/random.h"
#include "text/chat_template.h"

namespace fathom {

/// What the generated corpus is made of.
enum class DocumentKind { story, arithmetic, retrieval, list, code, dialogue, drill };
/// The mixture; drills come only where they are asked for.
inline constexpr std::array<DocumentKind, 6> all_document_kinds = {DocumentKind::story,     DocumentKind::arithmetic,
                                                                   DocumentKind::retrieval, DocumentKind::list,
                                                                   DocumentKind::code,      DocumentKind::dialogue};
/// "story", "arithmetic", "retrieval", "list", "code", "dialogue", "drill".
std::string_view document_kind_name(DocumentKind kind);
std::optional<DocumentKind> document_kind_from_name(std::string_view name);

/// A document: a text, or a conversation whose last answer may begin with "<think>…</think>".
struct Document {
  DocumentKind kind = DocumentKind::story;
  std::string text;
  std::vector<ChatMessage> messages;
};

struct DocumentOptions {
  int64_t longest_retrieval_words = 900;  ///< of filler between facts and questions; lengths are drawn up to it
  bool alike_facts = false;               ///< retrieval: see retrieval_task
  std::string task;                       ///< of arithmetic, retrieval and lists: one task; empty: all of them
};

/// One document of the training stream. It uses nothing of the held-out part of the item space. The same numbers give
/// the same document. `bad_input` if the kind has no such task.
Document make_document(DocumentKind kind, Random& random, const DocumentOptions& options = {});

/// Draws the kind of the next document: of 100 documents of all kinds but drills, 24 are stories, 18 arithmetic, 22
/// retrieval, 20 lists, 6 code, 10 dialogues.
DocumentKind draw_kind(Random& random, const std::vector<DocumentKind>& among);

/// How an answer is compared with the expected one.
enum class JudgeRule {
  last_number,  ///< the last whole number that is said
  contains,     ///< the key stands in it, as whole words, whatever the letters' case
  equal,        ///< the same but for blanks around, a full stop at the end and a code fence
};

/// A question with one right answer.
struct EvaluationItem {
  DocumentKind kind = DocumentKind::arithmetic;
  std::string task;                   ///< "addition", "subtraction", "codes", "sort", …
  std::vector<ChatMessage> messages;  ///< the prompt, as messages
  bool thinking = false;              ///< asked with the generation prompt of thinking
  std::string answer;                 ///< what the training documents answer
  std::string key;                    ///< what is judged
  JudgeRule rule = JudgeRule::contains;
  int64_t distance_bytes = 0;  ///< retrieval: text between the fact and the question
};

struct ItemOptions {
  std::string task;          ///< one task of the kind; empty: any
  int64_t filler_words = 0;  ///< retrieval: at least so many words between fact and question; 0: drawn up to 900
};

/// An item of the held-out part: no training document holds it. `bad_input` if the kind has no such task, or none at
/// all (stories).
EvaluationItem make_item(DocumentKind kind, Random& random, const ItemOptions& options = {});
/// The tasks of a kind.
std::vector<std::string> evaluation_tasks(DocumentKind kind);

/// True if a model's output answers the item. Thoughts up to the last "</think>" are not looked at.
bool judge(const EvaluationItem& item, std::string_view output);

/// A tenth of the pairs of two-digit numbers of each operation ('+', '-', '*') are held out; for sums and products
/// whatever their order.
bool is_held_out_pair(char operation, int64_t a, int64_t b);
/// A tenth of all other items, by a hash of what they ask.
bool is_held_out_text(std::string_view question);

}  // namespace fathom
