// Dropout masks drawn by Philox from original ids, alone and fused with ReLU.
#include <algorithm>
#include <cstring>

#include "common.h"
#include "philox.h"

namespace {

// Columns of a row that one block of counters decides: four words a counter.
constexpr int64_t kColumns = 4 * kLanes;

template <bool relu, class T>
VERSIONS void dropout_rows(const T* x, const int64_t* ids, int64_t width, uint64_t key, uint32_t threshold, T scale,
                           T* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t first = 0; first < width; first += kColumns) {
      PhiloxBlock block;
      count_up(block, static_cast<uint32_t>(first / 4), ids[r], 1);
      philox(key, block);
      uint32_t draws[kColumns];
      for (int i = 0; i < kLanes; ++i)
        for (int word = 0; word < 4; ++word) draws[4 * i + word] = block.words[word][i];
      const T* from = x + r * width + first;
      T* to = out + r * width + first;
      const int64_t columns = std::min(kColumns, width - first);
      for (int64_t c = 0; c < columns; ++c) {
        const bool zero = (draws[c] < threshold) | (relu && from[c] <= T(0));
        to[c] = zero ? T(0) : from[c] * scale;
      }
    }
  }
}

template <class T>
int64_t dropout(const T* x, const int64_t* ids, int64_t num_rows, int64_t width, int64_t key, int64_t threshold,
                double scale, bool relu, T* out) {
  const auto rows = relu ? dropout_rows<true, T> : dropout_rows<false, T>;
#pragma omp parallel for schedule(static) if (num_rows * width >= kSerialWork)
  for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
    rows(x, ids, width, static_cast<uint64_t>(key), static_cast<uint32_t>(threshold), static_cast<T>(scale), out,
         begin, std::min(begin + kRowsPerTask, num_rows));
  return 0;
}

// The gradient of dropout and ReLU together: what came out above 0 was neither cut nor dropped, nor what is no number.
template <class T>
VERSIONS void passed_block(const T* gradient, const T* result, T scale, T* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) out[i] = result[i] <= T(0) ? T(0) : gradient[i] * scale;
}

template <class T>
int64_t passed(const T* gradient, const T* result, int64_t size, double scale, T* out) {
  constexpr int64_t kBlock = 1 << 14;
#pragma omp parallel for schedule(static) if (size >= kSerialWork)
  for (int64_t begin = 0; begin < size; begin += kBlock)
    passed_block(gradient, result, static_cast<T>(scale), out, begin, std::min(begin + kBlock, size));
  return 0;
}

// Factors of kLanes edges (fewer at the end) and all their heads. The last word of the counter is above those that
// samples (0) and rows (1) use, and holds the high halves of both ids: distinct for ids below 2^47.
template <class T>
VERSIONS void edge_scale_block(const int64_t* targets, const int64_t* sources, int64_t count, int64_t heads,
                               uint64_t key, uint32_t threshold, T scale, T* out) {
  for (int64_t first = 0; first < heads; first += 4) {
    PhiloxBlock block = {};
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t target = static_cast<uint64_t>(targets[i]), source = static_cast<uint64_t>(sources[i]);
      block.words[0][i] = static_cast<uint32_t>(first / 4);
      block.words[1][i] = static_cast<uint32_t>(target);
      block.words[2][i] = static_cast<uint32_t>(source);
      block.words[3][i] = 2 + static_cast<uint32_t>(((target >> 32 << 15) ^ (source >> 32)) & 0x3FFFFFFFu);
    }
    philox(key, block);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t word = 0; word < std::min<int64_t>(4, heads - first); ++word)
        out[i * heads + first + word] = block.words[word][i] < threshold ? T(0) : scale;
  }
}

template <class T>
int64_t edge_scale(const int64_t* targets, const int64_t* sources, int64_t num_edges, int64_t heads, int64_t key,
                   int64_t threshold, double scale, T* out) {
#pragma omp parallel for schedule(static) if (num_edges * heads >= kSerialWork)
  for (int64_t begin = 0; begin < num_edges; begin += kLanes)
    edge_scale_block(targets + begin, sources + begin, std::min<int64_t>(kLanes, num_edges - begin), heads,
                     static_cast<uint64_t>(key), static_cast<uint32_t>(threshold), static_cast<T>(scale),
                     out + begin * heads);
  return 0;
}

VERSIONS void philox_words_block(uint64_t key, const uint32_t* counters, int64_t count, uint32_t* out) {
  PhiloxBlock block = {};
  for (int64_t i = 0; i < count; ++i)
    for (int word = 0; word < 4; ++word) block.words[word][i] = counters[4 * i + word];
  philox(key, block);
  for (int64_t i = 0; i < count; ++i)
    for (int word = 0; word < 4; ++word) out[4 * i + word] = block.words[word][i];
}

}  // namespace

// Draws of given counters, [size, 4] each: for the published vectors.
EXPORT int64_t philox_words(int64_t key, const uint32_t* counters, int64_t size, uint32_t* out) {
  for (int64_t begin = 0; begin < size; begin += kLanes)
    philox_words_block(static_cast<uint64_t>(key), counters + 4 * begin, std::min<int64_t>(kLanes, size - begin),
                       out + 4 * begin);
  return 0;
}

#define INSTANCES(T, NAME)                                                                                         \
  EXPORT int64_t dropout_##NAME(const T* x, const int64_t* ids, int64_t num_rows, int64_t width, int64_t key,      \
                                int64_t threshold, double scale, int64_t relu, T* out) {                           \
    return dropout(x, ids, num_rows, width, key, threshold, scale, relu != 0, out);                                \
  }                                                                                                                \
  EXPORT int64_t passed_##NAME(const T* gradient, const T* result, int64_t size, double scale, T* out) {           \
    return passed(gradient, result, size, scale, out);                                                             \
  }                                                                                                                \
  EXPORT int64_t edge_scale_##NAME(const int64_t* targets, const int64_t* sources, int64_t num_edges,              \
                                   int64_t heads, int64_t key, int64_t threshold, double scale, T* out) {          \
    return edge_scale(targets, sources, num_edges, heads, key, threshold, scale, out);                             \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
