#include "data/tiny_python.h"

#include <gtest/gtest.h>

#include "support/errors.h"

namespace fathom {
namespace {

// The outputs are CPython's.
struct Program {
  const char* text;
  const char* output;
};

class TinyPython : public testing::TestWithParam<Program> {};

TEST_P(TinyPython, PrintsWhatPythonPrints) {
  EXPECT_EQ(run_program(GetParam().text).output, GetParam().output) << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(
    All, TinyPython,
    testing::Values(
        Program{"print(7 + 5 * 2 - 3)", "14\n"}, Program{"print((7 + 5) * 2, 10 - 3 - 2)", "24 5\n"},
        Program{"print(-7 // 2, -7 % 3, 7 // -2, 7 % -3)", "-4 2 -4 -2\n"},
        Program{"x = 3\nx += 4\nx *= 2\nx -= 1\nprint(x)", "13\n"},
        Program{"a = \"ab\"\nprint(a + \"c\", a * 3, len(a), a.upper(), a[1], str(12) + a)",
                "abc ababab 2 AB b 12ab\n"},
        Program{"x = 5\nif x < 3:\n    print(1)\nelif x < 6:\n    print(2)\nelse:\n    print(3)\nprint(4)", "2\n4\n"},
        Program{"for i in range(2, 5):\n    if i == 3:\n        print(\"three\")\n    else:\n        print(i)",
                "2\nthree\n4\n"},
        Program{"n = 10\nwhile n > 0 and not n == 4:\n    n -= 3\nprint(n)", "4\n"},
        Program{"a = [3, 1, 2]\na.append(7)\nprint(a, len(a), a[-1])\nfor x in a:\n    print(x)",
                "[3, 1, 2, 7] 4 7\n3\n1\n2\n7\n"},
        Program{"print([\"a\", \"b\"], [])", "['a', 'b'] []\n"},
        Program{"print(3 > 2, 3 == 2 or 1 < 2)", "True True\n"},
        Program{
            "def f(n):\n    if n < 2:\n        return n\n    return f(n - 1) + f(n - 2)\n\nprint(f(10), f(3) * 2 + 1)",
            "55 5\n"},
        Program{"def g(a, b):\n    total = 0\n    for i in range(a):\n        if i == b:\n            return total\n"
                "        total += i\n    return total\nprint(g(5, 9))\nprint(g(5, 2))",
                "10\n1\n"}));

TEST(TinyPythonErrors, NameTheLine) {
  FATHOM_EXPECT_ERROR(run_program("x = 1\nprint(y)"), ErrorKind::bad_input, "Line 2", "\"y\"");
  FATHOM_EXPECT_ERROR(run_program("x = 1\nwhile x > 0:\n    x += 1"), ErrorKind::bad_input, "10,000 steps");
  FATHOM_EXPECT_ERROR(run_program("print(1 // 0)"), ErrorKind::bad_input, "division by zero");
  FATHOM_EXPECT_ERROR(run_program("import os"), ErrorKind::bad_input, "Line 1");
  FATHOM_EXPECT_ERROR(run_program("print(1 + \"a\")"), ErrorKind::bad_input, "expected a number");
  FATHOM_EXPECT_ERROR(run_program("def f(n):\n    return f(n)\nprint(f(1))"), ErrorKind::bad_input, "too deep");
}

TEST(TinyPythonTrace, ListsAssignmentsAndPrints) {
  const ProgramRun run = run_program("x = 2\nx += 3\nprint(x)");
  EXPECT_EQ(run.trace, (std::vector<std::string>{"x = 2", "x = 5", "print 5"}));
}

}  // namespace
}  // namespace fathom
