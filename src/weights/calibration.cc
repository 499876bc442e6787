#include "weights/calibration.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

// Sums of squares by the names of weights that share an input.
class SquareSums : public ForwardProbe {
 public:
  struct Sum {
    std::vector<double> squares;
    int64_t rows = 0;
  };

  explicit SquareSums(ThreadTeam& team) : team_(team) {}

  void values(int64_t, std::string_view, const float*, int64_t, int64_t) override {}
  void indices(int64_t, std::string_view, const int32_t*, int64_t, int64_t) override {}
  void input(int64_t layer, std::string_view product, int64_t expert, const float* x, const int32_t* row_index,
             int64_t rows, int64_t cols) override {
    Sum& sum = sums[{layer, std::string(product), expert}];
    sum.squares.resize(static_cast<size_t>(cols));
    sum.rows += rows;
    constexpr int64_t kColumns = 256;
    team_.parallel_for((cols + kColumns - 1) / kColumns, [&](int64_t part, int) {
      const int64_t begin = part * kColumns;
      const int64_t end = std::min(begin + kColumns, cols);
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + (row_index != nullptr ? row_index[r] : r) * cols;
        for (int64_t k = begin; k < end; ++k) {
          sum.squares[static_cast<size_t>(k)] += static_cast<double>(row[k]) * static_cast<double>(row[k]);
        }
      }
    });
  }

  std::map<std::tuple<int64_t, std::string, int64_t>, Sum> sums;

 private:
  ThreadTeam& team_;
};

std::vector<float> means_of(const SquareSums::Sum& sum) {
  std::vector<float> means;
  for (const double squares : sum.squares) {
    means.push_back(static_cast<float>(squares / static_cast<double>(std::max<int64_t>(sum.rows, 1))));
  }
  return means;
}

// Where an expert's own sum has few rows, that of all experts of its layer. A layer may have so few tokens in all that
// even this says little; then the weights are as good as unweighted, which is no harm.
class Means {
 public:
  Means(const SquareSums& sums, const ModelConfig& config, Calibration& out)
      : sums_(sums), config_(config), out_(out) {}

  void collect() {
    set("lm_head", {-1, "lm_head", -1});
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      const std::string at = fmt::format("model.layers.{}.", layer);
      for (const char* name : {"q_a_proj", "q_proj", "kv_a_proj_with_mqa"}) {
        set(at + "self_attn." + name, {layer, "attention", -1});
      }
      set(at + "self_attn.q_b_proj", {layer, "q_b_proj", -1});
      set(at + "self_attn.o_proj", {layer, "o_proj", -1});
      if (!config_.is_moe_layer(layer)) {
        set_mlp(at + "mlp.", {layer, "gate_up", -1}, {layer, "down_proj", -1});
        continue;
      }
      if (config_.n_shared_experts > 0) {
        set_mlp(at + "mlp.shared_experts.", {layer, "gate_up", -1}, {layer, "down_proj", -1});
      }
      experts(at + "mlp.experts.", layer);
    }
  }

 private:
  using Key = std::tuple<int64_t, std::string, int64_t>;

  const SquareSums::Sum* find(const Key& key) const {
    const auto found = sums_.sums.find(key);
    return found == sums_.sums.end() || found->second.rows == 0 ? nullptr : &found->second;
  }
  void set(const std::string& module, const SquareSums::Sum* sum) {
    if (sum != nullptr) out_.mean_squares[module + ".weight"] = means_of(*sum);
  }
  void set(const std::string& module, const Key& key) { set(module, find(key)); }
  void set_mlp(const std::string& at, const Key& up, const Key& down) {
    set(at + "gate_proj", up);
    set(at + "up_proj", up);
    set(at + "down_proj", down);
  }

  void experts(const std::string& at, int64_t layer) {
    SquareSums::Sum up;
    SquareSums::Sum down;
    const auto add = [](SquareSums::Sum& to, const SquareSums::Sum* from) {
      if (from == nullptr) return;
      to.squares.resize(from->squares.size());
      for (size_t k = 0; k < to.squares.size(); ++k) to.squares[k] += from->squares[k];
      to.rows += from->rows;
    };
    for (int64_t e = 0; e < config_.n_routed_experts; ++e) {
      add(up, find({layer, "gate_up", e}));
      add(down, find({layer, "down_proj", e}));
    }
    for (int64_t e = 0; e < config_.n_routed_experts; ++e) {
      const SquareSums::Sum* own = find({layer, "gate_up", e});
      const bool rare = own == nullptr || own->rows < kFewestExpertTokens;
      out_.experts += 1;
      out_.rare_experts += rare ? 1 : 0;
      const std::string module = fmt::format("{}{}.", at, e);
      const SquareSums::Sum* ups = rare ? (up.rows > 0 ? &up : nullptr) : own;
      set(module + "gate_proj", ups);
      set(module + "up_proj", ups);
      set(module + "down_proj", rare ? (down.rows > 0 ? &down : nullptr) : find({layer, "down_proj", e}));
    }
  }

  const SquareSums& sums_;
  const ModelConfig& config_;
  Calibration& out_;
};

}  // namespace

const float* Calibration::importance(const std::string& weight) const {
  const auto found = mean_squares.find(weight);
  return found == mean_squares.end() ? nullptr : found->second.data();
}

Calibration calibrate(const LoadedModel& model, std::span<const int32_t> tokens, int64_t context,
                      std::optional<int32_t> bos, ThreadTeam& team, const std::function<void(int64_t)>& progress) {
  check_tokens(model.config, tokens);
  const int64_t most = model.config.max_position_embeddings;
  if (context < 2 || (most > 0 && context > most)) {
    throw_bad_input("a context of {} positions was asked for; {} allows 2 to {} (max_position_embeddings)", context,
                    model.checkpoint->directory(), most);
  }
  LatentCache cache(model.config, model.cache_dtype(), context);
  Workspace workspace(model, context, team.size());
  SquareSums sums(team);
  const int64_t hidden = model.config.hidden_size;
  const auto own = static_cast<size_t>(context - (bos ? 1 : 0));
  std::vector<int32_t> window;
  for (size_t begin = 0; begin < tokens.size(); begin += own) {
    check_interrupt();
    const auto piece = tokens.subspan(begin, std::min(own, tokens.size() - begin));
    window.clear();
    if (bos) window.push_back(*bos);
    window.insert(window.end(), piece.begin(), piece.end());
    const auto length = static_cast<int64_t>(window.size());
    const Span span{&cache, 0, 0, length, choose_attention(model.config, length, 0)};
    forward(model, {window, {&span, 1}}, workspace, team, &sums);
    sums.input(-1, "lm_head", -1, workspace.normed.as<float>(), nullptr, length, hidden);
    if (progress) progress(static_cast<int64_t>(piece.size()));
  }
  Calibration result;
  result.tokens = static_cast<int64_t>(tokens.size());
  Means(sums, model.config, result).collect();
  return result;
}

}  // namespace fathom
