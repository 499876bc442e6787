#include "engine/page_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <ctime>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "model/latent_cache.h"

namespace fathom {
namespace {

constexpr auto kPage = static_cast<size_t>(LatentPool::kPage);
constexpr uint64_t kMagic = 0x6567617068746166;  // "fathpage" on the little-endian machine that wrote it
constexpr uint64_t kFormat = 1;
constexpr int64_t kSecond = 1'000'000'000;
// No page takes that long to be written: the file was left by a process that is gone.
constexpr int64_t kLeftoverAge = 3600 * kSecond;

// A hash of the identity and of all tokens up to the end of a page. The identity alone is the key that the first pages
// continue.
struct Key {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Key&) const = default;
  bool operator<(const Key& other) const { return high != other.high ? high < other.high : low < other.low; }
};

struct KeyHash {
  size_t operator()(const Key& key) const { return key.low; }
};

Key key_of(const XXH128_hash_t& hash) {
  return {hash.high64, hash.low64};
}

Key identity_key(const std::string& identity, size_t page_bytes) {
  const std::string text = fmt::format("{} {} {}", kFormat, page_bytes, identity);
  return key_of(XXH3_128bits(text.data(), text.size()));
}

Key continue_key(const Key& parent, const int32_t* tokens) {
  struct {
    Key parent;
    int32_t tokens[kPage];
  } bytes;
  bytes.parent = parent;
  std::memcpy(bytes.tokens, tokens, sizeof(bytes.tokens));
  return key_of(XXH3_128bits(&bytes, sizeof(bytes)));
}

struct PageId {
  Key parent;
  Key key;
};

std::string text_of(const Key& key) {
  return fmt::format("{:016x}{:016x}", key.high, key.low);
}

// PARENT-KEY.page: the directory alone tells which pages continue which.
std::string file_name(const PageId& id) {
  return text_of(id.parent) + "-" + text_of(id.key) + ".page";
}

template <typename Number>
bool parse(std::string_view text, int base, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<PageId> parse_file_name(std::string_view name) {
  if (name.size() != 70) return std::nullopt;
  PageId id;
  const bool numbers = parse(name.substr(0, 16), 16, id.parent.high) && parse(name.substr(16, 16), 16, id.parent.low) &&
                       parse(name.substr(33, 16), 16, id.key.high) && parse(name.substr(49, 16), 16, id.key.low);
  if (!numbers || id.parent == id.key || file_name(id) != name) return std::nullopt;
  return id;
}

// KEY-PROCESS-NUMBER.partial while it is written: two processes, or two stores of one, never share one.
std::string partial_name(const Key& key, uint64_t number) {
  return fmt::format("{}-{}-{}.partial", text_of(key), ::getpid(), number);
}

std::optional<pid_t> parse_partial_name(std::string_view name) {
  constexpr std::string_view kEnd = ".partial";
  if (!name.ends_with(kEnd) || name.size() < 33 + kEnd.size()) return std::nullopt;
  Key key;
  if (!parse(name.substr(0, 16), 16, key.high) || !parse(name.substr(16, 16), 16, key.low)) return std::nullopt;
  const std::string_view numbers = name.substr(33, name.size() - 33 - kEnd.size());
  const size_t dash = numbers.find('-');
  pid_t process = 0;
  uint64_t number = 0;
  if (dash == std::string_view::npos || !parse(numbers.substr(0, dash), 10, process) || process <= 0 ||
      !parse(numbers.substr(dash + 1), 10, number) ||
      fmt::format("{}-{}-{}.partial", text_of(key), process, number) != name) {
    return std::nullopt;
  }
  return process;
}

// Eight-byte fields alone: no padding, every byte is written and compared.
struct Header {
  uint64_t magic = kMagic;
  uint64_t format = kFormat;
  uint64_t identity_bytes = 0;
  uint64_t tokens = 0;
  uint64_t page_bytes = 0;
  Key checksum;  // over the header with this field 0, identity, tokens and page
};
static_assert(sizeof(Header) == 56);

Key checksum_of(Header header, std::span<const std::byte> text, std::span<const std::byte> page) {
  header.checksum = {};
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, &header, sizeof(header));
  XXH3_128bits_update(&state, text.data(), text.size());
  XXH3_128bits_update(&state, page.data(), page.size());
  return key_of(XXH3_128bits_digest(&state));
}

std::string reason(int error) {
  if (error == ENOSPC) return "the disk is full";
  if (error == EDQUOT) return "the disk quota is used up";
  if (error == EFBIG) return "the file would pass the file size limit";
  return std::generic_category().message(error);
}

struct Descriptor {
  int value = -1;
  explicit Descriptor(int descriptor) : value(descriptor) {}
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

int64_t nanoseconds(const timespec& time) {
  // A time beyond what 64 bits hold (the year 2255) is somebody's invention.
  return std::clamp<int64_t>(time.tv_sec, 0, 9'000'000'000) * kSecond + time.tv_nsec;
}

int64_t clock_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now);
}

// Access and modification time for futimens.
struct FileTimes {
  timespec values[2];
  explicit FileTimes(int64_t modified) : values{{0, UTIME_OMIT}, {modified / kSecond, modified % kSecond}} {}
};

bool read_exactly(int descriptor, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t count = ::read(descriptor, to.data(), to.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to = to.subspan(static_cast<size_t>(count));
  }
  return true;
}

// OutputFile waits for the disk, which a checksum makes needless here, and gives all writers of a path one partial
// file; this one is of its writer alone, and of the directory that was opened, wherever its path leads by now.
class PartialFile {
 public:
  PartialFile(int directory, const std::string& path, const Key& key) : directory_(directory), path_(path) {
    static std::atomic<uint64_t> numbers{0};
    do {
      name_ = partial_name(key, numbers++);
      descriptor_ = ::openat(directory_, name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    } while (descriptor_ < 0 && errno == EEXIST);
    if (descriptor_ < 0) fail(errno);
  }
  ~PartialFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!committed_) ::unlinkat(directory_, name_.c_str(), 0);
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void write(std::span<const std::byte> data) {
    while (!data.empty()) {
      const ssize_t count = ::write(descriptor_, data.data(), data.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(errno);
      data = data.subspan(static_cast<size_t>(count));
    }
  }

  void commit(const std::string& name, int64_t modified) {
    const FileTimes times(modified);
    ::futimens(descriptor_, times.values);  // without it the page counts as used when it was written
    if (::close(std::exchange(descriptor_, -1)) != 0) fail(errno);
    if (::renameat(directory_, name_.c_str(), directory_, name.c_str()) != 0) fail(errno);
    committed_ = true;
  }

 private:
  [[noreturn]] void fail(int error) const {
    throw_failure("{}: a page cannot be kept there, {}.", path_, reason(error));
  }

  int directory_;
  const std::string& path_;
  std::string name_;
  int descriptor_ = -1;
  bool committed_ = false;
};

struct File {
  Key parent;
  uint64_t bytes = 0;
  int64_t used = 0;
};

// What the directory holds. A leaf is a file that no other file continues.
struct Index {
  std::unordered_map<Key, File, KeyHash> files;
  std::unordered_map<Key, int64_t, KeyHash> continuations;  // how many files name the key as their parent
  std::set<std::pair<int64_t, Key>> leaves;                 // by time of use
  uint64_t bytes = 0;

  void put(const Key& key, const File& file) {
    forget(key);
    files.emplace(key, file);
    bytes += file.bytes;
    if (++continuations[file.parent] == 1) {
      const auto parent = files.find(file.parent);
      if (parent != files.end()) leaves.erase({parent->second.used, file.parent});
    }
    if (!continuations.contains(key)) leaves.emplace(file.used, key);
  }

  void forget(const Key& key) {
    const auto found = files.find(key);
    if (found == files.end()) return;
    const File file = found->second;
    leaves.erase({file.used, key});
    bytes -= file.bytes;
    files.erase(found);
    if (--continuations[file.parent] > 0) return;
    continuations.erase(file.parent);
    const auto parent = files.find(file.parent);
    if (parent == files.end()) return;
    // Whoever used the continuation used what it continues.
    parent->second.used = std::max(parent->second.used, file.used);
    leaves.emplace(parent->second.used, file.parent);
  }

  void use(const Key& key, int64_t time) {
    const auto found = files.find(key);
    if (found == files.end() || found->second.used >= time) return;
    if (leaves.erase({found->second.used, key}) > 0) leaves.emplace(time, key);
    found->second.used = time;
  }
};

// A page that waits to be written.
struct Waiting {
  PageId id;
  std::vector<std::byte> text;  // identity and tokens
  std::vector<std::byte> page;
  int64_t tokens = 0;
  int64_t used = 0;

  uint64_t bytes() const { return sizeof(Header) + text.size() + page.size(); }
};

int open_directory(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path path = directory;
  if (!path.has_filename()) path = path.parent_path();
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error || (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)) {
    throw_bad_input("{}: expected a directory for cached pages, it cannot be created: {}.", directory,
                    error ? error.message() : reason(errno));
  }
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw_bad_input("{}: expected a directory for cached pages, it cannot be opened: {}.", directory, reason(errno));
  }
  if (::faccessat(descriptor, ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
    const int problem = errno;
    ::close(descriptor);
    throw_bad_input("{}: expected a directory for cached pages, it cannot be written: {}.", directory, reason(problem));
  }
  return descriptor;
}

}  // namespace

struct PageStore::Data {
  Data(const std::string& directory_, const std::string& identity_, size_t page_bytes_, uint64_t limit_bytes_,
       uint64_t queue_bytes_)
      : path(directory_),
        identity(identity_),
        root(identity_key(identity_, page_bytes_)),
        page_bytes(page_bytes_),
        limit_bytes(limit_bytes_),
        queue_bytes(queue_bytes_),
        directory(open_directory(path)),
        changes(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    const uint64_t least = sizeof(Header) + identity.size() + kPage * sizeof(int32_t) + page_bytes;
    if (limit_bytes < least) {
      throw_bad_input("{}: expected a limit of at least {} bytes, which one page takes, found {}.", path, least,
                      limit_bytes);
    }
    // Without it (no instance is left) other processes' files are seen at the next start.
    if (changes.value >= 0) {
      const std::string opened = fmt::format("/proc/self/fd/{}", directory.value);
      ::inotify_add_watch(changes.value, opened.c_str(), IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE);
    }
    index = scan();
    make_room(0, root);
    writer = std::thread([this] { write_pages(); });
  }

  ~Data() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work.notify_all();
    writer.join();
  }

  PageId id_of(std::span<const int32_t> prefix) const {
    if (prefix.empty() || prefix.size() % kPage != 0) {
      throw_failure("{}: expected a prefix of whole pages of {} tokens, found {} tokens.", path, kPage, prefix.size());
    }
    PageId id{root, root};
    for (size_t t = 0; t < prefix.size(); t += kPage) {
      id.parent = id.key;
      id.key = continue_key(id.parent, prefix.data() + t);
    }
    return id;
  }

  void check_page(size_t bytes) const {
    if (bytes != page_bytes) throw_failure("{}: expected a page of {} bytes, found {}.", path, page_bytes, bytes);
  }

  std::vector<std::byte> text_of_prefix(std::span<const int32_t> prefix) const {
    std::vector<std::byte> text(identity.size() + prefix.size_bytes());
    std::memcpy(text.data(), identity.data(), identity.size());
    std::memcpy(text.data() + identity.size(), prefix.data(), prefix.size_bytes());
    return text;
  }

  Header header_of(size_t tokens) const {
    Header header;
    header.identity_bytes = identity.size();
    header.tokens = tokens;
    header.page_bytes = page_bytes;
    return header;
  }

  // Later than every use before it, also where the clock is coarse. Under the mutex.
  int64_t time_of_use() {
    last_use = std::max(clock_now(), last_use + 1);
    return last_use;
  }

  bool is_there(const Key& key) const { return waiting.contains(key) || index.files.contains(key); }

  // A page behind one that is not there would never be asked for, and might push out what is.
  bool continues_something(const PageId& id) const { return id.parent == root || is_there(id.parent); }

  // Takes a file into the index as the directory has it now.
  void look_at(Index& to, const PageId& id) {
    struct stat status {};
    const bool there =
        ::fstatat(directory.value, file_name(id).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode);
    if (!there) {
      to.forget(id.key);
      return;
    }
    const auto known = to.files.find(id.key);
    const int64_t used = known == to.files.end() ? 0 : known->second.used;
    to.put(id.key, {id.parent, static_cast<uint64_t>(status.st_size), std::max(used, nanoseconds(status.st_mtim))});
  }

  void remove_leftover(const char* name, pid_t process) {
    struct stat status {};
    if (::fstatat(directory.value, name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) return;
    const bool gone = ::kill(process, 0) != 0 && errno == ESRCH;
    if (gone || nanoseconds(status.st_mtim) < clock_now() - kLeftoverAge) ::unlinkat(directory.value, name, 0);
  }

  Index scan() {
    const int descriptor = ::openat(directory.value, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* const list = descriptor < 0 ? nullptr : ::fdopendir(descriptor);
    if (list == nullptr) {
      const int error = errno;
      if (descriptor >= 0) ::close(descriptor);
      throw_failure("{}: the directory cannot be listed, {}.", path, reason(error));
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> closed(list, ::closedir);
    Index found;
    while (const dirent* entry = ::readdir(list)) {
      if (const auto id = parse_file_name(entry->d_name)) look_at(found, *id);
      if (const auto process = parse_partial_name(entry->d_name)) remove_leftover(entry->d_name, *process);
    }
    return found;
  }

  // Takes into the index what other processes have written and removed.
  void follow_changes() {
    if (changes.value < 0) return;
    alignas(inotify_event) char events[16384];
    for (;;) {
      const ssize_t count = ::read(changes.value, events, sizeof(events));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return;
      bool overflow = false;
      for (const char* next = events; next < events + count;) {
        const auto* event = reinterpret_cast<const inotify_event*>(next);
        next += sizeof(inotify_event) + event->len;
        overflow = overflow || (event->mask & IN_Q_OVERFLOW) != 0;
        const auto id = event->len > 0 ? parse_file_name(event->name) : std::nullopt;
        if (!id) continue;
        const std::lock_guard lock(mutex);
        look_at(index, *id);
      }
      if (!overflow) continue;
      Index found = scan();
      const std::lock_guard lock(mutex);
      index = std::move(found);
    }
  }

  // Removes files until `bytes` more have room; false if that would take the file that they continue.
  bool make_room(uint64_t bytes, const Key& parent) {
    if (bytes > limit_bytes) return false;
    std::unique_lock lock(mutex);
    while (index.bytes > limit_bytes || bytes > limit_bytes - index.bytes) {
      const auto oldest = std::find_if(index.leaves.begin(), index.leaves.end(),
                                       [&](const auto& leaf) { return leaf.second != parent; });
      if (oldest == index.leaves.end()) return false;
      const auto [used, key] = *oldest;
      const std::string name = file_name({index.files.at(key).parent, key});
      struct stat status {};
      if (::fstatat(directory.value, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
          nanoseconds(status.st_mtim) > used) {
        index.use(key, nanoseconds(status.st_mtim));  // another process did
        continue;
      }
      index.forget(key);
      lock.unlock();
      const int error = ::unlinkat(directory.value, name.c_str(), 0) == 0 ? 0 : errno;
      lock.lock();
      if (error == 0) ++counters.evicted;
      if (error != 0 && error != ENOENT) {
        problem = fmt::format("{}/{}: cannot be removed to make room, {}.", path, name, reason(error));
      }
    }
    return true;
  }

  enum class Found { page, nothing, damage };

  Found read_page(const PageId& id, std::span<const int32_t> prefix, std::span<std::byte> page, int64_t used) const {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    const Descriptor file(
        ::openat(directory.value, file_name(id).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat status {};
    if (file.value < 0 || ::fstat(file.value, &status) != 0 || !S_ISREG(status.st_mode)) return Found::nothing;
    const std::vector<std::byte> expected = text_of_prefix(prefix);
    // All lengths are known before the file is opened: nothing in it decides about memory.
    if (static_cast<uint64_t>(status.st_size) != sizeof(Header) + expected.size() + page.size()) return Found::damage;
    Header header;
    std::vector<std::byte> text(expected.size());
    if (!read_exactly(file.value, std::as_writable_bytes(std::span(&header, 1)))) return Found::damage;
    Header wanted = header_of(prefix.size());
    wanted.checksum = header.checksum;
    if (std::memcmp(&header, &wanted, sizeof(Header)) != 0) return Found::damage;
    if (!read_exactly(file.value, text) || text != expected) return Found::damage;
    if (!read_exactly(file.value, page) || checksum_of(header, text, page) != header.checksum) return Found::damage;
    const FileTimes times(used);
    ::futimens(file.value, times.values);
    return Found::page;
  }

  void remove_damaged(const PageId& id) {
    const std::string name = file_name(id);
    const int error = ::unlinkat(directory.value, name.c_str(), 0) == 0 ? 0 : errno;
    const std::lock_guard lock(mutex);
    index.forget(id.key);
    ++counters.damaged;
    problem = fmt::format("{}/{}: expected a page of the latent cache, found a damaged file; it {}.", path, name,
                          error == 0 ? "was removed" : "cannot be removed, " + reason(error));
  }

  // False if the page was dropped or is there.
  bool write_page(const Waiting& page) {
    follow_changes();
    bool room = false;
    {
      const std::lock_guard lock(mutex);
      if (index.files.contains(page.id.key)) return false;
      room = continues_something(page.id);
    }
    if (!room || !make_room(page.bytes(), page.id.parent)) {
      const std::lock_guard lock(mutex);
      ++counters.dropped;
      return false;
    }
    Header header = header_of(static_cast<size_t>(page.tokens));
    header.checksum = checksum_of(header, page.text, page.page);
    PartialFile file(directory.value, path, page.id.key);
    file.write(std::as_bytes(std::span(&header, 1)));
    file.write(page.text);
    file.write(page.page);
    file.commit(file_name(page.id), page.used);
    return true;
  }

  void write_pages() {
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      const std::shared_ptr<const Waiting> page = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      bool written = false;
      std::string error;
      try {
        written = write_page(*page);
      } catch (const std::exception& thrown) {
        error = thrown.what();
      }
      lock.lock();
      if (written) {
        ++counters.saved;
        index.put(page->id.key, {page->id.parent, page->bytes(), page->used});
      }
      if (!error.empty()) {
        ++counters.failed;
        problem = error;
      }
      waiting.erase(page->id.key);
      waiting_bytes -= page->bytes();
      if (waiting.empty()) idle.notify_all();
    }
  }

  const std::string path;
  const std::string identity;
  const Key root;
  const size_t page_bytes;
  const uint64_t limit_bytes;
  const uint64_t queue_bytes;
  const Descriptor directory;
  const Descriptor changes;  // of the directory; −1 if the system gives none

  mutable std::mutex mutex;
  std::condition_variable work;  // for the writer
  std::condition_variable idle;  // for flush
  Index index;
  std::deque<std::shared_ptr<const Waiting>> queue;
  std::unordered_map<Key, std::shared_ptr<const Waiting>, KeyHash> waiting;  // the queue, and the page being written
  uint64_t waiting_bytes = 0;
  PageStoreCounters counters;
  std::string problem;
  int64_t last_use = 0;
  bool stopping = false;
  std::thread writer;
};

PageStore::PageStore(const std::string& directory, const std::string& identity, size_t page_bytes, uint64_t limit_bytes,
                     uint64_t queue_bytes)
    : data_(std::make_unique<Data>(directory, identity, page_bytes, limit_bytes, queue_bytes)) {}

PageStore::~PageStore() = default;

int64_t PageStore::match(std::span<const int32_t> tokens) const {
  const Data& d = *data_;
  const std::lock_guard lock(d.mutex);
  Key key = d.root;
  size_t matched = 0;
  while (matched + kPage <= tokens.size()) {
    key = continue_key(key, tokens.data() + matched);
    if (!d.is_there(key)) break;
    matched += kPage;
  }
  return static_cast<int64_t>(matched);
}

bool PageStore::contains(std::span<const int32_t> prefix) const {
  const Data& d = *data_;
  const PageId id = d.id_of(prefix);
  const std::lock_guard lock(d.mutex);
  return d.is_there(id.key);
}

bool PageStore::load(std::span<const int32_t> prefix, std::span<std::byte> page) {
  Data& d = *data_;
  const PageId id = d.id_of(prefix);
  d.check_page(page.size());
  std::shared_ptr<const Waiting> waits;
  bool known = false;
  int64_t used = 0;
  {
    const std::lock_guard lock(d.mutex);
    const auto found = d.waiting.find(id.key);
    if (found != d.waiting.end()) waits = found->second;
    known = d.index.files.contains(id.key);
    used = d.time_of_use();
  }
  Data::Found result = Data::Found::nothing;
  if (waits != nullptr) {
    if (waits->text == d.text_of_prefix(prefix)) {
      std::memcpy(page.data(), waits->page.data(), page.size());
      result = Data::Found::page;
    }
  } else if (known) {
    result = d.read_page(id, prefix, page, used);
  }
  if (result == Data::Found::damage) d.remove_damaged(id);

  const std::lock_guard lock(d.mutex);
  if (result == Data::Found::page) {
    ++d.counters.hits;
    d.index.use(id.key, used);
    return true;
  }
  ++d.counters.misses;
  if (known && waits == nullptr) d.look_at(d.index, id);  // it may have vanished
  return false;
}

bool PageStore::save(std::span<const int32_t> prefix, std::span<const std::byte> page) {
  Data& d = *data_;
  const PageId id = d.id_of(prefix);
  d.check_page(page.size());
  int64_t used = 0;
  {
    const std::lock_guard lock(d.mutex);
    used = d.time_of_use();
    if (d.waiting.contains(id.key)) return true;
    if (d.index.files.contains(id.key)) {
      d.index.use(id.key, used);
      const FileTimes times(used);
      ::utimensat(d.directory.value, file_name(id).c_str(), times.values, AT_SYMLINK_NOFOLLOW);
      return true;
    }
    const uint64_t bytes = sizeof(Header) + d.identity.size() + prefix.size_bytes() + page.size();
    const bool room = bytes <= d.queue_bytes && d.waiting_bytes <= d.queue_bytes - bytes;
    if (!room || !d.continues_something(id)) {
      ++d.counters.dropped;
      return false;
    }
  }
  std::shared_ptr<Waiting> copy;
  try {
    copy = std::make_shared<Waiting>();
    copy->text = d.text_of_prefix(prefix);
    copy->page.assign(page.begin(), page.end());
  } catch (const std::bad_alloc&) {
    const std::lock_guard lock(d.mutex);
    ++d.counters.dropped;
    return false;
  }
  copy->id = id;
  copy->tokens = std::ssize(prefix);
  copy->used = used;
  {
    const std::lock_guard lock(d.mutex);
    if (!d.waiting.emplace(id.key, copy).second) return true;  // another thread was faster
    d.waiting_bytes += copy->bytes();
    d.queue.push_back(std::move(copy));
  }
  d.work.notify_one();
  return true;
}

void PageStore::flush() {
  Data& d = *data_;
  std::unique_lock lock(d.mutex);
  d.idle.wait(lock, [&] { return d.waiting.empty(); });
}

PageStoreCounters PageStore::counters() const {
  const std::lock_guard lock(data_->mutex);
  PageStoreCounters counters = data_->counters;
  counters.bytes = data_->index.bytes;
  return counters;
}

std::string PageStore::take_problem() {
  const std::lock_guard lock(data_->mutex);
  return std::exchange(data_->problem, {});
}

}  // namespace fathom
