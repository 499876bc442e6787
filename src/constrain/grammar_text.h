#pragma once
#include <string_view>

#include "constrain/byte_grammar.h"

namespace fathom {

/// A grammar from a text, in the manner of GBNF. What can be written is what the rule `root` reads.
///
///     # A list of points
///     root  ::= "[" (point ("," point){0,9})? "]"
///     point ::= "(" [0-9]+ "," [0-9]+ ")"   # a rule goes on until the next NAME ::=
///
/// - `NAME ::= alternative | alternative`, with letters, digits, `-` and `_` in names
/// - an alternative is a sequence of `"text"`, `[characters]`, `[^characters]`, `.` (any character), names and `( … )`
/// - behind each of these may stand `*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}` (up to `largest_repetition`)
/// - in texts and classes: \n \r \t \\ \" \[ \] \- \^ and, as numbers of Unicode characters, \xHH \uHHHH \UHHHHHHHH;
///   classes have ranges (`a-z`)
/// - `#` begins a comment up to the end of the line; line ends mean nothing else
///
/// `bad_input` with line and column: malformed text, an unknown or doubly defined name, parentheses deeper than
/// `deepest_grammar_input`. That a rule begins with itself (left recursion) is refused by `compile_automaton`.
ByteGrammar grammar_from_text(std::string_view text);

}  // namespace fathom
