#include "serve/load_requests.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "data/story.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

// Streams of random numbers beside those of the requests, which are numbered from 0.
constexpr uint64_t kBeginningStream = uint64_t{1} << 62;
constexpr uint64_t kKindStream = uint64_t{1} << 63;

constexpr int64_t kBeginnings = 4;
constexpr double kSharedBeginning = 0.5;
constexpr double kRepeated = 0.125;
constexpr int64_t kRepeatedWithin = 64;  // requests; among so many the repeated one may still be running

}  // namespace

std::string load_text(Random& random, int64_t bytes) {
  const auto wanted = static_cast<size_t>(bytes);
  std::string text;
  while (text.size() < wanted) {
    if (!text.empty()) text += "\n\n";
    text += make_story(random).text;
  }
  if (text.size() > wanted) text.resize(std::min(wanted, text.rfind(' ', wanted)));
  return text;
}

LoadRequests::LoadRequests(LoadContent content) : content_(std::move(content)) {
  for (int64_t i = 0; i < kBeginnings; ++i) {
    Random random(content_.seed, kBeginningStream + static_cast<uint64_t>(i));
    beginnings_.push_back(load_text(random, content_.prompt_bytes / 2));
  }
}

int64_t LoadRequests::source_of(int64_t number) const {
  for (;;) {
    Random random(content_.seed, kKindStream + static_cast<uint64_t>(number));
    if (number == 0 || !random.chance(kRepeated)) return number;
    number -= random.between(1, std::min(number, kRepeatedWithin));
  }
}

std::string LoadRequests::body(int64_t source) const {
  Random random(content_.seed, static_cast<uint64_t>(source));
  Json messages = Json::array();
  int64_t own_bytes = content_.prompt_bytes;
  if (random.chance(kSharedBeginning)) {
    const std::string& beginning = random.pick(beginnings_);
    own_bytes -= static_cast<int64_t>(beginning.size());
    messages.push_back({{"role", "system"}, {"content", beginning}});
  }
  // The number comes first, so that nothing else is shared by accident.
  const std::string opening = fmt::format("Story {}: ", source);
  own_bytes = std::max<int64_t>(own_bytes - static_cast<int64_t>(opening.size()), 1);
  messages.push_back({{"role", "user"}, {"content", opening + load_text(random, own_bytes)}});
  return Json{{"model", content_.model},
              {"messages", std::move(messages)},
              {"stream", true},
              {"stream_options", {{"include_usage", true}}},
              {"max_tokens", content_.max_tokens},
              {"temperature", content_.temperature},
              {"seed", source}}
      .dump();
}

LoadRequest LoadRequests::request(int64_t number) const {
  // Drawn from the end of the sources' stream, so that a repeated prompt can be cancelled one time and not the other.
  Random random(content_.seed, ~static_cast<uint64_t>(number));
  LoadRequest request;
  request.source = source_of(number);
  request.body = body(request.source);
  const LoadShares& shares = content_.shares;
  double place = random.uniform();
  const auto falls_into = [&](double share) {
    place -= share;
    return place < 0;
  };
  if (falls_into(shares.cancel)) {
    request.kind = LoadRequest::Kind::cancelled;
    request.at_token = random.between(1, content_.max_tokens);
  } else if (falls_into(shares.slow)) {
    request.kind = random.chance(0.5) ? LoadRequest::Kind::slow : LoadRequest::Kind::stalling;
    request.at_token = random.between(1, content_.max_tokens);
    request.stall_ms = random.between(200, 2000);
  } else if (falls_into(shares.malformed)) {
    request.kind = LoadRequest::Kind::malformed;
    request.body = malformed_body(request.body, random);
  } else if (falls_into(shares.oversized)) {
    request.kind = LoadRequest::Kind::oversized;
    const auto sizes = content_.too_long_bytes > 0 ? 3 : 2;
    request.size = std::array{LoadRequest::Size::announced, LoadRequest::Size::chunked,
                              LoadRequest::Size::prompt}[random.below(static_cast<size_t>(sizes))];
    if (request.size == LoadRequest::Size::prompt) {
      Json body = Json::parse(request.body);
      body["messages"].back()["content"] = load_text(random, content_.too_long_bytes);
      request.body = body.dump();
    } else {
      request.body = R"({"model":)" + Json(content_.model).dump() + R"(,"messages":[{"role":"user","content":")";
    }
  }
  return request;
}

/// A body that cannot be taken for a request, whatever the server: not JSON, not UTF-8, or with values that mean
/// nothing.
std::string LoadRequests::malformed_body(const std::string& body, Random& random) const {
  const auto with = [&](const char* field, Json value) {
    Json changed = Json::parse(body);
    changed[field] = std::move(value);
    return changed.dump();
  };
  const auto inserted = [&](std::string_view bytes) {
    const size_t text = body.find("Story ");
    return body.substr(0, text) + std::string(bytes) + body.substr(text);
  };
  switch (random.below(10)) {
    case 0:
      return body.substr(0, 1 + random.below(body.size() - 1));
    case 1:
      return inserted("\xff");
    case 2:
      return inserted("\n");
    case 3:
      return with("messages", Json::array({7}));
    case 4:
      return with("messages", Json::array());
    case 5:
      return with("temperature", "hot");
    case 6:
      return with("max_tokens", -1);
    case 7:
      return "";
    case 8: {
      const size_t depth = 1 + random.below(100'000);
      return R"({"messages":)" + std::string(depth, '[') + std::string(depth, ']') + "}";
    }
    default: {
      std::string noise(1 + random.below(1000), '\0');
      for (char& byte : noise) byte = static_cast<char>(random.below(256));
      noise.front() = '\0';
      return noise;
    }
  }
}

}  // namespace fathom
