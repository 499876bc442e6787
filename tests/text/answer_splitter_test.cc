#include "text/answer_splitter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

#include "base/utf8.h"
#include "engine/byte_tokenizer.h"
#include "support/errors.h"
#include "support/golden.h"
#include "support/sanitizer.h"
#include "text/control_tokens.h"

namespace fathom {

bool operator==(const AnswerParts::Call& left, const AnswerParts::Call& right) {
  return left.name == right.name && left.arguments == right.arguments && left.complete == right.complete;
}

bool operator==(const AnswerParts& left, const AnswerParts& right) {
  return left.reasoning == right.reasoning && left.content == right.content && left.calls == right.calls;
}

void PrintTo(const AnswerParts& parts, std::ostream* out) {
  *out << "reasoning \"" << parts.reasoning << "\", content \"" << parts.content << "\"";
  for (const AnswerParts::Call& call : parts.calls) {
    *out << ", " << call.name << "(" << call.arguments << ")" << (call.complete ? "" : " cut off");
  }
}

namespace {

using Kind = AnswerEvent::Kind;
using Call = AnswerParts::Call;

constexpr std::string_view blanks = " \t\r\n";
const std::string calls_begin(control_tokens::calls_begin);
const std::string calls_end(control_tokens::calls_end);
const std::string call_begin(control_tokens::call_begin);
const std::string call_end(control_tokens::call_end);
const std::string sep(control_tokens::tool_sep);

const Tokenizer& tiny() {
  static const auto tokenizer = Tokenizer::load(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json");
  return *tokenizer;
}

/// Feeds the tokens one by one and checks what holds for every answer.
AnswerParts split(const Tokenizer& tokenizer, const AnswerSplitOptions& options, const std::vector<int32_t>& ids,
                  int64_t* reasoning_tokens = nullptr) {
  AnswerSplitter splitter(tokenizer, options);
  AnswerParts parts;
  bool in_call = false;
  const auto take = [&](const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
      EXPECT_EQ(utf8_valid_prefix(event.text), event.text.size()) << event.text;
      const bool of_call = event.kind == Kind::call_arguments || event.kind == Kind::call_end;
      EXPECT_EQ(in_call, of_call);
      in_call = event.kind == Kind::call_begin || event.kind == Kind::call_arguments;
      EXPECT_TRUE(event.kind == Kind::call_begin || event.kind == Kind::call_end || !event.text.empty());
      if (event.kind == Kind::call_begin) {
        EXPECT_EQ(event.call, static_cast<int>(parts.calls.size()));
      } else if (of_call) {
        EXPECT_EQ(event.call, static_cast<int>(parts.calls.size()) - 1);
      }
      parts.add(event);
    }
  };
  int64_t thoughts = 0;
  for (const int32_t id : ids) {
    take(splitter.push(id));
    EXPECT_LE(splitter.reasoning_tokens(), static_cast<int64_t>(ids.size()));
    thoughts = splitter.reasoning_tokens();
  }
  take(splitter.finish());
  EXPECT_FALSE(in_call);
  EXPECT_EQ(splitter.calls(), static_cast<int>(parts.calls.size()));
  EXPECT_GE(splitter.reasoning_tokens(), thoughts);
  EXPECT_TRUE(splitter.push('a').empty());
  EXPECT_TRUE(splitter.finish().empty());
  if (reasoning_tokens != nullptr) *reasoning_tokens = splitter.reasoning_tokens();
  return parts;
}

AnswerParts split(const AnswerSplitOptions& options, const std::string& text) {
  return split(tiny(), options, tiny().encode(text));
}

// The same rules once more, on the answer as a whole.

std::string left_stripped(const std::string& text, std::string_view characters) {
  return text.substr(std::min(text.find_first_not_of(characters), text.size()));
}

std::string right_stripped(const std::string& text, std::string_view characters) {
  return text.substr(0, text.find_last_not_of(characters) + 1);
}

std::string whole_arguments(std::string text) {
  text = left_stripped(text, blanks);
  const bool fenced = text.starts_with("```");
  if (fenced) {
    size_t at = 3;
    while (at < text.size() && std::isalpha(static_cast<unsigned char>(text[at])) != 0) ++at;
    text = left_stripped(text.substr(at), blanks);
  }
  text = right_stripped(text, blanks);
  if (fenced && text.ends_with("```")) text = right_stripped(text.substr(0, text.size() - 3), blanks);
  return text;
}

/// A call of texts between separators; nothing if it is cut off before its name is certain.
std::optional<Call> whole_call(std::vector<std::string> texts, bool closed) {
  const auto rest = [&](size_t from, std::string before) {
    for (size_t index = from; index < texts.size(); ++index) before += (index == from ? "" : sep) + texts[index];
    return whole_arguments(before);
  };
  const auto behind = [&](const std::string& first, size_t from) {
    std::string all = first;
    for (size_t index = from; index < texts.size(); ++index) all += sep + texts[index];
    return whole_arguments(all);
  };
  const std::string head = left_stripped(texts[0], blanks);
  const size_t end = head.find_first_of("\n`{");
  if (end != std::string::npos && head.find_first_not_of(blanks, end) != std::string::npos) {
    return Call{right_stripped(head.substr(0, end), blanks), behind(head.substr(end), 1), closed};
  }
  const std::string type = right_stripped(head, blanks);
  for (size_t index = 1; index < texts.size(); ++index) {
    const std::string text = left_stripped(texts[index], blanks);
    if (text.empty()) {
      if (!type.empty() && index + 1 < texts.size()) return Call{type, rest(index + 1, ""), closed};
      continue;
    }
    const bool names = std::isalnum(static_cast<unsigned char>(text[0])) != 0 || text[0] == '_' || text[0] == '-';
    if (!type.empty() && !(type == "function" && names)) return Call{type, behind(text, index + 1), closed};
    const size_t stop = text.find_first_of("\n`{");
    if (stop != std::string::npos) {
      return Call{right_stripped(text.substr(0, stop), blanks), behind(text.substr(stop), index + 1), closed};
    }
    if (index + 1 < texts.size()) return Call{right_stripped(text, blanks), rest(index + 1, ""), closed};
    return closed ? std::optional(Call{right_stripped(text, blanks), "", true}) : std::nullopt;
  }
  return closed ? std::optional(Call{type, "", true}) : std::nullopt;
}

AnswerParts whole(const Tokenizer& tokenizer, const AnswerSplitOptions& options, const std::vector<int32_t>& ids) {
  struct Segment {
    std::string text;
    std::string mark;  // behind it
  };
  std::vector<Segment> segments(1);
  std::vector<int32_t> run;
  for (const int32_t id : ids) {
    const std::string text(tokenizer.token_bytes(id));
    const bool is_mark = tokenizer.added_token(text) == id && (text == calls_begin || text == calls_end ||
                                                               text == call_begin || text == call_end || text == sep);
    if (!is_mark) {
      run.push_back(id);
      continue;
    }
    segments.back().text += tokenizer.decode(run, true);
    run.clear();
    if (options.parse_tools) {
      segments.back().mark = text;
      segments.emplace_back();
    } else {
      segments.back().text += text;
    }
  }
  segments.back().text += tokenizer.decode(run, true);

  AnswerParts parts;
  const bool thinks = options.format != ChatFormat::deepseek_v3 && options.format != ChatFormat::deepseek_v3_first;
  enum { opening, reasoning, content } state = thinks || options.begins_thinking ? opening : content;
  std::string_view skipped;
  const auto add_content = [&](std::string text, bool border) {  // false: a stop string
    text = left_stripped(text, skipped);
    if (!text.empty()) skipped = {};
    size_t stop = std::string::npos;
    for (const std::string& one : options.stop) stop = std::min(stop, text.find(one));
    if (stop != std::string::npos) {
      parts.content += text.substr(0, stop);
      return false;
    }
    parts.content += border ? right_stripped(text, "\n") : text;
    return true;
  };
  for (size_t index = 0; index < segments.size(); ++index) {
    std::string text = segments[index].text;
    std::string mark = segments[index].mark;
    if (state == opening) {
      const std::string begin = left_stripped(text, blanks);
      state = begin.starts_with("<think>") || options.begins_thinking ? reasoning : content;
      if (begin.starts_with("<think>")) text = begin.substr(7);
    }
    if (state == reasoning) {
      // Marks other than the begin of calls have no meaning in thoughts.
      while (!mark.empty() && mark != calls_begin && mark != call_begin && text.find("</think>") == std::string::npos) {
        ++index;
        text += segments[index].text;
        mark = segments[index].mark;
      }
      const size_t end = text.find("</think>");
      std::string thought = text.substr(0, end);
      thought = left_stripped(thought, "\n");
      parts.reasoning = mark.empty() && end == std::string::npos ? thought : right_stripped(thought, "\n");
      if (end != std::string::npos) {
        skipped = "\n";
        if (!add_content(text.substr(end + 8), !mark.empty())) return parts;
      }
      state = content;
    } else if (!add_content(text, !mark.empty())) {
      return parts;
    }
    while (mark == call_begin) {
      std::vector<std::string> texts;
      do {
        ++index;
        texts.push_back(segments[index].text);
        mark = segments[index].mark;
      } while (mark == sep);
      const std::optional<Call> call = whole_call(texts, !mark.empty());
      if (call) parts.calls.push_back(*call);
    }
    skipped = blanks;
  }
  return parts;
}

const std::string v3_call =
    call_begin + "function" + sep + "get_weather\n```json\n{\"city\": \"Paris\"}\n```" + call_end;
const std::string v31_call = call_begin + "get_weather" + sep + "{\"city\": \"Paris\"}" + call_end;
const Call paris{"get_weather", "{\"city\": \"Paris\"}", true};

TEST(AnswerSplitter, ContentAlone) {
  EXPECT_EQ(split({}, "Hello\n\nworld\n"), (AnswerParts{"", "Hello\n\nworld\n", {}}));
  EXPECT_EQ(split({}, "<think>no thoughts</think>\n in V3"),
            (AnswerParts{"", "<think>no thoughts</think>\n in V3", {}}));
  EXPECT_EQ(split({}, ""), (AnswerParts{}));
  EXPECT_EQ(split({ChatFormat::deepseek_v31}, "\n Yes</think> no"), (AnswerParts{"", "\n Yes</think> no", {}}));
}

TEST(AnswerSplitter, ThoughtsAndContent) {
  for (const ChatFormat format : {ChatFormat::deepseek_r1, ChatFormat::deepseek_v31, ChatFormat::deepseek_r1_first}) {
    const AnswerSplitOptions inside{format, true};
    EXPECT_EQ(split(inside, "\nhm\n\n</think>\n\n  yes\n"), (AnswerParts{"hm", "  yes\n", {}}));
    EXPECT_EQ(split(inside, "<think>\n\nhm</think>yes</think>!"), (AnswerParts{"hm", "yes</think>!", {}}));
    EXPECT_EQ(split(inside, "\n\n</think>\n\nyes"), (AnswerParts{"", "yes", {}}));
    EXPECT_EQ(split(inside, "</think>"), (AnswerParts{}));
    EXPECT_EQ(split(inside, "hm </th\n"), (AnswerParts{"hm </th\n", "", {}}));
    EXPECT_EQ(split(inside, "<thi"), (AnswerParts{"<thi", "", {}}));
    const AnswerSplitOptions outside{format, false};
    EXPECT_EQ(split(outside, " \n<think>\nhm\n</think>\n\nyes"), (AnswerParts{"hm", "yes", {}}));
    EXPECT_EQ(split(outside, "\n<thing>"), (AnswerParts{"", "\n<thing>", {}}));
    EXPECT_EQ(split(outside, "a<think>b</think>"), (AnswerParts{"", "a<think>b</think>", {}}));
  }
}

TEST(AnswerSplitter, ThoughtsWithoutTheirTokens) {
  const auto bytes = byte_tokenizer();
  const AnswerSplitOptions options{ChatFormat::deepseek_r1, true};
  EXPECT_EQ(split(*bytes, options, bytes->encode_plain("<think>\nhm </think\n</think>\n\né")),
            (AnswerParts{"hm </think", "é", {}}));
  EXPECT_EQ(split(tiny(), options, tiny().encode_plain("\nhm </think\n</think>\n\né")),
            (AnswerParts{"hm </think", "é", {}}));
}

TEST(AnswerSplitter, CountsThoughts) {
  const auto count = [](const AnswerSplitOptions& options, const std::vector<int32_t>& ids) {
    int64_t tokens = 0;
    split(tiny(), options, ids, &tokens);
    return tokens;
  };
  const std::vector<int32_t> thought = tiny().encode("one two three</think>");
  std::vector<int32_t> answer = thought;
  for (const int32_t id : tiny().encode("\n\nfour")) answer.push_back(id);
  const auto size = static_cast<int64_t>(thought.size());
  EXPECT_EQ(count({ChatFormat::deepseek_r1, true}, answer), size);
  EXPECT_EQ(count({ChatFormat::deepseek_r1, true}, {thought.begin(), thought.end() - 1}), size - 1);
  EXPECT_EQ(count({ChatFormat::deepseek_r1, false}, answer), 0);
  EXPECT_EQ(count({ChatFormat::deepseek_v3, false}, answer), 0);
  answer.insert(answer.begin(), *tiny().added_token("<think>"));
  EXPECT_EQ(count({ChatFormat::deepseek_r1_first, false}, answer), size + 1);
  std::vector<int32_t> called(thought.begin(), thought.end() - 1);
  called.push_back(*tiny().added_token(calls_begin));
  called.push_back(*tiny().added_token(call_begin));
  EXPECT_EQ(count({ChatFormat::deepseek_r1, true}, called), size - 1);
}

TEST(AnswerSplitter, Calls) {
  for (const std::string& call : {v3_call, v31_call}) {
    EXPECT_EQ(split({}, calls_begin + call + calls_end), (AnswerParts{"", "", {paris}}));
    EXPECT_EQ(split({}, "Let me see.\n\n" + calls_begin + call + "\n" + call + calls_end),
              (AnswerParts{"", "Let me see.", {paris, paris}}));
    EXPECT_EQ(split({ChatFormat::deepseek_r1, true}, "hm\n</think>\n\n" + calls_begin + call + calls_end),
              (AnswerParts{"hm", "", {paris}}));
    EXPECT_EQ(split({ChatFormat::deepseek_v31, true}, "hm\n" + calls_begin + call + calls_end),
              (AnswerParts{"hm", "", {paris}}))
        << "calls end thoughts";
    EXPECT_EQ(split({}, "\n" + call), (AnswerParts{"", "", {paris}})) << "as V3's template renders a second turn";
    EXPECT_EQ(split({}, calls_begin + call + " \n " + call), (AnswerParts{"", "", {paris, paris}})) << "no end";
    EXPECT_EQ(split({}, calls_begin + call + calls_end + "\n" + calls_begin + call + calls_end + "\n\nDone.\n"),
              (AnswerParts{"", "Done.\n", {paris, paris}}));
    EXPECT_EQ(split({}, calls_begin + call + "stray" + sep + calls_end + " text" + call_end),
              (AnswerParts{"", "straytext", {paris}}));
  }
}

TEST(AnswerSplitter, CallsThatAreNearlyRight) {
  const std::string arguments = "{\"city\": \"Paris\"}";
  for (const std::string& inside : {
           "function" + sep + "get_weather\n```json\n" + arguments + "\n```\n",
           "function" + sep + "get_weather\n```json\n" + arguments + "```",
           "function" + sep + "get_weather\n```json" + arguments + "\n```",
           "function" + sep + "get_weather\n```\n" + arguments + "\n```",
           "function" + sep + "get_weather\n" + arguments,
           "function" + sep + "get_weather" + arguments,
           "function" + sep + "get_weather```json\n" + arguments + "\n",
           "function" + sep + " get_weather \n\n```json\n\n" + arguments + "\n\n```\n\n",
           "function" + sep + "get_weather" + sep + arguments,
           "function\n" + sep + "get_weather\n" + arguments,
           sep + "get_weather\n```json\n" + arguments + "\n```",
           "get_weather\n```json\n" + arguments + "\n```",
           "get_weather" + arguments,
           "get_weather" + sep + "\n```json\n" + arguments + "\n```",
           " get_weather " + sep + " " + arguments + " ",
       }) {
    EXPECT_EQ(split({}, calls_begin + call_begin + inside + call_end + calls_end), (AnswerParts{"", "", {paris}}))
        << inside;
    EXPECT_EQ(split({}, calls_begin + call_begin + inside + calls_end), (AnswerParts{"", "", {paris}})) << inside;
    Call cut = paris;
    cut.complete = false;
    EXPECT_EQ(split({}, calls_begin + call_begin + inside), (AnswerParts{"", "", {cut}})) << inside;
  }
  EXPECT_EQ(split({}, call_begin + "function" + sep + "function\n```json\n{}\n```" + call_end),
            (AnswerParts{"", "", {{"function", "{}", true}}}));
  EXPECT_EQ(split({}, call_begin + "function" + sep + "{}" + call_end),
            (AnswerParts{"", "", {{"function", "{}", true}}}));
  EXPECT_EQ(split({}, call_begin + "now" + sep + call_end + call_begin + "now" + call_end),
            (AnswerParts{"", "", {{"now", "", true}, {"now", "", true}}}));
}

TEST(AnswerSplitter, CallsThatAreCutOff) {
  EXPECT_EQ(split({}, "a" + calls_begin + call_begin + "function" + sep + "get_wea"), (AnswerParts{"", "a", {}}));
  EXPECT_EQ(split({}, call_begin + "get_wea"), (AnswerParts{}));
  EXPECT_EQ(split({}, call_begin + "function" + sep + "f\n```json\n{\"a\": "),
            (AnswerParts{"", "", {{"f", "{\"a\":", false}}}));
  EXPECT_EQ(split({}, call_begin + "f" + sep + "{\"a\": \"x\ny"),
            (AnswerParts{"", "", {{"f", "{\"a\": \"x\ny", false}}}));
  EXPECT_EQ(split({}, call_begin + "function" + sep + "f\n```json\n{}\n``"),
            (AnswerParts{"", "", {{"f", "{}\n``", false}}}));
}

TEST(AnswerSplitter, FencesInsideArgumentsStay) {
  const std::string code = R"({"code": "```python\\nprint()\\n```", "n": 1})";
  EXPECT_EQ(split({}, call_begin + "function" + sep + "run\n```json\n" + code + "\n```" + call_end),
            (AnswerParts{"", "", {{"run", code, true}}}));
  EXPECT_EQ(split({}, call_begin + "run" + sep + code + call_end), (AnswerParts{"", "", {{"run", code, true}}}));
  EXPECT_EQ(split({}, call_begin + "run" + sep + "x```" + call_end), (AnswerParts{"", "", {{"run", "x```", true}}}));
  EXPECT_EQ(split({}, call_begin + "run" + sep + "{\"a\": \"" + sep + "\"}" + call_end),
            (AnswerParts{"", "", {{"run", "{\"a\": \"" + sep + "\"}", true}}}));
}

TEST(AnswerSplitter, ArgumentsStream) {
  AnswerSplitter splitter(tiny(), {});
  std::vector<std::string> seen;
  for (const int32_t id : tiny().encode(calls_begin + v3_call + calls_end)) {
    for (const AnswerEvent& event : splitter.push(id)) {
      seen.push_back(event.kind == Kind::call_begin ? "begin" : event.kind == Kind::call_end ? "end" : "delta");
    }
  }
  EXPECT_EQ(seen.front(), "begin");
  EXPECT_EQ(seen.back(), "end");
  EXPECT_GT(std::count(seen.begin(), seen.end(), "delta"), 3);
}

TEST(AnswerSplitter, StopStringsEndTheContentOnly) {
  const AnswerSplitOptions options{ChatFormat::deepseek_r1, true, true, {"STOP"}};
  EXPECT_EQ(split(options, "a STOP b</think>\n\nc\nSTOP d" + v31_call), (AnswerParts{"a STOP b", "c\n", {}}));
  EXPECT_EQ(split(options, "a</think>STO" + calls_begin + call_begin + "STOP" + sep + "{\"STOP\":1}" + call_end),
            (AnswerParts{"a", "STO", {{"STOP", "{\"STOP\":1}", true}}}));
  AnswerSplitter splitter(tiny(), options);
  for (const int32_t id : tiny().encode("STOP</think>c")) splitter.push(id);
  EXPECT_FALSE(splitter.stopped());
  for (const int32_t id : tiny().encode("STOP")) splitter.push(id);
  EXPECT_TRUE(splitter.stopped());
  EXPECT_EQ(split({ChatFormat::deepseek_r1, true, true, {"\n\n"}}, "a\n\n</think>\n\nb\n\nc"),
            (AnswerParts{"a", "b", {}}));
  FATHOM_EXPECT_ERROR(AnswerSplitter(tiny(), {ChatFormat::deepseek_v3, false, true, {""}}), ErrorKind::bad_input,
                      "must not be empty");
}

TEST(AnswerSplitter, WithoutToolsTheirTokensAreText) {
  const std::string text = "a\n" + calls_begin + v3_call + calls_end + "\n";
  AnswerSplitOptions options;
  options.parse_tools = false;
  EXPECT_EQ(split(options, text), (AnswerParts{"", text, {}}));
  options.format = ChatFormat::deepseek_r1;
  options.begins_thinking = true;
  EXPECT_EQ(split(options, v31_call + "</think>" + v3_call), (AnswerParts{v31_call, v3_call, {}}));
}

TEST(AnswerSplitter, CharactersThatAreCutOffEndTheirPart) {
  const auto bytes = byte_tokenizer({calls_begin, call_begin, sep, call_end, "</think>"});
  const auto id = [&](const std::string& token) { return *bytes->added_token(token); };
  EXPECT_EQ(split(*bytes, {ChatFormat::deepseek_r1, true},
                  {'a', 0xc3, id("</think>"), 0xe2, 0x82, id(call_begin), 0xf0, id(sep), 0xc3, id(call_end), 0xff}),
            (AnswerParts{"a\ufffd", "\ufffd\ufffd", {{"\ufffd", "\ufffd", true}}}));
}

TEST(AnswerSplitter, UnknownTokensAreNothing) {
  EXPECT_EQ(split(tiny(), {}, {-1, 1 << 30, tiny().vocab_size(), INT32_MIN}), (AnswerParts{}));
}

/// Tokens that come up in answers, in any order.
std::vector<int32_t> random_answer(const Tokenizer& tokenizer, std::mt19937_64& random) {
  static const std::vector<std::string> spelled = {
      "<think>", "</think>", "</th",     "ink>", "<thi", "function", "get_weather", "\n```json\n", "\n```", "```",
      "`",       "json",     "{\"a\": ", "1}",   "\"é😀", "\n",       "\n\n",        " ",           "\t",    "STOP",
      "ST",      "OP",       "{",        "}",    "[]",   "true",     "content",     "\n```\n"};
  static const std::vector<std::string> written = {"<think>",  "</think>", calls_begin,  calls_end,
                                                   call_begin, call_begin, call_end,     call_end,
                                                   sep,        sep,        "<｜User｜>", "<｜end▁of▁sentence｜>"};
  std::vector<int32_t> ids;
  const size_t pieces = random() % 24;
  for (size_t piece = 0; piece < pieces; ++piece) {
    switch (random() % 8) {
      case 0:
        ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(tokenizer.vocab_size())));
        break;
      case 1:
      case 2:
      case 3: {
        const auto id = tokenizer.added_token(written[random() % written.size()]);
        if (id) ids.push_back(*id);
        break;
      }
      default:
        for (const int32_t id : tokenizer.encode_plain(spelled[random() % spelled.size()])) ids.push_back(id);
    }
  }
  return ids;
}

void expect_streams_equal_wholes(const Tokenizer& tokenizer, uint64_t seed, int count) {
  std::mt19937_64 random(seed);
  for (int index = 0; index < count; ++index) {
    AnswerSplitOptions options;
    options.format = static_cast<ChatFormat>(random() % 5);
    options.begins_thinking = random() % 2 == 0;
    options.parse_tools = random() % 5 != 0;
    if (random() % 3 == 0) options.stop = {"STOP"};
    const std::vector<int32_t> ids = random_answer(tokenizer, random);
    ASSERT_EQ(split(tokenizer, options, ids), whole(tokenizer, options, ids))
        << "seed " << seed << ", answer " << index << ": " << tokenizer.decode(ids);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(AnswerSplitter, StreamsEqualWholes) {
  expect_streams_equal_wholes(tiny(), 1, kSanitized ? 4000 : 30000);
  expect_streams_equal_wholes(*byte_tokenizer({calls_begin, calls_end, call_begin, call_end, sep}), 2,
                              kSanitized ? 2000 : 15000);
}

TEST(AnswerSplitter, StreamsEqualWholesWithTheRealVocabulary) {
  FATHOM_GOLDEN_OR_SKIP(directory, "tokenizer");
  expect_streams_equal_wholes(*Tokenizer::load(directory), 3, kSanitized ? 1000 : 10000);
}

TEST(AnswerSplitter, LongRunsOfNothingAreCheap) {
  const auto tokens = [](const std::string& text) { return tiny().encode_plain(text); };
  for (const std::string& before :
       {std::string(), call_begin + "f" + sep + "```json\n{", call_begin, call_begin + "f" + sep}) {
    std::vector<int32_t> ids = tiny().encode(before);
    const int32_t line_end = tokens("\n").front();
    ids.insert(ids.end(), 200'000, line_end);
    ids.push_back(tokens("x").front());
    for (const bool thinks : {false, true}) split(tiny(), {ChatFormat::deepseek_r1, thinks}, ids);
  }
}

}  // namespace
}  // namespace fathom
