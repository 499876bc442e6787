#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "base/number_formats.h"
#include "weights/gguf_export.h"
#include "weights/gguf_import.h"
#include "weights/tiny_checkpoints.h"

namespace fathom {

/// The numbers of a float32 or BF16 tensor.
inline std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.tensor(name);
  std::vector<float> values(static_cast<size_t>(view.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (view.dtype == DType::f32) {
      std::memcpy(&values[i], view.data + 4 * i, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, view.data + 2 * i, 2);
      values[i] = bf16_to_f32(bits);
    }
  }
  return values;
}

inline GgufExportResult export_gguf(const std::string& from, const GgufExportOptions& options,
                                    std::vector<std::string>* notes = nullptr) {
  const Checkpoint checkpoint(from);
  const TensorReader reader(checkpoint);
  const GgufExportPlan plan = plan_gguf_export(checkpoint, reader, options);
  if (notes != nullptr) *notes = plan.notes;
  ThreadTeam team(2);
  return write_gguf(plan, team);
}

inline RewriteResult import_gguf(const std::string& from, const GgufImportOptions& options,
                                 std::vector<std::string>* notes = nullptr) {
  const GgufModel model(from);
  const GgufImportPlan plan = plan_gguf_import(model, options);
  if (notes != nullptr) *notes = plan.notes;
  ThreadTeam team(2);
  return rewrite_checkpoint(plan.rewrite, team);
}

/// A GGUF file with other keys and tensors: read whole, changed, written again.
struct GgufCopy {
  explicit GgufCopy(const std::string& path) : file(path), header(file.header()) {
    const PieceReader reader(path);
    for (const GgufTensor& tensor : header.tensors) {
      std::string& bytes = data[tensor.name];
      bytes.resize(tensor.bytes());
      reader.read(tensor.begin, bytes.data(), bytes.size());
    }
  }
  GgufValue& value(const std::string& key) {
    for (auto& [name, value] : header.values) {
      if (name == key) return value;
    }
    header.values.emplace_back(key, GgufValue{});
    return header.values.back().second;
  }
  void remove_key(const std::string& key) {
    std::erase_if(header.values, [&](const auto& pair) { return pair.first == key; });
  }
  GgufTensor& tensor(const std::string& name) {
    for (GgufTensor& one : header.tensors) {
      if (one.name == name) return one;
    }
    throw std::runtime_error("no tensor " + name);
  }
  void remove_tensor(const std::string& name) {
    std::erase_if(header.tensors, [&](const GgufTensor& one) { return one.name == name; });
  }
  void write(const std::string& path) {
    GgufHeader placed = header;
    std::string bytes = gguf_header_bytes(placed);
    for (const GgufTensor& tensor : placed.tensors) {
      bytes.resize(tensor.begin);
      bytes += data.at(tensor.name);
    }
    std::ofstream(path, std::ios::binary) << bytes;
  }

  GgufFile file;
  GgufHeader header;
  std::map<std::string, std::string> data;
};

}  // namespace fathom
