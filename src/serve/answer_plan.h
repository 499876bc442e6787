#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "serve/chat_request.h"
#include "serve/served_model.h"
#include "text/answer_splitter.h"

namespace fathom {

/// Grammars that were compiled for this vocabulary; the ones used latest are kept, with the masks that they have
/// computed. Threads: any; two that ask for the same new grammar at once both compile it.
class ConstraintCache {
 public:
  explicit ConstraintCache(std::shared_ptr<const TokenTrie> trie) : trie_(std::move(trie)) {}
  /// `key` names the grammar that `make` makes. Throws what `make` and Constraint throw.
  template <typename Make>
  std::shared_ptr<const Constraint> get(const std::string& key, const Make& make) {
    if (auto found = find(key)) return found;
    auto made = std::make_shared<const Constraint>(make(), trie_);
    keep(key, made);
    return made;
  }

 private:
  static constexpr size_t kMost = 64;
  std::shared_ptr<const Constraint> find(const std::string& key);
  void keep(const std::string& key, std::shared_ptr<const Constraint> constraint);

  std::shared_ptr<const TokenTrie> trie_;
  std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<const Constraint>>> kept_;  // the latest first
};

/// A chat as the engine computes it: a request per choice, and how their tokens become an answer's parts.
struct ChatPlan {
  std::vector<EngineRequest> requests;
  AnswerSplitOptions splitter;
};

/// Throws ApiError for what only shows itself here: a prompt longer than the context (400, context_length_exceeded), a
/// schema or grammar that cannot be compiled, a template that cannot render the messages.
ChatPlan plan_chat(const ChatRequest& request, const ServedModel& model, ConstraintCache& constraints);
std::vector<EngineRequest> plan_completion(const CompletionRequest& request, const ServedModel& model,
                                           ConstraintCache& constraints);

/// The prompt's ids alone, generation prompt included, for `/tokenize`.
std::vector<int32_t> chat_ids(const std::vector<ChatMessage>& messages, const ServedModel& model, bool thinking);

}  // namespace fathom
