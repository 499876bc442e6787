#include "base/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

namespace fathom {
namespace {

class ThreadTeams : public testing::TestWithParam<int> {};

TEST_P(ThreadTeams, EveryItemOnce) {
  ThreadTeam team(GetParam());
  EXPECT_EQ(team.size(), GetParam());
  for (int64_t items : {0, 1, 2, 3, 7, 64, 1000}) {
    auto counts = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(items) + 1);
    std::atomic<int> wrong_thread{0};
    team.parallel_for(items, [&](int64_t item, int thread) {
      counts[static_cast<size_t>(item)]++;
      if (thread < 0 || thread >= GetParam()) wrong_thread++;
    });
    for (int64_t i = 0; i < items; ++i) EXPECT_EQ(counts[static_cast<size_t>(i)], 1) << i << " of " << items;
    EXPECT_EQ(wrong_thread, 0);
  }
}

TEST_P(ThreadTeams, ManyShortLoopsSeeEachOthersResults) {
  ThreadTeam team(GetParam());
  std::vector<int64_t> values(37, 0);
  for (int loop = 0; loop < 3000; ++loop) {
    team.parallel_for(static_cast<int64_t>(values.size()),
                      [&](int64_t item, int) { values[static_cast<size_t>(item)] += item; });
  }
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 3000 * 37 * 36 / 2);
}

TEST_P(ThreadTeams, WakesUpAfterSleep) {
  ThreadTeam team(GetParam());
  std::atomic<int64_t> sum{0};
  for (int loop = 0; loop < 3; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than the team spins
    team.parallel_for(100, [&](int64_t item, int) { sum += item; });
  }
  EXPECT_EQ(sum, 3 * 4950);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadTeams, testing::Values(1, 2, 3, 8));

TEST(ThreadTeam, DefaultIsOneThreadPerProcessor) {
  ThreadTeam team;
  EXPECT_GE(team.size(), 1);
}

// Sixteen threads on few processors: most of them wake up when a short loop is long over.
TEST(ThreadTeam, LateWorkersNeitherMissNorRepeatItems) {
  ThreadTeam team(16);
  std::vector<int64_t> counts(5, 0);
  for (int loop = 0; loop < 20000; ++loop) {
    if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    team.parallel_for(static_cast<int64_t>(counts.size()),
                      [&](int64_t item, int) { counts[static_cast<size_t>(item)] += loop; });
  }
  for (int64_t count : counts) EXPECT_EQ(count, int64_t{20000} * 19999 / 2);
}

TEST(ThreadTeam, ComesAndGoesAmongLoops) {
  for (int i = 0; i < 300; ++i) {
    ThreadTeam team(4);
    std::atomic<int> items{0};
    for (int loop = 0; loop < i % 4; ++loop) team.parallel_for(8, [&](int64_t, int) { items++; });
    EXPECT_EQ(items, i % 4 * 8);
  }
}

TEST(ThreadTeam, ComesAndGoesWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadTeam team(4);
}

}  // namespace
}  // namespace fathom
