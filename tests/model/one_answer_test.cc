// A request's numbers depend on the request alone: the same bits for any chunk size, number of threads and neighbours
// in the batch.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/trace.h"
#include "kernels/cpu/isa.h"
#include "support/golden.h"

namespace fathom {
namespace {

std::vector<int32_t> random_prompt(int64_t length, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return prompt;
}

const TracedTensor& find(const std::vector<TracedTensor>& tensors, const std::string& name) {
  for (const TracedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

using Mode = std::pair<ComputeMode, WeightStorage>;

std::unique_ptr<LoadedModel> open_in(const std::string& directory, const Mode& mode) {
  ThreadTeam team(2);
  OpenOptions options;
  options.compute = mode.first;
  options.weights.storage = mode.second;
  return open_model(directory, options, team);
}

class OneAnswer : public testing::TestWithParam<std::tuple<const char*, Mode>> {};

TEST_P(OneAnswer, ForAnyChunkAndAnyThreads) {
  const auto [name, mode] = GetParam();
  const std::string directory = golden_dir(name);
  if (directory.empty()) GTEST_SKIP() << "no golden data for " << name << " (../shared is not there)";
  const auto model = open_in(directory, mode);
  const std::vector<int32_t> prompt = random_prompt(100, model->config.vocab_size, 4);
  TraceOptions options;
  options.mtp = true;
  options.greedy_tokens = 5;
  ThreadTeam one(1);
  const auto whole = trace_forward(*model, prompt, options, one);
  for (int64_t chunk : {1, 5, 7, 64}) {
    for (int threads : {chunk == 7 ? 4 : 2}) {
      SCOPED_TRACE(testing::Message() << "chunk " << chunk << " threads " << threads);
      ThreadTeam team(threads);
      options.chunk = chunk;
      const auto parts = trace_forward(*model, prompt, options, team);
      EXPECT_TRUE(same_bits(find(parts, "logits").values, find(whole, "logits").values));
      EXPECT_TRUE(same_bits(find(parts, "greedy.logits").values, find(whole, "greedy.logits").values));
      if (model->config.num_nextn_predict_layers > 0) {
        EXPECT_TRUE(same_bits(find(parts, "mtp.logits").values, find(whole, "mtp.logits").values));
      }
    }
  }
}

// Sixteen sequences in one batch, prefill chunks and decode steps among them, against each alone.
TEST_P(OneAnswer, WithAnyNeighbours) {
  const auto [name, mode] = GetParam();
  const std::string directory = golden_dir(name);
  if (directory.empty()) GTEST_SKIP() << "no golden data for " << name << " (../shared is not there)";
  const auto model = open_in(directory, mode);
  const int64_t hidden = model->config.hidden_size;
  ThreadTeam team(2);
  Workspace workspace(*model, 200, team.size());
  constexpr int kSequences = 16;
  std::vector<int64_t> lengths = {70, 1, 1, 5};
  std::vector<int64_t> before = {10, 129, 3, 64};
  std::vector<AttentionForm> forms = {AttentionForm::expanded, AttentionForm::absorbed, AttentionForm::absorbed,
                                      AttentionForm::expanded};
  for (int s = 4; s < kSequences; ++s) {
    lengths.push_back(1);
    before.push_back(5 * s);
    forms.push_back(AttentionForm::absorbed);
  }

  std::vector<std::vector<int32_t>> prompts;
  for (int s = 0; s < kSequences; ++s)
    prompts.push_back(random_prompt(before[s] + lengths[s], model->config.vocab_size, 20 + s));
  const auto prefill = [&](LatentCache& cache, int s) {
    const Span span{&cache, 0, 0, before[s], AttentionForm::expanded};
    forward(*model, {{prompts[s].data(), static_cast<size_t>(before[s])}, {&span, 1}}, workspace, team);
  };
  std::vector<std::vector<float>> alone;
  for (int s = 0; s < kSequences; ++s) {
    LatentCache cache(model->config, model->cache_dtype(), 256);
    prefill(cache, s);
    const Span span{&cache, before[s], 0, lengths[s], forms[s]};
    forward(*model, {{prompts[s].data() + before[s], static_cast<size_t>(lengths[s])}, {&span, 1}}, workspace, team);
    alone.emplace_back(workspace.normed.as<float>(), workspace.normed.as<float>() + lengths[s] * hidden);
  }

  std::vector<std::unique_ptr<LatentCache>> caches;
  std::vector<Span> spans;
  std::vector<int32_t> tokens;
  for (int s = 0; s < kSequences; ++s) {
    caches.push_back(std::make_unique<LatentCache>(model->config, model->cache_dtype(), 256));
    prefill(*caches.back(), s);
    spans.push_back({caches.back().get(), before[s], static_cast<int64_t>(tokens.size()), lengths[s], forms[s]});
    tokens.insert(tokens.end(), prompts[s].begin() + before[s], prompts[s].end());
  }
  forward(*model, {tokens, spans}, workspace, team);
  for (int s = 0; s < kSequences; ++s) {
    EXPECT_EQ(std::memcmp(workspace.normed.as<float>() + spans[s].first * hidden, alone[s].data(),
                          alone[s].size() * sizeof(float)),
              0)
        << "sequence " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, OneAnswer,
                         testing::Combine(testing::Values("bf16-tiny", "fp8-tiny", "v2-grouped"),
                                          testing::Values(Mode{ComputeMode::fp32, WeightStorage::mapped},
                                                          Mode{ComputeMode::bf16, WeightStorage::mapped},
                                                          Mode{ComputeMode::w8a8, WeightStorage::mapped},
                                                          Mode{ComputeMode::int8, WeightStorage::mapped},
                                                          Mode{ComputeMode::int8, WeightStorage::int8},
                                                          Mode{ComputeMode::int8, WeightStorage::int4},
                                                          Mode{ComputeMode::bf16, WeightStorage::int8},
                                                          Mode{ComputeMode::fp32, WeightStorage::int4})),
                         [](const auto& p) {
                           std::string name = std::get<0>(p.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           const Mode mode = std::get<1>(p.param);
                           name += "_" + std::string(compute_mode_name(mode.first));
                           if (mode.second == WeightStorage::mapped) return name;
                           return name + "_" + std::string(weight_storage_name(mode.second));
                         });

TEST(AttentionChoice, FollowsTheCounts) {
  // DeepSeek-V3's own dimensions: a prompt from scratch expands, a decode step absorbs, a short turn on a long
  // conversation absorbs.
  ModelConfig config = *model_preset("deepseek-v3");
  EXPECT_EQ(choose_attention(config, 512, 0), AttentionForm::expanded);
  EXPECT_EQ(choose_attention(config, 1, 4096), AttentionForm::absorbed);
  EXPECT_EQ(choose_attention(config, 20, 4096), AttentionForm::absorbed);
  EXPECT_EQ(choose_attention(config, 400, 4096), AttentionForm::expanded);
}

}  // namespace
}  // namespace fathom
