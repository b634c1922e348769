// Grouping of an edge list by target (CSR), the transpose of a CSR, and degrees.
#include <algorithm>
#include <utility>
#include <vector>

#include "common.h"
#ifdef _OPENMP
#include <omp.h>
#endif

EXPORT int64_t set_threads(int64_t threads) {
#ifdef _OPENMP
  omp_set_num_threads(static_cast<int>(threads));
#endif
  return 0;
}

namespace {

int64_t thread_count() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// Stable counting sort: fills indptr[groups + 1] and calls place(position, slot) for every position of `keys`.
// Each chunk of the input counts its keys; with the counts of the chunks before it, its entries have their places.
template <class K, class Place>
int64_t group(const K* keys, int64_t size, int64_t groups, int64_t* indptr, Place place) {
  // The counts of a chunk take memory and time in proportion to the groups: no more chunks than that is worth.
  const int64_t worthwhile = size < kSerialWork ? 1 : size / (groups + 1) + 1;
  const int64_t chunks = std::min(thread_count(), worthwhile);
  std::vector<int64_t> counts(chunks * groups, 0);
  int64_t bad = size;
#pragma omp parallel for reduction(min : bad) num_threads(chunks) schedule(static, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    int64_t* count = counts.data() + chunk * groups;
    for (int64_t i = size * chunk / chunks; i < size * (chunk + 1) / chunks; ++i) {
      if (keys[i] < 0 || keys[i] >= groups) {
        bad = std::min(bad, i);
        break;
      }
      ++count[keys[i]];
    }
  }
  if (bad < size) return bad + 1;
  int64_t total = 0;
  for (int64_t g = 0; g < groups; ++g) {
    indptr[g] = total;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += std::exchange(counts[chunk * groups + g], total);
  }
  indptr[groups] = total;
#pragma omp parallel for num_threads(chunks) schedule(static, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    int64_t* next = counts.data() + chunk * groups;
    for (int64_t i = size * chunk / chunks; i < size * (chunk + 1) / chunks; ++i) place(i, next[keys[i]]++);
  }
  return 0;
}

template <class I>
int64_t build_csr(const int64_t* targets, const I* sources, const int64_t* order, int64_t num_edges,
                  int64_t num_targets, int64_t* indptr, I* indices, int64_t* edges) {
  const int64_t bad =
      group(targets, num_edges, num_targets, indptr, [&](int64_t i, int64_t slot) { edges[slot] = i; });
  if (bad) return bad;
#pragma omp parallel if (num_edges >= kSerialWork)
  {
    std::vector<std::pair<int64_t, int64_t>> row;  // (rank of the source, input position)
#pragma omp for schedule(dynamic, kRowsPerTask)
    for (int64_t t = 0; t < num_targets; ++t) {
      row.clear();
      for (int64_t k = indptr[t]; k < indptr[t + 1]; ++k) {
        const I source = sources[edges[k]];
        row.emplace_back(order ? order[source] : source, edges[k]);
      }
      if (!std::is_sorted(row.begin(), row.end())) std::sort(row.begin(), row.end());
      for (int64_t k = indptr[t]; k < indptr[t + 1]; ++k) {
        edges[k] = row[k - indptr[t]].second;
        indices[k] = sources[edges[k]];
      }
    }
  }
  return 0;
}

// `row_of` is scratch: the row of each entry.
template <class I, class R>
int64_t transpose(const int64_t* indptr, const I* indices, int64_t num_rows, int64_t num_columns, R* row_of,
                  int64_t* out_indptr, R* out_indices, int64_t* out_edges) {
  const int64_t num_edges = indptr[num_rows];
#pragma omp parallel for schedule(static) if (num_edges >= kSerialWork)
  for (int64_t t = 0; t < num_rows; ++t)
    std::fill(row_of + indptr[t], row_of + indptr[t + 1], static_cast<R>(t));
  return group(indices, num_edges, num_columns, out_indptr, [&](int64_t i, int64_t slot) {
    out_indices[slot] = row_of[i];
    out_edges[slot] = i;
  });
}

template <class I>
int64_t degrees(const I* ids, int64_t size, int64_t num_nodes, int64_t* counts) {
  std::fill(counts, counts + num_nodes, 0);
  for (int64_t i = 0; i < size; ++i) {
    if (ids[i] < 0 || ids[i] >= num_nodes) return i + 1;
    ++counts[ids[i]];
  }
  return 0;
}

}  // namespace

#define INSTANCES(I, NAME)                                                                                       \
  EXPORT int64_t build_csr_##NAME(const int64_t* targets, const I* sources, const int64_t* order,                \
                                  int64_t num_edges, int64_t num_targets, int64_t* indptr, I* indices,           \
                                  int64_t* edges) {                                                              \
    return build_csr(targets, sources, order, num_edges, num_targets, indptr, indices, edges);                   \
  }                                                                                                              \
  EXPORT int64_t transpose_##NAME##_int32(const int64_t* indptr, const I* indices, int64_t num_rows,             \
                                          int64_t num_columns, int32_t* row_of, int64_t* out_indptr,             \
                                          int32_t* out_indices, int64_t* out_edges) {                            \
    return transpose(indptr, indices, num_rows, num_columns, row_of, out_indptr, out_indices, out_edges);        \
  }                                                                                                              \
  EXPORT int64_t transpose_##NAME##_int64(const int64_t* indptr, const I* indices, int64_t num_rows,             \
                                          int64_t num_columns, int64_t* row_of, int64_t* out_indptr,             \
                                          int64_t* out_indices, int64_t* out_edges) {                            \
    return transpose(indptr, indices, num_rows, num_columns, row_of, out_indptr, out_indices, out_edges);        \
  }                                                                                                              \
  EXPORT int64_t degrees_##NAME(const I* ids, int64_t size, int64_t num_nodes, int64_t* counts) {                \
    return degrees(ids, size, num_nodes, counts);                                                                \
  }

INSTANCES(int32_t, int32)
INSTANCES(int64_t, int64)
