#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"
#include "kernels/ggml_blocks.h"

namespace fathom {

/// Types of the values in a GGUF file's header; the numbers are those of the files.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// One value. Whole numbers and truth values are held as int64, f32 and f64 as double.
struct GgufValue {
  GgufType type = GgufType::u32;
  GgufType element = GgufType::u32;  ///< of an array
  std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>> value;

  static GgufValue of_u16(uint16_t value) { return {GgufType::u16, {}, int64_t{value}}; }
  static GgufValue of_u32(uint32_t value) { return {GgufType::u32, {}, int64_t{value}}; }
  static GgufValue of_i32(int32_t value) { return {GgufType::i32, {}, int64_t{value}}; }
  static GgufValue of_f32(float value) { return {GgufType::f32, {}, double{value}}; }
  static GgufValue of_bool(bool value) { return {GgufType::boolean, {}, int64_t{value}}; }
  static GgufValue of_string(std::string value) { return {GgufType::string, {}, std::move(value)}; }
  static GgufValue of_strings(std::vector<std::string> values) {
    return {GgufType::array, GgufType::string, std::move(values)};
  }
  static GgufValue of_i32s(std::vector<int64_t> values) { return {GgufType::array, GgufType::i32, std::move(values)}; }
};

using GgufValues = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  Shape shape;         ///< row-major as everywhere here: the file's dimensions in reverse; the last one is a row
  uint64_t begin = 0;  ///< bytes from the start of the file

  int64_t row_values() const { return shape.back(); }
  int64_t rows() const { return element_count(shape) / shape.back(); }
  uint64_t row_bytes() const { return static_cast<uint64_t>(ggml_row_bytes(type, row_values())); }
  uint64_t bytes() const { return static_cast<uint64_t>(rows()) * row_bytes(); }
};

struct GgufHeader {
  uint32_t version = 3;
  uint64_t alignment = 32;
  GgufValues values;
  std::vector<GgufTensor> tensors;  ///< in the order of their data
};

/// Parses and checks the header of a GGUF file of `file_bytes` bytes, of which `head` holds at least the header.
///
/// Refused with `bad_input`, naming `source` and the key or tensor: no magic; another version than 2 or 3; a
/// big-endian file; a header over 256 MB; more than 65 536 keys or 2^20 tensors; strings and lists that pass the file's
/// end; lists of lists; names or texts that are not UTF-8 (the texts of lists may be any bytes); a key or tensor twice;
/// types of tensors that are not read here; no or more than four dimensions, or sizes that overflow; rows that are not
/// whole blocks; data that is not aligned, overlaps or is outside the file. Source: the GGUF format document.
GgufHeader parse_gguf_header(std::string_view head, uint64_t file_bytes, std::string_view source);

/// A mapped GGUF file. Opening reads the header only.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  const std::string& path() const { return file_.path(); }
  uint64_t bytes() const { return file_.size(); }
  const GgufHeader& header() const { return header_; }
  const GgufTensor* tensor(std::string_view name) const;
  const GgufValue* find(std::string_view key) const;

 private:
  MappedFile file_;
  GgufHeader header_;
  std::unordered_map<std::string, size_t> tensor_index_;
  std::unordered_map<std::string, size_t> value_index_;
};

/// The header's bytes, padded to where the data begins; fills `begin` of the tensors, whose data is aligned to
/// `header.alignment` in their order.
std::string gguf_header_bytes(GgufHeader& header);

/// Keys with their values (long ones cut off) and tensors with types and shapes, for people.
std::string gguf_text(const GgufFile& file);

}  // namespace fathom
