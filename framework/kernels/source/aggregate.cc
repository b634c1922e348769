// Sums over the entries of CSR rows (SpMM), and the gradient of their weights.
#include "common.h"
#include "rows.h"

namespace {

template <class T, class I>
struct Spmm {
  const int64_t* indptr;
  const I* indices;
  const int64_t* edges;     // where the weight of an entry is; null: at the entry's own position
  const T* weight;          // null: 1
  const T* column_scale;    // a factor a column of the matrix; null: 1
  bool mean;
  const T* x;
  int64_t width;
  int64_t num_rows;
  T* out;
};

template <class T, class I>
VERSIONS void spmm_rows(const Spmm<T, I>& in, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = in.indptr[t], count = in.indptr[t + 1] - first;
    const Row<I> row{in.indices + first, count, in.indptr[in.num_rows] - first};
    T* out = in.out + t * in.width;
    const T scale = in.mean && count > 0 ? T(1) / static_cast<T>(count) : T(1);
    if (!in.weight && !in.column_scale) {
      weighted_sum(out, in.x, in.width, in.width, row, [](int64_t) { return T(1); }, scale);
      continue;
    }
    const auto weight = [&](int64_t k) {
      T w = in.weight ? in.weight[in.edges ? in.edges[first + k] : first + k] : T(1);
      return in.column_scale ? w * in.column_scale[row.indices[k]] : w;
    };
    weighted_sum(out, in.x, in.width, in.width, row, weight, scale);
  }
}

template <class T, class I>
int64_t spmm(const Spmm<T, I>& in) {
#pragma omp parallel for schedule(dynamic) if (in.indptr[in.num_rows] * in.width >= kSerialWork)
  for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
    spmm_rows(in, begin, std::min(begin + kRowsPerTask, in.num_rows));
  return 0;
}

// out[into[t]] += scale * sum over the entries of row t; no row of out twice.
template <class T, class I>
VERSIONS void spmm_add_rows(const Spmm<T, I>& in, const int64_t* into, T scale, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = in.indptr[t], count = in.indptr[t + 1] - first;
    const Row<I> row{in.indices + first, count, in.indptr[in.num_rows] - first};
    T* out = in.out + (into ? into[t] : t) * in.width;
    if (in.weight)
      weighted_sum<true>(out, in.x, in.width, in.width, row, [&](int64_t k) { return in.weight[first + k]; }, scale);
    else
      weighted_sum<true>(out, in.x, in.width, in.width, row, [](int64_t) { return T(1); }, scale);
  }
}

template <class T, class I>
int64_t spmm_add(const Spmm<T, I>& in, const int64_t* into, double scale) {
#pragma omp parallel for schedule(dynamic) if (in.indptr[in.num_rows] * in.width >= kSerialWork)
  for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
    spmm_add_rows(in, into, static_cast<T>(scale), begin, std::min(begin + kRowsPerTask, in.num_rows));
  return 0;
}

// out[e] = a[row of e] . b[indices[e]], divided by the number of entries of the row where `mean`.
template <class T, class I>
VERSIONS void row_dots_rows(const int64_t* indptr, const I* indices, const T* a, const T* b, int64_t width, bool mean,
                            T* out, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const T scale = mean ? T(1) / static_cast<T>(indptr[t + 1] - indptr[t]) : T(1);
    for (int64_t e = indptr[t]; e < indptr[t + 1]; ++e)
      out[e] = dot(a + t * width, b + indices[e] * width, width) * scale;
  }
}

template <class T, class I>
int64_t row_dots(const int64_t* indptr, const I* indices, int64_t num_rows, const T* a, const T* b, int64_t width,
                 bool mean, T* out) {
#pragma omp parallel for schedule(dynamic) if (indptr[num_rows] * width >= kSerialWork)
  for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
    row_dots_rows(indptr, indices, a, b, width, mean, out, begin, std::min(begin + kRowsPerTask, num_rows));
  return 0;
}

}  // namespace

#define INSTANCES(T, I, NAME)                                                                                      \
  EXPORT int64_t spmm_##NAME(const int64_t* indptr, int64_t num_rows, const I* indices, const int64_t* edges,      \
                             const T* weight, const T* column_scale, int64_t mean, const T* x, int64_t width,      \
                             T* out) {                                                                             \
    return spmm(Spmm<T, I>{indptr, indices, edges, weight, column_scale, mean != 0, x, width, num_rows, out});     \
  }                                                                                                                \
  EXPORT int64_t spmm_add_##NAME(const int64_t* indptr, int64_t num_rows, const I* indices, const T* weight,       \
                                 const T* x, int64_t width, const int64_t* into, double scale, T* out) {           \
    return spmm_add(Spmm<T, I>{indptr, indices, nullptr, weight, nullptr, false, x, width, num_rows, out}, into,   \
                    scale);                                                                                        \
  }                                                                                                                \
  EXPORT int64_t row_dots_##NAME(const int64_t* indptr, int64_t num_rows, const I* indices, const T* a,            \
                                 const T* b, int64_t width, int64_t mean, T* out) {                                \
    return row_dots(indptr, indices, num_rows, a, b, width, mean != 0, out);                                       \
  }

INSTANCES(float, int32_t, float32_int32)
INSTANCES(float, int64_t, float32_int64)
INSTANCES(double, int32_t, float64_int32)
INSTANCES(double, int64_t, float64_int64)
