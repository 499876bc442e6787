#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

/// A file as a string: size field, header, `data_bytes` zeros.
std::string file_of(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + std::string(data_bytes, '\0');
}

std::vector<SafetensorsEntry> parse(const std::string& file, std::map<std::string, std::string>* metadata = nullptr) {
  return parse_safetensors_header(file, file.size(), "x.safetensors", metadata);
}

TEST(SafetensorsHeader, ReadsTensorsInTheOrderOfTheirData) {
  std::map<std::string, std::string> metadata;
  const auto entries = parse(file_of(R"({"__metadata__":{"format":"pt"},)"
                                     R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
                                     R"("z":{"dtype":"F32","shape":[0,5],"data_offsets":[8,8]},)"
                                     R"("a":{"data_offsets":[0,8],"shape":[],"dtype":"I64"}}   )",
                                     20),
                             &metadata);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[1].name, "z");
  EXPECT_EQ(entries[2].name, "b");
  EXPECT_EQ(entries[2].dtype, DType::bf16);
  EXPECT_EQ(entries[2].shape, (Shape{2, 3}));
  EXPECT_EQ(entries[2].end - entries[2].begin, 12u);
  EXPECT_EQ(metadata.at("format"), "pt");
  EXPECT_TRUE(parse(file_of("{}", 0)).empty());
}

struct BadHeader {
  const char* what;
  std::string file;
  std::vector<std::string> parts;
};

std::string one(const std::string& fields, size_t data_bytes = 8) {
  return file_of("{\"w\":{" + fields + "}}", data_bytes);
}

std::vector<BadHeader> bad_headers() {
  const std::string ok = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  std::string lying = file_of("{" + ok + "}", 4);
  lying[7] = 0x40;
  std::string longer = file_of("{" + ok + "}", 4);
  longer[0] = static_cast<char>(longer[0] + 40);
  return {
      {"nothing", "", {"0 bytes"}},
      {"seven bytes", "1234567", {"7 bytes"}},
      {"an absurd size field", lying, {"at most 536870912"}},
      {"a size field beyond the end", longer, {"shorter than its header says"}},
      {"an empty header", file_of("", 0), {"begin with"}},
      {"an array", file_of("[1]", 0), {"begin with"}},
      {"a byte order mark", file_of("\xef\xbb\xbf{}", 0), {"begin with"}},
      {"cut-off JSON", file_of("{\"a\":", 0), {"not valid JSON"}},
      {"two values", file_of("{}{}", 0), {"not valid JSON"}},
      {"no UTF-8", file_of("{\"a\xff\":{}}", 0), {"not valid JSON in UTF-8"}},
      {"deep nesting",
       file_of("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0),
       {"\"a\"", "an array"}},
      {"a number for a tensor", file_of("{\"a\":3}", 0), {"\"a\"", "expected an object", "3"}},
      {"null for a tensor", file_of("{\"a\":null}", 0), {"\"a\"", "null"}},
      {"nested objects", one(R"("dtype":{"x":1})"), {"\"w\"", "dtype", "an object"}},
      {"a number in __metadata__", file_of("{\"__metadata__\":{\"k\":1}}", 0), {"__metadata__", "\"k\""}},
      {"a list in __metadata__", file_of("{\"__metadata__\":{\"k\":[]}}", 0), {"__metadata__", "\"k\""}},
      {"a string as __metadata__", file_of("{\"__metadata__\":\"k\"}", 0), {"__metadata__"}},
      {"__metadata__ twice", file_of("{\"__metadata__\":{},\"__metadata__\":{}}", 0), {"__metadata__", "twice"}},
      {"a name twice", file_of("{" + ok + "," + ok + "}", 4), {"\"a\"", "twice"}},
      {"dtype twice",
       one(R"("dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8])"),
       {"\"w\"", "dtype", "twice"}},
      {"no dtype", one(R"("shape":[8],"data_offsets":[0,8])"), {"\"w\"", "dtype is missing"}},
      {"no shape", one(R"("dtype":"U8","data_offsets":[0,8])"), {"\"w\"", "shape is missing"}},
      {"no offsets", one(R"("dtype":"U8","shape":[8])"), {"\"w\"", "data_offsets is missing"}},
      {"an unknown field", one(R"("dtype":"U8","shape":[8],"data_offsets":[0,8],"stride":1)"), {"\"w\"", "stride"}},
      {"an unknown dtype", one(R"("dtype":"F4","shape":[8],"data_offsets":[0,8])"), {"\"w\"", "unknown dtype", "F4"}},
      {"a negative axis", one(R"("dtype":"U8","shape":[-8],"data_offsets":[0,8])"), {"\"w\"", "shape", "-8"}},
      {"a fraction", one(R"("dtype":"U8","shape":[8.0],"data_offsets":[0,8])"), {"\"w\"", "shape", "8.0"}},
      {"an axis beyond 64 bits",
       one(R"("dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,8])"),
       {"\"w\"", "shape"}},
      {"an axis beyond 63 bits",
       one(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8])"),
       {"\"w\"", "shape"}},
      {"an overflow",
       one(R"("dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
       {"\"w\"", "too large"}},
      {"an overflow times zero",
       one(R"("dtype":"F64","shape":[4294967296,4294967296,0],"data_offsets":[0,8])"),
       {"\"w\"", "too large"}},
      {"nine axes",
       one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8])"),
       {"\"w\"", "at most 8 axes"}},
      {"a list in the shape",
       one(R"("dtype":"U8","shape":[[8]],"data_offsets":[0,8])"),
       {"\"w\"", "shape", "an array"}},
      {"one offset", one(R"("dtype":"U8","shape":[8],"data_offsets":[0])"), {"\"w\"", "two data_offsets"}},
      {"three offsets", one(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,8])"), {"\"w\"", "two data_offsets"}},
      {"reversed offsets", one(R"("dtype":"U8","shape":[0],"data_offsets":[8,0])"), {"\"w\"", "reversed"}},
      {"a range outside",
       one(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
       {"\"w\"", "outside the file", "8 bytes"}},
      {"a wrong size", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), {"\"w\"", "F32 [3]", "12 bytes"}},
      {"an overlap",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6),
       {"\"a\"", "\"b\"", "overlaps"}},
      {"a hole",
       file_of("{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})", 10),
       {"\"b\"", "2 bytes"}},
      {"a hole at the start", one(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])"), {"\"w\"", "4 bytes"}},
      {"bytes left over", one(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])"), {"last 4 bytes"}},
      {"a control character in the name", file_of("{\"a\\u0007\":3}", 0), {"a\\x07"}},
  };
}

TEST(SafetensorsHeader, RefusesWhatIsNotOne) {
  for (const BadHeader& bad : bad_headers()) {
    SCOPED_TRACE(bad.what);
    FATHOM_EXPECT_ERROR(parse(bad.file), ErrorKind::bad_input, "x.safetensors");
    for (const std::string& part : bad.parts) FATHOM_EXPECT_ERROR(parse(bad.file), ErrorKind::bad_input, part);
  }
}

TEST(SafetensorsHeader, EveryTruncationIsRefused) {
  const std::string file = file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
  for (size_t size = 0; size < file.size(); ++size) {
    FATHOM_EXPECT_ERROR(parse(file.substr(0, size)), ErrorKind::bad_input, "x.safetensors");
  }
}

// The hub's checkpoint has 92 000 tensors in 163 files; one file with as many must not take noticeable time.
TEST(SafetensorsHeader, NinetyThousandTensorsAreQuick) {
  std::string header = "{";
  for (int i = 0; i < 90000; ++i) {
    if (i > 0) header += ',';
    header += "\"model.layers." + std::to_string(i) +
              ".mlp.experts.100.gate_proj.weight\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  const std::string file = file_of(header + "}", 90000);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse(file).size(), 90000u);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 20);  // 0.3 s in a release build; sanitizers and busy machines get room
  RecordProperty("milliseconds", static_cast<int>(seconds * 1000));
}

TEST(SafetensorsFile, OpensTheReferenceResults) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const SafetensorsFile file(directory + "/expected.safetensors");
  const SafetensorsEntry* prompt = file.find("prompt");
  ASSERT_NE(prompt, nullptr);
  EXPECT_EQ(prompt->dtype, DType::i32);
  EXPECT_EQ(file.view(*prompt).elements(), prompt->shape[0]);
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  TemporaryDirectory directory;
  const std::string path = directory.file("out.safetensors");
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> b = {7, 8, 9};
  write_safetensors(path,
                    {{"a \"quoted\" ü", tensor_view(DType::f32, {2, 3}, a.data())},
                     {"b", tensor_view(DType::f8_e4m3, {3}, b.data())},
                     {"empty", tensor_view<float>(DType::f32, {0, 4}, nullptr)}},
                    {{"format", "pt"}});
  const SafetensorsFile file(path);
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.entries()[0].begin % 64, 0u);
  const SafetensorsEntry* entry = file.find("a \"quoted\" ü");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(std::memcmp(file.view(*entry).data, a.data(), 24), 0);
  ASSERT_NE(file.find("b"), nullptr);
  EXPECT_EQ(file.view(*file.find("b")).as<uint8_t>()[2], 9);
}

TEST(SafetensorsWriter, CountsItsBytes) {
  TemporaryDirectory directory;
  const std::string path = directory.file("out.safetensors");
  const std::vector<SafetensorsWriter::Declared> declared = {{"a", DType::u8, {4}}};
  {
    SafetensorsWriter writer(path, declared);
    writer.write("abc", 3);
    FATHOM_EXPECT_ERROR(writer.commit(), ErrorKind::failure, "3 bytes", "declares 4");
    FATHOM_EXPECT_ERROR(writer.write("de", 2), ErrorKind::failure, "more bytes");
    writer.write("d", 1);
    writer.commit();
  }
  EXPECT_EQ(SafetensorsFile(path).entries().size(), 1u);
  const std::vector<SafetensorsWriter::Declared> twice = {{"a", DType::u8, {4}}, {"a", DType::u8, {4}}};
  FATHOM_EXPECT_ERROR(SafetensorsWriter(directory.file("x"), twice), ErrorKind::failure, "\"a\"", "twice");
}

TEST(SafetensorsFile, NamesThePathOfABrokenFile) {
  TemporaryDirectory directory;
  const std::string path = directory.file("broken.safetensors");
  OutputFile file(path);
  file.write("not a safetensors file");
  file.commit();
  FATHOM_EXPECT_ERROR(SafetensorsFile{path}, ErrorKind::bad_input, path);
}

TEST(PrintableName, EscapesAndShortens) {
  EXPECT_EQ(printable_name("a\nb"), "a\\x0ab");
  const std::string text = printable_name(std::string(159, 'x') + "üüü");
  EXPECT_LE(text.size(), 165u);
  EXPECT_TRUE(text.ends_with("…"));
  EXPECT_EQ(text.find('\xc3'), std::string::npos);
}

}  // namespace
}  // namespace fathom
