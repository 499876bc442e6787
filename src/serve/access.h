#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// What one API key may do at once. 0: no limit.
struct KeyLimits {
  int64_t concurrent = 0;         ///< requests that compute or wait
  int64_t tokens_per_minute = 0;  ///< of prompts and answers together, averaged over a minute
};

/// A key that the server accepts.
struct ApiKey {
  std::string name;                        ///< for logs and metrics; never the key itself
  std::array<unsigned char, 32> digest{};  ///< SHA-256 of the key
  KeyLimits limits;
};

/// Keys from a text file: a key on each line, then if wanted `name=NAME`, `concurrent=N`, `tokens_per_minute=N`; blank
/// lines and lines that begin with # say nothing. `bad_input` names the line (but not its key); `failure` if other
/// users can read the file.
std::vector<ApiKey> read_key_file(const std::string& path, const KeyLimits& defaults);
/// `bad_input` for a key that is shorter than 16 characters or has other than visible ASCII.
ApiKey make_api_key(std::string_view key, const std::string& name, const KeyLimits& limits);

/// Who may ask, and how much at once. Threads: any.
class Access {
 public:
  using Clock = std::chrono::steady_clock;

  /// Without keys everybody may ask, all under one name and the limits `everybody`.
  Access(std::vector<ApiKey> keys, const KeyLimits& everybody);

  bool needs_key() const { return !keys_.empty(); }
  /// The number of the key in an Authorization header (`Bearer KEY`, or `Basic` with it as the password, which a
  /// browser can be asked for); nothing if there is none that is accepted. Takes the same time for every wrong key.
  static constexpr int kNobody = -1;
  int who(std::string_view authorization) const;
  const std::string& name(int who) const;

  /// The right to one request. Ends with it.
  class Permit {
   public:
    Permit(Access& access, int who) : access_(access), who_(who) {}
    ~Permit();
    Permit(const Permit&) = delete;
    Permit& operator=(const Permit&) = delete;
    /// Tokens that were computed for the request.
    void spend(int64_t tokens);
    int who() const { return who_; }

   private:
    Access& access_;
    int who_;
  };
  /// Throws ApiError 429, with the seconds until it can be tried again, if the key has too many requests open or has
  /// used its tokens up.
  std::unique_ptr<Permit> admit(int who, Clock::time_point now = Clock::now());

 private:
  struct Account {
    int64_t open = 0;
    double tokens = 0;  // that are left; below 0 after more than was foreseen
    Clock::time_point filled{};
  };

  std::vector<ApiKey> keys_;
  ApiKey everybody_;
  const ApiKey& key(int who) const { return keys_.empty() ? everybody_ : keys_[static_cast<size_t>(who)]; }

  std::mutex mutex_;
  std::vector<Account> accounts_;
};

}  // namespace fathom
