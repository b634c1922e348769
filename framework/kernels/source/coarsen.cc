// Coarsening of graphs: greedy matching of neighbours, and the edges between clusters.
//
// Assumptions: a matching is made node after node in a given order, and a cluster's edges are few; both are one pass over
// the entries on one thread, which takes less than a layer's sums.
#include <algorithm>
#include <vector>

#include "common.h"

namespace {

// The CSR between clusters, without loops: neighbours ascend, and weights (null: none) of the same two are added up.
// `members` are the nodes of each cluster as a CSR. out_indices and out_weight have room for every entry.
template <class T>
int64_t coarse_edges(const int64_t* indptr, const int64_t* indices, const T* weight, const int64_t* cluster,
                     const int64_t* member_indptr, const int64_t* members, int64_t num_clusters, int64_t* out_indptr,
                     int64_t* out_indices, T* out_weight) {
  std::vector<int64_t> seen(num_clusters, int64_t{-1});
  std::vector<T> sums(weight ? num_clusters : 0);
  int64_t count = 0;
  for (int64_t row = 0; row < num_clusters; ++row) {
    out_indptr[row] = count;
    for (int64_t m = member_indptr[row]; m < member_indptr[row + 1]; ++m) {
      for (int64_t e = indptr[members[m]]; e < indptr[members[m] + 1]; ++e) {
        const int64_t other = cluster[indices[e]];
        if (other == row) continue;
        if (seen[other] != row) {
          seen[other] = row;
          out_indices[count++] = other;
          if (weight) sums[other] = 0;
        }
        if (weight) sums[other] += weight[e];
      }
    }
    std::sort(out_indices + out_indptr[row], out_indices + count);
    if (!weight) continue;
    for (int64_t i = out_indptr[row]; i < count; ++i) out_weight[i] = sums[out_indices[i]];
  }
  out_indptr[num_clusters] = count;
  return 0;
}

}  // namespace

// cluster[i] = the lower of node i and whom it is matched with (itself: nobody). In `order`, each node that is free takes
// its free neighbour of the highest score; of equal ones the first of its row.
EXPORT int64_t greedy_matching(const int64_t* indptr, const int64_t* indices, const double* scores,
                               const int64_t* order, int64_t num_nodes, int64_t* cluster) {
  std::fill_n(cluster, num_nodes, int64_t{-1});
  for (int64_t turn = 0; turn < num_nodes; ++turn) {
    const int64_t node = order[turn];
    if (cluster[node] >= 0) continue;
    int64_t best = -1;
    for (int64_t e = indptr[node]; e < indptr[node + 1]; ++e)
      if (indices[e] != node && cluster[indices[e]] < 0 && (best < 0 || scores[e] > scores[best])) best = e;
    const int64_t other = best < 0 ? node : indices[best];
    cluster[node] = cluster[other] = std::min(node, other);
  }
  return 0;
}

#define INSTANCES(T, NAME)                                                                                          \
  EXPORT int64_t coarse_edges_##NAME(const int64_t* indptr, const int64_t* indices, const T* weight,                \
                                     const int64_t* cluster, const int64_t* member_indptr, const int64_t* members,  \
                                     int64_t num_clusters, int64_t* out_indptr, int64_t* out_indices,               \
                                     T* out_weight) {                                                               \
    return coarse_edges(indptr, indices, weight, cluster, member_indptr, members, num_clusters, out_indptr,         \
                        out_indices, out_weight);                                                                   \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
