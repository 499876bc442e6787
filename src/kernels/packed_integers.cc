#include "kernels/packed_integers.h"

#include <algorithm>
#include <cstring>

#include "base/number_formats.h"
#include "kernels/cpu/integer_kernels.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/scale_search_kernels.h"

namespace fathom {
namespace {

template <typename T>
T load_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

}  // namespace

int64_t packed_words(const IntegerFormat& format, int64_t cols) {
  const int64_t codes = 32 / format.bits;
  return (cols + codes - 1) / codes;
}

int64_t packed_groups(const IntegerFormat& format, int64_t cols) {
  return (cols + format.group - 1) / format.group;
}

int64_t rows_per_zero_word(const IntegerFormat& format) {
  return 32 / format.bits;
}

int64_t packed_zero_words(const IntegerFormat& format, int64_t rows) {
  return (rows + rows_per_zero_word(format) - 1) / rows_per_zero_word(format);
}

namespace {

// The zero of a row and group; `row` counts from the first row of the first word.
uint8_t packed_zero(const PackedRows& from, int64_t row, int64_t group, int64_t groups, const IntegerFormat& format) {
  if (!format.zero_point) return static_cast<uint8_t>(1 << (format.bits - 1));
  const int64_t per_word = rows_per_zero_word(format);
  const auto word = load_as<uint32_t>(from.zeros + (row / per_word * groups + group) * 4);
  return static_cast<uint8_t>(word >> (row % per_word * format.bits) & ((1u << format.bits) - 1));
}

}  // namespace

void panels_of_packed_rows(const PackedRows& from, int64_t rows, int64_t cols, const IntegerFormat& format,
                           std::byte* panels) {
  const PanelLayout layout = panel_layout(format, cols);
  const int64_t words = packed_words(format, cols);
  const int64_t words_per_group = format.group * format.bits / 32;
  const int64_t per_word = 32 / format.bits;
  // Columns of a word that the matrix has; what stands behind them is the file's padding, and means nothing.
  const auto tail = static_cast<unsigned>(cols % per_word);
  const uint32_t zero_word = format.bits == 8 ? 0x80808080u : 0x88888888u;
  for (int64_t first = 0; first < rows; first += kPanelRows, panels += layout.bytes) {
    std::memset(panels, 0, layout.codes);
    auto* scales = reinterpret_cast<uint16_t*>(panels);
    auto* zeros = reinterpret_cast<uint8_t*>(panels + layout.zeros);
    auto* out = reinterpret_cast<uint8_t*>(panels + layout.codes);
    for (int64_t j = 0; j < kPanelRows; ++j) {
      const bool there = first + j < rows;
      const std::byte* row = from.words + (first + j) * words * 4;
      for (int64_t g = 0; g < layout.groups; ++g) {
        uint8_t zero = static_cast<uint8_t>(1 << (format.bits - 1));
        if (there) {
          scales[g * kPanelRows + j] = load_as<uint16_t>(from.scales + ((first + j) * layout.groups + g) * 2);
          zero = packed_zero(from, first + j, g, layout.groups, format);
        }
        if (format.zero_point) zeros[g * kPanelRows + j] = zero;
        const uint32_t padding = format.zero_point ? (format.bits == 8 ? 0x01010101u : 0x11111111u) * zero : zero_word;
        uint8_t* to = out + static_cast<size_t>(g) * layout.group_codes + j * 4;
        for (int64_t i = 0; i < words_per_group; ++i, to += kPanelRows * 4) {
          const int64_t at = g * words_per_group + i;
          uint32_t word = there && at < words ? load_as<uint32_t>(row + at * 4) : padding;
          if (tail != 0 && there && at == words - 1) {
            const uint32_t known = (1u << (tail * static_cast<unsigned>(format.bits))) - 1;
            word = (word & known) | (padding & ~known);
          }
          if (format.bits == 4) {
            // A panel's byte has column b in its low and column 4 + b in its high nibble.
            uint32_t low = word & 0xffffu;
            uint32_t high = word >> 16;
            const auto spread = [](uint32_t v) {
              v = (v | (v << 8)) & 0x00ff00ffu;
              return (v | (v << 4)) & 0x0f0f0f0fu;
            };
            word = spread(low) | (spread(high) << 4);
          }
          std::memcpy(to, &word, sizeof(word));
        }
      }
    }
  }
}

void unpack_packed_rows(const PackedRows& from, int64_t rows, int64_t cols, const IntegerFormat& format,
                        int64_t first_zero, float* out) {
  const int64_t words = packed_words(format, cols);
  const int64_t groups = packed_groups(format, cols);
  const int64_t per_word = 32 / format.bits;
  const uint32_t mask = (1u << format.bits) - 1;
  for (int64_t r = 0; r < rows; ++r, out += cols) {
    const std::byte* row = from.words + r * words * 4;
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = bf16_to_f32(load_as<uint16_t>(from.scales + (r * groups + g) * 2));
      const int zero = packed_zero(from, first_zero + r, g, groups, format);
      const int64_t end = std::min(cols, (g + 1) * format.group);
      for (int64_t k = g * format.group; k < end;) {
        auto word = load_as<uint32_t>(row + k / per_word * 4);
        const int64_t stop = std::min(end, k + per_word);
        for (; k < stop; ++k, word >>= format.bits) {
          out[k] = scale * static_cast<float>(static_cast<int>(word & mask) - zero);
        }
      }
    }
  }
}

QuantizationError& QuantizationError::operator+=(const QuantizationError& other) {
  squares += other.squares;
  error += other.error;
  weighted += other.weighted;
  nearest_weighted += other.nearest_weighted;
  finite = finite && other.finite;
  return *this;
}

QuantizationError quantize_rows(const float* w, int64_t rows, int64_t cols, const float* importance,
                                const IntegerFormat& format, ScaleChoice choice, std::byte* words, uint16_t* scales,
                                uint8_t* zeros) {
  QuantizeRows* quantize = quantize_rows_portable;
  switch (active_isa()) {
    case Isa::avx512bf16:
    case Isa::avx512:
      quantize = quantize_rows_avx512;
      break;
    case Isa::avx2:
      quantize = quantize_rows_avx2;
      break;
    case Isa::portable:
      break;
  }
  return quantize(w, rows, cols, importance, format, choice, words, scales, zeros);
}

}  // namespace fathom
