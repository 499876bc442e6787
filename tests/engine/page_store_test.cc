#include "engine/page_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "model/latent_cache.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBytes = 256;
constexpr uint64_t kRoom = uint64_t{1} << 30;
const std::string kModel = "model";

// Whole pages of one token each.
std::vector<int32_t> tokens_of(const std::vector<int32_t>& pages) {
  std::vector<int32_t> tokens;
  for (const int32_t token : pages) tokens.insert(tokens.end(), LatentPool::kPage, token);
  return tokens;
}

// What the page of a prefix holds: other bytes for every prefix, and none of them 0.
std::vector<std::byte> page_of(const std::vector<int32_t>& pages, size_t bytes = kBytes) {
  uint32_t state = 1;
  for (const int32_t token : pages) state = state * 31 + static_cast<uint32_t>(token);
  std::vector<std::byte> page(bytes);
  for (std::byte& byte : page) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24 | 1);
  }
  return page;
}

bool save(PageStore& store, const std::vector<int32_t>& pages, size_t bytes = kBytes) {
  return store.save(tokens_of(pages), page_of(pages, bytes));
}

// Whether the page is there; it must then be the right one.
bool load(PageStore& store, const std::vector<int32_t>& pages, size_t bytes = kBytes) {
  std::vector<std::byte> page(bytes);
  if (!store.load(tokens_of(pages), page)) return false;
  EXPECT_TRUE(page == page_of(pages, bytes)) << "the page of another prefix";
  return true;
}

bool contains(const PageStore& store, const std::vector<int32_t>& pages) {
  return store.contains(tokens_of(pages));
}

std::vector<std::string> files_in(const std::string& directory, const std::string& end = ".page") {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().string().ends_with(end)) found.push_back(entry.path().string());
  }
  return found;
}

uint64_t bytes_in(const std::string& directory) {
  uint64_t bytes = 0;
  for (const std::string& path : files_in(directory)) bytes += fs::file_size(path);
  return bytes;
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// The path of the file that saving this page adds.
std::string saved_file(PageStore& store, const std::string& directory, const std::vector<int32_t>& pages) {
  const std::vector<std::string> before = files_in(directory);
  EXPECT_TRUE(save(store, pages));
  store.flush();
  for (const std::string& path : files_in(directory)) {
    if (std::find(before.begin(), before.end(), path) == before.end()) return path;
  }
  ADD_FAILURE() << "no file was added";
  return "";
}

// Bytes of the file of a page with so many pages of prefix.
uint64_t file_bytes(size_t pages) {
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, kRoom);
  std::vector<int32_t> prefix;
  uint64_t before = 0;
  for (size_t p = 0; p < pages; ++p) {
    before = store.counters().bytes;
    prefix.push_back(static_cast<int32_t>(p));
    save(store, prefix);
    store.flush();
  }
  return store.counters().bytes - before;
}

TEST(PageStore, PagesOutliveTheStore) {
  TemporaryDirectory directory;
  const std::string path = directory.file("a/b/");
  {
    PageStore store(path, kModel, kBytes, kRoom);
    EXPECT_FALSE(load(store, {1}));
    EXPECT_TRUE(save(store, {1}));
    EXPECT_TRUE(save(store, {1, 2}));
    EXPECT_TRUE(save(store, {1, 3}));
    EXPECT_TRUE(load(store, {1, 3}));  // written or still waiting
  }
  PageStore store(path, kModel, kBytes, kRoom);
  EXPECT_EQ(store.counters().bytes, bytes_in(path));
  for (const std::vector<int32_t>& pages : {std::vector<int32_t>{1}, {1, 2}, {1, 3}}) {
    EXPECT_TRUE(contains(store, pages));
    EXPECT_TRUE(load(store, pages));
  }
  for (const std::vector<int32_t>& pages : {std::vector<int32_t>{2}, {3}, {1, 1}, {2, 1}, {1, 2, 3}}) {
    EXPECT_FALSE(contains(store, pages));
    EXPECT_FALSE(load(store, pages));
  }
  EXPECT_EQ(store.match(tokens_of({1, 2, 3})), 128);
  EXPECT_EQ(store.match(tokens_of({2, 2})), 0);
  std::vector<int32_t> part = tokens_of({1, 3});
  EXPECT_EQ(store.match(part), 128);
  part.pop_back();
  EXPECT_EQ(store.match(part), 64);
  part.resize(63);
  EXPECT_EQ(store.match(part), 0);

  EXPECT_TRUE(save(store, {1, 2}));  // is there
  store.flush();
  const PageStoreCounters counters = store.counters();
  EXPECT_EQ(counters.hits, 3);
  EXPECT_EQ(counters.misses, 5);
  EXPECT_EQ(counters.saved, 0);
  EXPECT_EQ(counters.damaged, 0);
  EXPECT_EQ(store.take_problem(), "");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0077, 0u) << "prompts can be read by others";
  EXPECT_TRUE(files_in(path, ".partial").empty());
}

TEST(PageStore, OneTokenDecides) {
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, kRoom);
  const std::vector<int32_t> tokens = tokens_of({1});
  ASSERT_TRUE(save(store, {1}));
  store.flush();
  for (size_t t = 0; t < tokens.size(); ++t) {
    std::vector<int32_t> other = tokens;
    other[t] = 2;
    EXPECT_FALSE(store.contains(other)) << t;
  }
  EXPECT_TRUE(store.contains(tokens));
}

TEST(PageStore, AnotherModelsPagesAreNotFound) {
  TemporaryDirectory directory;
  {
    PageStore store(directory.path(), kModel, kBytes, kRoom);
    save(store, {1});
  }
  PageStore other(directory.path(), "another model", kBytes, kRoom);
  PageStore longer(directory.path(), kModel, kBytes + 1, kRoom);
  PageStore same(directory.path(), kModel, kBytes, kRoom);
  EXPECT_FALSE(load(other, {1}));
  EXPECT_FALSE(load(longer, {1}, kBytes + 1));
  EXPECT_TRUE(load(same, {1}));
  // Under the name that its own file would have, too.
  ASSERT_EQ(files_in(directory.path()).size(), 1u);
  const std::string file = files_in(directory.path()).front();
  const std::string content = read(file);
  const std::string own = saved_file(other, directory.path(), {1});
  write(own, content);
  EXPECT_FALSE(load(other, {1}));
  EXPECT_EQ(other.counters().damaged, 1);
  EXPECT_TRUE(fs::exists(file));
}

TEST(PageStore, EveryByteIsGuarded) {
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, kRoom);
  const std::string path = saved_file(store, directory.path(), {1});
  const std::string whole = read(path);
  ASSERT_GT(whole.size(), kBytes + 256);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 1 << i % 8);
    write(path, damaged);
    ASSERT_FALSE(load(store, {1})) << "byte " << i;
    ASSERT_FALSE(fs::exists(path));
    ASSERT_FALSE(contains(store, {1}));
    ASSERT_EQ(saved_file(store, directory.path(), {1}), path);
    ASSERT_EQ(read(path), whole);
  }
  EXPECT_TRUE(load(store, {1}));
  EXPECT_EQ(store.counters().damaged, std::ssize(whole));
  EXPECT_EQ(store.counters().misses, std::ssize(whole));
  EXPECT_THAT(store.take_problem(), testing::AllOf(testing::HasSubstr(path), testing::HasSubstr("damaged")));
  EXPECT_EQ(store.take_problem(), "");
}

TEST(PageStore, EveryLengthIsGuarded) {
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, kRoom);
  const std::string path = saved_file(store, directory.path(), {1});
  const std::string whole = read(path);
  for (size_t length = 0; length <= whole.size() + 3; ++length) {
    if (length == whole.size()) continue;
    std::string torn = whole;
    torn.resize(length);
    write(path, torn);
    ASSERT_FALSE(load(store, {1})) << length << " bytes";
    // As a write leaves it whose blocks did not reach the disk: the length is right, the end is not.
    ASSERT_EQ(saved_file(store, directory.path(), {1}), path);
    torn.resize(whole.size());
    if (length % 8 != 0 || torn == whole) continue;
    write(path, torn);
    ASSERT_FALSE(load(store, {1})) << length << " bytes, then zeros";
    ASSERT_EQ(saved_file(store, directory.path(), {1}), path);
  }
  EXPECT_TRUE(load(store, {1}));
  EXPECT_EQ(store.counters().bytes, whole.size());
}

TEST(PageStore, ExchangedFilesAnswerNothing) {
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, kRoom);
  const std::string first = saved_file(store, directory.path(), {1});
  const std::string second = saved_file(store, directory.path(), {2});
  const std::string behind_first = saved_file(store, directory.path(), {1, 3});
  const std::string behind_second = saved_file(store, directory.path(), {2, 3});
  // What equal hashes of two prefixes would look like: whole files, but of other tokens.
  fs::rename(first, directory.file("aside"));
  fs::rename(second, first);
  fs::rename(directory.file("aside"), second);
  fs::rename(behind_first, behind_second);
  EXPECT_FALSE(load(store, {1}));
  EXPECT_FALSE(load(store, {2}));
  EXPECT_FALSE(load(store, {1, 3}));
  EXPECT_FALSE(load(store, {2, 3}));
  EXPECT_EQ(store.counters().damaged, 3);
}

TEST(PageStore, ThingsUnderAPagesNameAreMisses) {
  TemporaryDirectory directory;
  TemporaryDirectory elsewhere;
  std::string path;
  std::string whole;
  {
    PageStore store(directory.path(), kModel, kBytes, kRoom);
    path = saved_file(store, directory.path(), {1});
    whole = read(path);
  }
  const auto put = [&](int thing) {
    fs::remove(path);
    if (thing == 0) fs::create_directory(path);
    if (thing == 1) {
      ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    }
    if (thing == 2) fs::create_symlink(elsewhere.file("target"), path);
    if (thing == 3) fs::create_symlink(path, path);
  };
  write(elsewhere.file("target"), whole);
  for (int thing = 0; thing < 4; ++thing) {
    SCOPED_TRACE(thing);
    put(thing);
    PageStore store(directory.path(), kModel, kBytes, kRoom);
    EXPECT_EQ(store.counters().bytes, 0u);
    EXPECT_FALSE(load(store, {1}));
    // And when it comes while the store believes in its file.
    fs::remove(path);
    ASSERT_EQ(saved_file(store, directory.path(), {1}), path);
    put(thing);
    EXPECT_FALSE(load(store, {1}));
    EXPECT_FALSE(contains(store, {1}));
    EXPECT_EQ(store.counters().damaged, 0);
    EXPECT_EQ(store.counters().bytes, 0u);
    EXPECT_EQ(read(elsewhere.file("target")), whole);
    // A directory cannot be written over; that is one failed page. A link is, its target is not.
    EXPECT_TRUE(save(store, {1}));
    store.flush();
    EXPECT_EQ(store.counters().failed, thing == 0 ? 1 : 0);
    EXPECT_EQ(load(store, {1}), thing != 0);
    EXPECT_EQ(read(elsewhere.file("target")), whole);
    EXPECT_TRUE(files_in(directory.path(), ".partial").empty());
  }
}

TEST(PageStore, LeastRecentlyUsedGoFirst) {
  const uint64_t one = file_bytes(1);
  TemporaryDirectory directory;
  {
    PageStore store(directory.path(), kModel, kBytes, 4 * one + one / 2);
    for (const int32_t page : {1, 2, 3, 4}) save(store, {page});
    store.flush();
    EXPECT_EQ(store.counters().evicted, 0);
    EXPECT_TRUE(load(store, {1}));
    save(store, {2});  // a use
    save(store, {5});
    store.flush();
    EXPECT_EQ(store.counters().evicted, 1);
    EXPECT_FALSE(contains(store, {3}));
    EXPECT_TRUE(load(store, {4}));
    EXPECT_EQ(bytes_in(directory.path()), 4 * one);
    EXPECT_EQ(store.counters().bytes, 4 * one);
  }
  // From the oldest use to the youngest: 1, 2, 5, 4.
  PageStore store(directory.path(), kModel, kBytes, 4 * one);
  std::vector<int32_t> there = {1, 2, 5, 4};
  for (const int32_t page : {6, 7, 8}) {
    save(store, {page});
    store.flush();
    there.erase(there.begin());
    for (const int32_t left : there) EXPECT_TRUE(contains(store, {left})) << page << " " << left;
    EXPECT_EQ(bytes_in(directory.path()), 4 * one);
  }
  EXPECT_EQ(store.counters().evicted, 3);
}

TEST(PageStore, ABeginningStaysAsLongAsWhatContinuesIt) {
  const uint64_t limit = file_bytes(1) + file_bytes(2) + file_bytes(3);
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, limit);
  save(store, {1});
  save(store, {1, 2});
  save(store, {3});
  store.flush();
  EXPECT_TRUE(load(store, {3}));
  save(store, {4});  // there is room
  save(store, {5});
  store.flush();
  // The page of 1 was used longest ago, but that of 1, 2 is nothing without it.
  EXPECT_TRUE(contains(store, {1}));
  EXPECT_FALSE(contains(store, {1, 2}));
  save(store, {6});
  store.flush();
  EXPECT_FALSE(contains(store, {1}));
  EXPECT_TRUE(contains(store, {3}));
}

TEST(PageStore, OfAPromptBeyondTheLimitTheBeginningStays) {
  const uint64_t limit = file_bytes(1) + file_bytes(2) + file_bytes(3);
  TemporaryDirectory directory;
  PageStore store(directory.path(), kModel, kBytes, limit);
  std::vector<int32_t> prompt;
  for (const int32_t page : {1, 2, 3, 4, 5, 6, 7}) {
    prompt.push_back(page);
    save(store, prompt);
    store.flush();
  }
  EXPECT_EQ(store.match(tokens_of(prompt)), 3 * 64);
  EXPECT_EQ(store.counters().saved, 3);
  EXPECT_EQ(store.counters().dropped, 4);
  EXPECT_EQ(store.counters().evicted, 0);
  EXPECT_FALSE(save(store, {9, 9}));  // behind nothing
}

TEST(PageStore, TheLimitHoldsForAllModelsAndFromTheStart) {
  const uint64_t one = file_bytes(1);
  TemporaryDirectory directory;
  {
    PageStore store(directory.path(), kModel, kBytes, kRoom);
    for (int32_t page = 0; page < 10; ++page) save(store, {page});
  }
  EXPECT_EQ(bytes_in(directory.path()), 10 * one);
  const std::string other = "modem";  // as long as "model"
  PageStore store(directory.path(), other, kBytes, 5 * one);
  EXPECT_EQ(bytes_in(directory.path()), 5 * one);
  EXPECT_EQ(store.counters().evicted, 5);
  for (int32_t page = 0; page < 20; ++page) {
    save(store, {page});
    store.flush();
    EXPECT_LE(bytes_in(directory.path()), 5 * one);
  }
  EXPECT_EQ(store.match(tokens_of({19})), 64);
  EXPECT_EQ(store.counters().evicted, 25);
}

TEST(PageStore, RefusesWhatItCannotWorkWith) {
  TemporaryDirectory directory;
  for (const std::string path : {"/dev/null/x", "/dev/null"}) {
    FATHOM_EXPECT_ERROR(PageStore(path, kModel, kBytes, kRoom), ErrorKind::bad_input, path, "expected a directory");
  }
  if (::geteuid() != 0) {  // root may write anywhere
    ASSERT_EQ(::chmod(directory.path().c_str(), 0500), 0);
    FATHOM_EXPECT_ERROR(PageStore(directory.path(), kModel, kBytes, kRoom), ErrorKind::bad_input, directory.path(),
                        "cannot be written", "denied");
    ASSERT_EQ(::chmod(directory.path().c_str(), 0700), 0);
  }
  const uint64_t one = file_bytes(1);
  FATHOM_EXPECT_ERROR(PageStore(directory.path(), kModel, kBytes, one - 1), ErrorKind::bad_input, directory.path(),
                      std::to_string(one), std::to_string(one - 1));
  PageStore store(directory.path(), kModel, kBytes, one);
  std::vector<std::byte> page(kBytes + 1);
  FATHOM_EXPECT_ERROR(store.load(tokens_of({1}), page), ErrorKind::failure, "256 bytes", "257");
  FATHOM_EXPECT_ERROR(store.save(tokens_of({1}), page), ErrorKind::failure, "256 bytes", "257");
  FATHOM_EXPECT_ERROR(store.contains({}), ErrorKind::failure, "found 0 tokens");
  FATHOM_EXPECT_ERROR(store.contains(std::vector<int32_t>(65)), ErrorKind::failure, "found 65 tokens");
}

TEST(PageStore, LeavesTheFilesOfOthers) {
  const uint64_t one = file_bytes(1);
  TemporaryDirectory directory;
  std::string name;
  {
    PageStore store(directory.path(), kModel, kBytes, kRoom);
    name = fs::path(saved_file(store, directory.path(), {0xabc})).filename().string();
  }
  std::string upper = name;
  upper[name.find_first_of("abcdef")] -= 'a' - 'A';
  const std::string key = name.substr(33, 32);
  const std::vector<std::string> names = {"notes.txt",
                                          ".page",
                                          "x.page",
                                          name + ".partial",
                                          name + "x",
                                          "x" + name,
                                          upper,
                                          key + ".partial",
                                          key + "-1-2-3.partial",
                                          key + "-x1.partial",
                                          "1-1.partial",
                                          key.substr(1) + "-999999999-1.partial",
                                          key + "--1-1.partial"};
  const timespec old[2] = {{1, 0}, {1, 0}};
  for (const std::string& other : names) {
    write(directory.file(other), "somebody's");
    ASSERT_EQ(::utimensat(AT_FDCWD, directory.file(other).c_str(), old, 0), 0);
  }
  fs::create_symlink("notes.txt", directory.file(key + "-999999999-1.partial"));
  fs::create_directory(directory.file(key + "-999999999-2.partial"));
  {
    PageStore store(directory.path(), kModel, kBytes, one);
    for (int32_t page = 0; page < 5; ++page) save(store, {page});
    store.flush();
    EXPECT_EQ(store.counters().bytes, one);
    EXPECT_EQ(store.counters().saved, 5);
  }
  for (const std::string& other : names) EXPECT_EQ(read(directory.file(other)), "somebody's") << other;
  EXPECT_TRUE(fs::is_symlink(directory.file(key + "-999999999-1.partial")));
  EXPECT_TRUE(fs::is_directory(directory.file(key + "-999999999-2.partial")));
}

TEST(PageStore, RemovesWhatKilledProcessesLeft) {
  TemporaryDirectory directory;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const std::string key(32, 'a');
  const std::string gone = directory.file(key + "-" + std::to_string(child) + "-1.partial");
  const std::string fresh = directory.file(key + "-" + std::to_string(::getpid()) + "-1000000000000.partial");
  const std::string old = directory.file(key + "-" + std::to_string(::getpid()) + "-1000000000001.partial");
  for (const std::string& path : {gone, fresh, old}) write(path, "half a page");
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const timespec times[2] = {{now.tv_sec - 4000, 0}, {now.tv_sec - 4000, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, old.c_str(), times, 0), 0);
  const PageStore store(directory.path(), kModel, kBytes, kRoom);
  EXPECT_FALSE(fs::exists(gone));
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(fresh)) << "another store may be writing it";
}

TEST(PageStore, TwoStoresShareADirectory) {
  const uint64_t one = file_bytes(1);
  TemporaryDirectory directory;
  PageStore a(directory.path(), kModel, kBytes, 4 * one);
  PageStore b(directory.path(), kModel, kBytes, 4 * one);
  for (const int32_t page : {1, 2}) save(a, {page});
  a.flush();
  save(b, {3});
  b.flush();
  EXPECT_TRUE(load(b, {1}));
  EXPECT_TRUE(load(b, {2}));
  save(b, {4});
  b.flush();
  EXPECT_EQ(b.counters().evicted, 0);
  // a has not yet heard of 3 and 4, nor that b used 1 and 2 before 4: of 1 to 4 the page 3 was used longest ago.
  save(a, {5});
  a.flush();
  EXPECT_FALSE(contains(a, {3}));
  for (const int32_t page : {1, 2, 4, 5}) EXPECT_TRUE(load(a, {page})) << page;
  EXPECT_FALSE(load(b, {3})) << "the file is gone, whatever b believes";
  EXPECT_EQ(b.counters().damaged, 0);
  for (int32_t page = 10; page < 40; ++page) {
    PageStore& store = page % 3 == 0 ? a : b;
    save(store, {page});
    store.flush();
    EXPECT_LE(bytes_in(directory.path()), 4 * one);
    EXPECT_EQ(store.counters().bytes, bytes_in(directory.path()));
  }
  // A page that the other one saved meanwhile is not written again.
  const int64_t saved = a.counters().saved;
  save(b, {50});
  b.flush();
  EXPECT_FALSE(contains(a, {50}));
  save(a, {50});
  a.flush();
  EXPECT_TRUE(load(a, {50}));
  EXPECT_EQ(a.counters().saved, saved);
}

TEST(PageStore, HearsOfMoreChangesThanTheSystemRemembers) {
  TemporaryDirectory directory;
  PageStore a(directory.path(), kModel, 1, kRoom);
  save(a, {1}, 1);
  a.flush();
  int64_t events = 16384;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> events;
  if (events > 16384) GTEST_SKIP() << "the system remembers " << events << " changes";
  PageStore b(directory.path(), kModel, 1, kRoom);
  const auto count = static_cast<int32_t>(events / 2 + 10);  // a new file is two changes
  for (int32_t page = 0; page < count; ++page) save(b, {100 + page}, 1);
  b.flush();
  ASSERT_EQ(b.counters().dropped, 0);
  save(a, {2}, 1);
  a.flush();
  EXPECT_EQ(a.counters().bytes, bytes_in(directory.path()));
  EXPECT_TRUE(load(a, {100 + count - 1}, 1));
}

TEST(PageStore, DropsWhatTheQueueHasNoRoomFor) {
  TemporaryDirectory directory;
  const uint64_t one = file_bytes(1);
  {
    PageStore store(directory.path(), kModel, kBytes, kRoom, one - 1);
    EXPECT_FALSE(save(store, {1}));
    EXPECT_FALSE(contains(store, {1}));
    EXPECT_EQ(store.counters().dropped, 1);
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
  PageStore store(directory.path(), kModel, kBytes, kRoom, 2 * one);
  std::vector<bool> kept;
  for (int32_t page = 0; page < 300; ++page) {
    kept.push_back(save(store, {page}));
    EXPECT_EQ(contains(store, {page}), kept.back());
  }
  store.flush();
  for (int32_t page = 0; page < 300; ++page) EXPECT_EQ(load(store, {page}), kept[static_cast<size_t>(page)]) << page;
  const PageStoreCounters counters = store.counters();
  EXPECT_EQ(counters.saved + counters.dropped, 300);
  EXPECT_EQ(counters.saved, std::count(kept.begin(), kept.end(), true));
  EXPECT_EQ(counters.bytes, static_cast<uint64_t>(counters.saved) * one);
  EXPECT_TRUE(kept.front());
}

TEST(PageStore, AFullDiskIsNotTheEnd) {
  TemporaryDirectory directory;
  constexpr size_t kLarge = size_t{1} << 20;
  PageStore store(directory.path(), kModel, kLarge, kRoom);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = kLarge / 2;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_TRUE(save(store, {1}, kLarge));
  save(store, {1, 2}, kLarge);
  store.flush();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_TRUE(fs::is_empty(directory.path()));
  EXPECT_FALSE(load(store, {1}, kLarge));
  EXPECT_EQ(store.counters().failed, 1);
  EXPECT_EQ(store.counters().dropped, 1) << "its beginning is not there";
  EXPECT_EQ(store.counters().bytes, 0u);
  EXPECT_THAT(store.take_problem(),
              testing::AllOf(testing::HasSubstr(directory.path()), testing::HasSubstr("file size limit")));
  EXPECT_TRUE(save(store, {1}, kLarge));
  store.flush();
  EXPECT_TRUE(load(store, {1}, kLarge));
  EXPECT_EQ(store.counters().saved, 1);
}

TEST(PageStore, ADirectoryThatVanishesIsNotTheEnd) {
  TemporaryDirectory directory;
  const std::string path = directory.file("store");
  PageStore store(path, kModel, kBytes, kRoom);
  save(store, {1});
  store.flush();
  fs::remove_all(path);
  EXPECT_FALSE(load(store, {1}));
  EXPECT_TRUE(save(store, {2}));
  store.flush();
  EXPECT_EQ(store.counters().failed, 1);
  EXPECT_EQ(store.counters().bytes, 0u);
  EXPECT_THAT(store.take_problem(), testing::HasSubstr(path));
}

TEST(PageStore, ManyThreads) {
  const uint64_t one = file_bytes(1);
  TemporaryDirectory directory;
  PageStore a(directory.path(), kModel, kBytes, 20 * one);
  PageStore b(directory.path(), kModel, kBytes, 20 * one);
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      PageStore& store = t % 2 == 0 ? a : b;
      for (int32_t i = 0; i < 100; ++i) {
        const int32_t page = (i * 7 + t * 3) % 30;
        if (save(store, {page})) save(store, {page, t});
        load(store, {page});
        load(store, {page, 3 - t});
        store.match(tokens_of({page, t, 1}));
      }
      store.flush();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (PageStore* store : {&a, &b}) {
    EXPECT_EQ(store->counters().damaged, 0) << store->take_problem();
    EXPECT_EQ(store->counters().failed, 0) << store->take_problem();
    EXPECT_EQ(store->counters().hits + store->counters().misses, 400);
  }
}

}  // namespace
}  // namespace fathom
