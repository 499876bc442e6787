#include "serve/access.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "serve/api_error.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

using std::chrono::seconds;

std::string key_file(const TemporaryDirectory& directory, const std::string& text, mode_t mode = 0600) {
  const std::string path = directory.file("keys");
  std::ofstream(path) << text;
  ::chmod(path.c_str(), mode);
  return path;
}

TEST(Access, ReadsAKeyFile) {
  const TemporaryDirectory directory;
  const auto keys = read_key_file(
      key_file(directory,
               "# keys\n\nsk-0123456789abcdef name=ann concurrent=2\r\n  sk-other-0123456789 tokens_per_minute=60\n"),
      {7, 8});
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0].name, "ann");
  EXPECT_EQ(keys[0].limits.concurrent, 2);
  EXPECT_EQ(keys[0].limits.tokens_per_minute, 8);
  EXPECT_EQ(keys[1].name, "key2");
  EXPECT_EQ(keys[1].limits.concurrent, 7);
  EXPECT_EQ(keys[1].limits.tokens_per_minute, 60);
  const Access access(keys, {});
  EXPECT_TRUE(access.needs_key());
  EXPECT_EQ(access.who("Bearer sk-0123456789abcdef"), 0);
  EXPECT_EQ(access.who("Bearer sk-other-0123456789"), 1);
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer sk-0123456789abcde", "Bearer sk-0123456789abcdef ",
                            "sk-0123456789abcdef", "Basic", "Basic !!!!", "Basic c2s=", "Digest sk-0123456789abcdef"}) {
    EXPECT_EQ(access.who(wrong), Access::kNobody) << wrong;
  }
}

TEST(Access, SaysWhatIsWrongWithAKeyFileWithoutItsKeys) {
  const TemporaryDirectory directory;
  const auto error = [&](const std::string& text, mode_t mode = 0600) -> std::string {
    try {
      read_key_file(key_file(directory, text, mode), {});
    } catch (const Error& found) {
      EXPECT_EQ(std::string(found.what()).find("secret"), std::string::npos) << found.what();
      return found.what();
    }
    return "";
  };
  EXPECT_NE(error("# nothing\n").find("no API key"), std::string::npos);
  EXPECT_NE(error("secret\n").find("line 1: an API key has 16 to 512 characters; this one has 6"), std::string::npos);
  EXPECT_NE(error("ok-0123456789abcdef\nsecret-0123456789 concurrency=1\n").find("line 2: expected name="),
            std::string::npos);
  EXPECT_NE(error("secret-0123456789 concurrent=x\n").find("concurrent: expected a number"), std::string::npos);
  EXPECT_NE(error("secret-0123456789\nsecret-0123456789\n").find("twice"), std::string::npos);
  EXPECT_NE(error("secret-0123456789\n", 0644).find("chmod 600"), std::string::npos);
}

TEST(Access, BoundsWhatAKeyHasOpen) {
  Access access({make_api_key("sk-0123456789abcdef", "a", {2, 0})}, {});
  auto first = access.admit(0);
  auto second = access.admit(0);
  try {
    access.admit(0);
    FAIL();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 429);
    EXPECT_GT(error.retry_after_s, 0);
  }
  first.reset();
  EXPECT_NO_THROW(access.admit(0));
}

TEST(Access, BoundsTokensOverAMinute) {
  Access access({make_api_key("sk-0123456789abcdef", "a", {0, 600})}, {});
  const Access::Clock::time_point begin = Access::Clock::now();
  access.admit(0, begin)->spend(500);
  access.admit(0, begin)->spend(300);  // the last one that is let in may pass the limit
  try {
    access.admit(0, begin + seconds(10));
    FAIL();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 429);
    // 200 too many, of which 100 have come back: 10 s more, and one token.
    EXPECT_EQ(error.retry_after_s, 11);
  }
  EXPECT_NO_THROW(access.admit(0, begin + seconds(21)));
  // What was not used does not pile up.
  access.admit(0, begin + seconds(1000))->spend(600);
  EXPECT_THROW(access.admit(0, begin + seconds(1000)), ApiError);
}

TEST(Access, LetsEverybodyInWithoutKeys) {
  const Access access({}, {});
  EXPECT_FALSE(access.needs_key());
  EXPECT_EQ(access.who(""), 0);
  EXPECT_EQ(access.name(0), "everybody");
}

}  // namespace
}  // namespace fathom
