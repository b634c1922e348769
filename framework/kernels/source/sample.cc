// Neighbour sampling without replacement, relabelling of a frontier, copies of rows.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "common.h"
#include "philox.h"

namespace {

// The first `count` draws of row `id`: word 0 of Philox(key, (draw, id low, id high, 0)).
VERSIONS void draw_row(uint64_t key, int64_t id, int64_t count, uint32_t* draws) {
  for (int64_t first = 0; first < count; first += kLanes) {
    PhiloxBlock block;
    count_up(block, static_cast<uint32_t>(first), id, 0);
    philox(key, block);
    std::memcpy(draws + first, block.words[0], sizeof(block.words[0]));
  }
}

// The number that step i of Floyd's algorithm draws from [0, last], and `last` itself.
INLINE int64_t scaled(uint32_t draw, int64_t last) {
  return static_cast<int64_t>(draw * static_cast<uint64_t>(last + 1) >> 32);
}

// Rows of up to this many entries note what was chosen in a bitmap, without a branch that depends on a draw.
constexpr int64_t kBitmap = 1024;

// Floyd's sample of `count` from [0, size), sorted; size <= kBitmap.
void floyd_bitmap(const uint32_t* draws, int64_t count, int64_t size, int64_t* chosen) {
  uint64_t taken[kBitmap / 64];
  const int64_t words = (size + 63) / 64;
  std::fill(taken, taken + words, 0);
  for (int64_t last = size - count; last < size; ++last) {
    const int64_t drawn = scaled(*draws++, last);
    const int64_t pick = taken[drawn / 64] >> (drawn % 64) & 1 ? last : drawn;
    taken[pick / 64] |= uint64_t{1} << (pick % 64);
  }
  for (int64_t word = 0; word < words; ++word)
    for (uint64_t left = taken[word]; left != 0; left &= left - 1) *chosen++ = 64 * word + __builtin_ctzll(left);
}

// The same for any size. `chosen` stays sorted throughout: the number that takes the place of one drawn before is
// larger than all drawn so far.
void floyd_sorted(const uint32_t* draws, int64_t count, int64_t size, int64_t* chosen) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t last = size - count + i, drawn = scaled(draws[i], last);
    int64_t* place = std::lower_bound(chosen, chosen + i, drawn);
    if (place < chosen + i && *place == drawn) {
      chosen[i] = last;
    } else {
      std::copy_backward(place, chosen + i, chosen + i + 1);
      *place = drawn;
    }
  }
}

// The draws of kLanes ids: word 0 of Philox(key, (0, id low, id high, 0)).
INLINE void draw_ids(uint64_t key, const int64_t* ids, uint32_t* draws) {
  PhiloxBlock block;
  for (int64_t i = 0; i < kLanes; ++i) {
    const uint64_t bits = static_cast<uint64_t>(ids[i]);
    block.words[0][i] = block.words[3][i] = 0;
    block.words[1][i] = static_cast<uint32_t>(bits);
    block.words[2][i] = static_cast<uint32_t>(bits >> 32);
  }
  philox(key, block);
  std::memcpy(draws, block.words[0], sizeof(block.words[0]));
}

// The draws of `count` columns, at most kLanes: looked up where they were all made before, made here otherwise.
template <class I>
INLINE void draw_columns(uint64_t key, const I* columns, const int64_t* column_keys, const uint32_t* made,
                         int64_t count, uint32_t* draws) {
  if (made != nullptr) {
    for (int64_t i = 0; i < count; ++i) draws[i] = made[columns[i]];
    return;
  }
  int64_t ids[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) ids[i] = column_keys[columns[i < count ? i : 0]];
  draw_ids(key, ids, draws);
}

// The draws of all columns from `first` on, at most kLanes of them.
VERSIONS void make_draws(uint64_t key, const int64_t* column_keys, int64_t first, int64_t num_columns,
                         uint32_t* made) {
  int64_t ids[kLanes];
  uint32_t draws[kLanes];
  const int64_t count = std::min<int64_t>(kLanes, num_columns - first);
  for (int64_t i = 0; i < kLanes; ++i) ids[i] = column_keys[first + (i < count ? i : 0)];
  draw_ids(key, ids, draws);
  std::memcpy(made + first, draws, count * sizeof(uint32_t));
}

// The columns of a row whose draw is at most `bound`: the draw in the high half, its place in the row in the low one.
// `ranks` has room for the whole row; returns how many there are.
template <class I>
VERSIONS int64_t rank_columns(uint64_t key, const I* columns, const int64_t* column_keys, const uint32_t* made,
                              int64_t degree, uint32_t bound, uint64_t* ranks) {
  uint32_t draws[kLanes];
  int64_t found = 0;
  for (int64_t first = 0; first < degree; first += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, degree - first);
    draw_columns(key, columns + first, column_keys, made, count, draws);
    for (int64_t i = 0; i < count; ++i) {
      ranks[found] = uint64_t{draws[i]} << 32 | static_cast<uint64_t>(first + i);
      found += draws[i] <= bound;
    }
  }
  return found;
}

// What the `count` lowest of `degree` draws are nearly always at most: their mean and eight deviations.
uint32_t likely_bound(int64_t count, int64_t degree) {
  const double share = (static_cast<double>(count) + 8 * std::sqrt(static_cast<double>(count)) + 8) / degree;
  return share < 1 ? static_cast<uint32_t>(share * 4294967295.0) : 0xFFFFFFFFu;
}

// Up to this many ranks are compared each with each, without a branch that depends on a draw.
constexpr int64_t kCompared = 96;

// The places of the `count` lowest of distinct ranks, in the order they stand in. `chosen` has room for `found`.
VERSIONS void lowest_compared(const uint64_t* ranks, int64_t found, int64_t count, int64_t* chosen) {
  for (int64_t i = 0, kept = 0; i < found; ++i) {
    uint64_t below = 0;
    for (int64_t j = 0; j < found; ++j) below += ranks[j] < ranks[i];
    chosen[kept] = static_cast<int64_t>(ranks[i] & 0xFFFFFFFFu);
    kept += below < static_cast<uint64_t>(count);
  }
}

void lowest_selected(const uint64_t* ranks, int64_t found, int64_t count, std::vector<uint64_t>& room,
                     int64_t* chosen) {
  room.assign(ranks, ranks + found);
  std::nth_element(room.begin(), room.begin() + (count - 1), room.end());
  const uint64_t highest = room[count - 1];
  for (int64_t i = 0, kept = 0; i < found; ++i) {
    chosen[kept] = static_cast<int64_t>(ranks[i] & 0xFFFFFFFFu);
    kept += ranks[i] <= highest;
  }
}

// Rows ahead to ask memory for: about what one core can have under way.
constexpr int64_t kAhead = 8;

template <class I>
int64_t sample_fill(const int64_t* indptr, const I* indices, const int64_t* rows, const int64_t* row_keys,
                    int64_t num_rows, uint64_t key, const int64_t* out_indptr, I* out_indices, int64_t* out_edges) {
#pragma omp parallel if (out_indptr[num_rows] >= kSerialWork)
  {
    std::vector<uint32_t> draws;
#pragma omp for schedule(dynamic, kRowsPerTask)
    for (int64_t r = 0; r < num_rows; ++r) {
      if (r + kAhead < num_rows) __builtin_prefetch(indices + indptr[rows[r + kAhead]]);
      const int64_t begin = indptr[rows[r]], degree = indptr[rows[r] + 1] - begin;
      const int64_t count = out_indptr[r + 1] - out_indptr[r];
      int64_t* edges = out_edges + out_indptr[r];
      if (count == degree) {
        for (int64_t i = 0; i < count; ++i) edges[i] = i;
      } else {
        draws.resize((count + kLanes - 1) / kLanes * kLanes);
        draw_row(key, row_keys[r], count, draws.data());
        (degree <= kBitmap ? floyd_bitmap : floyd_sorted)(draws.data(), count, degree, edges);
      }
      for (int64_t i = 0; i < count; ++i) {
        edges[i] += begin;
        out_indices[out_indptr[r] + i] = indices[edges[i]];
      }
    }
  }
  return 0;
}

// Every row's `count` columns of the lowest draws, which rows share; `out_indptr` says how many.
template <class I>
int64_t sample_shared(const int64_t* indptr, const I* indices, const int64_t* rows, const int64_t* column_keys,
                      int64_t num_columns, int64_t num_rows, uint64_t key, const int64_t* out_indptr, I* out_indices,
                      int64_t* out_edges) {
  int64_t outside = 0, entries = 0;
  for (int64_t r = 0; r < num_rows; ++r) entries += indptr[rows[r] + 1] - indptr[rows[r]];
  std::vector<uint32_t> table;  // of all columns' draws, where that is less work than one for every entry
  if (entries >= num_columns && out_indptr[num_rows] < entries) table.resize(num_columns);
  const uint32_t* made = table.empty() ? nullptr : table.data();
#pragma omp parallel if (out_indptr[num_rows] >= kSerialWork)
  {
#pragma omp for schedule(static)
    for (int64_t first = 0; first < static_cast<int64_t>(table.size()); first += kLanes)
      make_draws(key, column_keys, first, num_columns, table.data());
    std::vector<uint64_t> ranks, room;
    std::vector<int64_t> chosen;
#pragma omp for schedule(dynamic, kRowsPerTask) reduction(max : outside)
    for (int64_t r = 0; r < num_rows; ++r) {
      if (r + kAhead < num_rows) __builtin_prefetch(indices + indptr[rows[r + kAhead]]);
      const int64_t begin = indptr[rows[r]], degree = indptr[rows[r] + 1] - begin;
      const int64_t count = out_indptr[r + 1] - out_indptr[r];
      const I* columns = indices + begin;
      int64_t* edges = out_edges + out_indptr[r];
      for (int64_t i = 0; i < degree; ++i)
        if (columns[i] < 0 || columns[i] >= num_columns) outside = std::max(outside, begin + i + 1);
      if (outside > 0) continue;  // the reduction begins at the least number
      if (count == degree) {
        for (int64_t i = 0; i < count; ++i) edges[i] = i;
      } else if (count > 0) {
        ranks.resize(std::max<size_t>(ranks.size(), degree));
        chosen.resize(std::max<size_t>(chosen.size(), degree + 1));
        const uint32_t bound = likely_bound(count, degree);
        int64_t found = rank_columns(key, columns, column_keys, made, degree, bound, ranks.data());
        if (found < count) found = rank_columns(key, columns, column_keys, made, degree, 0xFFFFFFFFu, ranks.data());
        if (found <= kCompared)
          lowest_compared(ranks.data(), found, count, chosen.data());
        else
          lowest_selected(ranks.data(), found, count, room, chosen.data());
        std::copy(chosen.begin(), chosen.begin() + count, edges);
      }
      for (int64_t i = 0; i < count; ++i) {
        edges[i] += begin;
        out_indices[out_indptr[r] + i] = indices[edges[i]];
      }
    }
  }
  return outside;
}

// Ids to their positions in `ids`: open addressing with linear probing, at most half full.
template <class I>
class Positions {
 public:
  explicit Positions(int64_t expected) {
    int64_t capacity = 1024;
    while (capacity < 2 * expected) capacity *= 2;
    slots_.assign(capacity, Slot{0, -1});
  }

  // Ask memory for what `find_or_add` of `id` will read.
  void expect(I id) const { __builtin_prefetch(&slots_[place_of(id)]); }

  // The position of `id`: the one it has, or `next` if it is new.
  int32_t find_or_add(I id, int32_t next) {
    if (2 * size_ >= static_cast<int64_t>(slots_.size())) grow();
    Slot& slot = find(id);
    if (slot.position < 0) {
      slot = Slot{id, next};
      ++size_;
    }
    return slot.position;
  }

 private:
  struct Slot {
    I id;
    int32_t position;  // -1: empty
  };

  // Fibonacci hashing: the high bits of a product with 2^64 / golden ratio spread consecutive ids.
  uint64_t place_of(I id) const {
    return (static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u >> 32) & (slots_.size() - 1);
  }

  Slot& find(I id) {
    uint64_t place = place_of(id);
    while (slots_[place].position >= 0 && slots_[place].id != id) place = (place + 1) & (slots_.size() - 1);
    return slots_[place];
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2, Slot{0, -1});
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.position >= 0) find(slot.id) = slot;
  }

  std::vector<Slot> slots_;
  int64_t size_ = 0;
};

// Ids to their positions, by a table of all ids up to the highest; what nobody asks for takes no memory.
class Table {
 public:
  explicit Table(int64_t highest) : slots_(static_cast<int32_t*>(std::calloc(highest + 1, sizeof(int32_t)))) {
    if (slots_ == nullptr) throw std::bad_alloc();
  }
  ~Table() { std::free(slots_); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  void expect(int64_t id) const { __builtin_prefetch(slots_ + id); }

  int32_t find_or_add(int64_t id, int32_t next) {
    if (slots_[id] == 0) slots_[id] = next + 1;
    return slots_[id] - 1;
  }

 private:
  int32_t* slots_;  // one more than the position, 0: none
};

template <class I, class Known>
int64_t relabel(Known& known, int64_t num_first, const I* rest, int64_t num_rest, I* unique, int32_t* positions,
                int64_t* occurs) {
  for (int64_t i = 0; i < num_first; ++i) known.find_or_add(unique[i], static_cast<int32_t>(i));
  int64_t size = num_first;
  for (int64_t i = 0; i < num_rest; ++i) {
    if (i + kAhead < num_rest) known.expect(rest[i + kAhead]);
    positions[i] = known.find_or_add(rest[i], static_cast<int32_t>(size));
    if (positions[i] == size) {
      occurs[size - num_first] = i;
      unique[size++] = rest[i];
    }
  }
  return size;
}

// `unique` begins with the `num_first` ids given and has room for all; returns how many it holds in the end. `occurs`:
// where each of the others occurs first in `rest`.
template <class I>
int64_t unique_relabel(int64_t num_first, const I* rest, int64_t num_rest, I* unique, int32_t* positions,
                       int64_t* occurs) {
  I lowest = 0, highest = 0;
  for (int64_t i = 0; i < num_first; ++i) lowest = std::min(lowest, unique[i]), highest = std::max(highest, unique[i]);
  for (int64_t i = 0; i < num_rest; ++i) lowest = std::min(lowest, rest[i]), highest = std::max(highest, rest[i]);
  // A table of so many entries is no larger than what hashing would take.
  if (lowest >= 0 && highest / 4 < num_first + num_rest) {
    Table known(highest);
    return relabel(known, num_first, rest, num_rest, unique, positions, occurs);
  }
  Positions<I> known(num_first + num_rest / 2);
  return relabel(known, num_first, rest, num_rest, unique, positions, occurs);
}

}  // namespace

// Fills out_indptr with the running counts; a fanout below 0 takes all. The first row that is outside, or whose entries
// are not between 0 and `num_edges`, is the answer.
EXPORT int64_t sample_counts(const int64_t* indptr, int64_t num_nodes, int64_t num_edges, const int64_t* rows,
                             int64_t num_rows, int64_t fanout, int64_t* out_indptr) {
  out_indptr[0] = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    if (rows[r] < 0 || rows[r] >= num_nodes) return r + 1;
    const int64_t begin = indptr[rows[r]], end = indptr[rows[r] + 1], degree = end - begin;
    if (begin < 0 || degree < 0 || end > num_edges) return r + 1;
    out_indptr[r + 1] = out_indptr[r] + (fanout < 0 ? degree : std::min(degree, fanout));
  }
  return 0;
}

// out[i] = source[rows[i]], rows of `width` bytes.
EXPORT int64_t gather_rows(const char* source, const int64_t* rows, int64_t num_rows, int64_t width, char* out) {
#pragma omp parallel for schedule(static) if (num_rows * width >= 8 * kSerialWork)
  for (int64_t i = 0; i < num_rows; ++i) {
    if (i + kAhead < num_rows) {
      const char* coming = source + rows[i + kAhead] * width;
      for (int64_t line = 0; line < width; line += 64) __builtin_prefetch(coming + line);
    }
    std::memcpy(out + i * width, source + rows[i] * width, width);
  }
  return 0;
}

// out[rows[i]] = values[i], rows distinct and of `width` bytes.
EXPORT int64_t scatter_rows(char* out, const int64_t* rows, int64_t num_rows, int64_t width, const char* values) {
#pragma omp parallel for schedule(static) if (num_rows * width >= 8 * kSerialWork)
  for (int64_t i = 0; i < num_rows; ++i) std::memcpy(out + rows[i] * width, values + i * width, width);
  return 0;
}

#define INSTANCES(I, NAME)                                                                                        \
  EXPORT int64_t sample_fill_##NAME(const int64_t* indptr, const I* indices, const int64_t* rows,                 \
                                    const int64_t* row_keys, int64_t num_rows, int64_t key,                       \
                                    const int64_t* out_indptr, I* out_indices, int64_t* out_edges) {              \
    return sample_fill(indptr, indices, rows, row_keys, num_rows, static_cast<uint64_t>(key), out_indptr,         \
                       out_indices, out_edges);                                                                   \
  }                                                                                                               \
  EXPORT int64_t sample_shared_##NAME(const int64_t* indptr, const I* indices, const int64_t* rows,               \
                                      const int64_t* column_keys, int64_t num_columns, int64_t num_rows,          \
                                      int64_t key, const int64_t* out_indptr, I* out_indices,                     \
                                      int64_t* out_edges) {                                                       \
    return sample_shared(indptr, indices, rows, column_keys, num_columns, num_rows, static_cast<uint64_t>(key),   \
                         out_indptr, out_indices, out_edges);                                                     \
  }                                                                                                               \
  EXPORT int64_t unique_relabel_##NAME(int64_t num_first, const I* rest, int64_t num_rest, I* unique,             \
                                       int32_t* positions, int64_t* occurs) {                                     \
    return unique_relabel(num_first, rest, num_rest, unique, positions, occurs);                                  \
  }

INSTANCES(int32_t, int32)
INSTANCES(int64_t, int64)
