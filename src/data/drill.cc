#include "data/drill.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/words.h"

namespace fathom {
namespace {

std::string draw_item(Random& random) {
  switch (random.below(5)) {
    case 0:
      return std::to_string(random.between(0, 9999));
    case 1:
      return std::string(random.pick(words::fruits));
    case 2:
      return std::string(random.pick(words::beasts));
    case 3:
      return std::string(random.chance(0.5) ? random.pick(words::girls) : random.pick(words::boys));
    default:
      return std::string(random.pick(words::colours)) + " " + std::string(random.pick(words::things));
  }
}

std::string copies(Random& random) {
  std::string list;
  const int64_t count = random.between(3, 14);
  for (int64_t i = 0; i < count; ++i) list += (i > 0 ? ", " : "") + draw_item(random);
  std::string text = list + ".";
  for (int64_t left = random.between(1, 2); left > 0; --left) text += "\n" + list + ".";
  return text;
}

std::string pairs(Random& random) {
  constexpr std::array<std::string_view, 4> joints = {": ", " is ", " = ", " has "};
  const std::string_view joint = random.pick(joints);
  std::vector<std::pair<std::string, std::string>> list;
  const int64_t count = random.between(2, 6);
  while (std::ssize(list) < count) {
    std::string key = std::string(random.pick(words::colours)) + " " + std::string(random.pick(words::things));
    const bool known = std::any_of(list.begin(), list.end(), [&](const auto& pair) { return pair.first == key; });
    if (!known)
      list.emplace_back(std::move(key),
                        random.chance(0.6) ? fmt::format("{}", random.between(1000, 9999)) : draw_item(random));
  }
  std::string text;
  for (int64_t left = random.between(2, 3); left > 0; --left) {
    for (const auto& [key, value] : list) text += (text.empty() ? "" : "\n") + key + std::string(joint) + value + ".";
    random.shuffle(list);
  }
  return text;
}

}  // namespace

std::string drill_text(Random& random) {
  return random.chance(0.4) ? copies(random) : pairs(random);
}

}  // namespace fathom
