// Partitioning in one thread: what is done to each edge of a stream, and to each node of a window.
//
// Everything here depends on the order of its input, as streaming partitioners do, so nothing runs in parallel: the
// answer is the same on every machine. Every function has a NumPy twin in kernels/partition.py with the same bits.
#include <algorithm>
#include <cmath>
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
// entry of each row and `ends` its end, the first row being that of node `first`. Returns 0, or 1 + the position of the
// first pair whose row is full.
EXPORT int64_t fill_rows_within(const int32_t* pairs, int64_t size, int64_t first, int64_t* next, const int64_t* ends,
                                int32_t* neighbors) {
  for (int64_t i = 0; i < size; ++i) {
    const int64_t row = pairs[2 * i] - first;
    if (next[row] >= ends[row]) return i + 1;
    neighbors[next[row]++] = pairs[2 * i + 1];
  }
  return 0;
}

// One look at each node of a window: take it out of its part, and put it where its neighbours and the loads say.
// score(part) = neighbours in it * multiplier(load) + scale(node) * addend(load), by the rule:
//   0 LDG      multiplier 1 - load / capacity
//   1 Fennel   addend -strength (load / mean load)^exponent, scale weight / mean weight
//   2 Spinner  addend -load / capacity, scale degree
// `owners` [num_nodes] (-1: none yet) and `loads` [parts] are read and updated; `weights` is [num_nodes]. A part is taken
// only if the node fits under `capacity`; where it fits nowhere it goes to the lightest part. `*kept` gets the number of
// window entries whose two ends are together when the node has been looked at. Returns the number of nodes moved.
EXPORT int64_t assign_window(int64_t rule, double strength, double exponent, double mean_weight, double mean_load,
                             int64_t capacity, int64_t first, int64_t size, const int64_t* indptr,
                             const int32_t* neighbors, const int64_t* weights, int64_t parts, int32_t* owners,
                             int64_t* loads, int64_t* kept) {
  std::vector<int32_t> counts(parts + 1);
  int32_t* count = counts.data() + 1;  // count[-1]: neighbours without a part, so that the loop has no branch
  std::vector<double> multiplier(parts, 1.0), addend(parts, 0.0);
  auto refresh = [&](int64_t part) {
    const double load = static_cast<double>(loads[part]), share = load / static_cast<double>(capacity);
    if (rule == 0) multiplier[part] = 1.0 - share;
    if (rule == 1) addend[part] = -strength * std::pow(load / mean_load, exponent);
    if (rule == 2) addend[part] = -share;
  };
  for (int64_t part = 0; part < parts; ++part) refresh(part);
  int64_t moved = 0;
  *kept = 0;
  for (int64_t row = 0; row < size; ++row) {
    const int64_t node = first + row, degree = indptr[row + 1] - indptr[row], weight = weights[node];
    const int32_t before = owners[node];
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t entry = indptr[row]; entry < indptr[row + 1]; ++entry) ++count[owners[neighbors[entry]]];
    if (before >= 0) {
      loads[before] -= weight;
      refresh(before);
    }
    const double scale = rule == 1 ? static_cast<double>(weight) / mean_weight : static_cast<double>(degree);
    auto score = [&](int64_t part) { return count[part] * multiplier[part] + scale * addend[part]; };
    int64_t best = lightest(loads, parts);
    double highest = score(best);
    for (int64_t part = 0; part < parts; ++part) {
      const double value = score(part);
      if (value < highest || loads[part] + weight > capacity) continue;
      if (value > highest || lighter(loads, part, best)) {
        best = part;
        highest = value;
      }
    }
    *kept += count[best];
    owners[node] = static_cast<int32_t>(best);
    loads[best] += weight;
    refresh(best);
    moved += best != before;
  }
  return moved;
}

// HDRF (Petroni et al., CIKM 2015): each edge goes to the part with the highest
//   sum over its ends in the part of (2 - degree share of the end) + balance (max load - load) / (1 + max - min load).
// `degrees` [num_nodes] are those seen so far; `replicas` [num_nodes, words] the parts each node is on, as bits; `loads`
// [parts]; all three are updated. No part gets more than `capacity` edges. `answers` [size] are the parts of the edges.
EXPORT int64_t assign_edges(double balance, int64_t capacity, const int64_t* source, const int64_t* target, int64_t size,
                            int64_t num_nodes, int64_t parts, int64_t* degrees, uint64_t* replicas, int64_t* loads,
                            int32_t* answers) {
  const int64_t words = (parts + 63) / 64;
  int64_t highest_load = *std::max_element(loads, loads + parts);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t s = source[i], t = target[i];
    if (outside(s, num_nodes) || outside(t, num_nodes)) return i + 1;
    uint64_t *at_source = replicas + s * words, *at_target = replicas + t * words;
    ++degrees[s];
    ++degrees[t];
    const double share = static_cast<double>(degrees[s]) / static_cast<double>(degrees[s] + degrees[t]);
    int64_t best = lightest(loads, parts);
    const double scale = balance / (1.0 + static_cast<double>(highest_load - loads[best]));
    auto score = [&](int64_t part) {
      const bool on_source = at_source[part / 64] >> (part % 64) & 1, on_target = at_target[part / 64] >> (part % 64) & 1;
      return (on_source ? 2.0 - share : 0.0) + (on_target ? 1.0 + share : 0.0) +
             scale * static_cast<double>(highest_load - loads[part]);
    };
    double highest = score(best);
    // A part that holds neither end cannot beat the lightest one: only those with a bit set are asked.
    for (int64_t word = 0; word < words; ++word) {
      for (uint64_t held = at_source[word] | at_target[word]; held; held &= held - 1) {
        const int64_t part = word * 64 + __builtin_ctzll(held);
        if (loads[part] >= capacity) continue;
        const double value = score(part);
        if (value > highest || (value == highest && lighter(loads, part, best))) {
          best = part;
          highest = value;
        }
      }
    }
    answers[i] = static_cast<int32_t>(best);
    highest_load = std::max(highest_load, ++loads[best]);
    at_source[best / 64] |= uint64_t{1} << (best % 64);
    at_target[best / 64] |= uint64_t{1} << (best % 64);
  }
  return 0;
}
