// The inference cases of the golden data: every quantity that they hold, in every compute mode.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/trace.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/isa_guard.h"

namespace fathom {
namespace {

std::vector<float> floats(const TensorView& view) {
  return {view.as<float>(), view.as<float>() + view.elements()};
}

std::vector<int32_t> ints(const TensorView& view) {
  return {view.as<int32_t>(), view.as<int32_t>() + view.elements()};
}

double norm(const std::vector<float>& v) {
  double sum = 0;
  for (float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

// |a − b| / |b|
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<float> difference(std::min(a.size(), b.size()));
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = a[i] - b[i];
  return norm(difference) / norm(b);
}

double greatest_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double greatest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isnan(a[i])) return INFINITY;
    greatest = std::max(greatest, static_cast<double>(std::fabs(a[i] - b[i])));
  }
  return greatest;
}

struct Case {
  std::string directory;
  std::unique_ptr<SafetensorsFile> expected;
  nlohmann::json facts;

  explicit Case(const std::string& path) : directory(path) {
    expected = std::make_unique<SafetensorsFile>(path + "/expected.safetensors");
    std::ifstream stream(path + "/expected.json");
    facts = nlohmann::json::parse(stream);
  }
  TensorView tensor(const std::string& name) const {
    const SafetensorsEntry* entry = expected->find(name);
    if (entry == nullptr) throw std::runtime_error("no tensor " + name);
    return expected->view(*entry);
  }
  double tolerance(const char* which) const { return facts["suggested_tolerance_logits_max_abs"][which]; }
};

std::map<std::string, TracedTensor> by_name(std::vector<TracedTensor> tensors) {
  std::map<std::string, TracedTensor> result;
  for (TracedTensor& tensor : tensors) result.emplace(tensor.name, std::move(tensor));
  return result;
}

TraceOptions everything(const Case& c) {
  TraceOptions options;
  options.hidden = options.router = options.cache = options.mtp = true;
  options.greedy_tokens = c.tensor("greedy.tokens").shape[0];
  return options;
}

struct Variant {
  const char* name;
  Isa isa;
  int threads;
  int64_t chunk;
  std::optional<AttentionForm> attention;
};

std::vector<Variant> setups() {
  std::vector<Variant> all = {{"portable", Isa::portable, 1, 512, {}},
                              {"avx2", Isa::avx2, 2, 512, {}},
                              {"avx512", Isa::avx512, 2, 512, {}},
                              {"avx512, chunks of 7", Isa::avx512, 3, 7, {}},
                              {"avx512, token by token, absorbed", Isa::avx512, 2, 1, AttentionForm::absorbed},
                              {"avx2, chunks of 5, absorbed", Isa::avx2, 2, 5, AttentionForm::absorbed},
                              {"portable, chunks of 11, expanded", Isa::portable, 2, 11, AttentionForm::expanded}};
  std::erase_if(all, [](const Variant& s) { return s.isa > machine_isa(); });
  return all;
}

class GoldenInference : public testing::TestWithParam<const char*> {};

TEST_P(GoldenInference, Fp32) {
  const std::string directory = golden_dir(GetParam());
  if (directory.empty()) GTEST_SKIP() << "no golden data for " << GetParam() << " (../shared is not there)";
  const Case c(directory);
  const auto model = open_model(directory, ComputeMode::fp32);
  for (const Variant& setup : setups()) {
    SCOPED_TRACE(setup.name);
    const IsaGuard guard(setup.isa);
    ThreadTeam team(setup.threads);
    TraceOptions options = everything(c);
    options.chunk = setup.chunk;
    options.attention = setup.attention;
    const auto traced = by_name(trace_forward(*model, ints(c.tensor("prompt")), options, team));
    int compared = 0;
    for (const SafetensorsEntry& entry : c.expected->entries()) {
      const auto found = traced.find(entry.name);
      if (found == traced.end()) continue;
      SCOPED_TRACE(entry.name);
      ++compared;
      const TensorView view = c.tensor(entry.name);
      ASSERT_EQ(shape_text(found->second.shape), shape_text(view.shape));
      if (view.dtype == DType::i32) {
        EXPECT_EQ(found->second.indices, ints(view));
        continue;
      }
      EXPECT_LT(relative_error(found->second.values, floats(view)), 2e-5);
      if (entry.name.ends_with("logits")) {
        EXPECT_LT(greatest_error(found->second.values, floats(view)), c.tolerance("float32_implementation"));
      }
    }
    EXPECT_GE(compared, 15) << "too few tensors of the case were compared";
  }
}

TEST_P(GoldenInference, Bf16) {
  const std::string directory = golden_dir(GetParam());
  if (directory.empty()) GTEST_SKIP() << "no golden data for " << GetParam() << " (../shared is not there)";
  const Case c(directory);
  const auto model = open_model(directory, ComputeMode::bf16);
  for (const Variant& setup : setups()) {
    SCOPED_TRACE(setup.name);
    const IsaGuard guard(setup.isa);
    ThreadTeam team(setup.threads);
    TraceOptions options = everything(c);
    options.chunk = setup.chunk;
    options.attention = setup.attention;
    const auto traced = by_name(trace_forward(*model, ints(c.tensor("prompt")), options, team));
    EXPECT_LT(greatest_error(traced.at("logits").values, floats(c.tensor("logits"))),
              c.tolerance("bfloat16_activations"));
    EXPECT_EQ(traced.at("greedy.tokens").indices, ints(c.tensor("greedy.tokens")));
    for (const auto& [name, tensor] : traced) {
      if (!name.ends_with("router.index")) continue;
      EXPECT_EQ(tensor.indices, ints(c.tensor(name))) << name;
    }
    if (c.expected->find("mtp.logits") != nullptr) {
      EXPECT_LT(greatest_error(traced.at("mtp.logits").values, floats(c.tensor("mtp.logits"))),
                c.tolerance("bfloat16_activations"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenInference,
                         testing::Values("bf16-tiny", "fp8-tiny", "noqlora", "v2-softmax", "v2-grouped"),
                         [](const auto& p) {
                           std::string name = p.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(GoldenLongYarn, AllPositionsAndContinuation) {
  const std::string directory = golden_dir("long-yarn");
  if (directory.empty()) GTEST_SKIP() << "no golden data for long-yarn (../shared is not there)";
  const Case c(directory);
  for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16}) {
    SCOPED_TRACE(std::string(compute_mode_name(compute)));
    const auto model = open_model(directory, compute);
    ThreadTeam team(2);
    TraceOptions options;
    options.hidden = options.cache = true;
    options.greedy_tokens = 8;
    for (int32_t position : ints(c.tensor("positions"))) options.positions.push_back(position);
    const auto traced = by_name(trace_forward(*model, ints(c.tensor("prompt")), options, team));
    const bool exact = compute == ComputeMode::fp32;
    const double tolerance = c.tolerance(exact ? "float32_implementation" : "bfloat16_activations");
    EXPECT_LT(greatest_error(traced.at("logits_at_positions").values, floats(c.tensor("logits_at_positions"))),
              tolerance);
    EXPECT_LT(greatest_error(traced.at("last_logits").values, floats(c.tensor("last_logits"))), tolerance);
    EXPECT_LT(greatest_error(traced.at("greedy.logits").values, floats(c.tensor("greedy.logits"))), tolerance);
    EXPECT_EQ(traced.at("greedy.tokens").indices, ints(c.tensor("greedy.tokens")));
    EXPECT_LT(relative_error(traced.at("inverse_frequency").values, floats(c.tensor("inverse_frequency"))), 1e-6);
    if (!exact) continue;
    for (int layer = 0; layer < 3; ++layer) {
      for (const char* what : {"k_pe", "hidden"}) {
        const std::string name = "layer." + std::to_string(layer) + "." + what + "_at_positions";
        EXPECT_LT(relative_error(traced.at(name).values, floats(c.tensor(name))), 2e-5) << name;
      }
    }
  }
}

double row_rms(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(n));
}

// The three steps that the golden README prescribes for a result that is not continuous; the first (single products) is
// in linear_test.cc.
class GoldenW8a8 : public testing::TestWithParam<bool> {};

TEST_P(GoldenW8a8, SingleTokensAndPrompt) {
  const std::string directory = golden_dir("fp8-tiny");
  if (directory.empty()) GTEST_SKIP() << "no golden data for fp8-tiny (../shared is not there)";
  const Case c(directory);
  const bool ue8m0 = GetParam();
  const std::string variant = ue8m0 ? "w8a8_ue8m0" : "w8a8";
  const auto model = open_model(directory, ComputeMode::w8a8);
  model->config.fp8->ue8m0 = ue8m0;
  const int64_t V = model->config.vocab_size;
  ThreadTeam team(2);

  const std::vector<int32_t> singles = ints(c.tensor("single.tokens"));
  const std::vector<float> expected_singles = floats(c.tensor("single.logits." + variant));
  int good = 0;
  for (size_t i = 0; i < singles.size(); ++i) {
    const auto traced = by_name(trace_forward(*model, {singles[i]}, {}, team));
    good += row_rms(traced.at("logits").values.data(), expected_singles.data() + static_cast<int64_t>(i) * V, V) < 1e-3;
  }
  EXPECT_GE(good, 24) << "of 32 single tokens";

  const double bound =
      1.5 * c.facts["variants"][variant]["row_rms"]["w8a8_minus_bf16_weights"]["greatest"].get<double>();
  for (std::optional<AttentionForm> form : {AttentionForm::expanded, AttentionForm::absorbed}) {
    TraceOptions options;
    options.attention = form;
    options.greedy_tokens = 16;
    const auto traced = by_name(trace_forward(*model, ints(c.tensor("prompt")), options, team));
    const std::vector<float> expected = floats(c.tensor("logits." + variant));
    const int64_t T = c.tensor("prompt").shape[0];
    int close = 0;
    for (int64_t t = 0; t < T; ++t) {
      const double rms = row_rms(traced.at("logits").values.data() + t * V, expected.data() + t * V, V);
      EXPECT_LT(rms, bound) << "row " << t;
      close += rms < 1e-3;
    }
    EXPECT_GE(close, 1);
    EXPECT_EQ(traced.at("greedy.tokens").indices, ints(c.tensor("greedy." + variant + ".tokens")));
  }
}

INSTANTIATE_TEST_SUITE_P(Scales, GoldenW8a8, testing::Bool(),
                         [](const auto& p) { return p.param ? "ue8m0" : "float32"; });

}  // namespace
}  // namespace fathom
