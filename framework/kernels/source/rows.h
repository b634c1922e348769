// The weighted sum of rows that aggregation and attention are made of, and their dot products.
#pragma once

#include <algorithm>
#include <cstring>

#include "common.h"
#include "vectors.h"

// The entries of one CSR row.
template <class I>
struct Row {
  const I* indices;
  int64_t count;
  int64_t readable;  // how many indices may be read: those of the rows behind this one too, to ask for rows of x early
};

// Entries ahead whose rows of x are asked for: about as many cache misses as a core can have under way.
constexpr int64_t kAhead = 8;

// Asks for the cache lines of row[begin .. end).
template <class T>
INLINE void prefetch(const T* row, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; c += Vector<T>::kWidth) __builtin_prefetch(row + c);
  __builtin_prefetch(row + end - 1);
}

// out[0 .. kVectors * width) of weighted_sum, its sums held in registers over all entries.
template <int kVectors, bool kAdd, class T, class I, class Weight>
INLINE void weighted_tile(T* out, const T* x, int64_t stride, Row<I> row, Weight weight, T scale) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  typename Vector<T>::type sums[kVectors] = {};
  for (int64_t k = 0; k < row.count; ++k) {
    if (k + kAhead < row.readable) {
      const T* coming = x + static_cast<int64_t>(row.indices[k + kAhead]) * stride;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(coming + v * kWidth);
    }
    const T* from = x + static_cast<int64_t>(row.indices[k]) * stride;
    const T w = weight(k);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      typename Vector<T>::type part;
      load(part, from + v * kWidth);
      sums[v] += part * w;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    sums[v] *= scale;
    if (kAdd) {
      typename Vector<T>::type before;
      load(before, out + v * kWidth);
      sums[v] += before;
    }
    std::memcpy(out + v * kWidth, &sums[v], sizeof(sums[v]));
  }
}

// out[c] = scale * sum over k of weight(k) * x[indices[k] * stride + c], for c in [0, width), in the order of k; where
// kAdd, that is added to out[c].
template <bool kAdd = false, class T, class I, class Weight>
INLINE void weighted_sum(T* out, const T* x, int64_t stride, int64_t width, Row<I> row, Weight weight, T scale) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  int64_t c = 0;
  for (; c + 8 * kWidth <= width; c += 8 * kWidth) weighted_tile<8, kAdd>(out + c, x + c, stride, row, weight, scale);
  for (; c + 4 * kWidth <= width; c += 4 * kWidth) weighted_tile<4, kAdd>(out + c, x + c, stride, row, weight, scale);
  for (; c + kWidth <= width; c += kWidth) weighted_tile<1, kAdd>(out + c, x + c, stride, row, weight, scale);
  if (c == width) return;
  T sums[kWidth] = {};
  for (int64_t k = 0; k < row.count; ++k) {
    const T* from = x + static_cast<int64_t>(row.indices[k]) * stride;
    const T w = weight(k);
    for (int64_t i = 0; i < width - c; ++i) sums[i] += from[c + i] * w;
  }
  for (int64_t i = 0; i < width - c; ++i) out[c + i] = sums[i] * scale + (kAdd ? out[c + i] : T(0));
}

// The dot product of two rows, summed lane by lane and then over lanes: the same order on every CPU.
template <class T>
INLINE T dot(const T* a, const T* b, int64_t width) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  typename Vector<T>::type sums = {};
  int64_t c = 0;
  for (; c + kWidth <= width; c += kWidth) {
    typename Vector<T>::type left, right;
    load(left, a + c);
    load(right, b + c);
    sums += left * right;
  }
  T lanes[kWidth];
  std::memcpy(lanes, &sums, sizeof(sums));
  for (; c < width; ++c) lanes[c % kWidth] += a[c] * b[c];
  for (int64_t half = kWidth / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
