#include "engine/prefix_tree.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom {
namespace {

constexpr int64_t kPage = LatentPool::kPage;

// By guaranteed elision: a pool is not moved.
LatentPool small_pool(int64_t pages) {
  ModelConfig config;
  config.num_hidden_layers = 1;
  config.num_nextn_predict_layers = 0;
  config.kv_lora_rank = 4;
  config.qk_rope_head_dim = 2;
  return LatentPool(config, DType::f32, pages);
}

// Whole pages of one token each.
std::vector<int32_t> tokens_of(const std::vector<int32_t>& pages) {
  std::vector<int32_t> tokens;
  for (const int32_t token : pages) tokens.insert(tokens.end(), kPage, token);
  return tokens;
}

void fill(PrefixTree& tree, LatentPool& pool, const std::vector<int32_t>& tokens) {
  LatentCache cache(pool);
  tree.share(tokens, cache);
  ASSERT_TRUE(cache.reserve(std::ssize(tokens)));
  tree.insert(tokens, std::ssize(tokens), cache);
}

TEST(PrefixTree, FindsTheLongestBeginning) {
  LatentPool pool = small_pool(8);
  PrefixTree tree(pool);
  fill(tree, pool, tokens_of({1, 2, 3}));
  fill(tree, pool, tokens_of({1, 2, 4}));
  EXPECT_EQ(tree.pages(), 4);
  EXPECT_EQ(pool.free_pages(), 4);
  std::vector<int32_t> asked = tokens_of({1, 2, 4});
  EXPECT_EQ(tree.match(asked), 3 * kPage);
  asked[2 * kPage + 10] = 9;
  EXPECT_EQ(tree.match(asked), 2 * kPage + 10);
  EXPECT_EQ(tree.match(tokens_of({2})), 0);
  EXPECT_EQ(tree.match({}), 0);
  LatentCache cache(pool);
  EXPECT_EQ(tree.share(asked, cache).tokens, 2 * kPage + 10);
  EXPECT_EQ(cache.ids().size(), 3u);
  EXPECT_EQ(pool.references(cache.ids()[0]), 2);
}

TEST(PrefixTree, GivesUpWhatWasAskedForLongestAgo) {
  LatentPool pool = small_pool(8);
  PrefixTree tree(pool);
  fill(tree, pool, tokens_of({1, 2, 3}));
  fill(tree, pool, tokens_of({5, 6}));
  {
    LatentCache cache(pool);
    tree.share(tokens_of({1, 2}), cache);  // 3 was not asked for again
  }
  EXPECT_EQ(pool.free_pages(), 3);
  ASSERT_TRUE(tree.free_pages(4));
  EXPECT_EQ(tree.match(tokens_of({1, 2, 3})), 2 * kPage);
  ASSERT_TRUE(tree.free_pages(6));  // 6, then 5
  EXPECT_EQ(tree.match(tokens_of({5, 6})), 0);
  EXPECT_EQ(tree.match(tokens_of({1, 2})), 2 * kPage);
  // What somebody holds stays, and so does what lies before it.
  LatentCache cache(pool);
  tree.share(tokens_of({1, 2}), cache);
  EXPECT_FALSE(tree.free_pages(7));
  EXPECT_EQ(tree.pages(), 2);
  cache.shrink(0);
  EXPECT_TRUE(tree.free_pages(8));
  EXPECT_EQ(tree.pages(), 0);
}

// A leaf may be filled in part: it serves those who begin like it, and makes room for one that says more.
TEST(PrefixTree, KeepsALastPageThatIsFilledInPart) {
  LatentPool pool = small_pool(8);
  PrefixTree tree(pool);
  std::vector<int32_t> tokens = tokens_of({1});
  tokens.insert(tokens.end(), {7, 8, 9});
  fill(tree, pool, tokens);
  EXPECT_EQ(tree.pages(), 2);
  fill(tree, pool, std::vector<int32_t>(tokens.begin(), tokens.end() - 1));  // says less
  EXPECT_EQ(tree.pages(), 2);
  tokens.insert(tokens.end(), {10, 11});
  EXPECT_EQ(tree.match(tokens), kPage + 3);
  {
    // The first 65 tokens with the MTP layers' part: one of the last page.
    LatentCache cache(pool);
    ASSERT_TRUE(cache.reserve(std::ssize(tokens)));
    tree.insert(tokens, kPage + 1, cache);
  }
  EXPECT_EQ(tree.match(tokens), kPage + 5);
  EXPECT_EQ(tree.pages(), 2);
  EXPECT_EQ(pool.free_pages(), 6);
  LatentCache cache(pool);
  const PrefixTree::Shared shared = tree.share(tokens, cache);
  EXPECT_EQ(shared.tokens, kPage + 5);
  EXPECT_EQ(shared.with_mtp, kPage + 1);
  EXPECT_EQ(pool.references(cache.ids()[1]), 2);
  // Another continuation stands beside it.
  tokens.resize(kPage + 1);
  tokens.push_back(99);
  fill(tree, pool, tokens);
  EXPECT_EQ(tree.pages(), 3);
  EXPECT_EQ(tree.match(tokens), kPage + 2);
}

}  // namespace
}  // namespace fathom
