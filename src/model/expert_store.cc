#include "model/expert_store.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "base/direct_file.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number_formats.h"
#include "kernels/norm.h"

namespace fathom {
namespace {

// Tokens after which a use counts half. docs/expert-memory.md has the comparison that decided.
constexpr double kUseHalfLife = 64;

// Threads that read, and the most that one of them reads at a time. Enough requests under way to keep the device busy,
// pieces small enough that a certain read never waits long behind a guessed one.
constexpr int kReaders = 4;
constexpr uint64_t kPieceBytes = uint64_t{2} << 20;

constexpr size_t kRowAlignment = 64;
// Shorter tensors are copied rather than placed so that they can be read in place: the gaps would cost more.
constexpr uint64_t kShort = 16 * DirectFile::kPage;

constexpr int kMatrices = 3;  // gate_proj, up_proj, down_proj

size_t round_up(size_t value, size_t to) {
  return (value + to - 1) / to * to;
}

// The first place from `cursor` on that lies in its page as `offset` does.
size_t same_place_in_page(size_t cursor, uint64_t offset) {
  const size_t within = offset % DirectFile::kPage;
  return round_up(cursor + DirectFile::kPage - within, DirectFile::kPage) - DirectFile::kPage + within;
}

int64_t scale_count(const Weight& weight) {
  return (weight.rows + weight.block_rows - 1) / weight.block_rows * weight.scale_cols();
}

// A run of bytes of a file and where it goes in the slot.
struct Extent {
  const DirectFile* file;
  uint64_t offset;
  uint64_t bytes;
  size_t place;
};

// Where a matrix of an expert lies in its slot.
struct MatrixPlace {
  size_t data = 0;
  size_t stored_scales = 0;
  size_t scales = 0;  ///< in float32: the stored ones if they are
  DType scale_type = DType::f32;
};

enum class State : uint8_t {
  absent,
  waiting,  ///< needed, without a slot
  reading,
  there,
  failed,  ///< until nobody needs it any more
};

// One expert of one layer.
struct Expert {
  int32_t layer = 0;
  const MlpWeights* form = nullptr;  ///< without data
  std::vector<Extent> extents;
  MatrixPlace places[kMatrices];
  size_t bytes = 0;  ///< of a slot

  State state = State::absent;
  bool certain = false;     ///< a pass asked for the read under way
  bool guess_open = false;  ///< guessed, and the layer's pass has not come yet
  bool by_guess = false;    ///< read because of that guess
  bool abandoned = false;   ///< the read under way is not wanted any more
  int32_t slot = -1;
  int32_t pins = 0;       ///< passes that need it
  int32_t in_flight = 0;  ///< pieces being read
  size_t next_piece = 0;
  std::string error;

  double log_use = -std::numeric_limits<double>::infinity();  ///< log2 of its use as of last_use
  int64_t last_use = 0;                                       ///< on the layer's clock
};

struct Slot {
  std::byte* memory = nullptr;
  int32_t expert = -1;
  MlpWeights weights;
  std::vector<Extent> pieces;  ///< `place` is counted from the slot's beginning
};

struct Layer {
  int32_t first_expert = -1;  ///< −1: no MoE layer
  int32_t experts = 0;
  int64_t clock = 0;  ///< tokens that passed
  std::vector<int32_t> open_guesses;
};

// Where the tensors of an expert go in a slot and how they are read: neighbours in a file in one run.
class Placement {
 public:
  Placement(const Checkpoint& checkpoint, const std::unordered_map<std::string_view, const DirectFile*>& files,
            Expert& expert)
      : checkpoint_(checkpoint), files_(files), expert_(expert) {}

  void place(const std::string& prefix) {
    const Weight* matrices[kMatrices] = {&expert_.form->gate_proj, &expert_.form->up_proj, &expert_.form->down_proj};
    const char* names[kMatrices] = {"gate_proj.weight", "up_proj.weight", "down_proj.weight"};
    for (int i = 0; i < kMatrices; ++i) {
      MatrixPlace& place = expert_.places[i];
      add(prefix + names[i], &place.data);
      if (matrices[i]->block_rows > 0) {
        place.scale_type = add(prefix + names[i] + "_scale_inv", &place.stored_scales);
      }
    }
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
      return a.file != b.file ? std::less<>()(a.file, b.file) : a.offset < b.offset;
    });
    for (size_t begin = 0; begin < parts_.size();) begin = place_run(begin);
    for (int i = 0; i < kMatrices; ++i) {
      MatrixPlace& place = expert_.places[i];
      place.scales = place.stored_scales;
      if (matrices[i]->block_rows == 0 || place.scale_type == DType::f32) continue;
      place.scales = round_up(cursor_, kRowAlignment);
      cursor_ = place.scales + static_cast<size_t>(scale_count(*matrices[i])) * sizeof(float);
    }
    expert_.bytes = round_up(cursor_, DirectFile::kPage);
  }

 private:
  struct Part {
    const DirectFile* file;
    uint64_t offset;
    uint64_t bytes;
    size_t* place;
  };

  DType add(const std::string& name, size_t* place) {
    const TensorPlace found = checkpoint_.place(name);
    parts_.push_back({files_.at(found.file->path()), found.entry->begin, found.entry->end - found.entry->begin, place});
    return found.entry->dtype;
  }

  // Places the parts from `begin` on that one read can fetch; returns the first behind them.
  size_t place_run(size_t begin) {
    size_t end = begin + 1;
    uint64_t bytes = parts_[begin].bytes;
    const auto aligned = [&](size_t i) { return parts_[i].offset % kRowAlignment == 0; };
    while (aligned(begin) && end < parts_.size() && parts_[end].file == parts_[begin].file && aligned(end) &&
           parts_[end].offset == parts_[begin].offset + bytes) {
      bytes += parts_[end++].bytes;
    }
    const uint64_t offset = parts_[begin].offset;
    const size_t place =
        aligned(begin) && bytes >= kShort ? same_place_in_page(cursor_, offset) : round_up(cursor_, kRowAlignment);
    expert_.extents.push_back({parts_[begin].file, offset, bytes, place});
    for (size_t i = begin; i < end; ++i) *parts_[i].place = place + (parts_[i].offset - offset);
    cursor_ = place + bytes;
    return end;
  }

  const Checkpoint& checkpoint_;
  const std::unordered_map<std::string_view, const DirectFile*>& files_;
  Expert& expert_;
  std::vector<Part> parts_;
  size_t cursor_ = 0;
};

void convert_scales(DType type, const std::byte* from, int64_t count, float* to) {
  if (type == DType::f8_e8m0) {
    for (int64_t i = 0; i < count; ++i) to[i] = e8m0_to_f32(static_cast<uint8_t>(from[i]));
  } else {
    convert_to_f32({type, {count}, from}, to);
  }
}

}  // namespace

ExpertCounters ExpertCounters::operator-(const ExpertCounters& before) const {
  return {lookups - before.lookups,
          hits - before.hits,
          guesses - before.guesses,
          right_guesses - before.right_guesses,
          guessed_hits - before.guessed_hits,
          bytes_read - before.bytes_read,
          seconds_waited - before.seconds_waited};
}

// Everything but the experts' bytes is guarded by `mutex`. Bytes are written by readers while the expert is in state
// reading, and read by passes that have seen it there and hold a pin.
struct ExpertStore::Data {
  Data(const Checkpoint& checkpoint, const ModelWeights& weights, uint64_t bytes) {
    std::unordered_map<std::string_view, const DirectFile*> by_path;
    for (const auto& file : checkpoint.files()) {
      files.push_back(std::make_unique<DirectFile>(file->path()));
      by_path.emplace(file->path(), files.back().get());
    }
    size_t greatest = 0;
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      Layer& layer = layers.emplace_back();
      if (!weights.layers[i].moe) continue;
      const std::vector<MlpWeights>& forms = weights.layers[i].moe->experts;
      layer.first_expert = static_cast<int32_t>(experts.size());
      layer.experts = static_cast<int32_t>(forms.size());
      for (size_t e = 0; e < forms.size(); ++e) {
        Expert& expert = experts.emplace_back();
        expert.layer = static_cast<int32_t>(i);
        expert.form = &forms[e];
        Placement(checkpoint, by_path, expert).place(fmt::format("model.layers.{}.mlp.experts.{}.", i, e));
        greatest = std::max(greatest, expert.bytes);
      }
    }
    if (experts.empty()) {
      throw_bad_input("{}: the model has no routed experts to keep in memory.", checkpoint.directory());
    }
    slot_bytes = greatest;
    const uint64_t count = std::min<uint64_t>(bytes / greatest, experts.size());
    if (count < 2) {
      throw_bad_input("{}: {} bytes for experts were given; at least {} are needed, two experts of {}.",
                      checkpoint.directory(), bytes, 2 * greatest, greatest);
    }
    memory = HugeBuffer(count * greatest);
    slots.resize(count);
    for (size_t i = count; i-- > 0;) {
      slots[i].memory = memory.data() + i * greatest;
      free_slots.push_back(static_cast<int32_t>(i));
    }
    for (int i = 0; i < kReaders; ++i) readers.emplace_back([this] { read_loop(); });
  }

  ~Data() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work.notify_all();
    for (std::thread& reader : readers) reader.join();
  }

  // log2 of the tokens that used the expert, each counting half after a half-life.
  double log_use_now(const Expert& expert) const {
    const int64_t age = layers[static_cast<size_t>(expert.layer)].clock - expert.last_use;
    return expert.log_use - static_cast<double>(age) / kUseHalfLife;
  }

  void count_use(Expert& expert, int64_t tokens) {
    expert.log_use = std::log2(std::exp2(log_use_now(expert)) + static_cast<double>(tokens));
    expert.last_use = layers[static_cast<size_t>(expert.layer)].clock;
  }

  // A slot for another expert, or −1. What it held is forgotten.
  int32_t acquire_slot() {
    if (!free_slots.empty()) {
      const int32_t slot = free_slots.back();
      free_slots.pop_back();
      return slot;
    }
    int32_t victim = -1;
    double least = 0;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].expert < 0) continue;
      const Expert& expert = experts[static_cast<size_t>(slots[i].expert)];
      if (expert.state != State::there || expert.pins > 0 || expert.guess_open) continue;
      const double own = log_use_now(expert);
      if (victim < 0 || own < least) {
        victim = static_cast<int32_t>(i);
        least = own;
      }
    }
    if (victim >= 0) forget(experts[static_cast<size_t>(slots[static_cast<size_t>(victim)].expert)]);
    return victim;
  }

  // The expert loses its slot.
  void forget(Expert& expert) {
    slots[static_cast<size_t>(expert.slot)].expert = -1;
    expert.slot = -1;
    expert.state = State::absent;
    expert.by_guess = false;
    expert.abandoned = false;
  }

  void free_slot_of(Expert& expert) {
    free_slots.push_back(expert.slot);
    forget(expert);
  }

  void start_reading(int32_t id, int32_t slot_index, bool certain) {
    Expert& expert = experts[static_cast<size_t>(id)];
    Slot& slot = slots[static_cast<size_t>(slot_index)];
    slot.expert = id;
    slot.pieces.clear();
    for (const Extent& extent : expert.extents) {
      // Cut where the file's pieces begin, so that all of them but the ends are whole pages.
      for (uint64_t done = 0; done < extent.bytes;) {
        const uint64_t offset = extent.offset + done;
        const uint64_t bytes = std::min(extent.bytes - done, kPieceBytes - offset % kPieceBytes);
        slot.pieces.push_back({extent.file, offset, bytes, extent.place + done});
        done += bytes;
      }
    }
    slot.weights = *expert.form;
    Weight* matrices[kMatrices] = {&slot.weights.gate_proj, &slot.weights.up_proj, &slot.weights.down_proj};
    for (int i = 0; i < kMatrices; ++i) {
      matrices[i]->data = slot.memory + expert.places[i].data;
      if (matrices[i]->block_rows > 0) {
        matrices[i]->scale_inv = reinterpret_cast<const float*>(slot.memory + expert.places[i].scales);
      }
    }
    expert.slot = slot_index;
    expert.state = State::reading;
    expert.certain = certain;
    expert.by_guess = !certain;
    expert.error.clear();
    expert.next_piece = 0;
    (certain ? certain_reads : guessed_reads).push_back(id);
  }

  // Gives slots to what is needed, as far as there are any.
  void serve_waiting() {
    while (!waiting.empty()) {
      int32_t slot = acquire_slot();
      if (slot < 0 && drop_guesses()) slot = acquire_slot();
      if (slot < 0) break;
      const int32_t id = waiting.front();
      waiting.pop_front();
      start_reading(id, slot, true);
    }
    work.notify_all();
  }

  // A read that nobody wants: its slot is free once the pieces under way have come.
  void abandon(Expert& expert, int32_t id) {
    std::erase(guessed_reads, id);
    expert.abandoned = true;
    expert.next_piece = slots[static_cast<size_t>(expert.slot)].pieces.size();
    if (expert.in_flight == 0) free_slot_of(expert);
  }

  // Something certain has no room: nothing is held for guesses any more. True if there were any.
  bool drop_guesses() {
    bool any = false;
    for (Layer& layer : layers) {
      any = any || !layer.open_guesses.empty();
      close_guesses(layer);
    }
    return any;
  }

  void close_guesses(Layer& layer) {
    for (int32_t id : layer.open_guesses) {
      Expert& expert = experts[static_cast<size_t>(id)];
      expert.guess_open = false;
      std::erase(unread_guesses, id);
      if (expert.state == State::reading && !expert.certain && !expert.abandoned) abandon(expert, id);
    }
    layer.open_guesses.clear();
  }

  // A pass needs what is being read because of a guess.
  void make_certain(Expert& expert, int32_t id) {
    expert.certain = true;
    certain_in_flight += expert.in_flight;
    if (std::erase(guessed_reads, id) > 0) certain_reads.push_back(id);
  }

  void unpin(Expert& expert, int32_t id) {
    if (--expert.pins > 0) return;
    if (expert.state == State::waiting) {
      std::erase(waiting, id);
      expert.state = State::absent;
    } else if (expert.state == State::failed && expert.in_flight == 0) {
      expert.state = State::absent;
    }
  }

  void fail(Expert& expert, int32_t id, const std::string& sentence) {
    std::erase(certain_reads, id);
    std::erase(guessed_reads, id);
    expert.next_piece = slots[static_cast<size_t>(expert.slot)].pieces.size();
    if (!expert.abandoned) expert.error = sentence;
    expert.abandoned = true;
  }

  void complete(Expert& expert, int32_t id) {
    expert.certain = false;
    if (expert.abandoned) {
      free_slot_of(expert);
      if (expert.pins > 0 && !expert.error.empty()) {
        expert.state = State::failed;
      } else if (expert.pins > 0) {  // needed after all, since it was given up
        expert.state = State::waiting;
        waiting.push_back(id);
      }
      return;
    }
    const Slot& slot = slots[static_cast<size_t>(expert.slot)];
    const Weight* matrices[kMatrices] = {&slot.weights.gate_proj, &slot.weights.up_proj, &slot.weights.down_proj};
    for (int i = 0; i < kMatrices; ++i) {
      const MatrixPlace& place = expert.places[i];
      if (place.scales == place.stored_scales) continue;
      convert_scales(place.scale_type, slot.memory + place.stored_scales, scale_count(*matrices[i]),
                     reinterpret_cast<float*>(slot.memory + place.scales));
    }
    expert.state = State::there;
  }

  // Nothing certain is to be read or being read.
  bool idle() const { return certain_reads.empty() && certain_in_flight == 0 && waiting.empty(); }

  // The next guess gets a slot only now that it can be read: until then what the slot holds may still be needed.
  void start_guess() {
    while (guessed_reads.empty() && !unread_guesses.empty()) {
      const int32_t id = unread_guesses.front();
      unread_guesses.pop_front();
      if (experts[static_cast<size_t>(id)].state != State::absent) continue;
      const int32_t slot = acquire_slot();
      if (slot >= 0) start_reading(id, slot, false);
    }
  }

  void read_loop() {
    Buffer bounce;
    std::unique_lock lock(mutex);
    for (;;) {
      work.wait(lock, [&] {
        return stopping || !certain_reads.empty() || (idle() && !(guessed_reads.empty() && unread_guesses.empty()));
      });
      if (stopping) return;
      if (certain_reads.empty()) {
        start_guess();
        if (guessed_reads.empty()) continue;
      }
      std::deque<int32_t>& queue = certain_reads.empty() ? guessed_reads : certain_reads;
      const int32_t id = queue.front();
      Expert& expert = experts[static_cast<size_t>(id)];
      Slot& slot = slots[static_cast<size_t>(expert.slot)];
      const Extent piece = slot.pieces[expert.next_piece++];
      if (expert.next_piece == slot.pieces.size()) queue.pop_front();
      ++expert.in_flight;
      certain_in_flight += expert.certain ? 1 : 0;

      lock.unlock();
      std::string error;
      try {
        piece.file->read(piece.offset, piece.bytes, slot.memory + piece.place, bounce);
      } catch (const std::exception& problem) {
        error = problem.what();
      }
      lock.lock();

      --expert.in_flight;
      certain_in_flight -= expert.certain ? 1 : 0;
      if (error.empty()) {
        counters.bytes_read += piece.bytes;
      } else {
        fail(expert, id, error);
      }
      if (expert.in_flight == 0 && expert.next_piece == slot.pieces.size()) {
        complete(expert, id);
        serve_waiting();
        arrival.notify_all();
      }
      if (idle()) work.notify_all();
    }
  }

  std::vector<std::unique_ptr<DirectFile>> files;
  std::vector<Layer> layers;
  std::vector<Expert> experts;  // of all layers
  size_t slot_bytes = 0;
  HugeBuffer memory;
  std::vector<Slot> slots;

  std::mutex mutex;
  std::condition_variable work;     // for readers
  std::condition_variable arrival;  // for passes
  std::vector<int32_t> free_slots;
  std::deque<int32_t> waiting;                       // needed, without a slot
  std::deque<int32_t> certain_reads, guessed_reads;  // with pieces that nobody reads yet
  std::deque<int32_t> unread_guesses;                // without a slot, the likeliest first
  int64_t certain_in_flight = 0;                     // pieces
  ExpertCounters counters;
  bool stopping = false;
  std::vector<std::thread> readers;
};

ExpertStore::ExpertStore(const Checkpoint& checkpoint, const ModelWeights& weights, uint64_t bytes)
    : data_(std::make_unique<Data>(checkpoint, weights, bytes)) {}

ExpertStore::~ExpertStore() = default;

int64_t ExpertStore::slots() const {
  return static_cast<int64_t>(data_->slots.size());
}

uint64_t ExpertStore::slot_bytes() const {
  return data_->slot_bytes;
}

ExpertCounters ExpertStore::counters() const {
  const std::lock_guard lock(data_->mutex);
  return data_->counters;
}

void ExpertStore::guess(int64_t layer_index, std::span<const int32_t> guessed) {
  Data& d = *data_;
  const std::lock_guard lock(d.mutex);
  Layer& layer = d.layers[static_cast<size_t>(layer_index)];
  d.close_guesses(layer);
  for (int32_t e : guessed) {
    const int32_t id = layer.first_expert + e;
    Expert& expert = d.experts[static_cast<size_t>(id)];
    if (expert.guess_open) continue;
    expert.guess_open = true;
    layer.open_guesses.push_back(id);
    ++d.counters.guesses;
    if (expert.state == State::absent) d.unread_guesses.push_back(id);
  }
  d.work.notify_all();
}

ExpertPass::ExpertPass(ExpertStore& store, int64_t layer_index, std::span<const ExpertStore::Need> needs,
                       int64_t tokens)
    : data_(*store.data_), was_taken_(needs.size()), left_(needs.size()) {
  ExpertStore::Data& d = data_;
  const std::lock_guard lock(d.mutex);
  Layer& layer = d.layers[static_cast<size_t>(layer_index)];
  layer.clock += tokens;
  d.counters.lookups += static_cast<int64_t>(needs.size());
  for (const ExpertStore::Need& need : needs) {
    const int32_t id = layer.first_expert + need.expert;
    experts_.push_back(id);
    Expert& expert = d.experts[static_cast<size_t>(id)];
    ++expert.pins;
    d.count_use(expert, need.tokens);
    if (expert.guess_open) ++d.counters.right_guesses;
    if (expert.state == State::there) {
      ++d.counters.hits;
      d.counters.guessed_hits += expert.by_guess ? 1 : 0;
    } else if (expert.state == State::absent) {
      expert.state = State::waiting;
      d.waiting.push_back(id);
    } else if (expert.state == State::reading && !expert.certain && !expert.abandoned) {
      d.make_certain(expert, id);
    }
    expert.by_guess = false;
  }
  d.close_guesses(layer);
  d.serve_waiting();
}

ExpertPass::~ExpertPass() {
  const std::lock_guard lock(data_.mutex);
  for (size_t i : taken_) data_.unpin(data_.experts[static_cast<size_t>(experts_[i])], experts_[i]);
  for (size_t i = 0; i < experts_.size(); ++i) {
    if (!was_taken_[i]) data_.unpin(data_.experts[static_cast<size_t>(experts_[i])], experts_[i]);
  }
  data_.serve_waiting();
}

const std::vector<size_t>& ExpertPass::take(bool wait) {
  ExpertStore::Data& d = data_;
  std::unique_lock lock(d.mutex);
  const auto any_ready = [&] {
    for (size_t i = 0; i < experts_.size(); ++i) {
      if (was_taken_[i]) continue;
      const Expert& expert = d.experts[static_cast<size_t>(experts_[i])];
      if (expert.state == State::there || expert.state == State::failed) return true;
    }
    return false;
  };
  if (wait && left_ > 0 && !any_ready()) {
    const auto start = std::chrono::steady_clock::now();
    d.arrival.wait(lock, any_ready);
    d.counters.seconds_waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  taken_.clear();
  for (size_t i = 0; i < experts_.size(); ++i) {
    if (was_taken_[i]) continue;
    const Expert& expert = d.experts[static_cast<size_t>(experts_[i])];
    if (expert.state == State::failed) throw Error(ErrorKind::failure, expert.error);
    if (expert.state != State::there) continue;
    if (!taken_.empty() && !d.waiting.empty()) break;
    taken_.push_back(i);
    was_taken_[i] = true;
    --left_;
  }
  return taken_;
}

const MlpWeights& ExpertPass::weights(size_t need) const {
  const Expert& expert = data_.experts[static_cast<size_t>(experts_[need])];
  return data_.slots[static_cast<size_t>(expert.slot)].weights;
}

void ExpertPass::release() {
  const std::lock_guard lock(data_.mutex);
  for (size_t i : taken_) data_.unpin(data_.experts[static_cast<size_t>(experts_[i])], experts_[i]);
  taken_.clear();
  data_.serve_waiting();
}

}  // namespace fathom
