#include "weights/partial_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kStateName = "rewrite.json";
constexpr const char* kLockName = "rewrite.lock";

std::map<std::string, std::vector<WrittenSegment>> read_segments(const nlohmann::json& files) {
  std::map<std::string, std::vector<WrittenSegment>> result;
  for (const auto& [file, list] : files.items()) {
    for (const nlohmann::json& segment : list) {
      result[file].push_back({segment.at("end").get<uint64_t>(), segment.at("hash").get<std::string>()});
    }
  }
  return result;
}

}  // namespace

struct ContentHash::State {
  XXH3_state_t xxh3;
};

ContentHash::ContentHash() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->xxh3);
}

ContentHash::~ContentHash() = default;

void ContentHash::update(const void* data, size_t bytes) {
  XXH3_128bits_update(&state_->xxh3, data, bytes);
}

std::string ContentHash::take() {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh3);
  XXH3_128bits_reset(&state_->xxh3);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

PartialOutput::PartialOutput(const fs::path& out, std::string identity)
    : out_(out.string()), directory_(out_ + ".partial"), identity_(std::move(identity)) {
  make_directories(directory_.string());
  const std::string lock = path(kLockName).string();
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) throw_failure("{}: cannot be created, {}", lock, std::strerror(errno));
  try {
    if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      throw_bad_input("{}: another run is writing this directory", directory_.string());
    }
    const std::string state = path(kStateName).string();
    if (!file_exists(state)) return;
    const nlohmann::json json = read_json_file(state);
    if (!json.is_object() || !json.contains("identity") || json["identity"] != identity_) {
      throw_bad_input(
          "{}: left over from another command or another checkpoint; remove it, or repeat that command to finish it",
          directory_.string());
    }
    try {
      files_ = read_segments(json.at("files"));
      checked_ = json.at("checked").get<bool>();
    } catch (const std::exception&) {
      throw_bad_input(
          "{}: expected what a stopped run of this version of the program wrote, found something else; "
          "remove {}",
          state, directory_.string());
    }
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

PartialOutput::~PartialOutput() {
  ::close(lock_);
}

const std::vector<WrittenSegment>& PartialOutput::segments(const std::string& file) const {
  static const std::vector<WrittenSegment> none;
  const auto found = files_.find(file);
  return found == files_.end() ? none : found->second;
}

void PartialOutput::set_segments(const std::string& file, std::vector<WrittenSegment> segments) {
  if (segments.empty()) {
    files_.erase(file);
  } else {
    files_[file] = std::move(segments);
  }
  checked_ = false;
  save();
}

void PartialOutput::set_checked() {
  checked_ = true;
  save();
}

void PartialOutput::save() const {
  ordered_json files = ordered_json::object();
  for (const auto& [file, segments] : files_) {
    ordered_json& list = files[file] = ordered_json::array();
    for (const WrittenSegment& segment : segments) list.push_back({{"end", segment.end}, {"hash", segment.hash}});
  }
  OutputFile file(path(kStateName).string());
  file.write(ordered_json{{"identity", identity_}, {"checked", checked_}, {"files", std::move(files)}}.dump(1));
  file.commit();
}

void check_free_disk(const std::string& out, const std::filesystem::path& place, uint64_t missing) {
  const uint64_t free = free_disk_bytes(place.string());
  if (missing <= free) return;
  throw_failure("{}: {:.2f} GB are to be written, and the disk has {:.2f} GB free", out,
                static_cast<double>(missing) / 1e9, static_cast<double>(free) / 1e9);
}

void PartialOutput::require_free(uint64_t missing) {
  try {
    check_free_disk(out_, directory_, missing);
  } catch (const Error&) {
    remove_if_unused();
    throw;
  }
  save();  // from here on the directory says whose it is
}

void PartialOutput::remove_if_unused() {
  if (!files_.empty()) return;
  remove_records();
  std::error_code ignored;
  fs::remove(directory_, ignored);
}

void PartialOutput::remove_records() {
  std::error_code ignored;
  fs::remove(path(kStateName), ignored);
  fs::remove(path(kLockName), ignored);
}

}  // namespace fathom
