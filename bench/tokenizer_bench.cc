#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "text/tokenizer.h"

// Needs the files of ../shared (or FATHOM_SHARED). MB/s are 10^6 bytes of UTF-8 text a second on one thread.

namespace {

std::string shared_directory() {
  const char* shared = std::getenv("FATHOM_SHARED");
  return shared != nullptr ? shared : FATHOM_SOURCE_DIR "/../shared";
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

const fathom::Tokenizer* tokenizer() {
  static const std::unique_ptr<fathom::Tokenizer> loaded =
      std::filesystem::exists(shared_directory() + "/golden/tokenizer/tokenizer.json")
          ? fathom::Tokenizer::load(shared_directory() + "/golden/tokenizer")
          : nullptr;
  return loaded.get();
}

struct Text {
  const char* name;
  std::vector<const char*> files;  // below data/
};

const std::vector<Text>& texts() {
  static const std::vector<Text> list = {
      {"english", {"tinyshakespeare.txt", "agieval/v1/sat-en.jsonl"}},
      {"chinese", {"agieval/v1/gaokao-chinese.jsonl", "agieval/v1/logiqa-zh.jsonl", "agieval/v1/gaokao-history.jsonl"}},
      {"code", {"aider_polyglot/cpp/catch.hpp"}},
      {"mixed",
       {"agieval/v1/sat-en.jsonl", "agieval/v1/gaokao-chinese.jsonl", "agieval/v1/logiqa-zh.jsonl",
        "agieval/v1/gaokao-history.jsonl", "agieval/v1/lsat-rc.jsonl", "aider_polyglot/cpp/catch.hpp"}},
  };
  return list;
}

void encode(benchmark::State& state, const Text& text) {
  std::string input;
  for (const char* file : text.files) input += contents(shared_directory() + "/data/" + file);
  if (tokenizer() == nullptr || input.empty()) {
    state.SkipWithError("the tokenizer or the text is not there");
    return;
  }
  size_t tokens = 0;
  for (auto step : state) {
    (void)step;
    tokens = tokenizer()->encode(input).size();
    benchmark::DoNotOptimize(tokens);
  }
  state.counters["MB/s"] =
      benchmark::Counter(static_cast<double>(input.size()) * 1e-6, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_token"] = static_cast<double>(input.size()) / static_cast<double>(tokens);
}

void decode(benchmark::State& state) {
  const std::string input = contents(shared_directory() + "/data/tinyshakespeare.txt");
  if (tokenizer() == nullptr || input.empty()) {
    state.SkipWithError("the tokenizer or the text is not there");
    return;
  }
  const std::vector<int32_t> ids = tokenizer()->encode(input);
  for (auto step : state) {
    (void)step;
    benchmark::DoNotOptimize(tokenizer()->decode(ids));
  }
  state.counters["MB/s"] =
      benchmark::Counter(static_cast<double>(input.size()) * 1e-6, benchmark::Counter::kIsIterationInvariantRate);
}

void load(benchmark::State& state) {
  if (tokenizer() == nullptr) {
    state.SkipWithError("the tokenizer is not there");
    return;
  }
  for (auto step : state) {
    (void)step;
    benchmark::DoNotOptimize(fathom::Tokenizer::load(shared_directory() + "/golden/tokenizer"));
  }
}

[[maybe_unused]] const bool registered = [] {
  for (const Text& text : texts()) {
    benchmark::RegisterBenchmark((std::string("tokenizer/encode/") + text.name).c_str(), [&text](
                                                                                             benchmark::State& state) {
      encode(state, text);
    })->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("tokenizer/decode/english", decode)->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("tokenizer/load", load)->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
