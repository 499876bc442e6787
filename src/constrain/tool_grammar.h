#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "constrain/byte_grammar.h"
#include "text/chat_template.h"

namespace fathom {

class Tokenizer;

inline constexpr size_t most_tools = 128;

/// Refuses, with `bad_input` that names the tool, what DeepSeek's API refuses: more than `most_tools`, a name that is
/// not 1 to 64 letters, digits, `_` and `-` or that two tools have, a description that is not UTF-8, and parameters
/// that are no JSON object. Of a strict tool the parameters must be a schema of an object, and in it every object has
/// all its properties in `required` and `additionalProperties` false, every keyword is one that `json_schema_grammar`
/// knows, and a finite value exists.
void check_tools(const std::vector<ToolDefinition>& tools);

/// The control tokens of calls, in the order in which grammars of calls name them, for the constructor of `TokenTrie`;
/// none if the vocabulary lacks one of them: then a `Constraint` with such a grammar is refused.
std::vector<int32_t> tool_control_tokens(const Tokenizer& tokenizer);

struct CallRules {
  std::string only;      ///< the one tool that may be called; empty: any
  bool parallel = true;  ///< more than one call
  /// The grammar reads `<｜tool▁calls▁begin｜>` too, and before it up to two line ends, as models write them behind
  /// `</think>`. Else it starts behind that token.
  bool with_begin = false;
};

/// Tool calls as the format writes them, up to `<｜tool▁calls▁end｜>`: of tools that `check_tools` has let pass. The
/// arguments of a strict tool follow its schema, those of any other are a JSON object.
///
/// `bad_input` if there is no tool, or `only` is none of them.
ByteGrammar tool_call_grammar(ChatFormat format, const std::vector<ToolDefinition>& tools, const CallRules& rules = {});

}  // namespace fathom
