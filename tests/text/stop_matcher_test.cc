#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include "support/errors.h"

namespace fathom {
namespace {

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"abab", "bx"});
  EXPECT_EQ(matcher.push("za"), "z");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_EQ(matcher.push("a"), "");
  EXPECT_EQ(matcher.push("c"), "abac");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_EQ(matcher.finish(), "b");
  EXPECT_FALSE(matcher.matched());
  EXPECT_EQ(matcher.push("ababab"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, TakesTheFirstOfSeveral) {
  StopMatcher matcher({"world", "lo w"});
  EXPECT_EQ(matcher.push("hello world"), "hel");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopMatcher, RefusesAnEmptyString) {
  FATHOM_EXPECT_ERROR(StopMatcher({"a", ""}), ErrorKind::bad_input, "must not be empty");
}

}  // namespace
}  // namespace fathom
