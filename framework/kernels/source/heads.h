// Rows of several heads in vectors: scores with their heads side by side, and values cut into pieces of one head each.
//
// Assumptions: numbers of an entry's heads stand in `padded` places, a power of two, so that a lane of a vector belongs
// to the same head in every stretch of `span` numbers. Buffers hold a whole number of stretches; what they hold beyond
// the last entry or head is computed with and never read.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

template <class T>
struct Heads {
  int64_t count;
  int64_t padded = 1;
  int64_t span = Vector<T>::kWidth;

  explicit Heads(int64_t heads) : count(heads) {
    while (padded < heads) padded *= 2;
    span = std::max(padded, span);
  }

  // The numbers in a buffer of `entries`.
  int64_t size(int64_t entries) const { return (entries * padded + span - 1) / span * span; }

  // to[0 .. heads) = from; of a constant size where it is usual.
  INLINE void copy(T* to, const T* from) const {
    if (count == 1) {
      *to = *from;
    } else if (count == 4) {
      std::memcpy(to, from, 4 * sizeof(T));
    } else if (count == 8) {
      std::memcpy(to, from, 8 * sizeof(T));
    } else {
      for (int64_t head = 0; head < count; ++head) to[head] = from[head];
    }
  }

  // stretch[0 .. span) = the numbers of the heads, for every entry of a stretch.
  INLINE void repeat(T* stretch, const T* from) const {
    copy(stretch, from);
    for (int64_t i = padded; i < span; ++i) stretch[i] = stretch[i - padded];
  }

  // stretch[0 .. padded) = the sums (or what `join` makes) of the lanes of each head.
  template <class Join>
  INLINE void fold(T* stretch, Join join) const {
    for (int64_t half = span / 2; half >= padded; half /= 2)
      for (int64_t i = 0; i < half; ++i) stretch[i] = join(stretch[i], stretch[i + half]);
  }

  // out[0 .. heads) = the sums over the entries of a buffer, whose numbers beyond them are made 0.
  INLINE void sum(T* buffer, int64_t entries, T* stretch, T* out) const {
    const int64_t end = size(entries);
    std::fill(buffer + entries * padded, buffer + end, T(0));
    for (int64_t lane = 0; lane < span; lane += Vector<T>::kWidth) {
      typename Vector<T>::type sums = {}, part;
      for (int64_t i = lane; i < end; i += span) {
        load(part, buffer + i);
        sums += part;
      }
      store(stretch + lane, sums);
    }
    fold(stretch, [](T a, T b) { return a + b; });
    copy(out, stretch);
  }
};

// A vector's place in a row of values.
struct Piece {
  int64_t column;  // the first
  int64_t head;
  int64_t repeated;  // how many of its first lanes the piece before has already
  bool begins;       // whether it is the first of its head
};

// A row of heads x width values as pieces of `lanes` columns, none in two heads. Where `lanes` does not divide the
// width the last piece of a head reaches back into the one before: values there are computed twice, to the same bits.
struct Cover {
  int64_t lanes;
  int64_t stride;
  std::vector<Piece> pieces;
};

// The longest piece: 32 bytes, a register of most CPUs; and the pieces that are worked on together, two sums each.
template <class T>
constexpr int64_t kLongest = 32 / sizeof(T);
constexpr int64_t kTile = 8;

template <class T>
Cover cover(int64_t heads, int64_t width) {
  constexpr int64_t kHalf = kLongest<T> / 2;
  const int64_t lanes = width >= kLongest<T> ? kLongest<T> : width >= kHalf ? kHalf : 1;
  Cover out{lanes, heads * width, {}};
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t column = 0; column < width; column += lanes) {
      const int64_t first = std::min(column, width - lanes);
      out.pieces.push_back({head * width + first, head, column - first, column == 0});
    }
  for (int64_t rest = out.pieces.size() % kTile; rest > 2 && rest % 2 == 1; ++rest)  // no tile is odd
    out.pieces.push_back({out.pieces.back().column, out.pieces.back().head, lanes, false});
  return out;
}

template <int64_t kValue>
using Constant = std::integral_constant<int64_t, kValue>;

// Calls body(its number of pieces as a constant, its first piece) for each tile of a cover.
template <class Body>
INLINE void for_tiles(const Cover& cover, Body body) {
  const Piece* piece = cover.pieces.data();
  const Piece* end = piece + cover.pieces.size();
  for (; end - piece >= 8; piece += 8) body(Constant<8>(), piece);
  switch (end - piece) {
    case 6: return body(Constant<6>(), piece);
    case 4: return body(Constant<4>(), piece);
    case 2: return body(Constant<2>(), piece);
    case 1: return body(Constant<1>(), piece);
  }
}

// Calls body with a cover's number of lanes as a constant.
template <class T, class Body>
void with_lanes(int64_t lanes, Body body) {
  constexpr int64_t kAll = kLongest<T>, kHalf = kAll / 2;
  if (lanes == kAll) return body(Constant<kAll>());
  if (lanes == kHalf) return body(Constant<kHalf>());
  body(Constant<1>());
}

// A piece of a row, lanes that the piece before has already made 0.
template <class V, class T>
INLINE void load_new(V& value, const T* row, const Piece& piece) {
  T lanes[sizeof(V) / sizeof(T)];
  std::memcpy(lanes, row + piece.column, sizeof(lanes));
  for (int64_t i = 0; i < piece.repeated; ++i) lanes[i] = 0;
  load(value, lanes);
}
