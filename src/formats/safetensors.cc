#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "base/error.h"

namespace fathom {
namespace {

constexpr uint64_t kMaxHeaderBytes = uint64_t{512} << 20;
constexpr size_t kMaxAxes = 8;
constexpr size_t kSizeField = 8;
constexpr size_t kDataAlignment = 64;

uint64_t read_little_endian_u64(const char* bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kSizeField; ++i) value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return value;
}

/// Reads the header's JSON as a stream of events: a header of 90 000 tensors becomes no tree of 900 000 nodes, and
/// names that occur twice are seen. Offsets stay relative to the data until the caller moves them.
///
/// The grammar is a fixed one of three levels, so `place_` says where we are:
///   {"__metadata__": {key: string, …}, NAME: {"dtype": string, "shape": [n, …], "data_offsets": [begin, end]}, …}
class HeaderReader {
 public:
  using json = nlohmann::json;

  HeaderReader(std::string_view source, std::vector<SafetensorsEntry>& entries,
               std::map<std::string, std::string>* metadata)
      : source_(source), entries_(entries), metadata_(metadata) {}

  // Events of nlohmann::json::sax_parse.
  bool null() { refuse_value("null"); }
  bool boolean(bool value) { refuse_value(value ? "true" : "false"); }
  bool number_integer(json::number_integer_t value) {
    refuse_value(fmt::format("the number {}", value));  // only negative numbers arrive here
  }
  bool number_float(json::number_float_t, const std::string& text) {
    refuse_value(fmt::format("the number {}", printable_name(text)));
  }
  bool binary(json::binary_t&) {
    refuse_value("binary data");  // never in JSON text
  }

  bool number_unsigned(json::number_unsigned_t value) {
    if (place_ != Place::shape && place_ != Place::offsets) refuse_value(fmt::format("the number {}", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      throw_bad_input("{}: tensor \"{}\": {} holds {}, more than 2^63 - 1", source_, tensor(), field_name(), value);
    }
    if (place_ == Place::shape) {
      if (entry_.shape.size() == kMaxAxes) {
        throw_bad_input("{}: tensor \"{}\": expected at most {} axes, found more", source_, tensor(), kMaxAxes);
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else {
      if (offset_count_ == 2) {
        throw_bad_input("{}: tensor \"{}\": expected two data_offsets, found more", source_, tensor());
      }
      offsets_[offset_count_++] = value;
    }
    return true;
  }

  bool string(json::string_t& value) {
    if (place_ == Place::metadata) {
      if (!metadata_keys_.insert(key_).second) {
        throw_bad_input("{}: __metadata__ holds the key \"{}\" twice", source_, printable_name(key_));
      }
      if (metadata_ != nullptr) (*metadata_)[key_] = value;
      return true;
    }
    if (place_ == Place::tensor && field_ == Field::dtype) {
      std::optional<DType> dtype = dtype_from_name(value);
      if (!dtype) {
        throw_bad_input("{}: tensor \"{}\": unknown dtype \"{}\"", source_, tensor(), printable_name(value));
      }
      entry_.dtype = *dtype;
      return true;
    }
    refuse_value(fmt::format("the string \"{}\"", printable_name(value)));
  }

  bool start_object(size_t) {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top && key_ == "__metadata__") {
      if (metadata_seen_) throw_bad_input("{}: the header holds __metadata__ twice", source_);
      metadata_seen_ = true;
      place_ = Place::metadata;
    } else if (place_ == Place::top) {
      if (!names_.insert(key_).second) {
        throw_bad_input("{}: tensor \"{}\" is declared twice", source_, printable_name(key_));
      }
      entry_ = SafetensorsEntry{};
      entry_.name = key_;
      fields_seen_ = 0;
      place_ = Place::tensor;
    } else {
      refuse_value("an object");
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::tensor) {
      for (Field field : {Field::dtype, Field::shape, Field::offsets}) {
        if ((fields_seen_ & bit(field)) == 0) {
          field_ = field;
          throw_bad_input("{}: tensor \"{}\": {} is missing", source_, tensor(), field_name());
        }
      }
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
      entries_.push_back(std::move(entry_));
      place_ = Place::top;
    } else {
      place_ = place_ == Place::metadata ? Place::top : Place::outside;
    }
    return true;
  }

  bool start_array(size_t) {
    if (place_ == Place::tensor && field_ == Field::shape) {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && field_ == Field::offsets) {
      place_ = Place::offsets;
      offset_count_ = 0;
    } else {
      refuse_value("an array");
    }
    return true;
  }

  bool end_array() {
    if (place_ == Place::offsets && offset_count_ != 2) {
      throw_bad_input("{}: tensor \"{}\": expected two data_offsets, found {}", source_, tensor(), offset_count_);
    }
    place_ = Place::tensor;
    return true;
  }

  bool key(json::string_t& name) {
    if (place_ != Place::tensor) {
      key_ = name;
      return true;
    }
    if (name == "dtype") {
      field_ = Field::dtype;
    } else if (name == "shape") {
      field_ = Field::shape;
    } else if (name == "data_offsets") {
      field_ = Field::offsets;
    } else {
      throw_bad_input("{}: tensor \"{}\": unknown field \"{}\"", source_, tensor(), printable_name(name));
    }
    if ((fields_seen_ & bit(field_)) != 0) {
      throw_bad_input("{}: tensor \"{}\": {} is given twice", source_, tensor(), field_name());
    }
    fields_seen_ |= bit(field_);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception&) {
    throw_bad_input("{}: the header is not valid JSON in UTF-8 (at byte {} of the header)", source_, position);
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };
  enum class Field { dtype, shape, offsets };

  static unsigned bit(Field field) { return 1u << static_cast<unsigned>(field); }
  std::string tensor() const { return printable_name(entry_.name); }
  const char* field_name() const {
    constexpr const char* kNames[] = {"dtype", "shape", "data_offsets"};
    return kNames[static_cast<size_t>(field_)];
  }

  [[noreturn]] void refuse_value(const std::string& found) const {
    switch (place_) {
      case Place::outside:
        throw_bad_input("{}: expected the header to be a JSON object, found {}", source_, found);
      case Place::top:
        throw_bad_input("{}: \"{}\": expected an object, found {}", source_, printable_name(key_), found);
      case Place::metadata:
        throw_bad_input("{}: __metadata__: expected a string for \"{}\", found {}", source_, printable_name(key_),
                        found);
      case Place::tensor:
        throw_bad_input("{}: tensor \"{}\": expected {} for {}, found {}", source_, tensor(),
                        field_ == Field::dtype ? "a string" : "an array", field_name(), found);
      default:
        throw_bad_input("{}: tensor \"{}\": expected whole numbers from 0 in {}, found {}", source_, tensor(),
                        field_name(), found);
    }
  }

  std::string_view source_;
  std::vector<SafetensorsEntry>& entries_;
  std::map<std::string, std::string>* metadata_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  bool metadata_seen_ = false;
  Place place_ = Place::outside;
  std::string key_;  // the last key outside tensors
  SafetensorsEntry entry_;
  Field field_ = Field::dtype;
  unsigned fields_seen_ = 0;
  uint64_t offsets_[2] = {0, 0};
  size_t offset_count_ = 0;
};

/// dtype × shape in bytes; `bad_input` if it does not fit 63 bits. Axes are multiplied in order and a zero does not
/// excuse an overflow before it, as in the reference library.
uint64_t declared_bytes(const SafetensorsEntry& entry, std::string_view source) {
  uint64_t bytes = dtype_bytes(entry.dtype);
  for (int64_t axis : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(axis), &bytes) || bytes > (uint64_t{1} << 62)) {
      throw_bad_input("{}: tensor \"{}\": the shape {} is too large", source, printable_name(entry.name),
                      shape_text(entry.shape));
    }
  }
  return bytes;
}

/// Every byte of the data belongs to exactly one tensor: ranges, sorted by their begin, must follow each other without
/// overlap or hole from the first byte to the last.
void check_ranges(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes, std::string_view source) {
  uint64_t covered = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin > entry.end) {
      throw_bad_input("{}: tensor \"{}\": data_offsets [{}, {}] are reversed", source, printable_name(entry.name),
                      entry.begin, entry.end);
    }
    if (entry.end > data_bytes) {
      throw_bad_input(
          "{}: tensor \"{}\": data_offsets [{}, {}] end outside the file, which holds {} bytes of data "
          "(truncated?)",
          source, printable_name(entry.name), entry.begin, entry.end, data_bytes);
    }
    const uint64_t expected = declared_bytes(entry, source);
    if (entry.end - entry.begin != expected) {
      throw_bad_input("{}: tensor \"{}\": {} {} takes {} bytes, found data_offsets [{}, {}] of {} bytes", source,
                      printable_name(entry.name), dtype_name(entry.dtype), shape_text(entry.shape), expected,
                      entry.begin, entry.end, entry.end - entry.begin);
    }
    if (entry.begin < covered) {
      throw_bad_input("{}: tensor \"{}\" overlaps tensor \"{}\"", source, printable_name(entry.name),
                      printable_name(previous->name));
    }
    if (entry.begin > covered) {
      throw_bad_input("{}: {} bytes before tensor \"{}\" belong to no tensor", source, entry.begin - covered,
                      printable_name(entry.name));
    }
    covered = entry.end;
    previous = &entry;
  }
  if (covered != data_bytes) {
    throw_bad_input("{}: the last {} bytes of the file belong to no tensor", source, data_bytes - covered);
  }
}

}  // namespace

std::string printable_name(std::string_view name) {
  constexpr size_t kMaxBytes = 160;
  std::string text;
  for (char c : name) {
    if (text.size() >= kMaxBytes) {
      // Do not end in the middle of a UTF-8 character.
      while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0u) == 0x80u) text.pop_back();
      if (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80u) != 0) text.pop_back();
      return text + "…";
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return text;
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view head, uint64_t file_bytes,
                                                       std::string_view source,
                                                       std::map<std::string, std::string>* metadata) {
  if (file_bytes < kSizeField || head.size() < kSizeField) {
    throw_bad_input("{}: expected a safetensors file, found {} bytes, less than the size of its header takes", source,
                    std::min<uint64_t>(file_bytes, head.size()));
  }
  const uint64_t header_bytes = read_little_endian_u64(head.data());
  if (header_bytes > kMaxHeaderBytes) {
    throw_bad_input("{}: expected a safetensors header of at most {} bytes, found a size of {} (another file format?)",
                    source, kMaxHeaderBytes, header_bytes);
  }
  if (header_bytes > file_bytes - kSizeField || header_bytes > head.size() - kSizeField) {
    throw_bad_input("{}: the file is shorter than its header says: a header of {} bytes, found {} (truncated?)", source,
                    header_bytes, std::min<uint64_t>(file_bytes, head.size()) - kSizeField);
  }
  const std::string_view text = head.substr(kSizeField, header_bytes);
  // Said by the format, and it keeps out a byte order mark, which the JSON reader would skip.
  if (text.empty() || text.front() != '{') {
    throw_bad_input("{}: expected the header to begin with \"{{\" (not a safetensors file?)", source);
  }

  std::vector<SafetensorsEntry> entries;
  HeaderReader reader(source, entries, metadata);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);

  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_ranges(entries, file_bytes - kSizeField - header_bytes, source);
  for (SafetensorsEntry& entry : entries) {
    entry.begin += kSizeField + header_bytes;
    entry.end += kSizeField + header_bytes;
  }
  return entries;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const std::string_view whole(reinterpret_cast<const char*>(file_.data()), file_.size());
  entries_ = parse_safetensors_header(whole, file_.size(), path, &metadata_);
  index_.reserve(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &entries_[found->second];
}

TensorView SafetensorsFile::view(const SafetensorsEntry& entry) const {
  return TensorView{entry.dtype, entry.shape, file_.data() + entry.begin};
}

SafetensorsWriter::SafetensorsWriter(std::string path, const std::vector<Declared>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::move(path)) {
  // Written by hand, because the order of the data is the order of the declarations.
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::unordered_set<std::string_view> names;
  for (const Declared& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw_failure("tensor \"{}\" would be written twice into one file", printable_name(tensor.name));
    }
    const uint64_t begin = declared_bytes_;
    declared_bytes_ += static_cast<uint64_t>(element_count(tensor.shape)) * dtype_bytes(tensor.dtype);
    if (header.size() > 1) header += ',';
    header +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", nlohmann::json(tensor.name).dump(),
                    dtype_name(tensor.dtype), nlohmann::json(tensor.shape).dump(), begin, declared_bytes_);
  }
  header += '}';
  header.append((kDataAlignment - (kSizeField + header.size()) % kDataAlignment) % kDataAlignment, ' ');
  char size_field[kSizeField];
  for (size_t i = 0; i < kSizeField; ++i) size_field[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  file_.write(size_field, kSizeField);
  file_.write(header);
  header_bytes_ = kSizeField + header.size();
}

void SafetensorsWriter::write(const void* data, size_t bytes) {
  if (file_.bytes_written() + bytes > header_bytes_ + declared_bytes_) {
    throw_failure("more bytes were written to a safetensors file than its {} declared bytes", declared_bytes_);
  }
  file_.write(data, bytes);
}

void SafetensorsWriter::commit() {
  const uint64_t written = file_.bytes_written() - header_bytes_;
  if (written != declared_bytes_) {
    throw_failure("{} bytes were written to a safetensors file that declares {}", written, declared_bytes_);
  }
  file_.commit();
}

void write_safetensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Declared> declared;
  declared.reserve(tensors.size());
  for (const auto& [name, view] : tensors) declared.push_back({name, view.dtype, view.shape});
  SafetensorsWriter writer(path, declared, metadata);
  for (const auto& [name, view] : tensors) writer.write(view.data, view.bytes());
  writer.commit();
}

}  // namespace fathom
