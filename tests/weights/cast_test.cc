#include "weights/cast.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/number_formats.h"
#include "formats/tensor_table.h"
#include "kernels/quantize.h"
#include "support/errors.h"
#include "support/golden.h"
#include "weights/tiny_checkpoints.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

struct Cast {
  explicit Cast(const std::string& directory, const CastOptions& options)
      : checkpoint(directory), reader(checkpoint), plan(plan_cast(checkpoint, reader, options)) {}
  RewriteResult run(const std::function<void(uint64_t, uint64_t)>& on_progress = {}) {
    ThreadTeam team(2);
    return rewrite_checkpoint(plan, team, on_progress);
  }

  Checkpoint checkpoint;
  TensorReader reader;
  RewritePlan plan;
};

CastOptions options(CastTo to, const std::string& out, bool ue8m0 = false) {
  return {to, ue8m0, out};
}

TEST(Cast, ToBf16IsCodeTimesScale) {
  const TemporaryDirectory directory;
  Cast cast(tiny_checkpoint(true), options(CastTo::bf16, directory.file("out")));
  const RewriteResult result = cast.run();
  const Checkpoint from(tiny_checkpoint(true));
  const Checkpoint to(directory.file("out"));
  EXPECT_FALSE(to.config().fp8);
  EXPECT_EQ(to.config().num_nextn_predict_layers, from.config().num_nextn_predict_layers);
  EXPECT_EQ(to.index_total_size(), result.bytes);
  EXPECT_EQ(to.files().size(), from.files().size());
  int64_t cast_tensors = 0;
  for (const auto& file : from.files()) {
    for (const SafetensorsEntry& entry : file->entries()) {
      SCOPED_TRACE(entry.name);
      if (entry.name.ends_with("_scale_inv")) {
        EXPECT_FALSE(to.has(entry.name));
        continue;
      }
      const TensorView before = from.tensor(entry.name);
      const TensorView after = to.tensor(entry.name);
      EXPECT_EQ(after.shape, before.shape);
      if (before.dtype != DType::f8_e4m3) {
        EXPECT_EQ(after.dtype, before.dtype);
        EXPECT_EQ(std::memcmp(after.data, before.data, before.bytes()), 0);
        continue;
      }
      ++cast_tensors;
      ASSERT_EQ(after.dtype, DType::bf16);
      const TensorView scales = from.tensor(entry.name + "_scale_inv");
      for (int64_t row = 0; row < before.shape[0]; ++row) {
        for (int64_t col = 0; col < before.shape[1]; ++col) {
          float scale;
          std::memcpy(&scale, scales.data + 4 * (row / 128 * scales.shape[1] + col / 128), 4);
          const auto code = static_cast<uint8_t>(before.data[row * before.shape[1] + col]);
          uint16_t bits;
          std::memcpy(&bits, after.data + 2 * (row * before.shape[1] + col), 2);
          ASSERT_EQ(bits, f32_to_bf16(e4m3_to_f32(code) * scale)) << row << ", " << col;
        }
      }
    }
  }
  EXPECT_GT(cast_tensors, 10);
  EXPECT_GT(from.files().size(), 2u);
  EXPECT_TRUE(fs::exists(directory.file("out") + "/tokenizer.json"));
}

TEST(Cast, ToFp8AndBackChangesNothingMore) {
  for (const bool ue8m0 : {false, true}) {
    const TemporaryDirectory directory;
    Cast(golden_dir("bf16-tiny"), options(CastTo::fp8, directory.file("fp8"), ue8m0)).run();
    const Checkpoint fp8(directory.file("fp8"));
    ASSERT_TRUE(fp8.config().fp8);
    EXPECT_EQ(fp8.config().fp8->ue8m0, ue8m0);
    const Checkpoint from(golden_dir("bf16-tiny"));
    for (const TensorSpec& spec : tensor_table(from.config())) {
      if (spec.optional && !from.has(spec.name)) continue;
      SCOPED_TRACE(spec.name);
      const TensorView before = from.tensor(spec.name);
      const TensorView after = fp8.tensor(spec.name);
      if (!spec.quantizable) {
        EXPECT_EQ(std::memcmp(after.data, before.data, before.bytes()), 0);
        continue;
      }
      ASSERT_EQ(after.dtype, DType::f8_e4m3);
      std::vector<float> weights(static_cast<size_t>(before.elements()));
      for (size_t i = 0; i < weights.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, before.data + 2 * i, 2);
        weights[i] = bf16_to_f32(bits);
      }
      const TensorView scales = fp8.tensor(spec.name + "_scale_inv");
      std::vector<uint8_t> codes(weights.size());
      std::vector<float> expected(static_cast<size_t>(scales.elements()));
      quantize_weight(weights.data(), before.shape[0], before.shape[1], 128, 128, ue8m0, codes.data(), expected.data());
      EXPECT_EQ(std::memcmp(after.data, codes.data(), codes.size()), 0);
      EXPECT_EQ(std::memcmp(scales.data, expected.data(), scales.bytes()), 0);
    }
  }
}

TEST(Cast, GoesOnWhereItWasStopped) {
  const TemporaryDirectory directory;
  Cast(tiny_checkpoint(true), options(CastTo::bf16, directory.file("whole"))).run();
  const auto whole = files_of(directory.file("whole"));
  ASSERT_EQ(whole.count("rewrite.json"), 0u);

  Cast cast(tiny_checkpoint(true), options(CastTo::bf16, directory.file("out")));
  const uint64_t first = cast.plan.shards[0].bytes();
  EXPECT_THROW(cast.run([&](uint64_t done, uint64_t) {
    if (done > first) throw std::runtime_error("stopped");
  }),
               std::runtime_error);
  EXPECT_FALSE(fs::exists(directory.file("out")));
  EXPECT_TRUE(fs::exists(directory.file("out.partial") + "/" + cast.plan.shards[0].file));
  EXPECT_FALSE(fs::exists(directory.file("out.partial") + "/" + cast.plan.shards[1].file));
  // Another command does not go on from there.
  FATHOM_EXPECT_ERROR(Cast(golden_dir("bf16-tiny"), options(CastTo::fp8, directory.file("out"))).run(),
                      ErrorKind::bad_input, "left over from another command");
  EXPECT_EQ(cast.run().bytes_kept, first);
  EXPECT_EQ(files_of(directory.file("out")), whole);
  EXPECT_FALSE(fs::exists(directory.file("out.partial")));
}

TEST(Cast, FindsAFileThatIsNotWhatWasWritten) {
  const TemporaryDirectory directory;
  Cast cast(tiny_checkpoint(true), options(CastTo::bf16, directory.file("out")));
  const std::string shard = directory.file("out.partial") + "/" + cast.plan.shards[0].file;
  // A run that is stopped once the first file is there, and something that changes that file.
  EXPECT_THROW(cast.run([&](uint64_t, uint64_t) {
    if (fs::exists(shard)) throw std::runtime_error("stopped");
  }),
               std::runtime_error);
  std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x55');
  file.close();
  FATHOM_EXPECT_ERROR(cast.run(), ErrorKind::failure, cast.plan.shards[0].file, "repeat the command");
  EXPECT_FALSE(fs::exists(directory.file("out")));
  cast.run();
  Cast again(tiny_checkpoint(true), options(CastTo::bf16, directory.file("again")));
  again.run();
  EXPECT_EQ(files_of(directory.file("out")), files_of(directory.file("again")));
}

TEST(Cast, SaysWhatItCannotCast) {
  const TemporaryDirectory directory;
  const auto plan = [&](const std::string& from, CastTo to) { Cast(from, options(to, directory.file("out"))); };
  FATHOM_EXPECT_ERROR(plan(golden_dir("bf16-tiny"), CastTo::bf16), ErrorKind::bad_input, "nothing to cast");
  FATHOM_EXPECT_ERROR(plan(tiny_checkpoint(true), CastTo::fp8), ErrorKind::bad_input, "in FP8 already");
  fs::create_directories(directory.file("full"));
  std::ofstream(directory.file("full") + "/file") << "x";
  FATHOM_EXPECT_ERROR(Cast(tiny_checkpoint(true), options(CastTo::bf16, directory.file("full"))).run(),
                      ErrorKind::bad_input, "found files in it");
  EXPECT_FALSE(fs::exists(directory.file("out.partial")));
}

}  // namespace
}  // namespace fathom
