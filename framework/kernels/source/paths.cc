// Cheapest paths around centres: rows sorted by cost, a Dijkstra that stops as soon as its answer is certain, and
// what a change of costs may reach. Definitions and proofs are in framework/kernels/paths.py.
//
// Assumptions: a row holds where a path goes on from a node; rows of a search are sorted by cost; node ids are int32.
// Costs are added from the centre outwards, in double, whatever their own type: nothing depends on how centres are
// shared out. A thread's scratch is four bytes a node and whatever its search has touched.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "common.h"

namespace {

// Nodes of the longest path that is ever kept.
constexpr int64_t kLongest = 5;

template <class T>
struct Rows {
  const int64_t* indptr;
  const int32_t* heads;
  const T* costs;
  const int64_t* original;  // breaks ties
  int64_t num_nodes;
};

struct Rule {
  int64_t longest;  // C: nodes of the longest paths
  double degree_ratio, path_ratio;  // the latter at most 1

  // The most paths of a length that are kept: by the centre's nodes of depth 1, and by how many there are.
  double quota(size_t degree) const { return std::floor(static_cast<double>(degree) * degree_ratio); }
  double share(size_t count) const { return std::floor(static_cast<double>(count) * path_ratio); }
};

// The shortest-path tree of one centre after the other, each as far as its paths need it.
template <class T>
class Search {
 public:
  Search(const Rows<T>& rows, const Rule& rule) : rows_(rows), rule_(rule), place_(rows.num_nodes, -1) {}

  void run(int32_t centre) {
    forget();
    settle(centre, 0.0, -1);
    while (!decided()) {
      const Candidate next = pop();
      if (!is_settled(next.head)) settle(next.head, next.cost, next.from);
      note(tree_[next.from].depth, next.head);
      if (--tree_[next.from].waiting == 0) extend(next.from);
    }
  }

  // How many paths of `length` nodes are kept, the centre's own path left out.
  int64_t kept(int64_t length) const {
    const size_t degree = at_depth_[1].size(), count = at_depth_[length - 1].size();
    return length == 2 ? static_cast<int64_t>(count)
                       : static_cast<int64_t>(std::min(rule_.quota(degree), rule_.share(count)));
  }

  // Path `number` of `length` nodes, without its centre; returns what it costs.
  double write(int64_t length, int64_t number, int32_t* nodes) const {
    const int32_t end = at_depth_[length - 1][number];
    for (int32_t at = end, i = static_cast<int32_t>(length) - 2; i >= 0; --i, at = tree_[at].predecessor)
      nodes[i] = tree_[at].node;
    return tree_[end].cost;
  }

  // The cost up to which the answer depends on the graph.
  double radius() const {
    double radius = farthest_[0], all = radius;
    const double quota = rule_.quota(at_depth_[1].size());
    for (int64_t length = 3; length <= rule_.longest; ++length) {
      const std::vector<int32_t>& ends = at_depth_[length - 1];
      all = std::max(all, farthest_[length - 2]);
      if (rule_.share(ends.size()) < quota) {
        radius = std::max(radius, all);
      } else if (quota > 0) {
        size_t enough = 1;
        while (rule_.share(enough) < quota) ++enough;
        radius = std::max(radius, tree_[ends[enough - 1]].cost);
      }
    }
    return radius;
  }

 private:
  struct Settled {
    double cost;
    int64_t next;         // the first entry of its row that is no candidate yet
    int32_t node, predecessor;  // predecessor: a position in tree_
    int32_t waiting;      // of its entries, how many are candidates
    int32_t depth;
  };

  struct Candidate {
    double cost;
    int32_t head, from;  // a node; the position of the settled node that reaches it
  };

  bool is_settled(int32_t node) const { return place_[node] >= base_; }

  void forget() {
    base_ += static_cast<int32_t>(tree_.size());
    if (base_ > std::numeric_limits<int32_t>::max() - rows_.num_nodes - 1) {
      std::fill(place_.begin(), place_.end(), -1);
      base_ = 0;
    }
    tree_.clear();
    heap_.clear();
    for (int64_t depth = 0; depth < kLongest; ++depth) {
      at_depth_[depth].clear();
      open_[depth] = 0;
      farthest_[depth] = 0.0;
    }
  }

  void settle(int32_t node, double cost, int32_t predecessor) {
    const int32_t position = static_cast<int32_t>(tree_.size());
    const int32_t depth = predecessor < 0 ? 0 : tree_[predecessor].depth + 1;
    place_[node] = base_ + position;
    tree_.push_back(Settled{cost, rows_.indptr[node], node, predecessor, 0, depth});
    if (depth < rule_.longest) at_depth_[depth].push_back(position);
    if (depth < rule_.longest - 1) ++open_[depth];
    extend(position);
  }

  // Makes candidates of the next entries of a row: all that cost the same, so that ties meet on the heap.
  void extend(int32_t position) {
    Settled& tail = tree_[position];
    const int64_t end = rows_.indptr[tail.node + 1];
    int64_t entry = tail.next;
    while (entry < end && is_settled(rows_.heads[entry])) note(tail.depth, rows_.heads[entry++]);
    if (entry == end) {
      if (tail.depth < rule_.longest - 1) --open_[tail.depth];
    } else {
      const double cost = tail.cost + rows_.costs[entry];
      for (; entry < end && tail.cost + rows_.costs[entry] == cost; ++entry) {
        const int32_t head = rows_.heads[entry];
        if (is_settled(head)) {
          note(tail.depth, head);
        } else {
          push(Candidate{cost, head, position});
          ++tail.waiting;
        }
      }
    }
    tail.next = entry;
  }

  // A settled node of this depth has an entry for `head`, which is settled.
  void note(int32_t depth, int32_t head) {
    if (depth < rule_.longest - 1) farthest_[depth] = std::max(farthest_[depth], tree_[place_[head] - base_].cost);
  }

  // Whether nothing further out can change a path that is kept.
  bool decided() const {
    if (open_[0] > 0) return false;
    const double quota = rule_.quota(at_depth_[1].size());
    int64_t open = 0;
    for (int64_t length = 3; length <= rule_.longest; ++length) {
      open += open_[length - 2];
      if (open > 0 && rule_.share(at_depth_[length - 1].size()) < quota) return false;
    }
    return true;
  }

  // By cost, then the original id of the node that is reached, then of the one before it.
  bool later(const Candidate& a, const Candidate& b) const {
    if (a.cost != b.cost) return a.cost > b.cost;
    if (a.head != b.head) return rows_.original[a.head] > rows_.original[b.head];
    return rows_.original[tree_[a.from].node] > rows_.original[tree_[b.from].node];
  }

  void push(const Candidate& candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end(), [this](const auto& a, const auto& b) { return later(a, b); });
  }

  Candidate pop() {
    std::pop_heap(heap_.begin(), heap_.end(), [this](const auto& a, const auto& b) { return later(a, b); });
    const Candidate first = heap_.back();
    heap_.pop_back();
    return first;
  }

  const Rows<T> rows_;
  const Rule rule_;
  std::vector<int32_t> place_;  // base_ + position in tree_ of a node that is settled; less than base_ for any other
  int32_t base_ = 0;
  std::vector<Settled> tree_;   // in the order of settling
  std::vector<Candidate> heap_;
  std::vector<int32_t> at_depth_[kLongest];  // positions in tree_, for every depth that is kept
  int64_t open_[kLongest];     // settled nodes of a depth with entries that were neither popped nor passed over
  double farthest_[kLongest];  // the greatest cost of a node that a node of this depth has an entry for
};

// Centres a thread takes at a time.
constexpr int64_t kCentresPerTask = 32;

// `starts`, [longest - 1][num_centres + 1]: in, where a centre's room for paths of a length begins; out, where its
// paths do. The rooms of a length follow on those of the length before, in `nodes` and in `costs`.
template <class T>
int64_t find_paths(const Rows<T>& rows, const Rule& rule, const int32_t* centres, int64_t num_centres, int64_t* starts,
                   int32_t* nodes, double* costs, double* radii) {
  const int64_t lengths = rule.longest - 1;
  std::vector<int64_t> counts(lengths * num_centres);
  int32_t* first_node[kLongest];
  double* first_cost[kLongest];
  for (int64_t i = 0; i < lengths; ++i) {
    const int64_t room = starts[i * (num_centres + 1) + num_centres];
    first_node[i] = nodes;
    first_cost[i] = costs;
    nodes += room * (i + 1);
    costs += room;
  }
#pragma omp parallel if (num_centres > kCentresPerTask)
  {
    Search<T> search(rows, rule);
#pragma omp for schedule(dynamic, kCentresPerTask)
    for (int64_t row = 0; row < num_centres; ++row) {
      search.run(centres[row]);
      radii[row] = search.radius();
      for (int64_t i = 0; i < lengths; ++i) {
        const int64_t start = starts[i * (num_centres + 1) + row], kept = search.kept(i + 2), width = i + 1;
        int32_t* out = first_node[i] + start * width;
        for (int64_t number = 0; number < kept; ++number, out += width)
          first_cost[i][start + number] = search.write(i + 2, number, out);
        std::fill(out, out + width, centres[row]);  // the centre's path to itself
        first_cost[i][start + kept] = 0.0;
        counts[i * num_centres + row] = kept + 1;
      }
    }
  }
#pragma omp parallel for schedule(static, 1)
  for (int64_t i = 0; i < lengths; ++i) {
    int64_t* start = starts + i * (num_centres + 1);
    int64_t total = 0;
    for (int64_t row = 0; row < num_centres; ++row) {
      const int64_t count = counts[i * num_centres + row], width = i + 1;
      std::memmove(first_node[i] + total * width, first_node[i] + start[row] * width, count * width * sizeof(int32_t));
      std::memmove(first_cost[i] + total, first_cost[i] + start[row], count * sizeof(double));
      start[row] = total;
      total += count;
    }
    start[num_centres] = total;
  }
  return 0;
}

// Rows with their entries sorted by cost, equal ones by head. The answer is the first entry that has a cost below 0,
// one that is no finite number, or a head outside.
template <class T>
int64_t sort_rows(const int64_t* indptr, const int32_t* heads, const T* costs, int64_t num_nodes, int32_t* out_heads,
                  T* out_costs) {
  int64_t bad = std::numeric_limits<int64_t>::max();
#pragma omp parallel reduction(min : bad)
  {
    std::vector<std::pair<T, int32_t>> row;
#pragma omp for schedule(dynamic, kRowsPerTask)
    for (int64_t node = 0; node < num_nodes; ++node) {
      row.clear();
      for (int64_t entry = indptr[node]; entry < indptr[node + 1]; ++entry) {
        if (!(costs[entry] >= 0) || !std::isfinite(costs[entry]) || heads[entry] < 0 || heads[entry] >= num_nodes)
          bad = std::min(bad, entry);
        row.emplace_back(costs[entry], heads[entry]);
      }
      if (bad != std::numeric_limits<int64_t>::max()) continue;  // what is no number has no order
      std::sort(row.begin(), row.end());
      for (size_t i = 0; i < row.size(); ++i) {
        out_costs[indptr[node] + i] = row[i].first;
        out_heads[indptr[node] + i] = row[i].second;
      }
    }
  }
  return bad == std::numeric_limits<int64_t>::max() ? 0 : bad + 1;
}

// reach[v]: the least cost of a path from v that goes over edges whose cost is the same in `old` and `now`, and then
// over one whose cost is not, which counts as the lesser of its two; infinity, or something above `limit`, beyond that.
// `back` is the transposed graph: the tails of the edges into a node, and where these edges are in the graph.
template <class T>
int64_t reach_changes(const int64_t* indptr, const T* old, const T* now, int64_t num_nodes, const int64_t* back_indptr,
                      const int32_t* back_tails, const int64_t* back_edges, double limit, double* reach) {
  using Reached = std::pair<double, int32_t>;
  std::vector<Reached> heap;
  const auto later = [](const Reached& a, const Reached& b) { return a.first > b.first; };
  for (int64_t node = 0; node < num_nodes; ++node) {
    reach[node] = std::numeric_limits<double>::infinity();
    for (int64_t edge = indptr[node]; edge < indptr[node + 1]; ++edge)
      if (old[edge] != now[edge]) reach[node] = std::min<double>(reach[node], std::min(old[edge], now[edge]));
    if (reach[node] <= limit) heap.emplace_back(reach[node], static_cast<int32_t>(node));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto [cost, head] = heap.back();
    heap.pop_back();
    if (cost > reach[head]) continue;
    for (int64_t entry = back_indptr[head]; entry < back_indptr[head + 1]; ++entry) {
      const int64_t edge = back_edges[entry];
      const double further = cost + old[edge];
      if (old[edge] != now[edge] || further > limit || further >= reach[back_tails[entry]]) continue;
      reach[back_tails[entry]] = further;
      heap.emplace_back(further, back_tails[entry]);
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  return 0;
}

}  // namespace

#define INSTANCES(T, NAME)                                                                                            \
  EXPORT int64_t find_paths_##NAME(const int64_t* indptr, const int32_t* heads, const T* costs,                       \
                                   const int64_t* original, int64_t num_nodes, int64_t longest, double degree_ratio,  \
                                   double path_ratio, const int32_t* centres, int64_t num_centres, int64_t* starts,   \
                                   int32_t* nodes, double* path_costs, double* radii) {                               \
    return find_paths(Rows<T>{indptr, heads, costs, original, num_nodes}, Rule{longest, degree_ratio, path_ratio},    \
                      centres, num_centres, starts, nodes, path_costs, radii);                                        \
  }                                                                                                                   \
  EXPORT int64_t sort_rows_##NAME(const int64_t* indptr, const int32_t* heads, const T* costs, int64_t num_nodes,     \
                                  int32_t* out_heads, T* out_costs) {                                                 \
    return sort_rows(indptr, heads, costs, num_nodes, out_heads, out_costs);                                          \
  }                                                                                                                   \
  EXPORT int64_t reach_changes_##NAME(const int64_t* indptr, const T* old, const T* now, int64_t num_nodes,           \
                                      const int64_t* back_indptr, const int32_t* back_tails,                          \
                                      const int64_t* back_edges, double limit, double* reach) {                       \
    return reach_changes(indptr, old, now, num_nodes, back_indptr, back_tails, back_edges, limit, reach);             \
  }

INSTANCES(float, float32)
INSTANCES(double, float64)
