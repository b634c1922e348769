// The spatial graph convolution's sums over neighbourhoods, gated by relative positions, and their gradients:
//   out_i[m, c] = sum over the entries j of row i of weight_ij * relu(bias[m, c] + filter[m, :, c] . (p_j - p_i)) * x_j[c]
//
// Assumptions: columns are filters x channels, filter by filter, padded with parameters of 0 to whole vectors. A row of
// x is given periodic: its channels over and over, channels + kWidth numbers, so that whatever column a vector begins
// at finds its channels in one piece. `parameters` are the biases, then the filters of each dimension, a row each.
// Nothing is kept of a gate: it is a few multiplications, cheaper made again than written and read.
//
// A block of rows goes through one tile of columns after the other, so that a tile's parameters stay in registers while
// the block's rows of x and its relative positions stay in the cache. The gradient of x is the same sum with the sides
// exchanged, over the transposed CSR; what is summed over all rows is summed in parts whose number depends on the
// number of rows alone.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "common.h"
#include "vectors.h"

namespace {

template <class T>
struct Gated {
  const int64_t* indptr;
  int64_t num_rows;
  const int32_t* indices;
  const int64_t* edges;  // where the weight of an entry is; null: at the entry's own position
  const T* weight;       // null: 1
  const T* row_positions;
  const T* column_positions;
  int64_t dimensions;
  const T* parameters;  // [1 + dimensions, columns]
  int64_t channels;
  int64_t columns;
  bool rows_are_sources;  // of the transposed CSR

  int64_t period() const { return channels + Vector<T>::kWidth; }
  bool worth_threads() const { return indptr[num_rows] * columns >= kSerialWork; }
};

// What a thread notes of the entries of a block of rows: where a source is as its target sees it, and the weight.
template <class T>
struct Entries {
  std::vector<T> offsets, weights;

  void of(const Gated<T>& in, int64_t begin, int64_t end) {
    const int64_t first = in.indptr[begin], count = in.indptr[end] - first;
    offsets.resize(count * in.dimensions);
    T* offset = offsets.data();
    for (int64_t row = begin; row < end; ++row) {
      const T* here = in.row_positions + row * in.dimensions;
      for (int64_t e = in.indptr[row]; e < in.indptr[row + 1]; ++e) {
        const T* there = in.column_positions + in.indices[e] * in.dimensions;
        for (int64_t t = 0; t < in.dimensions; ++t)
          *offset++ = in.rows_are_sources ? here[t] - there[t] : there[t] - here[t];
      }
    }
    if (!in.weight) return;
    weights.resize(count);
    for (int64_t i = 0; i < count; ++i) weights[i] = in.weight[in.edges ? in.edges[first + i] : first + i];
  }
};

// The parameters of some columns: in registers, where the number of dimensions is known to the compiler (else 0).
template <class T, int kVectors, int kDimensions>
struct Filters {
  typename Vector<T>::type rows[1 + kDimensions][kVectors];

  INLINE Filters(const Gated<T>& in, int64_t column) {
    for (int t = 0; t <= kDimensions; ++t)
      for (int v = 0; v < kVectors; ++v)
        load(rows[t][v], in.parameters + t * in.columns + column + v * Vector<T>::kWidth);
  }

  // The gate before it is rectified.
  template <class V>
  INLINE void apply(V& gate, int v, const T* offset) const {
    gate = rows[0][v];
#pragma GCC unroll 4
    for (int t = 0; t < kDimensions; ++t) gate += rows[1 + t][v] * offset[t];
  }
};

template <class T, int kVectors>
struct Filters<T, kVectors, 0> {
  const T* first;
  int64_t stride, dimensions;

  INLINE Filters(const Gated<T>& in, int64_t column)
      : first(in.parameters + column), stride(in.columns), dimensions(in.dimensions) {}

  template <class V>
  INLINE void apply(V& gate, int v, const T* offset) const {
    V filter;
    const T* from = first + v * Vector<T>::kWidth;
    load(gate, from);
    for (int64_t t = 0; t < dimensions; ++t) {
      load(filter, from + (1 + t) * stride);
      gate += filter * offset[t];
    }
  }
};

// Rows of numbers by column: plain, or periodic with the channel of a column at its place.
template <class T>
struct Side {
  T* rows;
  int64_t stride;
  bool periodic;

  INLINE int64_t place(int64_t column, int64_t channels) const { return periodic ? column % channels : column; }
};

// For rows [begin, end) and the columns of a tile: to's rows = or, where periodic, += the sums of gate * from's rows.
template <int kVectors, int kDimensions, bool kWeighted, class T>
INLINE void sum_tile(const Gated<T>& in, const Entries<T>& entries, const Side<const T>& from, const Side<T>& to,
                     int64_t begin, int64_t end, int64_t column) {
  typedef typename Vector<T>::type V;
  const Filters<T, kVectors, kDimensions> filters(in, column);
  int64_t read[kVectors], written[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    read[v] = from.place(column + v * Vector<T>::kWidth, in.channels);
    written[v] = to.place(column + v * Vector<T>::kWidth, in.channels);
  }
  const int64_t dimensions = kDimensions ? kDimensions : in.dimensions, first = in.indptr[begin];
  for (int64_t row = begin; row < end; ++row) {
    V sums[kVectors] = {}, gate, value;
    for (int64_t e = in.indptr[row]; e < in.indptr[row + 1]; ++e) {
      const T* offset = entries.offsets.data() + (e - first) * dimensions;
      const T* values = from.rows + in.indices[e] * from.stride;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        filters.apply(gate, v, offset);
        gate = gate < T(0) ? V{} : gate;  // NaN stays
        load(value, values + read[v]);
        if constexpr (kWeighted) value *= entries.weights[e - first];
        sums[v] += gate * value;
      }
    }
    T* out = to.rows + (row - begin) * to.stride;
    for (int v = 0; v < kVectors; ++v) {
      if (to.periodic) {
        load(value, out + written[v]);
        sums[v] += value;
      }
      store(out + written[v], sums[v]);
    }
  }
}

// Vectors of columns worked on together: as many as leave room in 32 registers for their parameters.
constexpr int kTile = 4;

template <int kDimensions, bool kWeighted, class T>
VERSIONS void sum_block(const Gated<T>& in, const Entries<T>& entries, const Side<const T>& from, const Side<T>& to,
                        int64_t begin, int64_t end) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  int64_t column = 0;
  for (; column + kTile * kWidth <= in.columns; column += kTile * kWidth)
    sum_tile<kTile, kDimensions, kWeighted>(in, entries, from, to, begin, end, column);
  for (; column < in.columns; column += kWidth)
    sum_tile<1, kDimensions, kWeighted>(in, entries, from, to, begin, end, column);
}

// Calls body with the number of dimensions (0: any) and whether there are weights, both as constants.
template <class T, class Body>
void with_kind(const Gated<T>& in, Body body) {
  const auto with_dimensions = [&](auto weighted) {
    if (in.dimensions == 2) return body(std::integral_constant<int, 2>(), weighted);
    if (in.dimensions == 3) return body(std::integral_constant<int, 3>(), weighted);
    body(std::integral_constant<int, 0>(), weighted);
  };
  if (in.weight) return with_dimensions(std::true_type());
  with_dimensions(std::false_type());
}

// out [rows, columns] = the gated sums of the periodic rows x.
template <class T>
int64_t geometric_sum(const Gated<T>& in, const T* x, T* out) {
  with_kind(in, [&](auto dimensions, auto weighted) {
#pragma omp parallel if (in.worth_threads())
    {
      Entries<T> entries;
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask) {
        const int64_t end = std::min(begin + kRowsPerTask, in.num_rows);
        entries.of(in, begin, end);
        const Side<T> to{out + begin * in.columns, in.columns, false};
        sum_block<dimensions.value, weighted.value>(in, entries, Side<const T>{x, in.period(), true}, to, begin, end);
      }
    }
  });
  return 0;
}

// x_gradient [rows, channels], of the CSR by source: the gated sums of the targets' gradients [targets, columns], those
// of a channel's columns added up.
template <class T>
int64_t geometric_source_gradient(const Gated<T>& in, const T* gradient, T* x_gradient) {
  with_kind(in, [&](auto dimensions, auto weighted) {
#pragma omp parallel if (in.worth_threads())
    {
      Entries<T> entries;
      std::vector<T> periodic(kRowsPerTask * in.period());
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask) {
        const int64_t end = std::min(begin + kRowsPerTask, in.num_rows);
        entries.of(in, begin, end);
        std::fill(periodic.begin(), periodic.end(), T(0));
        const Side<T> to{periodic.data(), in.period(), true};
        sum_block<dimensions.value, weighted.value>(in, entries, Side<const T>{gradient, in.columns, false}, to, begin,
                                                    end);
        for (int64_t row = begin; row < end; ++row) {
          T* out = x_gradient + row * in.channels;
          const T* sums = periodic.data() + (row - begin) * in.period();
          std::copy_n(sums, in.channels, out);
          for (int64_t i = in.channels; i < in.period(); ++i) out[i % in.channels] += sums[i];
        }
      }
    }
  });
  return 0;
}

// For the columns of a tile: sums [1 + dimensions, columns] += what rows [begin, end) add to the parameters' gradient.
template <int kVectors, int kDimensions, bool kWeighted, class T>
INLINE void parameter_tile(const Gated<T>& in, const Entries<T>& entries, const T* x, const T* gradient, T* sums,
                           int64_t begin, int64_t end, int64_t column) {
  typedef typename Vector<T>::type V;
  constexpr int64_t kWidth = Vector<T>::kWidth;
  const Filters<T, kVectors, kDimensions> filters(in, column);
  const int64_t first = in.indptr[begin], dimensions = kDimensions ? kDimensions : in.dimensions;
  int64_t read[kVectors];
  V parts[1 + kDimensions][kVectors], slopes[kVectors], gate, part, sum;
  for (int v = 0; v < kVectors; ++v) {
    read[v] = (column + v * kWidth) % in.channels;
    for (int t = 0; t <= kDimensions; ++t) load(parts[t][v], sums + t * in.columns + column + v * kWidth);
  }
  for (int64_t row = begin; row < end; ++row) {
    for (int v = 0; v < kVectors; ++v) load(slopes[v], gradient + row * in.columns + column + v * kWidth);
    for (int64_t e = in.indptr[row]; e < in.indptr[row + 1]; ++e) {
      const T* offset = entries.offsets.data() + (e - first) * dimensions;
      const T* values = x + in.indices[e] * in.period();
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        filters.apply(gate, v, offset);
        load(part, values + read[v]);
        if constexpr (kWeighted) part *= entries.weights[e - first];
        part *= slopes[v];
        part = gate <= T(0) ? V{} : part;
        parts[0][v] += part;
#pragma GCC unroll 4
        for (int t = 0; t < kDimensions; ++t) parts[1 + t][v] += part * offset[t];
        if constexpr (kDimensions == 0) {
          for (int64_t t = 0; t < dimensions; ++t) {
            T* to = sums + (1 + t) * in.columns + column + v * kWidth;
            load(sum, to);
            sum += part * offset[t];
            store(to, sum);
          }
        }
      }
    }
  }
  for (int v = 0; v < kVectors; ++v)
    for (int t = 0; t <= kDimensions; ++t) store(sums + t * in.columns + column + v * kWidth, parts[t][v]);
}

// There are the sums, too, to be held in registers here.
constexpr int kGradientTile = 2;

template <int kDimensions, bool kWeighted, class T>
VERSIONS void parameter_block(const Gated<T>& in, const Entries<T>& entries, const T* x, const T* gradient, T* sums,
                              int64_t begin, int64_t end) {
  constexpr int64_t kWidth = Vector<T>::kWidth;
  int64_t column = 0;
  for (; column + kGradientTile * kWidth <= in.columns; column += kGradientTile * kWidth)
    parameter_tile<kGradientTile, kDimensions, kWeighted>(in, entries, x, gradient, sums, begin, end, column);
  for (; column < in.columns; column += kWidth)
    parameter_tile<1, kDimensions, kWeighted>(in, entries, x, gradient, sums, begin, end, column);
}

// The most parts that sums over all rows are made in.
constexpr int64_t kParts = 64;

// out [1 + dimensions, columns] = the gradient of the parameters, with periodic rows x and a gradient [rows, columns].
template <class T>
int64_t geometric_parameter_gradient(const Gated<T>& in, const T* x, const T* gradient, T* out) {
  const int64_t blocks = (in.num_rows + kRowsPerTask - 1) / kRowsPerTask, size = (1 + in.dimensions) * in.columns;
  const int64_t parts = std::min(blocks, kParts);
  std::vector<T> sums(parts * size);
  with_kind(in, [&](auto dimensions, auto weighted) {
#pragma omp parallel if (in.worth_threads())
    {
      Entries<T> entries;
#pragma omp for schedule(dynamic)
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
          const int64_t begin = block * kRowsPerTask, end = std::min(begin + kRowsPerTask, in.num_rows);
          entries.of(in, begin, end);
          parameter_block<dimensions.value, weighted.value>(in, entries, x, gradient, sums.data() + part * size, begin,
                                                            end);
        }
      }
    }
  });
  std::fill_n(out, size, T(0));
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t i = 0; i < size; ++i) out[i] += sums[part * size + i];
  return 0;
}

template <class T>
T sum_of(const typename Vector<T>::type& lanes) {
  T sum = 0;
  for (int64_t i = 0; i < Vector<T>::kWidth; ++i) sum += lanes[i];
  return sum;
}

// The gradients of the entries' weights [entries] and relative positions [entries, dimensions].
template <class T>
VERSIONS void edge_gradient_rows(const Gated<T>& in, const Entries<T>& entries, const T* x, const T* gradient,
                                 T* weight_gradient, T* offset_gradient, int64_t begin, int64_t end) {
  typedef typename Vector<T>::type V;
  constexpr int64_t kWidth = Vector<T>::kWidth;
  const int64_t first = in.indptr[begin];
  std::vector<T> sums(in.dimensions * kWidth);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t e = in.indptr[row]; e < in.indptr[row + 1]; ++e) {
      const T* offset = entries.offsets.data() + (e - first) * in.dimensions;
      const T* values = x + in.indices[e] * in.period();
      V weights = {}, gate, value, slope, filter, sum;
      std::fill(sums.begin(), sums.end(), T(0));
      for (int64_t column = 0; column < in.columns; column += kWidth) {
        Filters<T, 1, 0>(in, column).apply(gate, 0, offset);
        load(value, values + column % in.channels);
        load(slope, gradient + row * in.columns + column);
        value *= slope;
        weights += (gate < T(0) ? V{} : gate) * value;
        value = gate <= T(0) ? V{} : value;
        for (int64_t t = 0; t < in.dimensions; ++t) {
          load(filter, in.parameters + (1 + t) * in.columns + column);
          load(sum, sums.data() + t * kWidth);
          sum += value * filter;
          store(sums.data() + t * kWidth, sum);
        }
      }
      weight_gradient[e] = sum_of<T>(weights);
      const T weight = in.weight ? entries.weights[e - first] : T(1);
      for (int64_t t = 0; t < in.dimensions; ++t) {
        load(sum, sums.data() + t * kWidth);
        offset_gradient[e * in.dimensions + t] = sum_of<T>(sum) * weight;
      }
    }
  }
}

template <class T>
int64_t geometric_edge_gradient(const Gated<T>& in, const T* x, const T* gradient, T* weight_gradient,
                                T* offset_gradient) {
#pragma omp parallel if (in.worth_threads())
  {
    Entries<T> entries;
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask) {
      const int64_t end = std::min(begin + kRowsPerTask, in.num_rows);
      entries.of(in, begin, end);
      edge_gradient_rows(in, entries, x, gradient, weight_gradient, offset_gradient, begin, end);
    }
  }
  return 0;
}

}  // namespace

#define INPUTS(T)                                                                                                 \
  const int64_t *indptr, int64_t num_rows, const int32_t *indices, const int64_t *edges, const T *weight,         \
      const T *row_positions, const T *column_positions, int64_t dimensions, const T *parameters, int64_t channels, \
      int64_t columns
#define GATED(T, ROWS_ARE_SOURCES)                                                                                \
  Gated<T> {                                                                                                      \
    indptr, num_rows, indices, edges, weight, row_positions, column_positions, dimensions, parameters, channels,  \
        columns, ROWS_ARE_SOURCES                                                                                 \
  }

#define INSTANCES(T, NAME)                                                                                        \
  EXPORT int64_t geometric_sum_##NAME(INPUTS(T), const T* x, T* out) {                                            \
    return geometric_sum(GATED(T, false), x, out);                                                                \
  }                                                                                                               \
  EXPORT int64_t geometric_source_gradient_##NAME(INPUTS(T), const T* gradient, T* x_gradient) {                  \
    return geometric_source_gradient(GATED(T, true), gradient, x_gradient);                                       \
  }                                                                                                               \
  EXPORT int64_t geometric_parameter_gradient_##NAME(INPUTS(T), const T* x, const T* gradient, T* out) {          \
    return geometric_parameter_gradient(GATED(T, false), x, gradient, out);                                       \
  }                                                                                                               \
  EXPORT int64_t geometric_edge_gradient_##NAME(INPUTS(T), const T* x, const T* gradient, T* weight_gradient,     \
                                                T* offset_gradient) {                                             \
    return geometric_edge_gradient(GATED(T, false), x, gradient, weight_gradient, offset_gradient);               \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
