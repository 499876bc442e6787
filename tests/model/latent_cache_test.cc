#include "model/latent_cache.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.num_hidden_layers = 2;
  config.num_nextn_predict_layers = 1;
  config.kv_lora_rank = 8;
  config.qk_rope_head_dim = 4;
  return config;
}

// Row `value` of a position, told apart from all others.
std::vector<float> row_of(float value) {
  std::vector<float> row(12);
  for (size_t i = 0; i < row.size(); ++i) row[i] = value + static_cast<float>(i) / 16;
  return row;
}

TEST(LatentPool, CountsReferencesAndGivesTheLowestFreePage) {
  LatentPool pool(small_config(), DType::f32, 3);
  EXPECT_EQ(pool.page_bytes(), size_t{3 * 64 * 12 * 4});
  EXPECT_EQ(pool.take(), 0);
  EXPECT_EQ(pool.take(), 1);
  EXPECT_EQ(pool.take(), 2);
  EXPECT_EQ(pool.take(), -1);
  pool.share(1);
  pool.give_back(1);
  EXPECT_EQ(pool.free_pages(), 0);
  pool.give_back(2);
  pool.give_back(1);
  EXPECT_EQ(pool.free_pages(), 2);
  EXPECT_EQ(pool.take(), 1);
}

TEST(LatentCache, SharesPagesAndCopiesOnWrite) {
  LatentPool pool(small_config(), DType::f32, 4);
  LatentCache first(pool);
  ASSERT_TRUE(first.reserve(100));
  EXPECT_EQ(first.capacity(), 128);
  for (int64_t p = 0; p < 100; ++p) first.write(1, p, row_of(static_cast<float>(p)).data());

  LatentCache second(pool);
  for (const int64_t id : first.ids()) second.share_page(id);
  EXPECT_EQ(pool.free_pages(), 2);
  std::vector<float> row(12);
  second.read(1, 99, row.data());
  EXPECT_EQ(row, row_of(99));

  // Another position behind the shared ones: the page becomes its own, with what was in it.
  ASSERT_TRUE(second.own_page(1));
  second.write(1, 99, row_of(-1).data());
  first.read(1, 99, row.data());
  EXPECT_EQ(row, row_of(99));
  second.read(1, 98, row.data());
  EXPECT_EQ(row, row_of(98));
  EXPECT_EQ(first.ids()[0], second.ids()[0]);
  EXPECT_NE(first.ids()[1], second.ids()[1]);
  ASSERT_TRUE(second.own_page(1));
  EXPECT_EQ(pool.free_pages(), 1);

  EXPECT_FALSE(second.reserve(64 * 4));
  EXPECT_EQ(second.capacity(), 128);
  ASSERT_TRUE(first.reserve(64 * 3));
  EXPECT_FALSE(second.own_page(0));
  first.shrink(64);
  EXPECT_EQ(pool.free_pages(), 2);
  EXPECT_TRUE(second.own_page(0));
}

TEST(LatentCache, RoundsToBf16) {
  LatentCache cache(small_config(), DType::bf16, 65);
  cache.write(2, 64, row_of(1.0f + 1.0f / 512).data());
  std::vector<float> row(12);
  cache.read(2, 64, row.data());
  EXPECT_EQ(row[0], 1.0f);
  EXPECT_EQ(row[1], 1.0625f);
}

}  // namespace
}  // namespace fathom
