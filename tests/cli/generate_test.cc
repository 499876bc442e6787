#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

FathomRun generate(std::vector<std::string> arguments, const std::string& input = {}) {
  arguments.insert(arguments.begin(), {"generate", "--model", random_checkpoint(), "--threads", "2"});
  return run_fathom(arguments, input);
}

std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return lines;
}

nlohmann::json one_json(const std::vector<std::string>& arguments) {
  const FathomRun run = generate(arguments);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const auto lines = json_lines(run.out);
  return lines.size() == 1 ? lines[0] : nlohmann::json();
}

TEST(GenerateCommand, JsonSaysEverything) {
  const auto result = one_json({"--prompt", "Hi", "-n", "6", "--ignore-eos", "--json", "--logprobs", "3"});
  EXPECT_EQ(result.at("index"), 0);
  EXPECT_EQ(result.at("prompt"), "Hi");
  EXPECT_EQ(result.at("tokens").size(), 6u);
  EXPECT_TRUE(result.at("text").is_string());
  EXPECT_EQ(result.at("finish_reason"), "length");
  EXPECT_EQ(result.at("timings").at("prefill_tokens"), 3);  // begin of text, H, i
  EXPECT_EQ(result.at("timings").at("decode_tokens"), 5);
  ASSERT_EQ(result.at("logprobs").size(), 6u);
  const auto& first = result.at("logprobs")[0];
  EXPECT_EQ(first.at("token"), result.at("tokens")[0]);
  ASSERT_EQ(first.at("top").size(), 3u);
  EXPECT_EQ(first.at("top")[0].at("token"), first.at("token")) << "greedy takes the likeliest";
}

TEST(GenerateCommand, ContinuesAsTheReferenceDoes) {
  FATHOM_GOLDEN_OR_SKIP(model, "fp8-tiny");
  const auto expected = nlohmann::json::parse(read_text(model + "/expected.json"));
  std::string ids;
  for (const auto& id : expected.at("prompt")) ids += (ids.empty() ? "" : ",") + id.dump();
  const auto& greedy = expected.at("greedy_tokens");
  for (const char* compute : {"fp32", "bf16"}) {
    const FathomRun run = run_fathom({"generate", "--model", model, "--ids", ids, "--compute", compute, "--ignore-eos",
                                      "-n", std::to_string(greedy.size()), "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(json_lines(run.out).at(0).at("tokens"), greedy) << compute;
  }
}

TEST(GenerateCommand, BosStandsBeforePlainPromptsOnly) {
  const auto by_text = one_json({"--prompt", "Hi", "-n", "4", "--json"});
  const FathomRun ids = run_fathom({"tokenize", "--model", random_checkpoint(), "--add-bos"}, "\"Hi\"");
  std::string list = ids.out.substr(1, ids.out.find(']') - 1);
  const auto by_ids = one_json({"--ids", list, "-n", "4", "--json"});
  EXPECT_EQ(by_ids.at("tokens"), by_text.at("tokens"));
  EXPECT_EQ(by_ids.at("prompt"), nullptr);
  EXPECT_EQ(by_ids.at("prompt_ids").size(), 3u);
  EXPECT_EQ(one_json({"--prompt", "Hi", "--no-bos", "-n", "1", "--json"}).at("timings").at("prefill_tokens"), 2);
  EXPECT_EQ(one_json({"--prompt", "Hi", "--chat", "-n", "1", "--json"}).at("timings").at("prefill_tokens"), 5);
}

TEST(GenerateCommand, SeedsReproduce) {
  const std::vector<std::string> arguments = {"--prompt",      "Hi", "-n",          "12", "--json",
                                              "--temperature", "1",  "--ignore-eos"};
  const auto with_seed = [&](const char* seed) {
    auto all = arguments;
    all.insert(all.end(), {"--seed", seed});
    return one_json(all).at("tokens");
  };
  EXPECT_EQ(with_seed("7"), with_seed("7"));
  EXPECT_NE(with_seed("7"), with_seed("8"));
}

TEST(GenerateCommand, StopStringsEndTheText) {
  const auto whole = one_json({"--prompt", "The", "-n", "30", "--json", "--ignore-eos"});
  const std::string text = whole.at("text");
  // The second character that occurs in the answer, whatever it is.
  const auto lead = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  size_t second = 1;
  while (second < text.size() && !lead(text[second])) ++second;
  size_t third = second + 1;
  while (third < text.size() && !lead(text[third])) ++third;
  ASSERT_LT(second, text.size());
  const std::string stop = text.substr(second, third - second);
  const auto stopped = one_json({"--prompt", "The", "-n", "30", "--json", "--ignore-eos", "--stop", stop});
  EXPECT_EQ(stopped.at("text"), text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
}

TEST(GenerateCommand, ContextEndsTheAnswer) {
  const auto result = one_json({"--ids", "1,2,3", "--context", "6", "-n", "50", "--ignore-eos", "--json"});
  EXPECT_EQ(result.at("tokens").size(), 4u);
  EXPECT_EQ(result.at("finish_reason"), "length");
}

TEST(GenerateCommand, WithoutATokenizerIdsStillWork) {
  const TemporaryDirectory directory;
  for (const auto& file : std::filesystem::directory_iterator(random_checkpoint())) {
    const std::string name = file.path().filename().string();
    if (!name.starts_with("tokenizer")) std::filesystem::copy_file(file.path(), directory.file(name));
  }
  const std::string model = directory.path();
  const FathomRun run =
      run_fathom({"generate", "--model", model, "--ids", "1,2,3", "-n", "3", "--json", "--ignore-eos"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto result = json_lines(run.out).at(0);
  EXPECT_EQ(result.at("text"), nullptr);
  EXPECT_EQ(result.at("tokens").size(), 3u);
  EXPECT_EQ(run_fathom({"generate", "--model", model, "--prompt", "Hi"}).exit_code, 2);
  EXPECT_EQ(run_fathom({"generate", "--model", model, "--ids", "1", "--stop", "x"}).exit_code, 2);
}

TEST(GenerateCommand, GenerationConfigDecidesWhatIsNotSaid) {
  const TemporaryDirectory directory;
  for (const auto& file : std::filesystem::directory_iterator(random_checkpoint())) {
    std::filesystem::copy_file(file.path(), directory.file(file.path().filename().string()));
  }
  const auto tokens = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"generate", "--model", directory.path(), "--ids", "1,2,3",
                                          "-n",       "10",      "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const FathomRun run = run_fathom(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return json_lines(run.out).at(0).at("tokens");
  };
  const auto greedy = tokens({"--ignore-eos"});
  write_text(directory.file("generation_config.json"), R"({"do_sample": true, "temperature": 5.0})");
  EXPECT_NE(tokens({"--ignore-eos"}), greedy);
  EXPECT_EQ(tokens({"--ignore-eos", "--temperature", "0"}), greedy);
  // Its end tokens count as well.
  write_text(directory.file("generation_config.json"), nlohmann::json({{"eos_token_id", {greedy[1]}}}).dump());
  EXPECT_EQ(tokens({}).size(), 1u);
  write_text(directory.file("generation_config.json"), R"({"do_sample": true, "temperature": "hot"})");
  EXPECT_EQ(run_fathom({"generate", "--model", directory.path(), "--ids", "1"}).exit_code, 2);
}

TEST(GenerateCommand, BadInputIsASentence) {
  const TemporaryDirectory directory;
  write_text(directory.file("empty.txt"), "");
  write_text(directory.file("bytes.txt"), "fine\n\xff\n");
  write_text(directory.file("both.jsonl"), "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"ids\": [1]}\n");
  write_text(directory.file("text.jsonl"), "{\"prompt\": \"a\"}\nplain\n");
  write_text(directory.file("ids.jsonl"), "{\"ids\": [1]}\n{\"ids\": [1, 100000]}\n");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--ids", "1,2,99999"}, "vocabulary"},
      {{"--ids", "-1"}, "vocabulary"},
      {{"--ids", "1,x"}, "\"x\""},
      {{"--ids", ""}, "--ids"},
      {{"--prompt", "", "--no-bos"}, "empty"},
      {{"--prompt", "long prompt", "--context", "4"}, "context"},
      {{"--prompt", "a", "--context", "1000000"}, "1000000"},
      {{"--prompt", "a", "--temperature", "-1"}, "temperature"},
      {{"--prompt", "a", "--top-p", "0"}, "top_p"},
      {{"--prompt", "a", "--stop", ""}, "--stop"},
      {{"--prompt", "a", "--logprobs", "2"}, "--json"},
      {{"--input-file", "/nonexistent"}, "/nonexistent"},
      {{"--input-file", directory.file("empty.txt")}, "no prompt"},
      {{"--input-file", directory.file("bytes.txt")}, "line 2"},
      {{"--input-file", directory.file("both.jsonl")}, "line 2"},
      {{"--input-file", directory.file("text.jsonl")}, "line 2"},
      {{"--input-file", directory.file("ids.jsonl")}, "line 2"},
  };
  for (const auto& [arguments, expected] : cases) {
    const FathomRun run = generate(arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments[0] << " " << arguments[1];
    EXPECT_EQ(run.out, "");
    EXPECT_NE(run.err.find(expected), std::string::npos) << run.err;
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
}

TEST(GenerateCommand, BatchOfEveryKind) {
  const TemporaryDirectory directory;
  write_text(directory.file("in.jsonl"),
             "{\"prompt\": \"Hi\"}\n{\"ids\": [1, 2]}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n");
  const FathomRun run = generate({"--input-file", directory.file("in.jsonl"), "-n", "2", "--json", "--ignore-eos"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto results = json_lines(run.out);
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0].at("prompt"), "Hi");
  EXPECT_EQ(results[1].at("prompt_ids"), nlohmann::json({1, 2}));
  EXPECT_EQ(results[2].at("messages")[0].at("content"), "Hi");
  // A text file, and the standard input, have one prompt a line.
  EXPECT_EQ(json_lines(generate({"--input-file", "-", "-n", "1", "--json"}, "one\n\nthree").out).size(), 3u);
}

class ResumeTest : public testing::Test {
 protected:
  ResumeTest() { write_text(input_, "one\ntwo\nthree\nfour\n"); }

  FathomRun run(const std::string& input) {
    return generate({"--input-file", input, "--output-file", output_, "-n", "4"});
  }

  /// The whole output, from a run without accidents.
  std::string whole() {
    const FathomRun result = run(input_);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    const std::string text = read_text(output_);
    std::filesystem::remove(output_);
    return text;
  }

  static std::vector<nlohmann::json> tokens(const std::string& text) {
    std::vector<nlohmann::json> all;
    for (const auto& line : json_lines(text)) all.push_back(line.at("tokens"));
    return all;
  }

  bool partial_exists() const { return std::filesystem::exists(output_ + ".partial"); }

  TemporaryDirectory directory_;
  std::string input_ = directory_.file("in.txt");
  std::string output_ = directory_.file("out.jsonl");
};

TEST_F(ResumeTest, GoesOnAfterATornLine) {
  const std::string text = whole();
  const size_t third = text.find('\n', text.find('\n') + 1) + 1;
  write_text(output_ + ".partial", text.substr(0, third + 20));
  const FathomRun result = run(input_);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("2 kept"), std::string::npos) << result.err;
  EXPECT_EQ(read_text(output_).substr(0, third), text.substr(0, third));
  EXPECT_EQ(tokens(read_text(output_)), tokens(text));
  EXPECT_FALSE(partial_exists());
}

TEST_F(ResumeTest, CompletesAnIncompleteFile) {
  const std::string text = whole();
  write_text(output_, text.substr(0, text.find('\n') + 1));
  EXPECT_EQ(run(input_).exit_code, 0);
  EXPECT_EQ(tokens(read_text(output_)), tokens(text));
}

TEST_F(ResumeTest, LeavesACompleteFileAlone) {
  const std::string text = whole();
  write_text(output_, text);
  const FathomRun result = run(input_);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_NE(result.err.find("already"), std::string::npos) << result.err;
  EXPECT_EQ(read_text(output_), text);
  EXPECT_FALSE(partial_exists());
}

TEST_F(ResumeTest, NeverOverwritesSomethingElse) {
  const std::string text = whole();
  const std::string other = directory_.file("other.txt");
  write_text(other, "one\nTWO\nthree\nfour\n");
  for (const std::string& contents : {text, std::string("my notes"), std::string("my notes\n")}) {
    write_text(output_, contents);
    const FathomRun result = run(other);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(read_text(output_), contents);
    EXPECT_FALSE(partial_exists());
  }
}

TEST_F(ResumeTest, AnInterruptedRunIsResumed) {
  // Far more than any machine answers before it is interrupted.
  constexpr int kPrompts = 1000;
  std::string prompts;
  for (int i = 0; i < kPrompts; ++i) prompts += "prompt " + std::to_string(i) + "\n";
  write_text(input_, prompts);
  const std::vector<std::string> command = {
      "generate", "--model", random_checkpoint(), "--input-file", input_, "--output-file", output_,
      "-n",       "300",     "--ignore-eos"};
  const FathomRun stopped = run_fathom(command, {}, 1500);
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_FALSE(std::filesystem::exists(output_));
  // Shorter answers for the rest: what is being tested is what is kept.
  const size_t kept = partial_exists() ? json_lines(read_text(output_ + ".partial")).size() : 0;
  const FathomRun resumed = run(input_);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  const auto results = json_lines(read_text(output_));
  ASSERT_EQ(results.size(), static_cast<size_t>(kPrompts));
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].at("index"), i);
    if (i < kept) {
      EXPECT_EQ(results[i].at("tokens").size(), 300u);
    }
  }
}

TEST_F(ResumeTest, PlacesThatCannotBeWrittenAreASentence) {
  for (const std::string& place : {directory_.file("missing/out.jsonl"), std::string("/proc/out.jsonl")}) {
    const FathomRun result = generate({"--prompt", "a", "-n", "1", "--output-file", place});
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_NE(result.err.find(place), std::string::npos) << result.err;
  }
}

TEST(GenerateCommand, ALongRunOfBlanksIsTooLongAPromptAndNoFailure) {
  const TemporaryDirectory directory;
  const size_t blanks = kSanitized ? 1'000'000 : 11'000'000;
  write_text(directory.file("prompt.jsonl"), nlohmann::json{{"prompt", std::string(blanks, ' ')}}.dump() + "\n");
  const FathomRun run = run_fathom({"generate", "--model", FATHOM_SOURCE_DIR "/models/fathom-tiny", "--input-file",
                                    directory.file("prompt.jsonl"), "-n", "1"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("the context only"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace fathom
