// Partitioning in one thread: what is done to each edge of a stream, and to each node of a window.
//
// Everything here depends on the order of its input, as streaming partitioners do, so nothing runs in parallel: the
// answer is the same on every machine. Every function has a NumPy twin in kernels/partition.py with the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "common.h"

namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of the result depends on every bit of `x`.
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

inline bool outside(int64_t node, int64_t num_nodes) { return node < 0 || node >= num_nodes; }

// The order among parts of equal score: less loaded first, then the lower number.
inline bool lighter(const int64_t* loads, int64_t a, int64_t b) {
  return loads[a] != loads[b] ? loads[a] < loads[b] : a < b;
}

int64_t lightest(const int64_t* loads, int64_t parts) {
  return std::min_element(loads, loads + parts) - loads;
}

}  // namespace

// Degrees, and whether the graph is symmetric. `out` and `in` count edges other than self-loops, `loops` self-loops, each
// [num_nodes]; `*asymmetry` sums, modulo 2^64, a hash of every edge less that of its reverse.
EXPORT int64_t scan_edges(const int64_t* source, const int64_t* target, int64_t size, int64_t num_nodes, int64_t* out,
                          int64_t* in, int64_t* loops, uint64_t* asymmetry) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t s = source[i], t = target[i];
    if (outside(s, num_nodes) || outside(t, num_nodes)) return i + 1;
    if (s == t) {
      ++loops[s];
      continue;
    }
    ++out[s];
    ++in[t];
    sum += mix(static_cast<uint64_t>(s) * num_nodes + t) - mix(static_cast<uint64_t>(t) * num_nodes + s);
  }
  *asymmetry += sum;
  return 0;
}

// Sort (node, neighbour) pairs by the window of the node. `window` [num_nodes] is the window of each node; `ends`
// [windows] becomes the end of each window's pairs in `pairs`, which has room for 2 (both: 4) numbers an edge.
EXPORT int64_t bucket_edges(const int64_t* source, const int64_t* target, int64_t size, int64_t num_nodes, int64_t both,
                            const int32_t* window, int64_t windows, int64_t* ends, int32_t* pairs) {
  std::fill(ends, ends + windows, 0);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t s = source[i], t = target[i];
    if (outside(s, num_nodes) || outside(t, num_nodes)) return i + 1;
    if (s == t) continue;
    ++ends[window[s]];
    if (both) ++ends[window[t]];
  }
  int64_t begin = 0;
  for (int64_t w = 0; w < windows; ++w) begin += std::exchange(ends[w], begin);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t s = source[i], t = target[i];
    if (s == t) continue;
    int32_t* pair = pairs + 2 * ends[window[s]]++;
    pair[0] = static_cast<int32_t>(s);
    pair[1] = static_cast<int32_t>(t);
    if (!both) continue;
    pair = pairs + 2 * ends[window[t]]++;
    pair[0] = static_cast<int32_t>(t);
    pair[1] = static_cast<int32_t>(s);
  }
  return 0;
}

// Put the neighbour of every (node, neighbour) pair into the node's row. `next` [nodes of the window] is the next free
// entry of each row, the first row being that of node `first`.
EXPORT int64_t fill_rows(const int32_t* pairs, int64_t size, int64_t first, int64_t* next, int32_t* neighbors) {
  for (int64_t i = 0; i < size; ++i) neighbors[next[pairs[2 * i] - first]++] = pairs[2 * i + 1];
  return 0;
}

// One look at each node of a window: take it out of its part, and put it where its neighbours and the loads say.
// score(part) = neighbours in it * multiplier(load) + scale(node) * addend(load), by the rule:
//   0 LDG      multiplier 1 - load / capacity
//   1 Fennel   addend -strength (load / mean load)^exponent, scale weight / mean weight
//   2 Spinner  addend -load / capacity, scale degree
// `owners` [num_nodes] and `loads` [parts] are read and updated; `weights` is [num_nodes] or null for 1 each. A part is
// taken only if the node fits under `capacity`; where it fits nowhere it goes to the lightest part.
// `*kept` gets the number of window entries whose two ends were together when looked at. Returns the nodes moved.
EXPORT int64_t assign_window(int64_t rule, double strength, double exponent, double mean_weight, double mean_load,
                             int64_t capacity, int64_t first, int64_t size, const int64_t* indptr,
                             const int32_t* neighbors, const int64_t* weights, int64_t parts, int32_t* owners,
                             int64_t* loads, int64_t* kept) {
  std::vector<int64_t> count(parts, 0);
  std::vector<int32_t> touched;
  std::vector<double> multiplier(parts), addend(parts);
  auto refresh = [&](int64_t part) {
    const double share = static_cast<double>(loads[part]) / static_cast<double>(capacity);
    multiplier[part] = rule == 0 ? 1.0 - share : 1.0;
    addend[part] = rule == 0   ? 0.0
                   : rule == 1 ? -strength * std::pow(static_cast<double>(loads[part]) / mean_load, exponent)
                               : -share;
  };
  for (int64_t part = 0; part < parts; ++part) refresh(part);
  int64_t moved = 0;
  *kept = 0;
  for (int64_t row = 0; row < size; ++row) {
    const int64_t node = first + row, degree = indptr[row + 1] - indptr[row];
    const int64_t weight = weights ? weights[node] : 1;
    const int32_t before = owners[node];
    touched.clear();
    for (int64_t entry = indptr[row]; entry < indptr[row + 1]; ++entry) {
      const int32_t part = owners[neighbors[entry]];
      if (part >= 0 && count[part]++ == 0) touched.push_back(part);
    }
    if (before >= 0) {
      loads[before] -= weight;
      refresh(before);
    }
    const double scale = rule == 1 ? static_cast<double>(weight) / mean_weight : static_cast<double>(degree);
    auto score = [&](int64_t part) {
      return static_cast<double>(count[part]) * multiplier[part] + scale * addend[part];
    };
    int64_t best = lightest(loads, parts);
    double highest = score(best);
    for (const int32_t part : touched) {
      if (loads[part] + weight > capacity) continue;
      const double value = score(part);
      if (value > highest || (value == highest && lighter(loads, part, best))) {
        best = part;
        highest = value;
      }
    }
    *kept += count[best];
    for (const int32_t part : touched) count[part] = 0;
    owners[node] = static_cast<int32_t>(best);
    loads[best] += weight;
    refresh(best);
    moved += best != before;
  }
  return moved;
}
