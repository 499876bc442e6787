#include "evaluate/drafts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "evaluate/random_model.h"
#include "support/errors.h"

namespace fathom {
namespace {

const std::vector<int32_t> kPrompt = {5, 90, 33, 7, 411, 12, 260, 18, 77};

ModelConfig tiny_config() {
  return *model_preset("tiny");
}

TEST(DraftRun, CountsWhatTheModelSaysItself) {
  DraftRun run;
  EXPECT_EQ(run.accepted(), 0);
  run.tokens = {1, 2, 3, 4};
  run.drafts = {2, 1, 4};  // the second would be right one position earlier
  EXPECT_EQ(run.accepted(), 2);
}

// Generated tokens and drafts against the trace, which generates token by token and runs the MTP layer over a prompt.
TEST(MeasureDrafts, AreThoseOfTheTrace) {
  const RandomModel random(tiny_config(), 4);
  ThreadTeam team(2);
  constexpr size_t count = 24;
  Workspace workspace(*random.model, 64, team.size());
  const DraftRun run = measure_drafts(*random.model, kPrompt, {count, {}}, workspace, team);
  ASSERT_EQ(run.tokens.size(), count);
  ASSERT_EQ(run.drafts.size(), count - 1);
  EXPECT_FALSE(run.ended);
  ASSERT_GT(std::set<int32_t>(run.drafts.begin(), run.drafts.end()).size(), 2u) << "the test would not see a shift";

  TraceOptions greedy;
  greedy.greedy_tokens = count;
  EXPECT_EQ(run.tokens, traced(trace_forward(*random.model, kPrompt, greedy, team), "greedy.tokens").indices);

  std::vector<int32_t> sequence = kPrompt;
  sequence.insert(sequence.end(), run.tokens.begin(), run.tokens.end());
  TraceOptions mtp;
  mtp.mtp = true;
  const auto tensors = trace_forward(*random.model, sequence, mtp, team);
  const std::vector<int32_t>& all = traced(tensors, "mtp.draft_tokens").indices;
  // Row i drafts token i + 2: the first row whose next token is generated is the prompt's last.
  const auto first = all.begin() + std::ssize(kPrompt) - 1;
  EXPECT_EQ(run.drafts, std::vector<int32_t>(first, first + count - 1));
}

TEST(MeasureDrafts, ChunksDoNotMatter) {
  const RandomModel random(tiny_config(), 4);
  ThreadTeam team(1);
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 150; ++i) prompt.push_back(i * 37 % 512);
  Workspace whole(*random.model, 256, team.size());
  const DraftRun once = measure_drafts(*random.model, prompt, {90, {}}, whole, team);
  Workspace pieces(*random.model, 7, team.size());
  const DraftRun cut = measure_drafts(*random.model, prompt, {90, {}}, pieces, team);
  EXPECT_EQ(once.tokens, cut.tokens);
  EXPECT_EQ(once.drafts, cut.drafts);
  EXPECT_EQ(once.drafts.size(), 89u);
}

TEST(MeasureDrafts, EndTokensAndTheModelsLength) {
  ModelConfig config = tiny_config();
  config.max_position_embeddings = 16;
  const RandomModel random(config, 4);
  ThreadTeam team(1);
  Workspace workspace(*random.model, 16, team.size());
  const DraftRun full = measure_drafts(*random.model, kPrompt, {100, {}}, workspace, team);
  EXPECT_EQ(full.tokens.size(), 16 - kPrompt.size());
  EXPECT_FALSE(full.ended);

  const int32_t end = full.tokens[3];
  const auto length = std::find(full.tokens.begin(), full.tokens.end(), end) - full.tokens.begin() + 1;
  const DraftRun ended = measure_drafts(*random.model, kPrompt, {100, {end}}, workspace, team);
  EXPECT_TRUE(ended.ended);
  EXPECT_EQ(ended.tokens, std::vector<int32_t>(full.tokens.begin(), full.tokens.begin() + length));
  EXPECT_EQ(ended.drafts, std::vector<int32_t>(full.drafts.begin(), full.drafts.begin() + length - 1));

  const DraftRun single = measure_drafts(*random.model, kPrompt, {1, {}}, workspace, team);
  EXPECT_EQ(single.tokens.size(), 1u);
  EXPECT_TRUE(single.drafts.empty());

  const std::vector<int32_t> longest(16, 3);
  FATHOM_EXPECT_ERROR(measure_drafts(*random.model, longest, {}, workspace, team), ErrorKind::bad_input, "16");
  FATHOM_EXPECT_ERROR(measure_drafts(*random.model, {}, {}, workspace, team), ErrorKind::bad_input, "token");
}

TEST(MeasureDrafts, NeedsAnMtpLayer) {
  ModelConfig config = tiny_config();
  config.num_nextn_predict_layers = 0;
  const RandomModel random(config, 4);
  ThreadTeam team(1);
  Workspace workspace(*random.model, 16, team.size());
  FATHOM_EXPECT_ERROR(measure_drafts(*random.model, kPrompt, {}, workspace, team), ErrorKind::bad_input,
                      "no MTP layer");
}

}  // namespace
}  // namespace fathom
