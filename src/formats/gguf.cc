#include "formats/gguf.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "base/utf8.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

constexpr std::string_view kMagic = "GGUF";
// Far above what files have (50 keys, a vocabulary of 200 000 tokens with as many merges, 2 000 tensors).
constexpr uint64_t kMaxHeaderBytes = uint64_t{256} << 20;
constexpr uint64_t kMaxKeys = uint64_t{1} << 16;
constexpr uint64_t kMaxTensors = uint64_t{1} << 20;
constexpr uint64_t kMaxElements = uint64_t{1} << 24;
constexpr uint64_t kMaxNameBytes = 1024;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr int64_t kMaxSize = int64_t{1} << 40;

size_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      break;
  }
  return 0;
}

bool is_float(GgufType type) {
  return type == GgufType::f32 || type == GgufType::f64;
}

bool is_utf8(std::string_view text) {
  return utf8_valid_prefix(text) == text.size();
}

/// Reads the header from front to back.
class HeaderReader {
 public:
  HeaderReader(std::string_view head, std::string_view source) : head_(head), source_(source) {}

  size_t at() const { return at_; }

  template <typename T>
  T take(std::string_view what) {
    T value;
    std::memcpy(&value, bytes(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string_view bytes(uint64_t count, std::string_view what) {
    if (count > head_.size() - at_) {
      throw_bad_input("{}: {}: the file ends at byte {}, inside it", source_, printable_name(what), head_.size());
    }
    if (at_ + count > kMaxHeaderBytes) {
      throw_bad_input("{}: {}: the header is larger than {} MB", source_, printable_name(what), kMaxHeaderBytes >> 20);
    }
    const std::string_view found = head_.substr(at_, count);
    at_ += count;
    return found;
  }

  std::string_view string(std::string_view what) { return bytes(take<uint64_t>(what), what); }

  std::string name(std::string_view what) {
    const auto length = take<uint64_t>(what);
    if (length == 0 || length > kMaxNameBytes) {
      throw_bad_input("{}: {}: expected a name of 1 to {} bytes, found {}", source_, what, kMaxNameBytes, length);
    }
    std::string found(bytes(length, what));
    if (!is_utf8(found)) throw_bad_input("{}: {}: \"{}\" is not UTF-8", source_, what, printable_name(found));
    return found;
  }

  GgufType type(const std::string& key) {
    const auto number = take<uint32_t>(key);
    if (number > static_cast<uint32_t>(GgufType::f64)) {
      throw_bad_input("{}: {}: expected a type from 0 to 12, found {}", source_, printable_name(key), number);
    }
    return static_cast<GgufType>(number);
  }

  GgufValue value(const std::string& key) {
    GgufValue found;
    found.type = type(key);
    if (found.type == GgufType::string) {
      std::string text(string(key));
      if (!is_utf8(text)) throw_bad_input("{}: {}: the text is not UTF-8", source_, printable_name(key));
      found.value = std::move(text);
    } else if (found.type == GgufType::array) {
      list(key, found);
    } else if (is_float(found.type)) {
      found.value = number(found.type, key);
    } else {
      found.value = whole(found.type, key);
    }
    return found;
  }

 private:
  int64_t whole(GgufType type, const std::string& key) {
    switch (type) {
      case GgufType::u8:
        return take<uint8_t>(key);
      case GgufType::i8:
        return take<int8_t>(key);
      case GgufType::u16:
        return take<uint16_t>(key);
      case GgufType::i16:
        return take<int16_t>(key);
      case GgufType::u32:
        return take<uint32_t>(key);
      case GgufType::i32:
        return take<int32_t>(key);
      case GgufType::i64:
        return take<int64_t>(key);
      case GgufType::boolean: {
        const auto found = take<uint8_t>(key);
        if (found > 1) throw_bad_input("{}: {}: expected 0 or 1, found {}", source_, printable_name(key), found);
        return found;
      }
      default:
        break;
    }
    const auto found = take<uint64_t>(key);
    if (found > static_cast<uint64_t>(INT64_MAX)) {
      throw_bad_input("{}: {}: {} is too large", source_, printable_name(key), found);
    }
    return static_cast<int64_t>(found);
  }

  double number(GgufType type, const std::string& key) {
    return type == GgufType::f32 ? double{take<float>(key)} : take<double>(key);
  }

  void list(const std::string& key, GgufValue& found) {
    found.element = type(key);
    const auto count = take<uint64_t>(key);
    if (found.element == GgufType::array) {
      throw_bad_input("{}: {}: a list of lists is not supported", source_, printable_name(key));
    }
    // A string has at least its length.
    const uint64_t least = found.element == GgufType::string ? 8 : scalar_bytes(found.element);
    elements_ += std::min(count, kMaxElements + 1);
    if (elements_ > kMaxElements) {
      throw_bad_input("{}: {}: expected lists of at most {} elements together, found more", source_,
                      printable_name(key), kMaxElements);
    }
    if (count * least > head_.size() - at_) {
      throw_bad_input("{}: {}: a list of {} elements does not fit into the file of {} bytes", source_,
                      printable_name(key), count, head_.size());
    }
    if (found.element == GgufType::string) {
      std::vector<std::string> texts;
      texts.reserve(count);
      for (uint64_t i = 0; i < count; ++i) texts.emplace_back(string(key));
      found.value = std::move(texts);
    } else if (is_float(found.element)) {
      std::vector<double> numbers(count);
      for (double& element : numbers) element = number(found.element, key);
      found.value = std::move(numbers);
    } else {
      std::vector<int64_t> numbers(count);
      for (int64_t& element : numbers) element = whole(found.element, key);
      found.value = std::move(numbers);
    }
  }

  std::string_view head_;
  std::string_view source_;
  size_t at_ = 0;
  uint64_t elements_ = 0;  ///< of all lists
};

/// `begin` is left relative to the data.
GgufTensor read_tensor(HeaderReader& reader, std::string_view source) {
  GgufTensor tensor;
  tensor.name = reader.name("the name of a tensor");
  const std::string shown = printable_name(tensor.name);
  const auto dimensions = reader.take<uint32_t>(tensor.name);
  if (dimensions < 1 || dimensions > 4) {
    throw_bad_input("{}: {}: expected 1 to 4 dimensions, found {}", source, shown, dimensions);
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = reader.take<uint64_t>(tensor.name);
    if (size < 1 || size > static_cast<uint64_t>(kMaxSize) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(size), &elements) || elements > kMaxSize) {
      throw_bad_input("{}: {}: expected sizes from 1 to {} with a product in it, found {}", source, shown, kMaxSize,
                      size);
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto number = reader.take<uint32_t>(tensor.name);
  const auto type = ggml_type_from_number(number);
  if (!type) throw_bad_input("{}: {}: its type {} is not supported", source, shown, ggml_type_name(number));
  tensor.type = *type;
  if (tensor.row_values() % ggml_block_values(*type) != 0) {
    throw_bad_input("{}: {}: a row of {} values is not a number of whole blocks of {} ({} values)", source, shown,
                    tensor.row_values(), ggml_type_name(*type), ggml_block_values(*type));
  }
  tensor.begin = reader.take<uint64_t>(tensor.name);
  return tensor;
}

uint64_t read_alignment(const GgufHeader& header, std::string_view source) {
  for (const auto& [key, value] : header.values) {
    if (key != "general.alignment") continue;
    const auto* found = std::get_if<int64_t>(&value.value);
    const uint64_t alignment = found == nullptr || *found < 0 ? 0 : static_cast<uint64_t>(*found);
    if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      throw_bad_input("{}: general.alignment: expected a power of two up to {}", source, kMaxAlignment);
    }
    return alignment;
  }
  return 32;
}

uint64_t aligned(uint64_t at, uint64_t alignment) {
  return (at + alignment - 1) / alignment * alignment;
}

/// Turns offsets into places in the file, sorts by them, and checks that they are aligned, apart and inside.
void place_tensors(GgufHeader& header, uint64_t data, uint64_t file_bytes, std::string_view source) {
  for (GgufTensor& tensor : header.tensors) {
    const std::string shown = printable_name(tensor.name);
    if (tensor.begin % header.alignment != 0) {
      throw_bad_input("{}: {}: its offset {} is not a multiple of {}", source, shown, tensor.begin, header.alignment);
    }
    if (data > file_bytes || tensor.begin > file_bytes - data || tensor.bytes() > file_bytes - data - tensor.begin) {
      throw_bad_input("{}: {}: expected {} bytes of data at byte {} + {}, but the file ends at byte {}", source, shown,
                      tensor.bytes(), data, tensor.begin, file_bytes);
    }
    tensor.begin += data;
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const GgufTensor& a, const GgufTensor& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    const GgufTensor& before = header.tensors[i - 1];
    if (before.begin + before.bytes() > header.tensors[i].begin) {
      throw_bad_input("{}: the data of {} and {} overlap", source, printable_name(before.name),
                      printable_name(header.tensors[i].name));
    }
  }
}

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out.append(text);
}

void put_whole(std::string& out, GgufType type, int64_t value) {
  out.append(reinterpret_cast<const char*>(&value), scalar_bytes(type));  // little-endian: the low bytes are first
}

void put_number(std::string& out, GgufType type, double value) {
  if (type == GgufType::f32) {
    put(out, static_cast<float>(value));
  } else {
    put(out, value);
  }
}

void put_value(std::string& out, const GgufValue& value) {
  put(out, static_cast<uint32_t>(value.type));
  const auto put_list = [&](const auto& list, const auto& put_element) {
    put(out, static_cast<uint32_t>(value.element));
    put(out, uint64_t{list.size()});
    for (const auto& element : list) put_element(element);
  };
  if (const auto* whole = std::get_if<int64_t>(&value.value)) put_whole(out, value.type, *whole);
  if (const auto* number = std::get_if<double>(&value.value)) put_number(out, value.type, *number);
  if (const auto* text = std::get_if<std::string>(&value.value)) put_string(out, *text);
  if (const auto* list = std::get_if<std::vector<int64_t>>(&value.value)) {
    put_list(*list, [&](int64_t element) { put_whole(out, value.element, element); });
  }
  if (const auto* list = std::get_if<std::vector<double>>(&value.value)) {
    put_list(*list, [&](double element) { put_number(out, value.element, element); });
  }
  if (const auto* list = std::get_if<std::vector<std::string>>(&value.value)) {
    put_list(*list, [&](const std::string& element) { put_string(out, element); });
  }
}

std::string value_text(const GgufValue& value) {
  if (const auto* whole = std::get_if<int64_t>(&value.value)) {
    return value.type == GgufType::boolean ? (*whole != 0 ? "true" : "false") : fmt::format("{}", *whole);
  }
  if (const auto* number = std::get_if<double>(&value.value)) {
    return value.type == GgufType::f32 ? fmt::format("{}", static_cast<float>(*number)) : fmt::format("{}", *number);
  }
  if (const auto* text = std::get_if<std::string>(&value.value)) {
    return fmt::format("\"{}\"{}", printable_name(text->substr(0, 80)), text->size() > 80 ? " …" : "");
  }
  const size_t count = std::visit(
      [](const auto& list) -> size_t {
        if constexpr (requires { list.size(); }) return list.size();
        return 0;
      },
      value.value);
  return fmt::format("list of {}", count);
}

}  // namespace

GgufHeader parse_gguf_header(std::string_view head, uint64_t file_bytes, std::string_view source) {
  HeaderReader reader(head, source);
  if (head.substr(0, kMagic.size()) != kMagic) {
    throw_bad_input("{}: expected a GGUF file, which begins with \"GGUF\"", source);
  }
  reader.bytes(kMagic.size(), "the magic");
  GgufHeader header;
  header.version = reader.take<uint32_t>("the version");
  if ((header.version & 0xffff) == 0 && header.version != 0) {
    throw_bad_input("{}: the file is big-endian, which is not supported", source);
  }
  if (header.version != 2 && header.version != 3) {
    throw_bad_input("{}: expected version 2 or 3 of GGUF, found {}", source, header.version);
  }
  const auto tensors = reader.take<uint64_t>("the number of tensors");
  const auto keys = reader.take<uint64_t>("the number of keys");
  if (tensors > kMaxTensors) {
    throw_bad_input("{}: expected at most {} tensors, found {}", source, kMaxTensors, tensors);
  }
  if (keys > kMaxKeys) throw_bad_input("{}: expected at most {} keys, found {}", source, kMaxKeys, keys);
  std::unordered_set<std::string> seen;
  for (uint64_t i = 0; i < keys; ++i) {
    std::string key = reader.name("a key");
    if (!seen.insert(key).second) throw_bad_input("{}: the key {} occurs twice", source, printable_name(key));
    GgufValue value = reader.value(key);
    header.values.emplace_back(std::move(key), std::move(value));
  }
  header.alignment = read_alignment(header, source);
  seen.clear();
  for (uint64_t i = 0; i < tensors; ++i) {
    header.tensors.push_back(read_tensor(reader, source));
    if (!seen.insert(header.tensors.back().name).second) {
      throw_bad_input("{}: the tensor {} occurs twice", source, printable_name(header.tensors.back().name));
    }
  }
  place_tensors(header, aligned(reader.at(), header.alignment), file_bytes, source);
  return header;
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  const std::string_view all(reinterpret_cast<const char*>(file_.data()), file_.size());
  header_ = parse_gguf_header(all, file_.size(), path);
  file_.release();
  for (size_t i = 0; i < header_.tensors.size(); ++i) tensor_index_[header_.tensors[i].name] = i;
  for (size_t i = 0; i < header_.values.size(); ++i) value_index_[header_.values[i].first] = i;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &header_.tensors[found->second];
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = value_index_.find(std::string(key));
  return found == value_index_.end() ? nullptr : &header_.values[found->second].second;
}

std::string gguf_header_bytes(GgufHeader& header) {
  std::string out(kMagic);
  put(out, header.version);
  put(out, uint64_t{header.tensors.size()});
  put(out, uint64_t{header.values.size()});
  for (const auto& [key, value] : header.values) {
    put_string(out, key);
    put_value(out, value);
  }
  uint64_t offset = 0;
  for (GgufTensor& tensor : header.tensors) {
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t axis = tensor.shape.size(); axis > 0; --axis) put(out, static_cast<uint64_t>(tensor.shape[axis - 1]));
    put(out, static_cast<uint32_t>(tensor.type));
    put(out, offset);
    tensor.begin = offset;
    offset = aligned(offset + tensor.bytes(), header.alignment);
  }
  out.resize(aligned(out.size(), header.alignment), '\0');
  for (GgufTensor& tensor : header.tensors) tensor.begin += out.size();
  return out;
}

std::string gguf_text(const GgufFile& file) {
  const GgufHeader& header = file.header();
  std::string text = fmt::format("{}: GGUF version {}, {} keys, {} tensors, {:.2f} GB\n\n", file.path(), header.version,
                                 header.values.size(), header.tensors.size(), static_cast<double>(file.bytes()) / 1e9);
  size_t width = 0;
  for (const auto& [key, value] : header.values) width = std::max(width, std::min<size_t>(key.size(), 60));
  for (const auto& [key, value] : header.values) {
    text += fmt::format("{:<{}}  {}\n", printable_name(key), width, value_text(value));
  }
  width = 0;
  for (const GgufTensor& tensor : header.tensors) width = std::max(width, std::min<size_t>(tensor.name.size(), 60));
  text += "\n";
  for (const GgufTensor& tensor : header.tensors) {
    text += fmt::format("{:<{}}  {:<6}  {}\n", printable_name(tensor.name), width, ggml_type_name(tensor.type),
                        shape_text(tensor.shape));
  }
  return text;
}

}  // namespace fathom
