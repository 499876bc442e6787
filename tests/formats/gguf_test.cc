#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <fstream>

#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

/// Writes a file as the format document describes it, any value allowed.
class Bytes {
 public:
  Bytes& u8(uint8_t value) { return put(value); }
  Bytes& u16(uint16_t value) { return put(value); }
  Bytes& u32(uint32_t value) { return put(value); }
  Bytes& u64(uint64_t value) { return put(value); }
  Bytes& f32(float value) { return put(value); }
  Bytes& f64(double value) { return put(value); }
  Bytes& raw(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& string(std::string_view text) { return u64(text.size()).raw(text); }
  Bytes& key(std::string_view name, GgufType type) { return string(name).u32(static_cast<uint32_t>(type)); }
  Bytes& head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    return raw("GGUF").u32(version).u64(tensors).u64(keys);
  }
  Bytes& tensor(std::string_view name, std::initializer_list<uint64_t> sizes, uint32_t type, uint64_t offset) {
    string(name).u32(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) u64(size);
    return u32(type).u64(offset);
  }
  Bytes& pad(size_t alignment = 32) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  template <typename T>
  Bytes& put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }

  std::string text_;
};

GgufHeader parse(const Bytes& bytes) {
  return parse_gguf_header(bytes.text(), bytes.text().size(), "x.gguf");
}

TEST(Gguf, ReadsAFileAsTheDocumentDescribesIt) {
  Bytes bytes;
  bytes.head(2, 12);
  bytes.key("a.u8", GgufType::u8).u8(200);
  bytes.key("a.i8", GgufType::i8).u8(200);
  bytes.key("a.u16", GgufType::u16).u16(60000);
  bytes.key("a.i32", GgufType::i32).u32(0xffffffff);
  bytes.key("a.f32", GgufType::f32).f32(0.5f);
  bytes.key("a.bool", GgufType::boolean).u8(1);
  bytes.key("a.text", GgufType::string).string("ü");
  bytes.key("a.f64", GgufType::f64).f64(1e-300);
  bytes.key("a.u64", GgufType::u64).u64(uint64_t{1} << 40);
  bytes.key("a.texts", GgufType::array).u32(8).u64(2).string("x").string("");
  bytes.key("a.numbers", GgufType::array).u32(5).u64(2).u32(7).u32(0xfffffffe);
  bytes.key("a.floats", GgufType::array).u32(6).u64(1).f32(2);
  bytes.tensor("matrix", {32, 3}, 8, 32).tensor("vector", {5}, 0, 0).pad();
  const size_t data = bytes.text().size();
  bytes.raw(std::string(32 + 3 * 34, '\1'));
  const GgufHeader header = parse(bytes);
  EXPECT_EQ(header.alignment, 32u);
  ASSERT_EQ(header.values.size(), 12u);
  EXPECT_EQ(std::get<int64_t>(header.values[0].second.value), 200);
  EXPECT_EQ(std::get<int64_t>(header.values[1].second.value), -56);
  EXPECT_EQ(std::get<int64_t>(header.values[2].second.value), 60000);
  EXPECT_EQ(std::get<int64_t>(header.values[3].second.value), -1);
  EXPECT_EQ(std::get<double>(header.values[4].second.value), 0.5);
  EXPECT_EQ(std::get<int64_t>(header.values[5].second.value), 1);
  EXPECT_EQ(std::get<std::string>(header.values[6].second.value), "ü");
  EXPECT_EQ(std::get<double>(header.values[7].second.value), 1e-300);
  EXPECT_EQ(std::get<int64_t>(header.values[8].second.value), int64_t{1} << 40);
  EXPECT_EQ(std::get<std::vector<std::string>>(header.values[9].second.value), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(header.values[10].second.value), (std::vector<int64_t>{7, -2}));
  EXPECT_EQ(std::get<std::vector<double>>(header.values[11].second.value), (std::vector<double>{2}));
  // In the order of the data; sizes in reverse.
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.tensors[0].name, "vector");
  EXPECT_EQ(header.tensors[0].begin, data);
  EXPECT_EQ(header.tensors[1].shape, (Shape{3, 32}));
  EXPECT_EQ(header.tensors[1].type, GgmlType::q8_0);
  EXPECT_EQ(header.tensors[1].begin, data + 32);
  EXPECT_EQ(header.tensors[1].bytes(), 3 * 34u);

  // Every shorter file is refused with a sentence.
  for (size_t size = 0; size < bytes.text().size(); ++size) {
    const std::string_view cut = std::string_view(bytes.text()).substr(0, size);
    FATHOM_EXPECT_ERROR(parse_gguf_header(cut, size, "x.gguf"), ErrorKind::bad_input, "x.gguf");
  }
}

TEST(Gguf, WritesWhatItReads) {
  GgufHeader header;
  header.values = {{"general.alignment", GgufValue::of_u32(64)},
                   {"general.name", GgufValue::of_string("name")},
                   {"split.no", GgufValue::of_u16(3)},
                   {"split.tensors.count", GgufValue::of_i32(-7)},
                   {"x.f", GgufValue::of_f32(1e-6f)},
                   {"x.b", GgufValue::of_bool(true)},
                   {"x.texts", GgufValue::of_strings({"a", "bc", ""})},
                   {"x.types", GgufValue::of_i32s({1, -1, 5})}};
  header.alignment = 64;
  header.tensors = {{"one", GgmlType::f32, {3}}, {"two", GgmlType::q4_k, {2, 2, 256}}, {"three", GgmlType::bf16, {2}}};
  std::string bytes = gguf_header_bytes(header);
  EXPECT_EQ(bytes.size() % 64, 0u);
  EXPECT_EQ(header.tensors[0].begin, bytes.size());
  EXPECT_EQ(header.tensors[1].begin, bytes.size() + 64);
  EXPECT_EQ(header.tensors[2].begin, bytes.size() + 64 + 4 * 144);
  bytes.resize(bytes.size() + 64 + 4 * 144 + 4);
  const TemporaryDirectory directory;
  std::ofstream(directory.file("x.gguf"), std::ios::binary) << bytes;
  const GgufFile file(directory.file("x.gguf"));
  ASSERT_EQ(file.header().values.size(), header.values.size());
  for (size_t i = 0; i < header.values.size(); ++i) {
    EXPECT_EQ(file.header().values[i].first, header.values[i].first);
    EXPECT_EQ(file.header().values[i].second.type, header.values[i].second.type);
    EXPECT_EQ(file.header().values[i].second.value, header.values[i].second.value) << header.values[i].first;
  }
  for (const GgufTensor& tensor : header.tensors) {
    ASSERT_NE(file.tensor(tensor.name), nullptr);
    EXPECT_EQ(file.tensor(tensor.name)->begin, tensor.begin);
    EXPECT_EQ(file.tensor(tensor.name)->shape, tensor.shape);
  }
  EXPECT_EQ(file.tensor("four"), nullptr);
  EXPECT_EQ(file.find("x.none"), nullptr);
  const std::string text = gguf_text(file);
  for (const char* part : {"8 keys, 3 tensors", "x.texts", "list of 3", "q4_k", "[2, 2, 256]", "1e-06"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

TEST(Gguf, RefusesHostileFiles) {
  const auto refuse = [](const Bytes& bytes, const std::string& part) {
    FATHOM_EXPECT_ERROR(parse(bytes), ErrorKind::bad_input, "x.gguf", part);
  };
  const uint64_t huge = ~uint64_t{0};
  const auto key = [](GgufType type) {
    Bytes bytes;
    bytes.head(0, 1).key("k", type);
    return bytes;
  };
  const auto tensor = [](std::string_view name, std::initializer_list<uint64_t> sizes, uint32_t type, uint64_t offset) {
    Bytes bytes;
    bytes.head(1, 0).tensor(name, sizes, type, offset).pad().raw(std::string(1024, '\0'));
    return bytes;
  };
  refuse(Bytes(), "begins with");
  refuse(Bytes().raw("GGML").u32(3).u64(0).u64(0), "begins with");
  refuse(Bytes().head(0, 0, 1), "version 2 or 3");
  refuse(Bytes().head(0, 0, 4), "version 2 or 3");
  refuse(Bytes().head(0, 0, 3u << 24), "big-endian");
  refuse(Bytes().head(huge, 0), "at most 1048576 tensors");
  refuse(Bytes().head(0, huge), "at most 65536 keys");
  refuse(Bytes().head(0, 1).u64(huge), "a name of 1 to 1024 bytes");
  refuse(Bytes().head(0, 1).u64(0), "a name of 1 to 1024 bytes");
  refuse(Bytes().head(0, 1).string("\xff").u32(0).u8(0), "UTF-8");
  refuse(Bytes().head(0, 1).string("k").u32(13), "a type from 0 to 12");
  refuse(key(GgufType::string).u64(huge), "the file ends");
  refuse(key(GgufType::string).string("\xc0\x80"), "UTF-8");
  refuse(key(GgufType::boolean).u8(2), "0 or 1");
  refuse(key(GgufType::u64).u64(huge), "too large");
  refuse(key(GgufType::array).u32(9).u64(1), "list of lists");
  refuse(key(GgufType::array).u32(99).u64(1), "a type from 0 to 12");
  refuse(key(GgufType::array).u32(0).u64(huge), "at most 16777216 elements");
  refuse(key(GgufType::array).u32(0).u64(1 << 24), "does not fit");
  refuse(key(GgufType::array).u32(8).u64(3).string("a").u64(huge).u64(0), "the file ends");
  Bytes twice;
  twice.head(0, 2).key("k", GgufType::u8).u8(0).key("k", GgufType::u8).u8(0);
  refuse(twice, "occurs twice");
  for (const uint32_t alignment : {0u, 3u, 1u << 21}) {
    refuse(Bytes().head(0, 1).key("general.alignment", GgufType::u32).u32(alignment), "power of two");
  }
  refuse(Bytes().head(0, 1).key("general.alignment", GgufType::string).string("32"), "power of two");

  refuse(tensor("t", {}, 0, 0), "1 to 4 dimensions");
  refuse(tensor("t", {1, 1, 1, 1, 1}, 0, 0), "1 to 4 dimensions");
  refuse(tensor("t", {0}, 0, 0), "expected sizes");
  refuse(tensor("t", {huge}, 0, 0), "expected sizes");
  refuse(tensor("t", {1u << 31, 1u << 31}, 0, 0), "expected sizes");
  refuse(tensor("t", {4}, 16, 0), "iq2_xxs is not supported");
  refuse(tensor("t", {4}, 77, 0), "type 77 is not supported");
  refuse(tensor("t", {31}, 8, 0), "whole blocks of q8_0");
  refuse(tensor("t", {128, 2}, 12, 0), "whole blocks of q4_k");
  refuse(tensor("t", {4}, 0, 4), "not a multiple of 32");
  refuse(tensor("t", {4}, 0, huge - 31), "ends at byte");
  refuse(tensor("t", {1u << 20}, 0, 0), "ends at byte");
  refuse(tensor("t", {4}, 0, 2048), "ends at byte");
  Bytes overlap;
  overlap.head(2, 0).tensor("a", {16}, 0, 0).tensor("b", {16}, 0, 32).pad().raw(std::string(1024, '\0'));
  refuse(overlap, "overlap");
  Bytes same;
  same.head(2, 0).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32).pad().raw(std::string(1024, '\0'));
  refuse(same, "occurs twice");
  // Control characters of a name do not reach the terminal.
  try {
    parse(tensor("a\x1b[31m", {4}, 77, 0));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\x1b'), std::string::npos);
  }
}

}  // namespace
}  // namespace fathom
