#include "serve/access.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "serve/api_error.h"

namespace fathom {
namespace {

constexpr size_t kShortestKey = 16;
constexpr size_t kLongestKey = 512;
constexpr size_t kLargestKeyFile = size_t{1} << 20;

std::array<unsigned char, 32> sha256(std::string_view text) {
  std::array<unsigned char, 32> digest{};
  unsigned length = 0;
  if (EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1) {
    throw_failure("SHA-256 cannot be computed.");
  }
  return digest;
}

bool is_visible(char character) {
  return character > 0x20 && character < 0x7f;
}

/// The scheme's name in any case of letters, then one blank; what stands behind it.
std::string_view behind_scheme(std::string_view header, std::string_view scheme) {
  if (header.size() <= scheme.size() || header[scheme.size()] != ' ') return {};
  for (size_t i = 0; i < scheme.size(); ++i) {
    if ((header[i] | 0x20) != (scheme[i] | 0x20)) return {};
  }
  return header.substr(header.find_first_not_of(' ', scheme.size()) == std::string_view::npos
                           ? header.size()
                           : header.find_first_not_of(' ', scheme.size()));
}

/// The password of Basic credentials; empty if they are malformed.
std::string basic_password(std::string_view base64) {
  if (base64.size() % 4 != 0 || base64.size() > 4 * kLongestKey) return {};
  std::string text(base64.size() / 4 * 3, '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(base64.data()), static_cast<int>(base64.size()));
  if (size < 0) return {};
  text.resize(static_cast<size_t>(size) -
              std::min<size_t>(2, static_cast<size_t>(std::count(base64.begin(), base64.end(), '='))));
  const size_t colon = text.find(':');
  return colon == std::string::npos ? std::string() : text.substr(colon + 1);
}

int64_t read_count(std::string_view text, const std::string& where) {
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < 0) {
    throw_bad_input("{}: expected a number, 0 for no limit.", where);
  }
  return value;
}

}  // namespace

ApiKey make_api_key(std::string_view key, const std::string& name, const KeyLimits& limits) {
  if (key.size() < kShortestKey || key.size() > kLongestKey) {
    throw_bad_input("{}: an API key has {} to {} characters; this one has {}.", name, kShortestKey, kLongestKey,
                    key.size());
  }
  if (!std::all_of(key.begin(), key.end(), is_visible)) {
    throw_bad_input("{}: an API key has visible ASCII characters only.", name);
  }
  return {name, sha256(key), limits};
}

std::vector<ApiKey> read_key_file(const std::string& path, const KeyLimits& defaults) {
  const std::string text = read_file(path, kLargestKeyFile);
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & S_IRWXO) != 0) {
    throw_failure("{}: other users of this machine can read or write the API keys in it; `chmod 600` it first.", path);
  }
  std::vector<ApiKey> keys;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    std::vector<std::string_view> words;
    for (size_t i = 0; i < line.size();) {
      const size_t first = line.find_first_not_of(" \t", i);
      if (first == std::string_view::npos) break;
      const size_t last = std::min(line.find_first_of(" \t", first), line.size());
      words.push_back(line.substr(first, last - first));
      i = last;
    }
    if (words.empty() || words[0].starts_with('#')) continue;
    const std::string where = fmt::format("{}: line {}", path, number);
    std::string name = fmt::format("key{}", keys.size() + 1);
    KeyLimits limits = defaults;
    for (size_t i = 1; i < words.size(); ++i) {
      const size_t equals = words[i].find('=');
      const std::string_view field = words[i].substr(0, equals);
      const std::string_view value = equals == std::string_view::npos ? "" : words[i].substr(equals + 1);
      if (field == "name" && !value.empty()) {
        name = value;
      } else if (field == "concurrent") {
        limits.concurrent = read_count(value, where + ": concurrent");
      } else if (field == "tokens_per_minute") {
        limits.tokens_per_minute = read_count(value, where + ": tokens_per_minute");
      } else {
        throw_bad_input("{}: expected name=, concurrent= or tokens_per_minute= behind the key.", where);
      }
    }
    ApiKey key = make_api_key(words[0], where, limits);
    key.name = name;
    for (const ApiKey& other : keys) {
      if (other.digest == key.digest) throw_bad_input("{}: the key stands in the file twice.", where);
    }
    keys.push_back(std::move(key));
  }
  if (keys.empty()) throw_bad_input("{}: there is no API key in it.", path);
  return keys;
}

Access::Access(std::vector<ApiKey> keys, const KeyLimits& everybody)
    : keys_(std::move(keys)), everybody_{"everybody", {}, everybody}, accounts_(std::max<size_t>(1, keys_.size())) {}

int Access::who(std::string_view authorization) const {
  if (keys_.empty()) return 0;
  std::string key(behind_scheme(authorization, "Bearer"));
  if (key.empty()) key = basic_password(behind_scheme(authorization, "Basic"));
  // Digests have one length and every key is looked at, so that time tells nothing about how much of a guess is right.
  const auto digest = sha256(key);
  int found = kNobody;
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (CRYPTO_memcmp(digest.data(), keys_[i].digest.data(), digest.size()) == 0) found = static_cast<int>(i);
  }
  return found;
}

const std::string& Access::name(int who) const {
  return key(who).name;
}

std::unique_ptr<Access::Permit> Access::admit(int who, Clock::time_point now) {
  const KeyLimits& limits = key(who).limits;
  const std::lock_guard lock(mutex_);
  Account& account = accounts_[static_cast<size_t>(who)];
  if (limits.concurrent > 0 && account.open >= limits.concurrent) {
    ApiError error(429, fmt::format("{} requests of this key are open already, as many as it may have.", account.open));
    error.retry_after_s = 1;
    throw error;
  }
  if (limits.tokens_per_minute > 0) {
    const auto most = static_cast<double>(limits.tokens_per_minute);
    const double per_second = most / 60;
    if (account.filled == Clock::time_point{}) {
      account.tokens = most;
    } else {
      account.tokens =
          std::min(most, account.tokens + per_second * std::chrono::duration<double>(now - account.filled).count());
    }
    account.filled = now;
    if (account.tokens <= 0) {
      ApiError error(429, fmt::format("The key has used its {} tokens per minute up.", limits.tokens_per_minute));
      error.retry_after_s = std::max(1, static_cast<int>(std::ceil((1 - account.tokens) / per_second)));
      throw error;
    }
  }
  ++account.open;
  return std::make_unique<Permit>(*this, who);
}

Access::Permit::~Permit() {
  const std::lock_guard lock(access_.mutex_);
  --access_.accounts_[static_cast<size_t>(who_)].open;
}

void Access::Permit::spend(int64_t tokens) {
  const std::lock_guard lock(access_.mutex_);
  access_.accounts_[static_cast<size_t>(who_)].tokens -= static_cast<double>(tokens);
}

}  // namespace fathom
