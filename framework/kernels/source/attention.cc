// Softmax over the entries of CSR rows, alone and fused with the weighted sum of graph attention.
//
// Assumptions: scores and weights are [entries, heads], values [sources, heads, width], heads inside. A forward pass
// keeps the logarithm of each row's sum of exponentials; the backward pass makes the weights again from it.
#include <cmath>
#include <limits>
#include <vector>

#include "common.h"
#include "rows.h"

namespace {

template <class T, class I>
struct Attention {
  const int64_t* indptr;
  int64_t num_rows;
  const I* indices;
  const T* values;
  const T* source_scores;
  const T* target_scores;
  const T* edge_scale;  // null: 1
  int64_t heads;
  int64_t width;
  T negative_slope;

  // The score of the entry from `source` in row `t` before the softmax.
  INLINE T score(int64_t t, int64_t source, int64_t head) const {
    const T sum = source_scores[source * heads + head] + target_scores[t * heads + head];
    return sum > T(0) ? sum : sum * negative_slope;
  }
};

// Turns `count` scores, `stride` apart, into their softmax; returns the logarithm of the sum of their exponentials.
template <class T>
INLINE T softmax(T* scores, int64_t count, int64_t stride) {
  T most = -std::numeric_limits<T>::infinity();
  for (int64_t k = 0; k < count; ++k) most = std::max(most, scores[k * stride]);
  T sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += scores[k * stride] = std::exp(scores[k * stride] - most);
  for (int64_t k = 0; k < count; ++k) scores[k * stride] /= sum;
  return most + std::log(sum);
}

// out = softmax of `scores` in each row; totals [rows, heads] = the logarithm of the sum of their exponentials.
template <class T>
int64_t edge_softmax(const int64_t* indptr, int64_t num_rows, const T* scores, int64_t heads, T* totals, T* out) {
#pragma omp parallel for schedule(dynamic, kRowsPerTask) if (indptr[num_rows] * heads >= kSerialWork)
  for (int64_t t = 0; t < num_rows; ++t) {
    std::copy(scores + indptr[t] * heads, scores + indptr[t + 1] * heads, out + indptr[t] * heads);
    for (int64_t head = 0; head < heads; ++head)
      totals[t * heads + head] = softmax(out + indptr[t] * heads + head, indptr[t + 1] - indptr[t], heads);
  }
  return 0;
}

// out = weight * (gradient - sum over the row of weight * gradient + the row's total_gradient; null: 0).
template <class T>
int64_t edge_softmax_backward(const int64_t* indptr, int64_t num_rows, const T* weight, const T* gradient,
                              const T* total_gradient, int64_t heads, T* out) {
#pragma omp parallel for schedule(dynamic, kRowsPerTask) if (indptr[num_rows] * heads >= kSerialWork)
  for (int64_t t = 0; t < num_rows; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      T sum = total_gradient ? -total_gradient[t * heads + head] : T(0);
      for (int64_t e = indptr[t]; e < indptr[t + 1]; ++e) sum += weight[e * heads + head] * gradient[e * heads + head];
      for (int64_t e = indptr[t]; e < indptr[t + 1]; ++e)
        out[e * heads + head] = weight[e * heads + head] * (gradient[e * heads + head] - sum);
    }
  }
  return 0;
}

template <class T, class I>
VERSIONS void attention_rows(const Attention<T, I>& in, int64_t begin, int64_t end, std::vector<T>& weights, T* totals,
                             T* out) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = in.indptr[t], count = in.indptr[t + 1] - first;
    const Row<I> row{in.indices + first, count, in.indptr[in.num_rows] - first};
    weights.resize(count * in.heads);
    for (int64_t k = 0; k < count; ++k)
      for (int64_t head = 0; head < in.heads; ++head)
        weights[k * in.heads + head] = in.score(t, row.indices[k], head);
    for (int64_t head = 0; head < in.heads; ++head) {
      T* weight = weights.data() + head;
      totals[t * in.heads + head] = softmax(weight, count, in.heads);
      if (in.edge_scale)
        for (int64_t k = 0; k < count; ++k) weight[k * in.heads] *= in.edge_scale[(first + k) * in.heads + head];
      const int64_t stride = in.heads * in.width;
      weighted_sum(
          out + t * stride + head * in.width, in.values + head * in.width, stride, in.width, row,
          [&](int64_t k) { return weight[k * in.heads]; }, T(1));
    }
  }
}

template <class T, class I>
int64_t attention(const Attention<T, I>& in, T* totals, T* out) {
#pragma omp parallel if (in.indptr[in.num_rows] * in.heads * in.width >= kSerialWork)
  {
    std::vector<T> weights;
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
      attention_rows(in, begin, std::min(begin + kRowsPerTask, in.num_rows), weights, totals, out);
  }
  return 0;
}

// First half of the backward pass, by target: for each entry and head the weight its value had and the gradient of its
// score (`pairs`, [entries, heads, 2], so that the second half finds both in one line), and the targets' gradients. The
// gradient of a total with respect to a score is the weight: `total_gradient` (null: 0) counts like one more column.
template <class T, class I>
VERSIONS void target_gradient_rows(const Attention<T, I>& in, int64_t begin, int64_t end, const T* totals,
                                   const T* gradient, const T* total_gradient, T* pairs, T* target_gradient) {
  const int64_t stride = in.heads * in.width, num_entries = in.indptr[in.num_rows];
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t head = 0; head < in.heads; ++head) {
      const T* row_gradient = gradient + t * stride + head * in.width;
      const T total = totals[t * in.heads + head];
      T mean = total_gradient ? -total_gradient[t * in.heads + head] : T(0);  // of the weights' gradients, softmax'd
      for (int64_t e = in.indptr[t]; e < in.indptr[t + 1]; ++e) {
        if (e + kAhead < num_entries) {
          const T* coming = in.values + in.indices[e + kAhead] * stride + head * in.width;
          for (int64_t c = 0; c < in.width; c += Vector<T>::kWidth) __builtin_prefetch(coming + c);
        }
        const T weight = std::exp(in.score(t, in.indices[e], head) - total);
        const T scale = in.edge_scale ? in.edge_scale[e * in.heads + head] : T(1);
        T* pair = pairs + 2 * (e * in.heads + head);
        pair[0] = weight;
        pair[1] = scale * dot(row_gradient, in.values + in.indices[e] * stride + head * in.width, in.width);
        mean += weight * pair[1];
      }
      T sum = 0;
      for (int64_t e = in.indptr[t]; e < in.indptr[t + 1]; ++e) {
        T* pair = pairs + 2 * (e * in.heads + head);
        const T score = in.source_scores[in.indices[e] * in.heads + head] + in.target_scores[t * in.heads + head];
        pair[1] = pair[0] * (pair[1] - mean) * (score > T(0) ? T(1) : in.negative_slope);
        if (in.edge_scale) pair[0] *= in.edge_scale[e * in.heads + head];
        sum += pair[1];
      }
      target_gradient[t * in.heads + head] = sum;
    }
  }
}

template <class T, class I>
int64_t attention_target_gradient(const Attention<T, I>& in, const T* totals, const T* gradient,
                                  const T* total_gradient, T* pairs, T* target_gradient) {
#pragma omp parallel for schedule(dynamic) if (in.indptr[in.num_rows] * in.heads * in.width >= kSerialWork)
  for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
    target_gradient_rows(in, begin, std::min(begin + kRowsPerTask, in.num_rows), totals, gradient, total_gradient,
                         pairs, target_gradient);
  return 0;
}

// Second half, by source: rows of the transposed CSR, whose `edges` find the pairs.
template <class T, class I>
VERSIONS void source_gradient_rows(const int64_t* indptr, int64_t num_rows, const I* indices, const int64_t* edges,
                                   const T* pairs, const T* gradient, int64_t heads, int64_t width, T* value_gradient,
                                   T* source_gradient, int64_t begin, int64_t end) {
  const int64_t stride = heads * width;
  for (int64_t s = begin; s < end; ++s) {
    const int64_t first = indptr[s], count = indptr[s + 1] - first;
    const Row<I> row{indices + first, count, indptr[num_rows] - first};
    for (int64_t head = 0; head < heads; ++head) {
      const T* head_pairs = pairs + 2 * head;
      const auto weight = [&](int64_t k) {
        if (k + kAhead < row.readable) __builtin_prefetch(head_pairs + 2 * heads * edges[first + k + kAhead]);
        return head_pairs[2 * heads * edges[first + k]];
      };
      weighted_sum(value_gradient + s * stride + head * width, gradient + head * width, stride, width, row, weight,
                   T(1));
      T sum = 0;
      for (int64_t k = 0; k < count; ++k) sum += head_pairs[2 * heads * edges[first + k] + 1];
      source_gradient[s * heads + head] = sum;
    }
  }
}

template <class T, class I>
int64_t attention_source_gradient(const int64_t* indptr, int64_t num_rows, const I* indices, const int64_t* edges,
                                  const T* pairs, const T* gradient, int64_t heads, int64_t width, T* value_gradient,
                                  T* source_gradient) {
#pragma omp parallel for schedule(dynamic) if (indptr[num_rows] * heads * width >= kSerialWork)
  for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
    source_gradient_rows(indptr, num_rows, indices, edges, pairs, gradient, heads, width, value_gradient,
                         source_gradient, begin, std::min(begin + kRowsPerTask, num_rows));
  return 0;
}

}  // namespace

#define SOFTMAX_INSTANCES(T, NAME)                                                                                   \
  EXPORT int64_t edge_softmax_##NAME(const int64_t* indptr, int64_t num_rows, const T* scores, int64_t heads,        \
                                     T* totals, T* out) {                                                            \
    return edge_softmax(indptr, num_rows, scores, heads, totals, out);                                               \
  }                                                                                                                  \
  EXPORT int64_t edge_softmax_backward_##NAME(const int64_t* indptr, int64_t num_rows, const T* weight,              \
                                              const T* gradient, const T* total_gradient, int64_t heads, T* out) {   \
    return edge_softmax_backward(indptr, num_rows, weight, gradient, total_gradient, heads, out);                    \
  }

SOFTMAX_INSTANCES(float, float32)
SOFTMAX_INSTANCES(double, float64)

#define INSTANCES(T, I, NAME)                                                                                        \
  EXPORT int64_t attention_##NAME(const int64_t* indptr, int64_t num_rows, const I* indices, const T* values,        \
                                  const T* source_scores, const T* target_scores, const T* edge_scale,               \
                                  int64_t heads, int64_t width, double negative_slope, T* totals, T* out) {          \
    const Attention<T, I> in{indptr,     num_rows, indices, values, source_scores, target_scores,                    \
                             edge_scale, heads,    width,   static_cast<T>(negative_slope)};                         \
    return attention(in, totals, out);                                                                               \
  }                                                                                                                  \
  EXPORT int64_t attention_target_gradient_##NAME(                                                                   \
      const int64_t* indptr, int64_t num_rows, const I* indices, const T* values, const T* source_scores,            \
      const T* target_scores, const T* edge_scale, int64_t heads, int64_t width, double negative_slope,              \
      const T* totals, const T* gradient, const T* total_gradient, T* pairs, T* target_gradient) {                   \
    const Attention<T, I> in{indptr,     num_rows, indices, values, source_scores, target_scores,                    \
                             edge_scale, heads,    width,   static_cast<T>(negative_slope)};                         \
    return attention_target_gradient(in, totals, gradient, total_gradient, pairs, target_gradient);                  \
  }                                                                                                                  \
  EXPORT int64_t attention_source_gradient_##NAME(const int64_t* indptr, int64_t num_rows, const I* indices,         \
                                                  const int64_t* edges, const T* pairs, const T* gradient,           \
                                                  int64_t heads, int64_t width, T* value_gradient,                   \
                                                  T* source_gradient) {                                              \
    return attention_source_gradient(indptr, num_rows, indices, edges, pairs, gradient, heads, width,                \
                                     value_gradient, source_gradient);                                               \
  }

INSTANCES(float, int32_t, float32_int32)
INSTANCES(float, int64_t, float32_int64)
INSTANCES(double, int32_t, float64_int32)
INSTANCES(double, int64_t, float64_int64)
