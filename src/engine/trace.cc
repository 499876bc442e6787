#include "engine/trace.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

int32_t arg_max(const float* values, int64_t n) {
  return static_cast<int32_t>(std::max_element(values, values + n) - values);
}

// Collects tensors that grow by chunks of rows, in the order of their first rows.
class Collector : public ForwardProbe {
 public:
  explicit Collector(const TraceOptions& options) : options_(options) {}

  void values(int64_t layer, std::string_view what, const float* values, int64_t rows, int64_t cols) override {
    if (!wanted(what)) return;
    append(name_of(layer, what), values, rows, cols);
  }

  void indices(int64_t layer, std::string_view what, const int32_t* values, int64_t rows, int64_t cols) override {
    if (!wanted(what)) return;
    TracedTensor& tensor = slot(name_of(layer, what), DType::i32, rows, cols);
    tensor.indices.insert(tensor.indices.end(), values, values + rows * cols);
  }

  void append(const std::string& name, const float* values, int64_t rows, int64_t cols) {
    TracedTensor& tensor = slot(name, DType::f32, rows, cols);
    tensor.values.insert(tensor.values.end(), values, values + rows * cols);
  }

  void add_indices(const std::string& name, std::vector<int32_t> values) {
    const auto n = static_cast<int64_t>(values.size());
    tensors.push_back({name, DType::i32, {n}, {}, std::move(values)});
  }

  std::vector<TracedTensor> tensors;

 private:
  bool wanted(std::string_view what) const {
    if (what == "c_kv" || what == "k_pe") return options_.cache;
    if (what.starts_with("router.")) return options_.router;
    return options_.hidden;
  }

  static std::string name_of(int64_t layer, std::string_view what) {
    return layer < 0 ? std::string(what) : fmt::format("layer.{}.{}", layer, what);
  }

  TracedTensor& slot(const std::string& name, DType dtype, int64_t rows, int64_t cols) {
    for (TracedTensor& tensor : tensors) {
      if (tensor.name == name) {
        tensor.shape[0] += rows;
        return tensor;
      }
    }
    tensors.push_back({name, dtype, {rows, cols}, {}, {}});
    return tensors.back();
  }

  const TraceOptions& options_;
};

void check(const LoadedModel& model, const std::vector<int32_t>& prompt, const TraceOptions& options) {
  const ModelConfig& config = model.config;
  check_tokens(config, prompt);
  const auto T = static_cast<int64_t>(prompt.size());
  if (config.max_position_embeddings > 0 && T + options.greedy_tokens > config.max_position_embeddings) {
    throw_bad_input(
        "The prompt has {} tokens and {} are to follow; the model has {} positions (max_position_embeddings).", T,
        options.greedy_tokens, config.max_position_embeddings);
  }
  for (int64_t position : options.positions) {
    if (position < 0 || position >= T) throw_bad_input("Position {} is outside the prompt of {} tokens.", position, T);
  }
}

// Keeps the chosen rows of every tensor that has one row per prompt token.
void select_positions(std::vector<TracedTensor>& tensors, const std::vector<int64_t>& positions, int64_t T) {
  for (TracedTensor& tensor : tensors) {
    if (tensor.name.starts_with("greedy.") || tensor.name == "prompt" || tensor.shape[0] != T) continue;
    const int64_t cols = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    TracedTensor chosen{tensor.name + "_at_positions", tensor.dtype, tensor.shape, {}, {}};
    chosen.shape[0] = static_cast<int64_t>(positions.size());
    for (int64_t position : positions) {
      for (int64_t k = position * cols; k < (position + 1) * cols; ++k) {
        if (tensor.dtype == DType::f32) {
          chosen.values.push_back(tensor.values[static_cast<size_t>(k)]);
        } else {
          chosen.indices.push_back(tensor.indices[static_cast<size_t>(k)]);
        }
      }
    }
    tensor = std::move(chosen);
  }
}

}  // namespace

std::vector<TracedTensor> trace_forward(const LoadedModel& model, const std::vector<int32_t>& prompt,
                                        const TraceOptions& options, ThreadTeam& team) {
  check(model, prompt, options);
  const ModelConfig& config = model.config;
  const auto T = static_cast<int64_t>(prompt.size());
  const int64_t V = config.vocab_size;
  const int64_t hidden = config.hidden_size;
  const int64_t depths = options.mtp ? config.num_nextn_predict_layers : 0;
  const int64_t continued = std::max(options.greedy_tokens, depths);
  const int64_t chunk = std::clamp<int64_t>(options.chunk, 1, T);
  LatentCache cache(config, model.cache_dtype(), T + continued);
  Workspace workspace(model, chunk, team.size());
  Collector collector(options);
  collector.add_indices("prompt", prompt);

  std::vector<float> final_hidden;
  std::vector<float> chunk_logits;
  std::vector<float> last_logits(static_cast<size_t>(V));
  const AttentionForm form = options.attention.value_or(choose_attention(config, T, 0));
  for (int64_t begin = 0; begin < T; begin += chunk) {
    check_interrupt();
    const int64_t count = std::min(chunk, T - begin);
    const Span span{&cache, begin, 0, count, form};
    forward(model, {{prompt.data() + begin, static_cast<size_t>(count)}, {&span, 1}}, workspace, team, &collector);
    if (options.hidden) collector.append("hidden.final", workspace.normed.as<float>(), count, hidden);
    if (depths > 0) {
      final_hidden.insert(final_hidden.end(), workspace.normed.as<float>(),
                          workspace.normed.as<float>() + count * hidden);
    }
    if (options.logits) {
      chunk_logits.resize(static_cast<size_t>(count * V));
      compute_logits(model, model.weights.lm_head, {workspace.all_rows(count)}, workspace, team, chunk_logits.data());
      collector.append("logits", chunk_logits.data(), count, V);
    }
    if (begin + count == T) {
      const auto last = static_cast<int32_t>(count - 1);
      compute_logits(model, model.weights.lm_head, {&last, 1}, workspace, team, last_logits.data());
    }
  }

  // The continuation decodes token by token, as generation does.
  std::vector<int32_t> sequence = prompt;
  std::vector<int32_t> greedy;
  std::vector<float> logits = last_logits;
  for (int64_t i = 0; i < continued; ++i) {
    check_interrupt();
    const int32_t token = arg_max(logits.data(), V);
    if (i < options.greedy_tokens) {
      greedy.push_back(token);
      collector.append("greedy.logits", logits.data(), 1, V);
    }
    sequence.push_back(token);
    if (i + 1 == continued) break;
    const Span span{&cache, T + i, 0, 1, options.attention.value_or(AttentionForm::absorbed)};
    forward(model, {{&token, 1}, {&span, 1}}, workspace, team);
    const int32_t row = 0;
    compute_logits(model, model.weights.lm_head, {&row, 1}, workspace, team, logits.data());
  }
  if (options.greedy_tokens > 0) collector.add_indices("greedy.tokens", greedy);

  for (int64_t depth = 0; depth < depths; ++depth) {
    const std::string prefix = depth == 0 ? "mtp." : fmt::format("mtp.{}.", depth);
    const std::vector<int32_t> next(sequence.begin() + depth + 1, sequence.begin() + depth + 1 + T);
    const Weight& head = model.weights.layers[static_cast<size_t>(config.num_hidden_layers + depth)].mtp->shared_head;
    std::vector<int32_t> drafts;
    collector.add_indices(prefix + "next_tokens", next);
    for (int64_t begin = 0; begin < T; begin += chunk) {
      check_interrupt();
      const int64_t count = std::min(chunk, T - begin);
      const Span span{&cache, begin, 0, count, form};
      float* previous = final_hidden.data() + begin * hidden;
      mtp_forward(model, depth, {{next.data() + begin, static_cast<size_t>(count)}, {&span, 1}}, previous, workspace,
                  team, &collector);
      collector.append(prefix + "hidden", workspace.normed.as<float>(), count, hidden);
      std::copy(workspace.normed.as<float>(), workspace.normed.as<float>() + count * hidden, previous);
      chunk_logits.resize(static_cast<size_t>(count * V));
      compute_logits(model, head, {workspace.all_rows(count)}, workspace, team, chunk_logits.data());
      collector.append(prefix + "logits", chunk_logits.data(), count, V);
      for (int64_t t = 0; t < count; ++t) drafts.push_back(arg_max(chunk_logits.data() + t * V, V));
    }
    collector.add_indices(prefix + "draft_tokens", drafts);
  }

  if (!options.positions.empty()) {
    select_positions(collector.tensors, options.positions, T);
    collector.add_indices("positions", {options.positions.begin(), options.positions.end()});
    collector.append("last_logits", last_logits.data(), 1, V);
    collector.tensors.back().shape = {V};
    const std::vector<float> frequency(model.rope.inverse_frequency.begin(), model.rope.inverse_frequency.end());
    collector.append("inverse_frequency", frequency.data(), 1, static_cast<int64_t>(frequency.size()));
    collector.tensors.back().shape = {static_cast<int64_t>(frequency.size())};
  }
  return std::move(collector.tensors);
}

}  // namespace fathom
