#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace fathom {

/// A name that came from outside, for a sentence: control characters escaped, at most 160 bytes.
std::string printable_name(std::string_view name);

/// One tensor as the header of a safetensors file declares it.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint64_t begin = 0;  ///< bytes from the start of the file to the first byte
  uint64_t end = 0;    ///< one past the last byte
};

/// Parses and checks the header of a safetensors file of `file_bytes` bytes, of which `head` holds at least the header.
///
/// Refused with `bad_input`, naming `source` and the tensor: a file shorter than its header says; a header over 512 MB
/// or that is not JSON; duplicate names; unknown dtypes; more than 8 axes; negative or overflowing shapes; byte ranges
/// that are outside the file, reversed, overlapping, leave holes, or don't fit dtype × shape. The entries come in the
/// order of their data. Source: the safetensors format document (8-byte little-endian header size, JSON header, data;
/// "data_offsets" relative to the data).
std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view head, uint64_t file_bytes,
                                                       std::string_view source,
                                                       std::map<std::string, std::string>* metadata = nullptr);

/// A mapped safetensors file. Opening reads the header only.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  uint64_t bytes() const { return file_.size(); }
  /// Reads and maps all of the file's pages now (see MappedFile).
  void populate() const { file_.populate(); }
  /// Lets its mapped pages go (see MappedFile).
  void release() const { file_.release(); }
  /// The mapped file, `bytes()` long; views point into it.
  const std::byte* data() const { return file_.data(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;
  /// The format does not promise alignment: `data` of a 4-byte type may lie at any address.
  TensorView view(const SafetensorsEntry& entry) const;

 private:
  MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

/// Writes a safetensors file in one pass: all tensors are declared first, then their bytes follow in the declared
/// order, in pieces of any size. The header is padded so that data starts at a multiple of 64. Final name only after
/// `commit` (see OutputFile).
class SafetensorsWriter {
 public:
  struct Declared {
    std::string name;
    DType dtype;
    Shape shape;
  };

  SafetensorsWriter(std::string path, const std::vector<Declared>& tensors,
                    const std::map<std::string, std::string>& metadata = {});
  /// Appends bytes of the current tensor; moves on to the next when one is complete.
  void write(const void* data, size_t bytes);
  /// Throws `failure` if fewer bytes were written than declared.
  void commit();

 private:
  OutputFile file_;
  uint64_t declared_bytes_ = 0;
  uint64_t header_bytes_ = 0;
};

/// Writes views at once: `forward --dump` and tests.
void write_safetensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace fathom
