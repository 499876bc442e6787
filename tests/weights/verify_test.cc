#include "weights/verify.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "support/errors.h"
#include "weights/cast.h"
#include "weights/tiny_checkpoints.h"

namespace fathom {
namespace {

VerifyReport verify(const std::string& directory, const std::string& against = {}) {
  const Checkpoint checkpoint(directory);
  std::unique_ptr<Checkpoint> other;
  if (!against.empty()) other = std::make_unique<Checkpoint>(against);
  ThreadTeam team(2);
  return verify_checkpoint(checkpoint, other.get(), team);
}

const TensorReport& tensor(const VerifyReport& report, const std::string& name) {
  for (const TensorReport& one : report.tensors) {
    if (one.name == name) return one;
  }
  throw std::runtime_error("no tensor " + name);
}

/// A copy of a checkpoint in which bytes of one tensor are overwritten.
std::string damaged(const TemporaryDirectory& directory, const std::string& from, const std::string& name,
                    const std::string& bytes) {
  std::filesystem::remove_all(directory.file("damaged"));
  std::filesystem::copy(from, directory.file("damaged"));
  const Checkpoint checkpoint(directory.file("damaged"));
  const TensorPlace place = checkpoint.place(name);
  std::fstream file(place.file->path(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(place.entry->begin));
  file << bytes;
  return directory.file("damaged");
}

TEST(Verify, FindsNothingWrongWithAWholeCheckpoint) {
  for (const bool fp8 : {false, true}) {
    const VerifyReport report = verify(tiny_checkpoint(fp8));
    for (const TensorReport& one : report.tensors) {
      EXPECT_TRUE(one.problems.empty()) << one.name << ": " << one.problems[0];
      EXPECT_EQ(one.checksum.size(), 32u);
      EXPECT_FALSE(one.difference);
    }
    EXPECT_EQ(report.problem_count(), 0);
    EXPECT_GT(report.bytes, 1'000'000u);
  }
}

TEST(Verify, ChecksumsAreOfTheBytes) {
  const TemporaryDirectory directory;
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const VerifyReport whole = verify(tiny_checkpoint(false));
  const VerifyReport other = verify(damaged(directory, tiny_checkpoint(false), name, "\x01"));
  for (const TensorReport& one : whole.tensors) {
    EXPECT_EQ(one.checksum == tensor(other, one.name).checksum, one.name != name) << one.name;
  }
}

TEST(Verify, MeasuresTheDifferenceOfNumbers) {
  const TemporaryDirectory directory;
  {
    const Checkpoint checkpoint(tiny_checkpoint(false));
    const TensorReader reader(checkpoint);
    ThreadTeam team(1);
    rewrite_checkpoint(plan_cast(checkpoint, reader, {CastTo::fp8, false, directory.file("fp8")}), team);
  }
  const VerifyReport report = verify(directory.file("fp8"), tiny_checkpoint(false));
  EXPECT_EQ(report.problem_count(), 0);
  // E4M3 has 3 bits behind the point: a number is off by at most 1/16, and by about 2.6 % in the mean.
  const TensorReport& matrix = tensor(report, "model.layers.1.self_attn.o_proj.weight");
  ASSERT_TRUE(matrix.difference);
  EXPECT_FALSE(matrix.difference->same_bytes);
  EXPECT_GT(matrix.difference->relative, 0.015);
  EXPECT_LT(matrix.difference->relative, 0.04);
  EXPECT_LT(matrix.difference->greatest, std::max(-matrix.least, matrix.greatest) / 16);
  const TensorReport& norm = tensor(report, "model.norm.weight");
  ASSERT_TRUE(norm.difference);
  EXPECT_TRUE(norm.difference->same_bytes);
  EXPECT_EQ(norm.difference->greatest, 0);
  EXPECT_EQ(verify(tiny_checkpoint(false), tiny_checkpoint(false)).problem_count(), 0);
}

TEST(Verify, NamesWhatIsWrong) {
  const TemporaryDirectory directory;
  const auto problem = [&](const std::string& from, const std::string& name, const std::string& bytes,
                           const std::string& part) {
    const VerifyReport report = verify(damaged(directory, from, name, bytes));
    EXPECT_EQ(report.problem_count(), 1);
    const TensorReport& one = tensor(report, name);
    ASSERT_EQ(one.problems.size(), 1u);
    EXPECT_NE(one.problems[0].find(part), std::string::npos) << one.problems[0];
  };
  const std::string& bf16 = tiny_checkpoint(false);
  const std::string& fp8 = tiny_checkpoint(true);
  const std::string matrix = "model.layers.1.self_attn.o_proj.weight";
  problem(bf16, matrix, std::string("\x80\x7f", 2), "1 of its");                            // infinity
  problem(fp8, matrix, "\x7f", "1 of its");                                                 // NaN of E4M3
  problem(fp8, matrix + "_scale_inv", std::string("\x00\x00\x80\xbf", 4), "not positive");  // −1
  problem(bf16, "model.norm.weight", std::string(Checkpoint(bf16).tensor("model.norm.weight").bytes(), '\0'),
          "all of its numbers are zero");
}

TEST(Verify, ComparesWithTheConfigAndTheOtherCheckpoint) {
  const TemporaryDirectory directory;
  std::filesystem::copy(tiny_checkpoint(false), directory.file("other"));
  const std::string config = directory.file("other") + "/config.json";
  std::string text = files_of(directory.file("other"))["config.json"];
  const size_t at = text.find("\"moe_intermediate_size\": ");
  ASSERT_NE(at, std::string::npos);
  text.insert(at + 25, "1");
  std::ofstream(config) << text;
  const VerifyReport report = verify(directory.file("other"));
  EXPECT_GT(report.problem_count(), 0);
  const TensorReport& expert = tensor(report, "model.layers.1.mlp.experts.0.gate_proj.weight");
  ASSERT_FALSE(expert.problems.empty());
  EXPECT_NE(expert.problems[0].find("the config says"), std::string::npos);
}

}  // namespace
}  // namespace fathom
