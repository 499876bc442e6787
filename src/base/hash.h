#pragma once
#include <cstdint>
#include <string_view>

namespace fathom {

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a good hash of one word.
inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// FNV-1a, 64 bits. Its values stand in files and name things that outlive a version; it is no defence against forgery.
inline uint64_t hash_text(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char character : text) hash = (hash ^ static_cast<uint8_t>(character)) * 0x100000001b3u;
  return hash;
}

}  // namespace fathom
