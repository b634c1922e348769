// Rows as numbers of a few bits and back: rounded at random, by Philox from original ids.
//
// Assumptions: bits[r] is 1, 2, 4, 8 or 16; row r of the message begins at starts[r] with its header, the lowest value
// and the step of its grid as bfloat16, and goes on with its codes, the first column in the lowest bits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common.h"
#include "philox.h"
#include "rows.h"

namespace {

// Columns of a row that one block of counters decides: four words a counter.
constexpr int64_t kColumns = 4 * kLanes;
constexpr int64_t kHeader = 4;
constexpr double kLargest = 0x1p126;   // a value beyond it, or none at all, makes its row read as NaN
constexpr double kSmallest = 0x1p-120;  // the least step, so that its inverse is a number
constexpr uint16_t kNaN = 0x7FC0;

INLINE double widened(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

INLINE uint32_t truncated(double value) {
  const float near = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &near, sizeof(bits));
  return bits & 0xFFFF0000u;
}

// The nearest bfloat16 that is not above `value`, and for a positive value the nearest that is not below.
INLINE uint32_t rounded_down(double value) {
  const uint32_t bits = truncated(value);
  if (!(widened(bits) > value)) return bits;
  return bits >> 31 ? bits + 0x10000u : bits - 0x10000u;
}

INLINE uint32_t rounded_up(double value) {
  const uint32_t bits = truncated(value);
  return widened(bits) < value ? bits + 0x10000u : bits;
}

// The least and the greatest of a row; NaN for both where one of its values is none or too large.
template <class T>
INLINE void bounds(const T* x, int64_t width, double& low, double& high) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  typename Vector<T>::type lows, highs, part;
  T values[kWidth];
  std::fill(values, values + kWidth, width ? x[0] : T(0));
  load<T>(lows, values);
  highs = lows;
  auto wild = lows != lows;
  for (int64_t c = 0; c < width; c += kWidth) {
    if (c + kWidth <= width) {
      load<T>(part, x + c);
    } else {
      std::memcpy(values, x + c, (width - c) * sizeof(T));
      load<T>(part, values);
    }
    lows = part < lows ? part : lows;
    highs = part > highs ? part : highs;
    wild |= part != part;
  }
  low = high = lows[0];
  bool none = false;
  for (int64_t i = 0; i < kWidth; ++i) {
    low = std::min<double>(low, lows[i]);
    high = std::max<double>(high, highs[i]);
    none |= wild[i] != 0;
  }
  if (none || low < -kLargest || high > kLargest) low = high = NAN;
  low += 0.0;  // -0 would be another header than 0
}

template <class T>
struct Grid {
  T low, inverse;
  uint16_t header[2];  // the lowest value, the step
  bool wild;
};

template <class T>
INLINE Grid<T> grid(const T* x, int64_t width, int64_t levels) {
  double low, high;
  bounds(x, width, low, high);
  if (low != low) return {0, 0, {kNaN, kNaN}, true};
  const uint32_t lowest = rounded_down(low);
  const uint32_t step = rounded_up(std::max((high - widened(lowest)) / static_cast<double>(levels), kSmallest));
  return {static_cast<T>(widened(lowest)),
          T(1) / static_cast<T>(widened(step)),
          {static_cast<uint16_t>(lowest >> 16), static_cast<uint16_t>(step >> 16)},
          false};
}

// A draw as a number of [0, 1), of as many bits as T holds exactly and a signed number converts from.
INLINE float share(uint32_t draw, float) { return static_cast<float>(static_cast<int32_t>(draw >> 8)) * 0x1p-24f; }
INLINE double share(uint32_t draw, double) { return static_cast<double>(static_cast<int32_t>(draw >> 1)) * 0x1p-31; }

// Codes of kColumns columns, packed: 8 * bits bytes.
template <int bits>
INLINE void pack(const int32_t* codes, uint8_t* out) {
  if constexpr (bits == 16) {
    uint16_t words[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) words[c] = static_cast<uint16_t>(codes[c]);
    std::memcpy(out, words, sizeof(words));
  } else {
    constexpr int64_t kCodes = 8 / bits;
    for (int64_t i = 0; i < kColumns / kCodes; ++i) {
      int32_t byte = 0;
      for (int64_t j = 0; j < kCodes; ++j) byte |= codes[i * kCodes + j] << (j * bits);
      out[i] = static_cast<uint8_t>(byte);
    }
  }
}

template <int bits>
INLINE void unpack(const uint8_t* packed, int32_t* codes) {
  if constexpr (bits == 16) {
    uint16_t words[kColumns];
    std::memcpy(words, packed, sizeof(words));
    for (int64_t c = 0; c < kColumns; ++c) codes[c] = words[c];
  } else {
    constexpr int64_t kCodes = 8 / bits;
    for (int64_t i = 0; i < kColumns / kCodes; ++i)
      for (int64_t j = 0; j < kCodes; ++j) codes[i * kCodes + j] = packed[i] >> (j * bits) & ((1 << bits) - 1);
  }
}

template <int bits, class T>
INLINE void quantize_row(const T* x, int64_t id, int64_t width, uint64_t key, uint8_t* out) {
  constexpr int32_t kLevels = (1 << bits) - 1;
  const Grid<T> to = grid(x, width, kLevels);
  std::memcpy(out, to.header, kHeader);
  out += kHeader;
  if (to.wild) {
    std::memset(out, 0, (width * bits + 7) / 8);
    return;
  }
  for (int64_t first = 0; first < width; first += kColumns) {
    PhiloxBlock block;
    count_up(block, static_cast<uint32_t>(first / 4), id, 1);
    philox(key, block);
    uint32_t draws[kColumns];
    for (int i = 0; i < kLanes; ++i)
      for (int word = 0; word < 4; ++word) draws[4 * i + word] = block.words[word][i];
    const int64_t columns = std::min(kColumns, width - first);
    T values[kColumns];
    std::fill(values + columns, values + kColumns, to.low);  // codes of 0 fill up the last byte
    std::memcpy(values, x + first, columns * sizeof(T));
    int32_t codes[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) {
      const T exact = (values[c] - to.low) * to.inverse;
      const int32_t whole = static_cast<int32_t>(exact);
      const int32_t code = whole + (share(draws[c], T()) < exact - static_cast<T>(whole));
      codes[c] = std::min(code, kLevels);
    }
    uint8_t packed[8 * bits];
    pack<bits>(codes, packed);
    std::memcpy(out + first * bits / 8, packed, (columns * bits + 7) / 8);
  }
}

template <int bits, class T>
INLINE void dequantize_row(const uint8_t* message, int64_t width, T* out) {
  uint16_t header[2];
  std::memcpy(header, message, kHeader);
  message += kHeader;
  const T low = static_cast<T>(widened(static_cast<uint32_t>(header[0]) << 16));
  const T step = static_cast<T>(widened(static_cast<uint32_t>(header[1]) << 16));
  for (int64_t first = 0; first < width; first += kColumns) {
    const int64_t columns = std::min(kColumns, width - first);
    uint8_t packed[8 * bits] = {};
    std::memcpy(packed, message + first * bits / 8, (columns * bits + 7) / 8);
    int32_t codes[kColumns];
    unpack<bits>(packed, codes);
    T values[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) values[c] = low + static_cast<T>(codes[c]) * step;
    std::memcpy(out + first, values, columns * sizeof(T));
  }
}

template <class T>
VERSIONS void quantize_rows(const T* x, const int64_t* ids, int64_t width, const uint8_t* bits, const int64_t* starts,
                            uint64_t key, uint8_t* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* row = x + r * width;
    uint8_t* to = out + starts[r];
    if (bits[r] == 1) quantize_row<1>(row, ids[r], width, key, to);
    if (bits[r] == 2) quantize_row<2>(row, ids[r], width, key, to);
    if (bits[r] == 4) quantize_row<4>(row, ids[r], width, key, to);
    if (bits[r] == 8) quantize_row<8>(row, ids[r], width, key, to);
    if (bits[r] == 16) quantize_row<16>(row, ids[r], width, key, to);
  }
}

template <class T>
VERSIONS void dequantize_rows(const uint8_t* message, int64_t width, const uint8_t* bits, const int64_t* starts, T* out,
                              int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* row = message + starts[r];
    T* to = out + r * width;
    if (bits[r] == 1) dequantize_row<1>(row, width, to);
    if (bits[r] == 2) dequantize_row<2>(row, width, to);
    if (bits[r] == 4) dequantize_row<4>(row, width, to);
    if (bits[r] == 8) dequantize_row<8>(row, width, to);
    if (bits[r] == 16) dequantize_row<16>(row, width, to);
  }
}

template <class T>
int64_t quantize(const T* x, const int64_t* ids, int64_t num_rows, int64_t width, const uint8_t* bits,
                 const int64_t* starts, int64_t key, uint8_t* out) {
#pragma omp parallel for schedule(static) if (num_rows * width >= kSerialWork)
  for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
    quantize_rows(x, ids, width, bits, starts, static_cast<uint64_t>(key), out, begin,
                  std::min(begin + kRowsPerTask, num_rows));
  return 0;
}

template <class T>
int64_t dequantize(const uint8_t* message, int64_t num_rows, int64_t width, const uint8_t* bits, const int64_t* starts,
                   T* out) {
#pragma omp parallel for schedule(static) if (num_rows * width >= kSerialWork)
  for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
    dequantize_rows(message, width, bits, starts, out, begin, std::min(begin + kRowsPerTask, num_rows));
  return 0;
}

}  // namespace

#define INSTANCES(T, NAME)                                                                                          \
  EXPORT int64_t quantize_##NAME(const T* x, const int64_t* ids, int64_t num_rows, int64_t width,                   \
                                 const uint8_t* bits, const int64_t* starts, int64_t key, uint8_t* out) {           \
    return quantize(x, ids, num_rows, width, bits, starts, key, out);                                               \
  }                                                                                                                 \
  EXPORT int64_t dequantize_##NAME(const uint8_t* message, int64_t num_rows, int64_t width, const uint8_t* bits,    \
                                   const int64_t* starts, T* out) {                                                 \
    return dequantize(message, num_rows, width, bits, starts, out);                                                 \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
