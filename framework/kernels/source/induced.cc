// Edges among the members of small node sets: two sorted lists a pair, the shorter of which is walked.
#include <algorithm>

#include "common.h"

namespace {

// The first place from `begin` on whose value is not below `value`. What is sought lies mostly near: steps double until
// they are past it, so that two lists of one length are merged, and a short one leaps through a long one.
template <class I>
INLINE int64_t at_least(const I* values, int64_t begin, int64_t end, I value) {
  int64_t step = 1;
  while (begin + step < end && values[begin + step] < value) {
    begin += step;
    step *= 2;
  }
  return std::lower_bound(values + begin, values + std::min(end, begin + step), value) - values;
}

// What is found of a pair: counted, and written where there is room for it.
struct Found {
  int32_t* indices;
  int64_t* edges;
  int64_t count = 0;

  INLINE void add(int64_t member, int64_t edge) {
    if (indices != nullptr) {
      indices[count] = static_cast<int32_t>(member);
      edges[count] = edge;
    }
    ++count;
  }
};

// The entries of a list that are members of a set, in the list's order; an entry that it has twice is found twice.
template <class I>
int64_t common_entries(const I* members, int64_t first, int64_t last, const I* lists, int64_t begin, int64_t end,
                       int32_t* indices, int64_t* edges) {
  Found found{indices, edges};
  if (end - begin <= last - first) {
    int64_t member = first;
    for (int64_t edge = begin; edge < end && member < last; ++edge) {
      member = at_least(members, member, last, lists[edge]);
      if (member < last && members[member] == lists[edge]) found.add(member, edge);
    }
  } else {
    int64_t edge = begin;
    for (int64_t member = first; member < last && edge < end; ++member) {
      edge = at_least(lists, edge, end, members[member]);
      for (; edge < end && lists[edge] == members[member]; ++edge) found.add(member, edge);
    }
  }
  return found.count;
}

// Fills `counts` where they are given; else `indices` and `edges`, which out_indptr says the places in.
template <class I>
int64_t induced(const int64_t* starts, int64_t num_sets, const I* members, const int64_t* indptr, const I* lists,
                int64_t* counts, const int64_t* out_indptr, int32_t* indices, int64_t* edges) {
  const int64_t num_pairs = starts[num_sets];
#pragma omp parallel for schedule(dynamic, kRowsPerTask) if (num_pairs >= kSerialWork / 16)
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    const int64_t* after = std::upper_bound(starts, starts + num_sets + 1, pair);
    const int64_t begin = indptr[members[pair]], end = indptr[members[pair] + 1];
    if (counts != nullptr)
      counts[pair] = common_entries<I>(members, after[-1], after[0], lists, begin, end, nullptr, nullptr);
    else
      common_entries(members, after[-1], after[0], lists, begin, end, indices + out_indptr[pair],
                     edges + out_indptr[pair]);
  }
  return 0;
}

}  // namespace

#define INSTANCES(I, NAME)                                                                                         \
  EXPORT int64_t induced_counts_##NAME(const int64_t* starts, int64_t num_sets, const I* members,                  \
                                       const int64_t* indptr, const I* lists, int64_t* counts) {                   \
    return induced(starts, num_sets, members, indptr, lists, counts, nullptr, nullptr, nullptr);                   \
  }                                                                                                                \
  EXPORT int64_t induced_fill_##NAME(const int64_t* starts, int64_t num_sets, const I* members,                    \
                                     const int64_t* indptr, const I* lists, const int64_t* out_indptr,             \
                                     int32_t* indices, int64_t* edges) {                                           \
    return induced(starts, num_sets, members, indptr, lists, nullptr, out_indptr, indices, edges);                 \
  }

INSTANCES(int32_t, int32)
INSTANCES(int64_t, int64)
