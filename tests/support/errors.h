#pragma once
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "base/error.h"

namespace fathom {

/// Runs `work` and expects an Error of this kind whose sentence holds every one of the parts.
template <typename Work>
void expect_error(Work&& work, ErrorKind kind, std::initializer_list<std::string> parts) {
  try {
    work();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    const std::string sentence = error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(sentence.find(part), std::string::npos) << "expected \"" << part << "\" in: " << sentence;
    }
    EXPECT_EQ(sentence.find('\n'), std::string::npos) << "expected one line: " << sentence;
  }
}

/// FATHOM_EXPECT_ERROR(statement, kind, part, …)
#define FATHOM_EXPECT_ERROR(statement, kind, ...)                              \
  do {                                                                         \
    SCOPED_TRACE(#statement);                                                  \
    ::fathom::expect_error([&]() -> void { statement; }, kind, {__VA_ARGS__}); \
  } while (false)

}  // namespace fathom
