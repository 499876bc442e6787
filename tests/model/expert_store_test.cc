// Experts from a store give the bits of mapped ones, for every size of the store, and its errors are sentences.
#include "model/expert_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "engine/generate.h"
#include "engine/session.h"
#include "engine/trace.h"
#include "formats/synth.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

std::vector<int32_t> random_prompt(int64_t length, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return prompt;
}

void expect_same_bits(const std::vector<TracedTensor>& a, const std::vector<TracedTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(a[i].name);
    ASSERT_EQ(a[i].name, b[i].name);
    EXPECT_EQ(a[i].indices, b[i].indices);
    ASSERT_EQ(a[i].values.size(), b[i].values.size());
    if (a[i].values.empty()) continue;  // indices: memcmp takes no null pointers
    EXPECT_EQ(std::memcmp(a[i].values.data(), b[i].values.data(), a[i].values.size() * sizeof(float)), 0);
  }
}

std::unique_ptr<LoadedModel> open_stored(const std::string& directory, ComputeMode compute, uint64_t bytes,
                                         WeightStorage storage = WeightStorage::mapped) {
  OpenOptions options;
  options.compute = compute;
  options.weights.storage = storage;
  options.weights.experts_in_memory = bytes;
  ThreadTeam team(1);
  return open_model(directory, options, team);
}

uint64_t slot_bytes(const std::string& directory) {
  return open_stored(directory, ComputeMode::bf16, uint64_t{1} << 30)->experts->slot_bytes();
}

int64_t routed_experts(const LoadedModel& model) {
  int64_t count = 0;
  for (const LayerWeights& layer : model.weights.layers) {
    if (layer.moe) count += static_cast<int64_t>(layer.moe->experts.size());
  }
  return count;
}

void compare_with_mapped(const std::string& directory, ComputeMode compute) {
  const auto mapped = open_model(directory, compute);
  const std::vector<int32_t> prompt = random_prompt(70, mapped->config.vocab_size, 5);
  TraceOptions options;
  options.hidden = options.router = options.mtp = true;
  options.greedy_tokens = 12;
  ThreadTeam two(2);
  const auto expected = trace_forward(*mapped, prompt, options, two);
  const int64_t all = routed_experts(*mapped);
  const uint64_t slot = slot_bytes(directory);
  int run = 0;
  for (int64_t slots : {int64_t{2}, int64_t{3}, int64_t{5}, mapped->config.n_routed_experts, all - 1, all, all + 10}) {
    for (int64_t chunk : {int64_t{512}, int64_t{9}}) {
      const int threads = std::array{1, 2, 4}[run++ % 3];
      SCOPED_TRACE(testing::Message() << slots << " slots, " << threads << " threads, chunks of " << chunk);
      const auto model = open_stored(directory, compute, static_cast<uint64_t>(slots) * slot + slot / 2);
      ASSERT_EQ(model->experts->slots(), std::min(slots, all));
      ThreadTeam team(threads);
      options.chunk = chunk;
      expect_same_bits(trace_forward(*model, prompt, options, team), expected);
      const ExpertCounters counters = model->experts->counters();
      EXPECT_GT(counters.lookups, 0);
      EXPECT_LE(counters.hits, counters.lookups);
      EXPECT_LE(counters.guessed_hits, counters.hits);
      EXPECT_LE(counters.right_guesses, counters.guesses);
      EXPECT_GT(counters.bytes_read, 0u);
      // Every expert comes at most once if all have room.
      if (slots >= all) {
        EXPECT_LE(counters.bytes_read, static_cast<uint64_t>(all) * slot);
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

class ExpertStoreBits : public testing::TestWithParam<std::tuple<const char*, ComputeMode>> {};

TEST_P(ExpertStoreBits, AreThoseOfMappedExperts) {
  FATHOM_GOLDEN_OR_SKIP(directory, std::get<0>(GetParam()));
  compare_with_mapped(directory, std::get<1>(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Cases, ExpertStoreBits,
                         testing::Combine(testing::Values("bf16-tiny", "fp8-tiny", "v2-grouped"),
                                          testing::Values(ComputeMode::fp32, ComputeMode::bf16, ComputeMode::w8a8)),
                         [](const auto& p) {
                           std::string name = std::get<0>(p.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + "_" + std::string(compute_mode_name(std::get<1>(p.param)));
                         });

// A checkpoint whose scales are not float32 and whose tensors do not lie on multiples of anything.
TEST(ExpertStore, ConvertsScalesAndAlignsWhatTheFileDoesNot) {
  FATHOM_GOLDEN_OR_SKIP(source, "fp8-tiny");
  for (DType scale_type : {DType::f8_e8m0, DType::bf16}) {
    SCOPED_TRACE(std::string(dtype_name(scale_type)));
    TemporaryDirectory directory;
    const Checkpoint checkpoint(source);
    fs::copy_file(source + "/config.json", directory.file("config.json"));
    std::vector<SafetensorsWriter::Declared> declared = {{"shift", DType::u8, {13}}};
    std::vector<std::string> data = {std::string(13, 'x')};
    for (const auto& file : checkpoint.files()) {
      for (const SafetensorsEntry& entry : file->entries()) {
        const TensorView view = file->view(entry);
        declared.push_back({entry.name, entry.dtype, entry.shape});
        data.emplace_back(reinterpret_cast<const char*>(view.data), view.bytes());
        if (!entry.name.ends_with("_scale_inv")) continue;
        declared.back().dtype = scale_type;
        data.back().clear();
        for (int64_t i = 0; i < view.elements(); ++i) {
          // Both types hold these exactly: powers of two.
          if (scale_type == DType::f8_e8m0) {
            data.back() += static_cast<char>(115 + i % 3);
          } else {
            const auto bits = static_cast<uint16_t>((115 + i % 3) << 7);
            data.back().append(reinterpret_cast<const char*>(&bits), 2);
          }
        }
      }
    }
    SafetensorsWriter writer(directory.file("model.safetensors"), declared);
    for (const std::string& bytes : data) writer.write(bytes.data(), bytes.size());
    writer.commit();
    compare_with_mapped(directory.path(), ComputeMode::bf16);
  }
}

// Large enough that experts are read in several pieces and in place.
TEST(ExpertStore, ReadsLargeExpertsInPieces) {
  TemporaryDirectory directory;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.moe_intermediate_size = 4096;
  synth.config.hidden_size = 512;
  synth.out = directory.path();
  write_random_checkpoint(synth);
  const auto mapped = open_model(directory.path(), ComputeMode::bf16);
  ThreadTeam team(2);
  TraceOptions options;
  options.greedy_tokens = 4;
  const std::vector<int32_t> prompt = random_prompt(6, mapped->config.vocab_size, 6);
  const auto expected = trace_forward(*mapped, prompt, options, team);
  const auto model = open_stored(directory.path(), ComputeMode::bf16, 3 * slot_bytes(directory.path()));
  EXPECT_GT(model->experts->slot_bytes(), uint64_t{10} << 20);
  expect_same_bits(trace_forward(*model, prompt, options, team), expected);
}

TEST(ExpertStore, KeepsTheMostUsed) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto model = open_stored(directory, ComputeMode::bf16, 3 * slot_bytes(directory));
  ExpertStore& store = *model->experts;
  const auto pass = [&](std::initializer_list<int32_t> experts) {
    const ExpertCounters before = store.counters();
    std::vector<ExpertStore::Need> needs;
    for (int32_t e : experts) needs.push_back({e, 1});
    ExpertPass running(store, 1, needs, 1);
    while (!running.all_taken()) {
      running.take(true);
      running.release();
    }
    return (store.counters() - before).hits;
  };
  EXPECT_EQ(pass({1, 2}), 0);
  EXPECT_EQ(pass({1, 2}), 2);
  EXPECT_EQ(pass({5}), 0);
  EXPECT_EQ(pass({6}), 0) << "5 was used as often as 6, and longer ago";
  EXPECT_EQ(pass({1, 2, 6}), 3);
  EXPECT_EQ(pass({5}), 0);
  EXPECT_EQ(pass({1, 2}), 2);
  // A pass that needs more than there is room for takes what is there first.
  EXPECT_EQ(pass({0, 1, 2, 3, 4}), 2);
}

TEST(ExpertStore, GuessesAreReadAheadAndCounted) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto model = open_stored(directory, ComputeMode::bf16, 4 * slot_bytes(directory));
  ExpertStore& store = *model->experts;
  const std::vector<int32_t> guessed = {3, 7, 9};
  store.guess(1, guessed);
  // Two of them and another one; that another layer needs three of the four slots leaves the certain ones room.
  const std::vector<ExpertStore::Need> others = {{0, 1}, {1, 1}, {2, 1}};
  {
    ExpertPass pass(store, 2, others, 1);
    while (!pass.all_taken()) {
      pass.take(true);
      pass.release();
    }
  }
  store.guess(1, guessed);
  const std::vector<ExpertStore::Need> needs = {{3, 1}, {5, 1}, {7, 1}};
  ExpertPass pass(store, 1, needs, 1);
  while (!pass.all_taken()) {
    pass.take(true);
    pass.release();
  }
  const ExpertCounters counters = store.counters();
  EXPECT_GE(counters.guesses, 3);
  EXPECT_LE(counters.guesses, 6);
  EXPECT_EQ(counters.right_guesses, 2);
  EXPECT_EQ(counters.lookups, 6);
}

TEST(ExpertStore, ServesSeveralSequencesAtOnce) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto mapped = open_model(directory, ComputeMode::bf16);
  TraceOptions options;
  options.greedy_tokens = 10;
  options.chunk = 16;
  std::vector<std::vector<TracedTensor>> expected(3);
  std::vector<std::vector<TracedTensor>> found(3);
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t s = 0; s < 3; ++s) {
    prompts.push_back(random_prompt(40, mapped->config.vocab_size, 30 + s));
    ThreadTeam team(1);
    expected[s] = trace_forward(*mapped, prompts[s], options, team);
  }
  for (uint64_t slots : {2, 7}) {
    const auto model = open_stored(directory, ComputeMode::bf16, slots * slot_bytes(directory));
    std::vector<std::thread> threads;
    for (size_t s = 0; s < 3; ++s) {
      threads.emplace_back([&, s] {
        ThreadTeam team(1);
        found[s] = trace_forward(*model, prompts[s], options, team);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t s = 0; s < 3; ++s) expect_same_bits(found[s], expected[s]);
  }
}

TEST(ExpertStore, RefusesTooLittleMemoryAndModelsWithoutExperts) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const uint64_t two = 2 * slot_bytes(directory);
  FATHOM_EXPECT_ERROR(open_stored(directory, ComputeMode::bf16, two - 1), ErrorKind::bad_input, directory,
                      std::to_string(two - 1), std::to_string(two), "two experts");
  EXPECT_EQ(open_stored(directory, ComputeMode::bf16, two)->experts->slots(), 2);
  TemporaryDirectory dense;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.first_k_dense_replace = synth.config.num_hidden_layers = 1;
  synth.config.num_nextn_predict_layers = 0;
  synth.out = dense.path();
  write_random_checkpoint(synth);
  FATHOM_EXPECT_ERROR(open_stored(dense.path(), ComputeMode::bf16, 1 << 20), ErrorKind::bad_input, dense.path(),
                      "no routed experts");
}

TEST(ExpertStore, GoesWithWeightsInMemoryAndNotWithIntegers) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const uint64_t bytes = 4 * slot_bytes(directory);
  const auto mapped = open_model(directory, ComputeMode::bf16);
  const auto held = open_stored(directory, ComputeMode::bf16, bytes, WeightStorage::memory);
  ThreadTeam team(2);
  TraceOptions options;
  options.mtp = true;
  const std::vector<int32_t> prompt = random_prompt(20, mapped->config.vocab_size, 8);
  expect_same_bits(trace_forward(*held, prompt, options, team), trace_forward(*mapped, prompt, options, team));
  for (WeightStorage storage : {WeightStorage::int8, WeightStorage::int4}) {
    FATHOM_EXPECT_ERROR(open_stored(directory, ComputeMode::bf16, bytes, storage), ErrorKind::bad_input,
                        "--experts-in-memory", std::string(weight_storage_name(storage)));
  }
}

// Cut off while it is in use: a sentence from every pass that needs what is gone, and what is left still works.
TEST(ExpertStore, AFileThatShrinksIsAnError) {
  TemporaryDirectory directory;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.out = directory.path();
  write_random_checkpoint(synth);
  const auto model = open_stored(directory.path(), ComputeMode::bf16, 2 * slot_bytes(directory.path()));
  // The file ends before the last expert of the first MoE layer.
  int64_t layer = 0;
  while (!model->weights.layers[static_cast<size_t>(layer)].moe) ++layer;
  const auto name = [&](int64_t e) { return fmt::format("model.layers.{}.mlp.experts.{}.gate_proj.weight", layer, e); };
  const TensorPlace first = model->checkpoint->place(name(0));
  const int64_t last = model->config.n_routed_experts - 1;
  const TensorPlace gone = model->checkpoint->place(name(last));
  ASSERT_EQ(first.file, gone.file);
  ASSERT_LT(first.entry->end, gone.entry->begin);
  const std::string path = gone.file->path();
  ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(gone.entry->begin + 100)), 0);
  for (int i = 0; i < 3; ++i) {
    const std::vector<ExpertStore::Need> needs = {{0, 1}, {static_cast<int32_t>(last), 1}};
    ExpertPass pass(*model->experts, layer, needs, 1);
    const auto take_all = [&] {
      while (!pass.all_taken()) {
        pass.take(true);
        pass.release();
      }
    };
    FATHOM_EXPECT_ERROR(take_all(), ErrorKind::failure, path, std::to_string(gone.entry->begin + 100),
                        "changed since it was opened");
  }
  const std::vector<ExpertStore::Need> needs = {{0, 1}};
  ExpertPass pass(*model->experts, layer, needs, 1);
  EXPECT_EQ(pass.take(true).size(), 1u);
}

TEST(ExpertStore, SessionsCountPerModel) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  SessionOptions options;
  options.threads = 1;
  EXPECT_FALSE(Session(directory, options).expert_counters());
  options.weights.experts_in_memory = uint64_t{1} << 30;
  Session session(directory, options);
  std::optional<ExpertCounters> after_prompt;
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  request.max_new_tokens = 2;
  GenerationCallbacks callbacks;
  callbacks.on_token = [&](int32_t, std::string_view) {
    if (!after_prompt) after_prompt = session.expert_counters();
    return true;
  };
  generate(session, nullptr, request, callbacks);
  ASSERT_TRUE(after_prompt);
  EXPECT_GT(after_prompt->lookups, 0);
  const ExpertCounters step = *session.expert_counters() - *after_prompt;
  EXPECT_EQ(step.lookups % session.config().num_experts_per_tok, 0);
  EXPECT_GT(step.lookups, 0);
}

}  // namespace
}  // namespace fathom
