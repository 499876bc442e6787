#include "data/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "data/grammar.h"
#include "data/story.h"
#include "data/tiny_python.h"
#include "support/errors.h"

namespace fathom {
namespace {

std::string all_text(const Document& document) {
  std::string text = document.text;
  for (const ChatMessage& message : document.messages) text += "\n" + *message.content;
  return text;
}

std::vector<Document> documents(DocumentKind kind, int count, uint64_t seed = 1) {
  std::vector<Document> list;
  for (int i = 0; i < count; ++i) {
    Random random(seed, static_cast<uint64_t>(i));
    list.push_back(make_document(kind, random));
  }
  return list;
}

TEST(Generate, TheSameSeedGivesTheSameDocuments) {
  for (const DocumentKind kind : all_document_kinds) {
    const std::vector<Document> first = documents(kind, 20);
    const std::vector<Document> second = documents(kind, 20);
    std::set<std::string> different;
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(all_text(first[i]), all_text(second[i]));
      different.insert(all_text(first[i]));
    }
    EXPECT_GT(different.size(), 12u) << document_kind_name(kind);
    EXPECT_EQ(document_kind_from_name(document_kind_name(kind)), kind);
  }
  // The words of one seed, so that a change of the generator is seen.
  Random random(0);
  EXPECT_EQ(random.next(), Random(0).next());
  EXPECT_NE(Random(0, 1).next(), Random(0, 2).next());
}

TEST(Generate, NoTrainingDocumentShowsAHeldOutPair) {
  const std::regex formula(R"((\d+) ([-+*]) (\d+))");
  const std::regex first_words(R"((\d+) [a-z]+[^\d?]*?(\d+) (more|of them))");
  int pairs = 0;
  for (const DocumentKind kind : {DocumentKind::arithmetic, DocumentKind::code, DocumentKind::dialogue}) {
    for (const Document& document : documents(kind, 1500)) {
      const std::string text = all_text(document);
      for (std::sregex_iterator at(text.begin(), text.end(), formula), end; at != end; ++at) {
        ++pairs;
        EXPECT_FALSE(is_held_out_pair((*at)[2].str()[0], std::stoll((*at)[1]), std::stoll((*at)[3]))) << text;
      }
      for (std::sregex_iterator at(text.begin(), text.end(), first_words), end; at != end; ++at) {
        EXPECT_FALSE(is_held_out_pair((*at)[3] == "more" ? '+' : '-', std::stoll((*at)[1]), std::stoll((*at)[2])))
            << text;
      }
    }
  }
  EXPECT_GT(pairs, 5000);
}

TEST(Generate, ATenthOfThePairsIsHeldOut) {
  int held_out = 0;
  for (int64_t a = 10; a < 100; ++a) {
    for (int64_t b = 10; b < 100; ++b) {
      held_out += is_held_out_pair('+', a, b) ? 1 : 0;
      EXPECT_EQ(is_held_out_pair('+', a, b), is_held_out_pair('+', b, a));
    }
  }
  EXPECT_GT(held_out, 8100 * 8 / 100);
  EXPECT_LT(held_out, 8100 * 12 / 100);
  EXPECT_FALSE(is_held_out_pair('+', 9, 50));
}

TEST(Generate, NoItemIsInTheTrainingStream) {
  for (const DocumentKind kind : {DocumentKind::list, DocumentKind::code}) {
    std::set<std::string> asked;
    for (const Document& document : documents(kind, 3000)) {
      for (const ChatMessage& message : document.messages) asked.insert(*message.content);
    }
    for (uint64_t i = 0; i < 200; ++i) {
      Random random(5, i);
      EXPECT_EQ(asked.count(*make_item(kind, random).messages[0].content), 0u);
    }
  }
}

TEST(Generate, EquationsAreRight) {
  const std::regex equation(R"((?:^|[^-+*\d] |\n)(\d+) ([-+*]) (\d+)(?: ([-+]) (\d+))? = (\d+)[.,])");
  int seen = 0;
  for (const Document& document : documents(DocumentKind::arithmetic, 1000)) {
    const std::string text = all_text(document);
    for (std::sregex_iterator at(text.begin(), text.end(), equation), end; at != end; ++at) {
      const std::smatch& match = *at;
      const int64_t a = std::stoll(match[1]);
      const int64_t b = std::stoll(match[3]);
      int64_t value = match[2] == "+" ? a + b : (match[2] == "-" ? a - b : a * b);
      if (match[4].matched) value += (match[4] == "+" ? 1 : -1) * std::stoll(match[5]);
      EXPECT_EQ(value, std::stoll(match[6])) << match.str();
      ++seen;
    }
  }
  EXPECT_GT(seen, 2000);
}

TEST(Generate, TheExpectedAnswerIsJudgedRightAndOthersWrong) {
  for (const DocumentKind kind : all_document_kinds) {
    for (const std::string& task : evaluation_tasks(kind)) {
      for (uint64_t i = 0; i < 50; ++i) {
        Random random(11, i);
        const EvaluationItem item = make_item(kind, random, {task, kind == DocumentKind::retrieval ? 60 : 0});
        EXPECT_EQ(item.task, task);
        EXPECT_TRUE(judge(item, item.answer)) << item.answer << " for " << item.key;
        EXPECT_TRUE(judge(item, "<think>17 is not it</think>" + item.answer));
        EXPECT_FALSE(judge(item, "<think>" + item.answer + "</think>I do not know."));
        EXPECT_FALSE(judge(item, ""));
      }
    }
  }
}

TEST(Generate, JudgesTakeTheAnswerApart) {
  EvaluationItem item;
  item.key = "85";
  item.rule = JudgeRule::last_number;
  EXPECT_TRUE(judge(item, "47 + 38 = 85."));
  EXPECT_TRUE(judge(item, "It is 85"));
  EXPECT_FALSE(judge(item, "47 + 38 = 185."));
  EXPECT_FALSE(judge(item, "85 or 86"));
  EXPECT_FALSE(judge(item, "It is -85."));
  item.rule = JudgeRule::contains;
  item.key = "old oak";
  EXPECT_TRUE(judge(item, "The Old Oak!"));
  EXPECT_FALSE(judge(item, "an old oaken chest"));
  item.rule = JudgeRule::equal;
  item.key = "1\n2";
  EXPECT_TRUE(judge(item, " ```\n1\n2\n```"));
  EXPECT_TRUE(judge(item, "1\n2\n"));
  EXPECT_FALSE(judge(item, "1 2"));
}

TEST(Generate, RetrievalKeepsItsDistance) {
  for (const int64_t words : {50, 400, 1200}) {
    Random random(4);
    const EvaluationItem item = make_item(DocumentKind::retrieval, random, {"codes", words});
    const std::string& prompt = *item.messages[0].content;
    const size_t at = prompt.find(item.answer);
    ASSERT_EQ(at, 0u);
    const std::string behind = prompt.substr(item.answer.size());
    EXPECT_GE(std::count(behind.begin(), behind.end(), ' '), words / 2);
    EXPECT_GE(item.distance_bytes, words * 3);
    EXPECT_EQ(behind.find(item.key), std::string::npos);
  }
}

// Every line comes at least twice, and names keep their values.
TEST(Generate, DrillsCanBeKnownFromTheirBeginning) {
  std::set<size_t> lines_of_documents;
  for (const Document& document : documents(DocumentKind::drill, 100)) {
    std::map<std::string, int> lines;
    std::istringstream text(document.text);
    for (std::string line; std::getline(text, line);) ++lines[line];
    for (const auto& [line, count] : lines) EXPECT_GE(count, 2) << document.text;
    lines_of_documents.insert(lines.size());
  }
  EXPECT_GE(lines_of_documents.size(), 6u);  // lists, and 2 to 6 pairs
  EXPECT_EQ(document_kind_from_name("drill"), DocumentKind::drill);
  EXPECT_EQ(std::count(all_document_kinds.begin(), all_document_kinds.end(), DocumentKind::drill), 0);
}

TEST(Generate, ListsAreRight) {
  for (uint64_t i = 0; i < 100; ++i) {
    Random random(2, i);
    const EvaluationItem item = make_item(DocumentKind::list, random, {"sort words", 0});
    const std::string& question = *item.messages[0].content;
    const auto words = [](std::string text) {
      std::vector<std::string> list;
      for (size_t comma = text.find(", "); comma != std::string::npos; comma = text.find(", ")) {
        list.push_back(text.substr(0, comma));
        text.erase(0, comma + 2);
      }
      list.push_back(text);
      return list;
    };
    std::vector<std::string> given = words(question.substr(18, question.size() - 19));
    std::sort(given.begin(), given.end());
    EXPECT_EQ(words(item.key), given);
  }
}

TEST(Generate, CodeAnswersAreTheOutput) {
  for (const Document& document : documents(DocumentKind::code, 200)) {
    const std::string& question = *document.messages[0].content;
    std::string answer = *document.messages[1].content;
    if (const size_t end = answer.find("</think>"); end != std::string::npos) answer.erase(0, end + 8);
    EXPECT_EQ(run_program(question.substr(question.find("\n\n") + 2)).output, answer + "\n") << question;
  }
}

TEST(Generate, OnlyTheLastAnswerThinks) {
  for (const DocumentKind kind : all_document_kinds) {
    for (const Document& document : documents(kind, 200)) {
      for (size_t i = 0; i + 1 < document.messages.size(); ++i) {
        EXPECT_EQ(document.messages[i].content->find("<think>"), std::string::npos);
      }
    }
  }
}

TEST(Story, TellsWhatWasAskedFor) {
  for (uint64_t i = 0; i < 60; ++i) {
    Random random(8, i);
    const Story story = make_story(random, {"fox", "lamp"});
    EXPECT_EQ(story.kind, "fox");
    EXPECT_EQ(story.object, "lamp");
    EXPECT_NE(story.text.find("fox"), std::string::npos);
    EXPECT_NE(story.text.find("lamp"), std::string::npos);
  }
}

TEST(Story, IsWholeText) {
  for (uint64_t i = 0; i < 2000; ++i) {
    Random random(9, i);
    const Story story = make_story(random);
    EXPECT_EQ(story.text.find_first_of("{}|$~^"), std::string::npos) << story.text;
    EXPECT_EQ(story.text.find("  "), std::string::npos) << story.text;
    EXPECT_EQ(std::count(story.text.begin(), story.text.end(), '"') % 2, 0) << story.text;
    EXPECT_GE(story.questions.size(), 3u);
    for (const StoryQuestion& question : story.questions) {
      std::string answer = question.answer;
      std::transform(answer.begin(), answer.end(), answer.begin(), [](unsigned char c) { return std::tolower(c); });
      EXPECT_NE(answer.find(question.key), std::string::npos) << question.answer << " / " << question.key;
    }
  }
}

TEST(Grammar, ArticlesCapitalsAndErrors) {
  Random random(1);
  Grammar grammar(random);
  grammar.set("x", "apple");
  EXPECT_EQ(grammar.expand("a~ $x and a~pear. {one|one}! \"yes,\" said Tom, \"but why?\" asked Ben."),
            "An apple and a pear. One! \"Yes,\" said Tom, \"but why?\" asked Ben.");
  EXPECT_EQ(with_article("honest fox"), "an honest fox");
  FATHOM_EXPECT_ERROR(grammar.expand("$nobody"), ErrorKind::failure, "nobody");
  FATHOM_EXPECT_ERROR(grammar.expand("{a|b"), ErrorKind::failure, "open brace");
}

TEST(Generate, UnknownTasksAreRefused) {
  Random random(1);
  FATHOM_EXPECT_ERROR(make_item(DocumentKind::story, random), ErrorKind::bad_input, "story");
  FATHOM_EXPECT_ERROR(make_item(DocumentKind::list, random, {"division", 0}), ErrorKind::bad_input, "division");
}

// A document of one task has no other one; of alike facts most share their colour or their noun with another one.
TEST(Retrieval, CanBeOfOneTaskAndAlike) {
  const std::regex place("The (\\w+) (\\w+) is ((under|behind|in|on|beside|next) [^.]*)\\.");
  int64_t sharing[2] = {};
  int64_t facts[2] = {};
  for (const bool alike : {false, true}) {
    DocumentOptions options;
    options.task = "places";
    options.alike_facts = alike;
    options.longest_retrieval_words = 40;
    for (uint64_t i = 0; i < 100; ++i) {
      Random random(3, i);
      const Document document = make_document(DocumentKind::retrieval, random, options);
      std::set<std::pair<std::string, std::string>> subjects;
      for (const ChatMessage& message : document.messages) {
        if (message.role != "assistant") continue;
        const std::string text = message.content.value_or("");
        std::smatch match;
        ASSERT_TRUE(std::regex_match(text, match, place)) << text;
        subjects.emplace(match[1], match[2]);
      }
      for (const auto& a : subjects) {
        ++facts[alike];
        sharing[alike] += std::any_of(subjects.begin(), subjects.end(), [&](const auto& b) {
          return a != b && (a.first == b.first || a.second == b.second);
        });
      }
    }
  }
  EXPECT_LT(2 * sharing[0], facts[0]);
  EXPECT_GT(10 * sharing[1], 8 * facts[1]);
  Random random(1, 1);
  DocumentOptions options;
  options.task = "places";
  FATHOM_EXPECT_ERROR(make_document(DocumentKind::arithmetic, random, options), ErrorKind::bad_input, "places");
}

}  // namespace
}  // namespace fathom
