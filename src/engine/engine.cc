#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

constexpr int64_t kPage = LatentPool::kPage;

// Of a page that agrees in fewer tokens nothing is used: it would be copied for little, and what is found can change
// the form of a prompt's attention.
constexpr int64_t kLeastPart = 16;

// So many positions of a prefix are computed again where that lets the MTP layer go on from them.
constexpr int64_t kMostWithoutMtp = 16;

void check_options(const LoadedModel& model, const EngineOptions& options) {
  const auto least = [](int64_t value, int64_t bound, std::string_view name) {
    if (value < bound) throw_bad_input("{} must be at least {}; it is {}.", name, bound, value);
  };
  least(options.cache_pages, 1, "The cache's number of pages");
  least(options.most_running, 1, "The number of requests that run at once");
  least(options.most_waiting, 1, "The number of requests that wait");
  least(options.most_prefill, 1, "The prompt tokens of a step beside decoding requests");
  least(options.drafts, 0, "The number of drafts");
  // Every running request decodes in each step, with its drafts.
  least(options.most_tokens, (1 + options.drafts) * options.most_running,
        "The number of tokens of a step (for each running request one and its drafts)");
  if (options.drafts > 0 && model.config.num_nextn_predict_layers == 0) {
    throw_bad_input("{}: the model has no MTP layer (num_nextn_predict_layers is 0) to speculate with.",
                    model.checkpoint->directory());
  }
}

/// The first of the greatest, as in sampling.
int32_t arg_max(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::insufficient_system_resource:
      return "insufficient_system_resource";
    case FinishReason::error:
      return "error";
  }
  return "?";
}

Engine::Sequence::Sequence(int64_t number, EngineRequest&& from, LatentPool& pool)
    : id(number), request(std::move(from)), sampler(request.sampling), cache(pool), tokens(request.prompt) {
  sampler.observe_prompt(request.prompt);
  if (request.constraint) {
    grammar.emplace(request.constraint, request.constraint_after, request.constraint_optional);
  }
  usage.prompt_tokens = prompt();
}

Engine::Engine(const LoadedModel& model, const EngineOptions& options, ThreadTeam& team)
    : model_(model),
      options_((check_options(model, options), options)),
      team_(team),
      workspace_(model, options.most_tokens, team.size()),
      pool_(model.config, model.cache_dtype(), options.cache_pages),
      tree_(pool_) {
  if (options_.store) stored_page_.resize(stored_page_bytes(model));
}

int64_t plan_cache_pages(const LoadedModel& model, int64_t wanted, int64_t least, const SystemMemory& memory) {
  if (memory.available_bytes == 0) return wanted;
  const size_t page = LatentPool::bytes_for(model.config, model.cache_dtype(), 1);
  const auto fit = static_cast<int64_t>(memory.available_bytes / 2 / page);
  if (fit < least) {
    throw_failure(
        "The latent cache needs {:.1f} GB for {} positions; {:.1f} GB of memory are free, and half of that may be "
        "taken. "
        "A shorter context or an FP8 cache needs less.",
        static_cast<double>(page) * static_cast<double>(least) / 1e9, least * kPage,
        static_cast<double>(memory.available_bytes) / 1e9);
  }
  return std::min(wanted, fit);
}

size_t stored_page_bytes(const LoadedModel& model) {
  return LatentPool::bytes_for(model.config, model.cache_dtype(), 1) + 1;
}

bool Engine::before(const Sequence& a, const Sequence& b) {
  return a.request.priority != b.request.priority ? a.request.priority > b.request.priority : a.id < b.id;
}

template <typename List>
void Engine::insert_in_order(List& list, Pointer sequence) {
  const auto behind =
      std::find_if(list.begin(), list.end(), [&](const Pointer& other) { return before(*sequence, *other); });
  list.insert(behind, std::move(sequence));
}

bool Engine::Sequence::ends_with(int32_t token) const {
  return std::find(request.end_tokens.begin(), request.end_tokens.end(), token) != request.end_tokens.end();
}

int64_t Engine::submit(EngineRequest request) {
  check_tokens(model_.config, request.prompt);
  if (request.max_new_tokens < 1) {
    throw_bad_input("max_new_tokens must be at least 1; {} was given", request.max_new_tokens);
  }
  const auto length = std::ssize(request.prompt);
  const int64_t most = model_.config.max_position_embeddings;
  if (most > 0 && length > most) {
    throw_bad_input("The prompt has {} tokens; the model has {} positions (max_position_embeddings).", length, most);
  }
  if (length > pool_.pages() * kPage) {
    throw_bad_input("The prompt has {} tokens; the cache holds {} positions.", length, pool_.pages() * kPage);
  }
  if (waiting() >= options_.most_waiting) throw_failure("The queue is full: {} requests are waiting.", waiting());
  auto sequence = std::make_unique<Sequence>(next_id_, std::move(request), pool_);
  insert_in_order(waiting_, std::move(sequence));
  return next_id_++;
}

void Engine::cancel(int64_t request) {
  for (const Pointer& sequence : running_) sequence->cancelled = sequence->cancelled || sequence->id == request;
  for (const Pointer& sequence : waiting_) sequence->cancelled = sequence->cancelled || sequence->id == request;
}

const RequestUsage* Engine::usage(int64_t request) const {
  for (const Pointer& sequence : running_) {
    if (sequence->id == request) return &sequence->usage;
  }
  for (const Pointer& sequence : waiting_) {
    if (sequence->id == request) return &sequence->usage;
  }
  for (const Pointer& sequence : ended_) {
    if (sequence->id == request) return &sequence->usage;
  }
  return nullptr;
}

bool Engine::step(const std::function<void(const TokenEvent&)>& on_event) {
  if (running_.empty() && waiting_.empty()) return false;
  ended_.clear();
  end_cancelled(on_event);
  admit();
  std::vector<Part> parts = plan();
  if (parts.empty()) return !running_.empty() || !waiting_.empty();
  const auto decoding = std::count_if(parts.begin(), parts.end(), [](const Part& part) { return part.decodes; });
  const bool all_drafted = std::all_of(parts.begin(), parts.end(), [](const Part& part) { return part.drafts > 0; });
  const bool none_drafted = std::none_of(parts.begin(), parts.end(), [](const Part& part) { return part.drafts > 0; });
  int64_t tokens = 0;
  const auto begin = std::chrono::steady_clock::now();
  run(parts);
  draw(parts, [&](const TokenEvent& event) {
    tokens += event.token ? 1 : 0;
    on_event(event);
  });
  auto end = std::chrono::steady_clock::now();
  if (options_.drafts > 0) {
    draft(parts);
    // What a step without drafts costs leaves out the layer that is only kept ready.
    if (all_drafted) end = std::chrono::steady_clock::now();
    if (decoding == std::ssize(parts) && (all_drafted || none_drafted)) {
      policy_.record(decoding, all_drafted, std::chrono::duration<double>(end - begin).count(), tokens);
      if (!options_.always_draft && !policy_.pays(decoding)) stop_drafting();
    }
  }
  ++counters_.steps;
  return true;
}

bool Engine::drafts_pay() const {
  return options_.drafts > 0 && (options_.always_draft || policy_.pays(std::max<int64_t>(1, running())));
}

void Engine::stop_drafting() {
  for (const Pointer& sequence : running_) {
    sequence->drafting = false;
    sequence->drafts.clear();
  }
}

void Engine::end_cancelled(const std::function<void(const TokenEvent&)>& on_event) {
  for (size_t i = 0; i < waiting_.size();) {
    if (waiting_[i]->cancelled) {
      on_event({waiting_[i]->id, std::nullopt, FinishReason::cancelled, {}});
      ended_.push_back(std::move(waiting_[i]));
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  for (size_t i = 0; i < running_.size();) {
    running_[i]->cancelled ? end(i, FinishReason::cancelled, on_event) : void(++i);
  }
}

void Engine::end(size_t index, FinishReason reason, const Events& on_event, std::string error) {
  Sequence& sequence = *running_[index];
  keep_pages(sequence, true);
  sequence.cache.shrink(0);
  on_event({sequence.id, std::nullopt, reason, std::move(error)});
  ended_.push_back(std::move(running_[index]));
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
}

// After a preemption everything is computed again: pages of the tree may be others', in another form of attention.
bool Engine::looks_for_prefix(const Sequence& sequence) const {
  return options_.share_prefixes && !sequence.form;
}

// What the prompt of a running request will soon leave in the tree is waited for.
bool Engine::prefix_is_coming(const Sequence& sequence) const {
  const int64_t there = tree_.match(sequence.tokens) / kPage;
  for (const Pointer& other : running_) {
    if (other->held >= other->prompt()) continue;
    const auto most = static_cast<std::ptrdiff_t>(std::min(sequence.tokens.size() - 1, other->request.prompt.size()));
    const auto end =
        std::mismatch(other->request.prompt.begin(), other->request.prompt.begin() + most, sequence.tokens.begin());
    if ((end.first - other->request.prompt.begin()) / kPage > there) return true;
  }
  return false;
}

// Puts what is held of the sequence's tokens into its cache: from the tree, and further on from the store.
PrefixTree::Shared Engine::find_prefix(Sequence& sequence) {
  if (!looks_for_prefix(sequence)) return {};
  PrefixTree::Shared found = tree_.share(sequence.tokens, sequence.cache);
  if (!options_.store) return found;
  const int64_t stored = options_.store->match(sequence.tokens) / kPage;
  int64_t page = found.tokens / kPage;
  if (stored <= page) return found;
  found = {page * kPage, std::min(found.with_mtp, page * kPage)};
  sequence.cache.shrink(found.tokens);
  for (; page < stored; ++page) {
    const auto prefix = std::span(sequence.tokens).first(static_cast<size_t>((page + 1) * kPage));
    if (!tree_.free_pages(1) || !options_.store->load(prefix, stored_page_)) break;
    sequence.cache.reserve(std::ssize(prefix));
    std::memcpy(pool_.page(sequence.cache.ids().back()), stored_page_.data(), pool_.page_bytes());
    if (stored_page_.back() != std::byte{0} && found.with_mtp == found.tokens) found.with_mtp += kPage;
    found.tokens += kPage;
  }
  tree_.insert(std::span(sequence.tokens).first(static_cast<size_t>(found.tokens)), found.with_mtp, sequence.cache);
  return found;
}

void Engine::admit() {
  for (size_t i = 0; i < waiting_.size() && running() < options_.most_running;) {
    Sequence& sequence = *waiting_[i];
    if (looks_for_prefix(sequence) && prefix_is_coming(sequence)) {
      ++i;
      continue;
    }
    const PrefixTree::Shared found = find_prefix(sequence);
    // The last token is computed even if it is held: its logits are not.
    int64_t held = std::min(found.tokens, std::ssize(sequence.tokens) - 1);
    if (held % kPage < kLeastPart) held = held / kPage * kPage;
    if (options_.drafts > 0 && held - found.with_mtp <= kMostWithoutMtp) held = std::min(held, found.with_mtp);
    sequence.cache.shrink(held);
    // A request that must wait for room waits without holding pages; the first one always runs.
    const int64_t missing = LatentPool::pages_for(std::ssize(sequence.tokens)) - held / kPage;
    if (!tree_.free_pages(missing) && !running_.empty()) {
      sequence.cache.shrink(0);
      return;
    }
    if (held % kPage != 0 && !sequence.cache.own_page(held / kPage)) {
      held = held / kPage * kPage;
      sequence.cache.shrink(held);
    }
    sequence.held = held;
    sequence.mtp_held = std::min(held, found.with_mtp);
    sequence.drafting =
        options_.drafts > 0 && sequence.mtp_held == held && (options_.always_draft || policy_.admits(running() + 1));
    if (!sequence.form) {
      sequence.form = choose_attention(model_.config, sequence.prompt() - held, held);
      sequence.usage.hit_tokens = held;
    }
    insert_in_order(running_, std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

// The last of the running requests gives up its pages and waits for its turn again.
void Engine::preempt_last() {
  Pointer sequence = std::move(running_.back());
  running_.pop_back();
  keep_pages(*sequence, true);
  sequence->cache.shrink(0);
  sequence->held = sequence->mtp_held = 0;
  sequence->drafts.clear();
  ++sequence->usage.preemptions;
  ++counters_.preemptions;
  insert_in_order(waiting_, std::move(sequence));
}

// Room for so many positions of running_[index], taken from the tree or from requests behind it. False if it had to
// give way itself.
bool Engine::make_room(size_t index, int64_t positions) {
  Sequence& sequence = *running_[index];
  while (!sequence.cache.reserve(positions)) {
    const int64_t missing = LatentPool::pages_for(positions) - std::ssize(sequence.cache.ids());
    if (tree_.free_pages(missing)) continue;
    const bool itself = index + 1 == running_.size();
    preempt_last();
    if (itself) return false;
  }
  return true;
}

int64_t Engine::position_limit() const {
  const int64_t room = pool_.pages() * kPage;
  const int64_t most = model_.config.max_position_embeddings;
  return most > 0 ? std::min(most, room) : room;
}

std::vector<Engine::Part> Engine::plan() {
  // Requests are met in their order, so that room is only ever taken from those that are not planned yet.
  const auto decoding =
      std::count_if(running_.begin(), running_.end(), [](const Pointer& sequence) { return sequence->decodes(); });
  const bool verify = options_.always_draft || (options_.drafts > 0 && policy_.verifies(decoding));
  // Requests that do not decode yet leave the room that they will need.
  int64_t left = options_.most_tokens;
  if (decoding > 0) left = std::min(options_.most_prefill, left - (1 + options_.drafts) * running());
  left = std::max<int64_t>(left, decoding > 0 ? 0 : 1);
  std::vector<Part> parts;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    Part part{&sequence, 1};
    part.decodes = sequence.decodes();
    if (part.decodes) {
      const int64_t room = position_limit() - (sequence.held + 1);
      if (verify) {
        part.drafts = drafts_in_grammar(sequence, std::clamp<int64_t>(room, 0, std::ssize(sequence.drafts)));
      }
    } else {
      // The prompt's positions and those of drawn tokens (after a preemption) have attention of their own form.
      const int64_t until = sequence.held < sequence.prompt() ? sequence.prompt() : std::ssize(sequence.tokens);
      part.count = std::min(left, until - sequence.held);
      if (part.count == 0) continue;
    }
    if (!make_room(i, sequence.held + part.rows())) break;
    if (!part.decodes) left -= part.count;
    parts.push_back(part);
  }
  return parts;
}

AttentionForm Engine::form_of(const Part& part) const {
  const Sequence& sequence = *part.sequence;
  return part.position < sequence.prompt() ? *sequence.form : AttentionForm::absorbed;
}

void Engine::run(std::vector<Part>& parts) {
  std::vector<int32_t> tokens;
  std::vector<Span> spans;
  std::vector<int32_t> wanted;
  for (Part& part : parts) {
    Sequence& sequence = *part.sequence;
    part.position = sequence.held;
    part.first = std::ssize(tokens);
    const auto begin = sequence.tokens.begin() + sequence.held;
    tokens.insert(tokens.end(), begin, begin + part.count);
    tokens.insert(tokens.end(), sequence.drafts.begin(), sequence.drafts.begin() + part.drafts);
    spans.push_back({&sequence.cache, sequence.held, part.first, part.rows(), form_of(part)});
    (part.decodes ? counters_.decoded : counters_.prefilled) += part.rows();
    part.logits = std::ssize(wanted);
    if (sequence.missing() == part.count) {
      for (int64_t row = part.count - 1; row < part.rows(); ++row) {
        wanted.push_back(static_cast<int32_t>(part.first + row));
      }
    }
  }
  const int64_t experts_before = workspace_.experts_run;
  forward(model_, {tokens, spans}, workspace_, team_);
  counters_.experts_run += workspace_.experts_run - experts_before;
  const int64_t hidden = model_.config.hidden_size;
  if (options_.drafts > 0) {
    const auto* normed = workspace_.normed.as<float>();
    states_.assign(normed, normed + std::ssize(tokens) * hidden);
  }
  logits_.resize(wanted.size() * static_cast<size_t>(model_.config.vocab_size));
  if (!wanted.empty()) {
    compute_logits(model_, model_.weights.lm_head, wanted, workspace_, team_, logits_.data());
  }
}

std::span<const float> Engine::logits_row(int64_t row) const {
  const auto V = static_cast<size_t>(model_.config.vocab_size);
  return std::span(logits_).subspan(static_cast<size_t>(row) * V, V);
}

void Engine::draw(std::vector<Part>& parts, const std::function<void(const TokenEvent&)>& on_event) {
  for (Part& part : parts) {
    Sequence& sequence = *part.sequence;
    const bool complete = sequence.missing() == part.count;
    const bool first_time = sequence.held < sequence.prompt() && complete;
    sequence.held += part.count;
    if (part.position < sequence.prompt()) {
      sequence.usage.prefilled = std::min(sequence.held, sequence.prompt()) - sequence.usage.hit_tokens;
    }
    if (!complete) continue;
    std::optional<FinishReason> reason;
    std::string error;
    for (int64_t row = 0; row <= part.drafts && !reason; ++row) {
      SampledToken sampled;
      try {
        sampled = draw_token(sequence, logits_row(part.logits + row));
      } catch (const Error& problem) {
        if (!sequence.grammar) throw;
        reason = FinishReason::error;
        error = problem.what();
        break;
      }
      const int32_t token = sampled.token;
      const bool agrees = row < part.drafts && token == sequence.drafts[static_cast<size_t>(row)];
      if (agrees) {
        ++sequence.usage.accepted;
        ++counters_.accepted;
      }
      if (sequence.ends_with(token)) {
        reason = FinishReason::stop;
        break;
      }
      sequence.tokens.push_back(token);
      ++sequence.usage.new_tokens;
      ++counters_.tokens;
      on_event({sequence.id, std::move(sampled), std::nullopt, {}});
      if (sequence.grammar && sequence.grammar->must_end()) {
        reason = FinishReason::stop;
      } else if (sequence.usage.new_tokens == sequence.request.max_new_tokens) {
        reason = FinishReason::length;
      } else if (std::ssize(sequence.tokens) > position_limit()) {
        const int64_t most = model_.config.max_position_embeddings;
        reason = most > 0 && std::ssize(sequence.tokens) > most ? FinishReason::length
                                                                : FinishReason::insufficient_system_resource;
      }
      if (!agrees) break;
      ++sequence.held;
    }
    sequence.usage.drafts += part.drafts;
    counters_.drafts += part.drafts;
    sequence.drafts.clear();
    if (reason) {
      part.sequence = nullptr;
      const auto at =
          std::find_if(running_.begin(), running_.end(), [&](const Pointer& p) { return p.get() == &sequence; });
      end(static_cast<size_t>(at - running_.begin()), *reason, on_event, std::move(error));
    } else if (first_time && !sequence.drafting) {
      keep_pages(sequence, false);
    }
  }
}

SampledToken Engine::draw_token(Sequence& sequence, std::span<const float> logits) {
  if (!sequence.grammar) return sequence.sampler.sample(logits);
  ConstraintState& grammar = *sequence.grammar;
  if (!grammar.started() && grammar.may_end()) {
    SampledToken sampled = sequence.sampler.sample(logits);
    grammar.accept(sampled.token);
    return sampled;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto V = static_cast<int32_t>(model_.config.vocab_size);
  mask_.assign(static_cast<size_t>(std::max(V, sequence.request.constraint->trie().vocab_size()) + 63) / 64, 0);
  grammar.fill_mask(mask_);
  for (const int32_t token : sequence.request.end_tokens) {
    if (token < 0 || token >= V) continue;
    const uint64_t bit = uint64_t{1} << (token % 64);
    uint64_t& word = mask_[static_cast<size_t>(token / 64)];
    word = grammar.may_end() ? word | bit : word & ~bit;
  }
  sequence.usage.mask_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  SampledToken sampled = sequence.sampler.sample(logits, mask_);
  if (!sequence.ends_with(sampled.token) && !grammar.accept(sampled.token)) {
    throw_failure("token {} is in the grammar's mask but does not continue it", sampled.token);
  }
  return sampled;
}

// How many of the first drafts the request's grammar allows.
int64_t Engine::drafts_in_grammar(Sequence& sequence, int64_t drafts) const {
  if (!sequence.grammar) return drafts;
  ConstraintState trial = *sequence.grammar;
  try {
    for (int64_t i = 0; i < drafts; ++i) {
      if (!trial.accept(sequence.drafts[static_cast<size_t>(i)])) return i;
    }
  } catch (const Error&) {
    return 0;
  }
  return drafts;
}

// The MTP layer over the positions of this step; where a request goes on, its next drafts.
void Engine::draft(const std::vector<Part>& parts) {
  const auto hidden = static_cast<size_t>(model_.config.hidden_size);
  std::vector<int32_t> tokens;
  std::vector<Span> spans;
  std::vector<float> previous;
  std::vector<int32_t> wanted;
  std::vector<Sequence*> drafting;
  for (const Part& part : parts) {
    if (part.sequence == nullptr || !part.sequence->drafting) continue;
    Sequence& sequence = *part.sequence;
    const int64_t count = sequence.held - part.position;
    const auto first = std::ssize(tokens);
    const auto begin = sequence.tokens.begin() + part.position + 1;
    tokens.insert(tokens.end(), begin, begin + count);
    const auto state = states_.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(part.first) * hidden);
    previous.insert(previous.end(), state, state + static_cast<std::ptrdiff_t>(static_cast<size_t>(count) * hidden));
    spans.push_back({&sequence.cache, part.position, first, count, form_of(part)});
    if (sequence.decodes()) {
      wanted.push_back(static_cast<int32_t>(first + count - 1));
      drafting.push_back(&sequence);
    }
    const bool first_time = part.position < sequence.prompt() && sequence.held >= sequence.prompt();
    sequence.mtp_held = sequence.held;
    if (first_time) keep_pages(sequence, false);
  }
  if (tokens.empty()) return;
  mtp_forward(model_, 0, {tokens, spans}, previous.data(), workspace_, team_);
  draw_drafts(wanted, drafting);
  for (int64_t depth = 1; depth < options_.drafts && !drafting.empty(); ++depth) drafting = chain_drafts(drafting);
}

// The likeliest token of each row of the MTP layer's states, which stay in `states_` for the next draft.
void Engine::draw_drafts(std::span<const int32_t> wanted, std::span<Sequence* const> sequences) {
  if (wanted.empty()) return;
  const Weight& head = model_.weights.layers[static_cast<size_t>(model_.config.num_hidden_layers)].mtp->shared_head;
  logits_.resize(wanted.size() * static_cast<size_t>(model_.config.vocab_size));
  const auto hidden = static_cast<size_t>(model_.config.hidden_size);
  states_.resize(wanted.size() * hidden);
  for (size_t i = 0; i < wanted.size(); ++i) {
    std::copy_n(workspace_.normed.as<float>() + static_cast<size_t>(wanted[i]) * hidden, hidden,
                states_.begin() + static_cast<std::ptrdiff_t>(i * hidden));
  }
  compute_logits(model_, head, wanted, workspace_, team_, logits_.data());
  for (size_t i = 0; i < wanted.size(); ++i) {
    sequences[i]->drafts.push_back(arg_max(logits_row(static_cast<int64_t>(i))));
  }
}

// One more draft from the last ones: the layer takes its own state for the main model's. What it leaves in the cache
// behind the positions that are held is overwritten when they are. The result: those that could be given one.
std::vector<Engine::Sequence*> Engine::chain_drafts(std::span<Sequence* const> sequences) {
  std::vector<int32_t> tokens;
  std::vector<Span> spans;
  std::vector<int32_t> rows;
  std::vector<Sequence*> chained;
  const auto hidden = static_cast<size_t>(model_.config.hidden_size);
  std::vector<float> previous;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    const int64_t position = sequence.held + std::ssize(sequence.drafts) - 1;
    if (position >= position_limit() || !sequence.cache.reserve(position + 1)) continue;
    rows.push_back(static_cast<int32_t>(tokens.size()));
    spans.push_back({&sequence.cache, position, std::ssize(tokens), 1, AttentionForm::absorbed});
    tokens.push_back(sequence.drafts.back());
    const auto state = states_.begin() + static_cast<std::ptrdiff_t>(i * hidden);
    previous.insert(previous.end(), state, state + static_cast<std::ptrdiff_t>(hidden));
    chained.push_back(&sequence);
  }
  if (tokens.empty()) return chained;
  mtp_forward(model_, 0, {tokens, spans}, previous.data(), workspace_, team_);
  draw_drafts(rows, chained);
  return chained;
}

// With the last page, filled in part, only if the sequence writes no more.
void Engine::keep_pages(const Sequence& sequence, bool with_last) {
  if (!options_.share_prefixes) return;
  const int64_t whole = sequence.held / kPage * kPage;
  const auto held = std::span(sequence.tokens).first(static_cast<size_t>(with_last ? sequence.held : whole));
  tree_.insert(held, std::min(sequence.held, sequence.mtp_held), sequence.cache);
  if (!options_.store) return;
  const int64_t stored = options_.store->match(held) / kPage;
  for (int64_t page = 0; page < whole / kPage; ++page) {
    const auto prefix = held.first(static_cast<size_t>((page + 1) * kPage));
    // What is there counts as used; its bytes are not looked at.
    if (page >= stored) {
      std::memcpy(stored_page_.data(), pool_.page(sequence.cache.ids()[static_cast<size_t>(page)]), pool_.page_bytes());
    }
    stored_page_.back() = (page + 1) * kPage <= sequence.mtp_held ? std::byte{1} : std::byte{0};
    if (!options_.store->save(prefix, stored_page_)) return;
  }
}

}  // namespace fathom
