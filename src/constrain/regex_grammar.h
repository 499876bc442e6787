#pragma once
#include <string_view>

#include "constrain/byte_grammar.h"

namespace fathom {

/// The texts that match a regular expression as a whole.
///
/// Supported: literals; `.` (all but \n, \r, U+2028, U+2029); classes with ranges and negation; \d \w (ASCII), \s
/// (ASCII blanks; other Unicode blanks are neither \s nor \S, since dialects differ) and their complements; \t \n \r \f
/// \v \0 \xHH \uHHHH \u{…}; an escaped sign that is no letter; groups, also named ones; alternation; * + ? {n} {n,}
/// {n,m} up to `largest_repetition`, and a `?` behind them, which has no meaning here; `^` at the start and `$` at the
/// end of an alternative. A text that matches here matches in PCRE2 and in ECMAScript too.
///
/// `bad_input` with line and column names what is not supported: lookaround, backreferences, \b, \p, flags, possessive
/// and atomic groups, anchors elsewhere; and groups nested deeper than `deepest_grammar_input`.
ByteGrammar regex_grammar(std::string_view pattern);

/// The inside of a JSON string whose value matches somewhere, as JSON Schema's `pattern` does: any characters may stand
/// before it, unless it begins with `^`, and behind it, unless it ends with `$`. Characters that JSON must escape are
/// escaped, all others are not; `any` reads one character of the sides. `what` begins the sentences of errors.
ByteGrammar::Node json_pattern(ByteGrammar& grammar, std::string_view pattern, ByteGrammar::Node any,
                               const std::string& what);

}  // namespace fathom
