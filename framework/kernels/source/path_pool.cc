// Paths of nodes pooled to one row each, by the mean or the maximum of every column: their weighted sums by centre,
// their dot products with a vector, and what both pass back to the nodes.
//
// Assumptions: centre t has the paths offsets[t] to offsets[t + 1], each of `steps` rows of values [sources, heads,
// width], heads inside. A path is pooled anew wherever it is met, so nothing of the size paths x columns is ever held.
// Of equal maxima the first along the path counts: a column of a path has its value, and its gradient, from one node.
#include <algorithm>
#include <vector>

#include "common.h"
#include "heads.h"
#include "rows.h"

namespace {

template <class T>
struct Paths {
  const int64_t* offsets;
  int64_t num_centres;
  const int32_t* nodes;
  int64_t steps;
  const T* values;
  int64_t heads;
  Cover cover;

  int64_t size() const { return offsets[num_centres]; }
  int64_t work() const { return size() * steps * cover.stride; }
  const int32_t* path(int64_t p) const { return nodes + p * steps; }

  // Asks for the rows of a path that comes soon.
  INLINE void ask(int64_t p) const {
    if (p >= size()) return;
    for (int64_t k = 0; k < steps; ++k) prefetch(values + path(p)[k] * cover.stride, 0, cover.stride);
  }
};

// Paths ahead whose rows are asked for.
constexpr int64_t kPathsAhead = kAhead / 2;

// What is left to do to a pooled path: its nodes are summed for their mean.
template <bool kMaximum, class T>
T rest(const Paths<T>& in) {
  return kMaximum ? T(1) : T(1) / static_cast<T>(in.steps);
}

// A piece of a path's row, up to `rest`.
template <bool kMaximum, class V, class T>
INLINE void pool(V& pooled, const Paths<T>& in, const int32_t* path, int64_t column) {
  const int64_t stride = in.cover.stride;
  V next;
  load(pooled, in.values + path[0] * stride + column);
  for (int64_t k = 1; k < in.steps; ++k) {
    load(next, in.values + path[k] * stride + column);
    if constexpr (kMaximum) {
      pooled = next > pooled ? next : pooled;
    } else {
      pooled += next;
    }
  }
}

// out[t] = the sum over the paths of centre t of weight * pooled row, each head with its own weight.
template <int64_t kLanes, bool kMaximum, class T>
VERSIONS void sum_rows(const Paths<T>& in, const T* weights, T* out, int64_t begin, int64_t end) {
  const std::vector<Piece>& pieces = in.cover.pieces;
  const T factor = rest<kMaximum>(in);
  std::vector<T> sums(pieces.size() * kLanes);
  typename Vector<T, kLanes>::type pooled, total;
  for (int64_t t = begin; t < end; ++t) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t p = in.offsets[t]; p < in.offsets[t + 1]; ++p) {
      in.ask(p + kPathsAhead);
      const T* weight = weights + p * in.heads;
      T* sum = sums.data();
      for (const Piece& piece : pieces) {
        pool<kMaximum>(pooled, in, in.path(p), piece.column);
        load(total, sum);
        total += pooled * weight[piece.head];
        store(sum, total);
        sum += kLanes;
      }
    }
    for (size_t v = 0; v < pieces.size(); ++v) {
      load(total, sums.data() + v * kLanes);
      total *= factor;
      store(out + t * in.cover.stride + pieces[v].column, total);
    }
  }
}

template <class T>
int64_t path_sums(const Paths<T>& in, bool maximum, const T* weights, T* out) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
    const auto rows = maximum ? sum_rows<lanes.value, true, T> : sum_rows<lanes.value, false, T>;
#pragma omp parallel for schedule(dynamic) if (in.work() >= kSerialWork)
    for (int64_t begin = 0; begin < in.num_centres; begin += kRowsPerTask)
      rows(in, weights, out, begin, std::min(begin + kRowsPerTask, in.num_centres));
  });
  return 0;
}

// A row of heads x width for every centre, or one for all of them: then `stride` is 0.
template <class T>
struct Vectors {
  const T* rows;
  int64_t stride;
};

// out[p] = for each head, the pooled row of path p times the vector of its centre, plus what is added to the centre's
// paths (null: nothing).
template <int64_t kLanes, bool kMaximum, class T>
VERSIONS void dot_rows(const Paths<T>& in, const Vectors<T>& vectors, const T* added, T* out, int64_t begin,
                       int64_t end) {
  const std::vector<Piece>& pieces = in.cover.pieces;
  const T factor = rest<kMaximum>(in);
  const int64_t room = in.heads + kLanes;  // dot products are summed for several heads at a time
  std::vector<T> own(pieces.size() * kLanes), parts(room * kLanes), dots(room);
  typename Vector<T, kLanes>::type pooled, value;
  for (int64_t t = begin; t < end; ++t) {
    for (size_t v = 0; v < pieces.size(); ++v) {
      load_new(value, vectors.rows + t * vectors.stride, pieces[v]);
      store(own.data() + v * kLanes, value);
    }
    for (int64_t p = in.offsets[t]; p < in.offsets[t + 1]; ++p) {
      in.ask(p + kPathsAhead);
      const T* vector = own.data();
      for (const Piece& piece : pieces) {
        pool<kMaximum>(pooled, in, in.path(p), piece.column);
        load(value, vector);
        pooled *= value;
        T* part = parts.data() + piece.head * kLanes;
        if (!piece.begins) {
          load(value, part);
          pooled += value;
        }
        store(part, pooled);
        vector += kLanes;
      }
      for (int64_t head = 0; head < in.heads; head += kSummed<T, kLanes>)
        sum_lanes<kLanes>(parts.data() + head * kLanes, dots.data() + head);
      for (int64_t head = 0; head < in.heads; ++head)
        out[p * in.heads + head] = dots[head] * factor + (added ? added[t * in.heads + head] : T(0));
    }
  }
}

template <class T>
int64_t path_dots(const Paths<T>& in, bool maximum, const Vectors<T>& vectors, const T* added, T* out) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
    const auto rows = maximum ? dot_rows<lanes.value, true, T> : dot_rows<lanes.value, false, T>;
#pragma omp parallel for schedule(dynamic) if (in.work() >= kSerialWork)
    for (int64_t begin = 0; begin < in.num_centres; begin += kRowsPerTask)
      rows(in, vectors, added, out, begin, std::min(begin + kRowsPerTask, in.num_centres));
  });
  return 0;
}

// Where each source stands in the paths: for entry e the centre indices[e], and path edges[e] / steps at its step
// edges[e] % steps.
struct Places {
  const int64_t* indptr;
  int64_t num_sources;
  const int32_t* indices;
  const int64_t* edges;
};

// Lanes become 0 in which the value at `step` of a path is not its maximum, the first of several.
template <class V, class T>
INLINE void keep_maxima(V& lanes, const Paths<T>& in, const int32_t* path, int64_t step, int64_t column) {
  V own, other;
  load(own, in.values + path[step] * in.cover.stride + column);
  for (int64_t k = 0; k < in.steps; ++k) {
    if (k == step) continue;
    load(other, in.values + path[k] * in.cover.stride + column);
    if (k < step) {
      lanes = own > other ? lanes : V{};
    } else {
      lanes = own >= other ? lanes : V{};
    }
  }
}

// Asks for what an entry that comes soon is made of.
template <bool kMaximum, class T>
INLINE void ask_entry(const Paths<T>& in, const Places& places, const T* weights, const Vectors<T>& vectors,
                      int64_t e) {
  if (e >= places.indptr[places.num_sources]) return;
  const int64_t p = places.edges[e] / in.steps;
  __builtin_prefetch(weights + p * in.heads);
  if (vectors.stride > 0) prefetch(vectors.rows + places.indices[e] * vectors.stride, 0, in.cover.stride);
  if constexpr (kMaximum) in.ask(p);
}

// out[s] = what the pooled rows of all paths, each with the gradient weight * vector of its centre, pass to source s.
template <int64_t kLanes, bool kMaximum, class T>
VERSIONS void spread_rows(const Paths<T>& in, const Places& places, const T* weights, const Vectors<T>& vectors, T* out,
                          int64_t begin, int64_t end) {
  const std::vector<Piece>& pieces = in.cover.pieces;
  const T factor = rest<kMaximum>(in);
  std::vector<T> sums(pieces.size() * kLanes);
  typename Vector<T, kLanes>::type passed, total;
  for (int64_t s = begin; s < end; ++s) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t e = places.indptr[s]; e < places.indptr[s + 1]; ++e) {
      ask_entry<kMaximum>(in, places, weights, vectors, e + kAhead);
      const int64_t p = places.edges[e] / in.steps, step = places.edges[e] - p * in.steps;
      const T *weight = weights + p * in.heads, *vector = vectors.rows + places.indices[e] * vectors.stride;
      T* sum = sums.data();
      for (const Piece& piece : pieces) {
        load(passed, vector + piece.column);
        passed *= weight[piece.head];
        if constexpr (kMaximum) keep_maxima(passed, in, in.path(p), step, piece.column);
        load(total, sum);
        total += passed;
        store(sum, total);
        sum += kLanes;
      }
    }
    for (size_t v = 0; v < pieces.size(); ++v) {
      load(total, sums.data() + v * kLanes);
      total *= factor;
      store(out + s * in.cover.stride + pieces[v].column, total);
    }
  }
}

template <class T>
int64_t path_spread(const Paths<T>& in, bool maximum, const Places& places, const T* weights, const Vectors<T>& vectors,
                    T* out) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
    const auto rows = maximum ? spread_rows<lanes.value, true, T> : spread_rows<lanes.value, false, T>;
#pragma omp parallel for schedule(dynamic) if (in.work() >= kSerialWork)
    for (int64_t begin = 0; begin < places.num_sources; begin += kRowsPerTask)
      rows(in, places, weights, vectors, out, begin, std::min(begin + kRowsPerTask, places.num_sources));
  });
  return 0;
}

}  // namespace

#define PATHS(T)                                                                                                       \
  const int64_t *offsets, int64_t num_centres, const int32_t *nodes, int64_t steps, int64_t maximum, const T *values, \
      int64_t heads, int64_t width
#define GIVEN(T) \
  Paths<T> { offsets, num_centres, nodes, steps, values, heads, cover<T>(heads, width) }

#define INSTANCES(T, NAME)                                                                                             \
  EXPORT int64_t path_sums_##NAME(PATHS(T), const T* weights, T* out) {                                                \
    return path_sums(GIVEN(T), maximum != 0, weights, out);                                                            \
  }                                                                                                                    \
  EXPORT int64_t path_dots_##NAME(PATHS(T), const T* vectors, int64_t vector_stride, const T* added, T* out) {         \
    return path_dots(GIVEN(T), maximum != 0, Vectors<T>{vectors, vector_stride}, added, out);                          \
  }                                                                                                                    \
  EXPORT int64_t path_spread_##NAME(PATHS(T), const int64_t* indptr, int64_t num_sources, const int32_t* indices,      \
                                    const int64_t* edges, const T* weights, const T* vectors, int64_t vector_stride,   \
                                    T* out) {                                                                          \
    return path_spread(GIVEN(T), maximum != 0, Places{indptr, num_sources, indices, edges}, weights,                   \
                       Vectors<T>{vectors, vector_stride}, out);                                                       \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
