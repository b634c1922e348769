// Softmax over the entries of CSR rows, alone and fused with the weighted sum of graph attention.
//
// Assumptions: scores and weights are [entries, heads], values [sources, heads, width], heads inside. The forward pass
// keeps the logarithm of each row's sum of exponentials, from which the weights are made again, and where gradients are
// asked for the part of each row's sums that has positive scores. With it the backward pass looks once at each entry:
//   score_e = slope_e * (source_score + target_score), slope_e = 1 where that is positive, negative_slope elsewhere;
//   d score_e = weight_e * (value_e . d out - mean), mean = sum_e weight_e * (value_e . d out) = out . d out;
//   d target_score = sum_e slope_e * d score_e, where sum_e d score_e = 0 leaves
//     (1 - negative_slope) * (positive . d out - positive_total * mean),
//     positive = sum of weight_e * value_e and positive_total = sum of weight_e over entries of positive scores.
// The gradient of a row's total with respect to a score is the weight: it counts like one more column.
#include <cmath>
#include <limits>

#include "common.h"
#include "heads.h"
#include "rows.h"

namespace {

using Entries = Row<int32_t>;

template <class T>
struct Attention {
  const int64_t* indptr;
  int64_t num_rows;
  const int32_t* indices;
  const T* values;
  const T* source_scores;
  const T* target_scores;
  const T* edge_scale;  // null: 1
  T negative_slope;
  Heads<T> heads;
  Cover cover;
};

// Where a forward pass puts what it finds of each row. The last two are null where no gradient will be asked for.
template <class T>
struct Outputs {
  T* totals;
  T* sums;
  T* positive_totals;
  T* positive;
};

// Buffers of a thread, made longer as rows need it: scores that become weights, those of positive scores; stretches.
template <class T>
struct Scratch {
  std::vector<T> weights, positive, most, sums, targets;

  Scratch(const Heads<T>& heads) : most(heads.span), sums(heads.span), targets(heads.span) {}

  void reserve(int64_t size) {
    if (static_cast<int64_t>(weights.size()) >= size) return;
    weights.resize(size);
    positive.resize(size);
  }
};

// most = the maximum over the entries of a buffer for each head; what is beyond them becomes a copy of the first.
template <class T>
INLINE void maximum(const Heads<T>& heads, T* scores, int64_t entries, T* most) {
  const int64_t end = heads.size(entries);
  for (int64_t i = entries * heads.padded; i < end; ++i) scores[i] = scores[i % heads.padded];
  for (int64_t lane = 0; lane < heads.span; lane += Vector<T>::kWidth) {
    typename Vector<T>::type best, score;
    load(best, scores + lane);
    for (int64_t i = lane + heads.span; i < end; i += heads.span) {
      load(score, scores + i);
      best = best > score ? best : score;
    }
    store(most + lane, best);
  }
  heads.fold(most, [](T a, T b) { return a > b ? a : b; });
  for (int64_t i = heads.padded; i < heads.span; ++i) most[i] = most[i - heads.padded];
}

// Turns the scores of a row's entries into exponentials less their maximum; sums[0 .. heads) = their sums, totals = the
// logarithms of the sums of the scores' own exponentials.
template <class T>
VERSIONS void exponentials(const Heads<T>& heads, int64_t entries, Scratch<T>& scratch, T* totals) {
  typename Vector<T>::type most, x;
  T* weights = scratch.weights.data();
  maximum(heads, weights, entries, scratch.most.data());
  for (int64_t lane = 0; lane < heads.span; lane += Vector<T>::kWidth) {
    load(most, scratch.most.data() + lane);
    for (int64_t i = lane; i < heads.size(entries); i += heads.span) {
      load(x, weights + i);
      x -= most;
      exponential<T>(x);
      store(weights + i, x);
    }
  }
  heads.sum(weights, entries, scratch.sums.data(), scratch.sums.data());
  for (int64_t head = 0; head < heads.count; ++head) totals[head] = scratch.most[head] + std::log(scratch.sums[head]);
}

// out = softmax of `scores` in each row; totals [rows, heads] = the logarithm of the sum of their exponentials.
template <class T>
VERSIONS void edge_softmax_rows(const int64_t* indptr, const T* scores, const Heads<T>& heads, Scratch<T>& scratch,
                                T* totals, T* out, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = indptr[t], entries = indptr[t + 1] - first;
    if (entries == 0) {
      std::fill_n(totals + t * heads.count, heads.count, -std::numeric_limits<T>::infinity());
      continue;
    }
    scratch.reserve(heads.size(entries));
    T* weights = scratch.weights.data();
    for (int64_t k = 0; k < entries; ++k) heads.copy(weights + k * heads.padded, scores + (first + k) * heads.count);
    exponentials(heads, entries, scratch, totals + t * heads.count);
    for (int64_t k = 0; k < entries; ++k)
      for (int64_t head = 0; head < heads.count; ++head)
        out[(first + k) * heads.count + head] = weights[k * heads.padded + head] / scratch.sums[head];
  }
}

template <class T>
int64_t edge_softmax(const int64_t* indptr, int64_t num_rows, const T* scores, int64_t num_heads, T* totals, T* out) {
  const Heads<T> heads(num_heads);
#pragma omp parallel if (indptr[num_rows] * num_heads >= kSerialWork)
  {
    Scratch<T> scratch(heads);
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < num_rows; begin += kRowsPerTask)
      edge_softmax_rows(indptr, scores, heads, scratch, totals, out, begin, std::min(begin + kRowsPerTask, num_rows));
  }
  return 0;
}

// out = weight * (gradient - sum over the row of weight * gradient + the row's total_gradient; null: 0).
template <class T>
int64_t edge_softmax_backward(const int64_t* indptr, int64_t num_rows, const T* weight, const T* gradient,
                              const T* total_gradient, int64_t heads, T* out) {
#pragma omp parallel for schedule(dynamic, kRowsPerTask) if (indptr[num_rows] * heads >= kSerialWork)
  for (int64_t t = 0; t < num_rows; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      T sum = total_gradient ? -total_gradient[t * heads + head] : T(0);
      for (int64_t e = indptr[t]; e < indptr[t + 1]; ++e) sum += weight[e * heads + head] * gradient[e * heads + head];
      for (int64_t e = indptr[t]; e < indptr[t + 1]; ++e)
        out[e * heads + head] = weight[e * heads + head] * (gradient[e * heads + head] - sum);
    }
  }
  return 0;
}

// The sums source_score + target_score of a row become their leaky ReLU; positive = 1 where they are, else 0.
template <class T>
INLINE void leaky_scores(const Heads<T>& heads, int64_t size, T negative_slope, Scratch<T>& scratch) {
  typename Vector<T>::type target, sum;
  for (int64_t lane = 0; lane < heads.span; lane += Vector<T>::kWidth) {
    load(target, scratch.targets.data() + lane);
    for (int64_t i = lane; i < size; i += heads.span) {
      load(sum, scratch.weights.data() + i);
      sum += target;
      store(scratch.positive.data() + i, sum > T(0) ? 1 + decltype(sum){} : decltype(sum){});
      sum = sum > T(0) ? sum : sum * negative_slope;
      store(scratch.weights.data() + i, sum);
    }
  }
}

// Pieces of out = the sums over a row's entries of weight * value, times the factor of their head; the same for
// `positive`.
template <int kPieces, int64_t kLanes, bool kKeep, class T>
INLINE void sum_pieces(const Piece* pieces, const Attention<T>& in, Entries row, const Scratch<T>& scratch, T* out,
                  T* positive) {
  typename Vector<T, kLanes>::type sums[kPieces] = {}, positives[kPieces] = {}, value;
  const T *weights = scratch.weights.data(), *positive_weights = scratch.positive.data();
  const int64_t stride = in.cover.stride, begin = pieces[0].column, end = pieces[kPieces - 1].column + kLanes;
  for (int64_t k = 0; k < row.count; ++k) {
    if (k + kAhead < row.readable) prefetch(in.values + row.indices[k + kAhead] * stride, begin, end);
    const T* from = in.values + row.indices[k] * stride;
#pragma GCC unroll 8
    for (int v = 0; v < kPieces; ++v) {
      load(value, from + pieces[v].column);
      sums[v] += value * weights[k * in.heads.padded + pieces[v].head];
      if constexpr (kKeep) positives[v] += value * positive_weights[k * in.heads.padded + pieces[v].head];
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kPieces; ++v) {
    const T factor = T(1) / scratch.sums[pieces[v].head];
    sums[v] *= factor;
    store(out + pieces[v].column, sums[v]);
    if constexpr (kKeep) {
      positives[v] *= factor;
      store(positive + pieces[v].column, positives[v]);
    }
  }
}

// The first step of a row with entries: its weights, not yet divided by their sums, in the scratch; its totals.
template <class T>
VERSIONS void weigh_row(const Attention<T>& in, int64_t t, Entries row, const T* edge_scale, Scratch<T>& scratch,
                        const Outputs<T>& out) {
  const Heads<T>& heads = in.heads;
  const int64_t count = heads.count, size = heads.size(row.count);
  scratch.reserve(size);
  T *weights = scratch.weights.data(), *positive = scratch.positive.data();
  for (int64_t k = 0; k < row.count; ++k) {
    if (k + kAhead < row.readable) __builtin_prefetch(in.source_scores + row.indices[k + kAhead] * count);
    heads.copy(weights + k * heads.padded, in.source_scores + row.indices[k] * count);
  }
  heads.repeat(scratch.targets.data(), in.target_scores + t * count);
  leaky_scores(heads, size, in.negative_slope, scratch);
  exponentials(heads, row.count, scratch, out.totals + t * count);
  if (out.positive_totals) {  // not `positive`, which is null too where a head has no columns
    for (int64_t i = 0; i < size; ++i) positive[i] *= weights[i];
    heads.sum(positive, row.count, scratch.targets.data(), scratch.targets.data());
    for (int64_t head = 0; head < count; ++head)
      out.positive_totals[t * count + head] = scratch.targets[head] / scratch.sums[head];
  }
  if (!edge_scale) return;
  for (int64_t k = 0; k < row.count; ++k) {
    for (int64_t head = 0; head < count; ++head) {
      weights[k * heads.padded + head] *= edge_scale[k * count + head];
      positive[k * heads.padded + head] *= edge_scale[k * count + head];
    }
  }
}

// The second step: the weighted sums of the row's values.
template <int64_t kLanes, bool kKeep, class T>
VERSIONS void sum_row(const Attention<T>& in, Entries row, const Scratch<T>& scratch, T* sums, T* positive) {
  for_tiles(in.cover, [&](auto pieces, const Piece* piece) INLINE_LAMBDA {
    sum_pieces<pieces.value, kLanes, kKeep>(piece, in, row, scratch, sums, positive);
  });
}

template <int64_t kLanes, bool kKeep, class T>
void attention_rows(const Attention<T>& in, int64_t begin, int64_t end, Scratch<T>& scratch, const Outputs<T>& out) {
  const int64_t count = in.heads.count, stride = in.cover.stride;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = in.indptr[t];
    const Entries row{in.indices + first, in.indptr[t + 1] - first, in.indptr[in.num_rows] - first};
    T* positive = kKeep ? out.positive + t * stride : nullptr;
    if (row.count > 0) {
      weigh_row(in, t, row, in.edge_scale ? in.edge_scale + first * count : nullptr, scratch, out);
      sum_row<kLanes, kKeep>(in, row, scratch, out.sums + t * stride, positive);
      continue;
    }
    std::fill_n(out.totals + t * count, count, -std::numeric_limits<T>::infinity());
    std::fill_n(out.sums + t * stride, stride, T(0));
    if (kKeep) std::fill_n(out.positive_totals + t * count, count, T(0));
    if (kKeep) std::fill_n(positive, stride, T(0));
  }
}

template <class T>
int64_t attention(const Attention<T>& in, const Outputs<T>& out) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
    const auto rows = out.positive_totals ? attention_rows<lanes.value, true, T> : attention_rows<lanes.value, false, T>;
#pragma omp parallel if (in.indptr[in.num_rows] * in.cover.stride >= kSerialWork)
    {
      Scratch<T> scratch(in.heads);
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
        rows(in, begin, std::min(begin + kRowsPerTask, in.num_rows), scratch, out);
    }
  });
  return 0;
}

// The gradient of what the forward pass put out; null for the totals: 0.
template <class T>
struct Gradients {
  const T* sums;
  const T* totals;
};

// What the source half of the backward pass needs of a target, one behind the other: score, total and mean.
constexpr int64_t kFacts = 3;

// dots[head] = the dot products of the heads of two rows. `parts` has room for kLanes numbers a padded head.
template <int64_t kLanes, class T>
INLINE void head_dots(const Attention<T>& in, const T* a, const T* b, T* parts, T* dots) {
  typename Vector<T, kLanes>::type left, right, before;
  for (const Piece& piece : in.cover.pieces) {
    load_new(left, a, piece);
    load(right, b + piece.column);
    left *= right;
    T* part = parts + piece.head * kLanes;
    if (!piece.begins) {
      load(before, part);
      left += before;
    }
    store(part, left);
  }
  for (int64_t head = 0; head < in.heads.count; head += kSummed<T, kLanes>)
    sum_lanes<kLanes>(parts + head * kLanes, dots + head);
}

// First half of the backward pass, by target: the facts of each, [rows, kFacts, heads], and its score's gradient.
template <int64_t kLanes, class T>
VERSIONS void target_gradient_rows(const Attention<T>& in, const Outputs<T>& out, const Gradients<T>& gradients,
                                   T* facts, T* target_gradient, int64_t begin, int64_t end) {
  const int64_t count = in.heads.count, stride = in.cover.stride, room = in.heads.padded + kLanes;
  std::vector<T> parts(room * kLanes), dots(room), positive_dots(room);
  for (int64_t t = begin; t < end; ++t) {
    const T* gradient = gradients.sums + t * stride;
    head_dots<kLanes>(in, gradient, out.sums + t * stride, parts.data(), dots.data());
    head_dots<kLanes>(in, gradient, out.positive + t * stride, parts.data(), positive_dots.data());
    const bool empty = in.indptr[t] == in.indptr[t + 1];
    T* fact = facts + t * kFacts * count;
    for (int64_t head = 0; head < count; ++head) {
      const int64_t i = t * count + head;
      const T total_gradient = gradients.totals && !empty ? gradients.totals[i] : T(0);
      const T mean = dots[head] - total_gradient;
      fact[head] = in.target_scores[i];
      fact[count + head] = out.totals[i];
      fact[2 * count + head] = mean;
      target_gradient[i] = (T(1) - in.negative_slope) * (positive_dots[head] - out.positive_totals[i] * mean) +
                           in.negative_slope * total_gradient;
    }
  }
}

template <class T>
int64_t attention_target_gradient(const Attention<T>& in, const Outputs<T>& out, const Gradients<T>& gradients,
                                  T* facts, T* target_gradient) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
#pragma omp parallel for schedule(dynamic) if (in.num_rows * in.cover.stride >= kSerialWork)
    for (int64_t begin = 0; begin < in.num_rows; begin += kRowsPerTask)
      target_gradient_rows<lanes.value>(in, out, gradients, facts, target_gradient, begin,
                                        std::min(begin + kRowsPerTask, in.num_rows));
  });
  return 0;
}

// Buffers of a thread for some entries of a source. The first are of the entries' heads: slopes of the leaky ReLU,
// weights, weights times their factors of dropout, those factors, means, dot products and the parts of these by lane.
template <class T>
struct SourceScratch {
  int64_t entries;  // that there is room for
  std::vector<T> slopes, weights, factors, means, dots, parts;
  std::vector<T> scores, gradients;  // a stretch
  std::vector<T> values, sums;       // a source's row and its gradient, by piece

  explicit SourceScratch(const Heads<T>& heads, const Cover& cover)
      : entries(std::max(heads.span, int64_t{256}) / heads.padded),
        slopes(heads.size(entries)),
        weights(slopes.size()),
        factors(slopes.size(), T(1)),
        means(slopes.size()),
        dots(slopes.size()),
        parts(slopes.size() * cover.lanes),
        scores(heads.span),
        gradients(heads.span),
        values(cover.pieces.size() * cover.lanes),
        sums(values.size()) {}
};

// The weights of a source's next entries and the slopes of their scores, made again from what is known of the targets.
template <class T>
VERSIONS void remake_weights(const Attention<T>& in, Entries row, const int64_t* edges, const T* facts,
                           SourceScratch<T>& scratch) {
  const Heads<T>& heads = in.heads;
  const int64_t stride = kFacts * heads.count;
  for (int64_t k = 0; k < row.count; ++k) {
    if (k + kAhead < row.readable) prefetch(facts + row.indices[k + kAhead] * stride, 0, stride);
    const T* fact = facts + row.indices[k] * stride;
    heads.copy(scratch.slopes.data() + k * heads.padded, fact);
    heads.copy(scratch.weights.data() + k * heads.padded, fact + heads.count);
    heads.copy(scratch.means.data() + k * heads.padded, fact + 2 * heads.count);
    if (in.edge_scale) {
      if (k + kAhead < row.readable) __builtin_prefetch(in.edge_scale + edges[k + kAhead] * heads.count);
      heads.copy(scratch.factors.data() + k * heads.padded, in.edge_scale + edges[k] * heads.count);
    }
  }
  typename Vector<T>::type source, score, total, factor;
  for (int64_t lane = 0; lane < heads.span; lane += Vector<T>::kWidth) {
    load(source, scratch.scores.data() + lane);
    for (int64_t i = lane; i < heads.size(row.count); i += heads.span) {
      load(score, scratch.slopes.data() + i);
      load(total, scratch.weights.data() + i);
      score += source;
      const auto slope = score > T(0) ? 1 + decltype(score){} : in.negative_slope + decltype(score){};
      score = score * slope - total;
      score = score > T(0) ? decltype(score){} : score;  // a weight is at most 1, whatever was rounded
      exponential<T>(score);
      load(factor, scratch.factors.data() + i);
      store(scratch.slopes.data() + i, score * slope);
      store(scratch.weights.data() + i, score * factor);
    }
  }
}

// For pieces of a row: adds weight * the targets' gradients to the sums, and puts the products of the source's values
// and the targets' gradients, a number for each lane and head, in the scratch's parts.
template <int kPieces, int64_t kLanes, class T>
INLINE void weigh_pieces(const Piece* pieces, int64_t first_piece, const Attention<T>& in, Entries row,
                            const T* gradient, SourceScratch<T>& scratch) {
  typename Vector<T, kLanes>::type sums[kPieces], values[kPieces], from, part, before;
#pragma GCC unroll 8
  for (int v = 0; v < kPieces; ++v) {
    load(sums[v], scratch.sums.data() + (first_piece + v) * kLanes);
    load(values[v], scratch.values.data() + (first_piece + v) * kLanes);
  }
  const int64_t stride = in.cover.stride, begin = pieces[0].column, end = pieces[kPieces - 1].column + kLanes;
  for (int64_t k = 0; k < row.count; ++k) {
    if (k + kAhead < row.readable) prefetch(gradient + row.indices[k + kAhead] * stride, begin, end);
    const T *coming = gradient + row.indices[k] * stride, *weights = scratch.weights.data() + k * in.heads.padded;
    T* parts = scratch.parts.data() + k * in.heads.padded * kLanes;
#pragma GCC unroll 8
    for (int v = 0; v < kPieces; ++v) {
      load(from, coming + pieces[v].column);
      sums[v] += from * weights[pieces[v].head];
      part = from * values[v];
      if (!pieces[v].begins) {
        load(before, parts + pieces[v].head * kLanes);
        part += before;
      }
      store(parts + pieces[v].head * kLanes, part);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kPieces; ++v) store(scratch.sums.data() + (first_piece + v) * kLanes, sums[v]);
}

// The entries of the transposed CSR, whose `edges` find their factors of dropout.
struct Transposed {
  const int64_t* indptr;
  int64_t num_rows;
  const int32_t* indices;
  const int64_t* edges;
};

template <int64_t kLanes, class T>
VERSIONS void weigh_gradients(const Attention<T>& in, Entries row, const T* gradient, SourceScratch<T>& scratch) {
  for_tiles(in.cover, [&](auto pieces, const Piece* piece) INLINE_LAMBDA {
    weigh_pieces<pieces.value, kLanes>(piece, piece - in.cover.pieces.data(), in, row, gradient, scratch);
  });
  for (int64_t i = 0; i < row.count * in.heads.padded; i += kSummed<T, kLanes>)
    sum_lanes<kLanes>(scratch.parts.data() + i * kLanes, scratch.dots.data() + i);
}

// What a source's next entries add to the gradient of its scores: weight * slope * (factor * dot - mean).
template <class T>
VERSIONS void add_score_gradients(const Heads<T>& heads, int64_t entries, SourceScratch<T>& scratch,
                                  T* source_gradient) {
  T* gradients = scratch.slopes.data();
  const T *factors = scratch.factors.data(), *dots = scratch.dots.data(), *means = scratch.means.data();
  for (int64_t i = 0; i < heads.size(entries); ++i) gradients[i] *= factors[i] * dots[i] - means[i];
  heads.sum(gradients, entries, scratch.gradients.data(), scratch.gradients.data());
  for (int64_t head = 0; head < heads.count; ++head) source_gradient[head] += scratch.gradients[head];
}

// Second half, by source.
template <int64_t kLanes, class T>
void source_gradient_rows(const Attention<T>& in, const Transposed& back, const T* facts,
                                   const T* gradient, SourceScratch<T>& scratch, T* value_gradient, T* source_gradient,
                                   int64_t begin, int64_t end) {
  const int64_t count = in.heads.count, stride = in.cover.stride;
  const std::vector<Piece>& pieces = in.cover.pieces;
  typename Vector<T, kLanes>::type values;
  for (int64_t s = begin; s < end; ++s) {
    in.heads.repeat(scratch.scores.data(), in.source_scores + s * count);
    for (size_t v = 0; v < pieces.size(); ++v) {
      load_new(values, in.values + s * stride, pieces[v]);
      store(scratch.values.data() + v * kLanes, values);
    }
    std::fill(scratch.sums.begin(), scratch.sums.end(), T(0));
    std::fill_n(source_gradient + s * count, count, T(0));
    for (int64_t first = back.indptr[s]; first < back.indptr[s + 1]; first += scratch.entries) {
      const int64_t entries = std::min(scratch.entries, back.indptr[s + 1] - first);
      const Entries row{back.indices + first, entries, back.indptr[back.num_rows] - first};
      remake_weights(in, row, back.edges + first, facts, scratch);
      weigh_gradients<kLanes>(in, row, gradient, scratch);
      add_score_gradients(in.heads, entries, scratch, source_gradient + s * count);
    }
    for (size_t v = 0; v < pieces.size(); ++v)
      std::copy_n(scratch.sums.data() + v * kLanes, kLanes, value_gradient + s * stride + pieces[v].column);
  }
}

template <class T>
int64_t attention_source_gradient(const Attention<T>& in, const Transposed& back, const T* facts,
                                  const T* gradient, T* value_gradient, T* source_gradient) {
  with_lanes<T>(in.cover.lanes, [&](auto lanes) {
#pragma omp parallel if (back.indptr[back.num_rows] * in.cover.stride >= kSerialWork)
    {
      SourceScratch<T> scratch(in.heads, in.cover);
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < back.num_rows; begin += kRowsPerTask)
        source_gradient_rows<lanes.value>(in, back, facts, gradient, scratch, value_gradient, source_gradient, begin,
                                          std::min(begin + kRowsPerTask, back.num_rows));
    }
  });
  return 0;
}

}  // namespace

#define SOFTMAX_INSTANCES(T, NAME)                                                                                   \
  EXPORT int64_t edge_softmax_##NAME(const int64_t* indptr, int64_t num_rows, const T* scores, int64_t heads,        \
                                     T* totals, T* out) {                                                            \
    return edge_softmax(indptr, num_rows, scores, heads, totals, out);                                               \
  }                                                                                                                  \
  EXPORT int64_t edge_softmax_backward_##NAME(const int64_t* indptr, int64_t num_rows, const T* weight,              \
                                              const T* gradient, const T* total_gradient, int64_t heads, T* out) {   \
    return edge_softmax_backward(indptr, num_rows, weight, gradient, total_gradient, heads, out);                    \
  }                                                                                                                  \
  EXPORT int64_t exponential_##NAME(const T* x, int64_t size, T* out) { /* size: a multiple of a vector's */         \
    typename Vector<T>::type value;                                                                                  \
    for (int64_t i = 0; i < size; i += Vector<T>::kWidth) {                                                          \
      load(value, x + i);                                                                                            \
      exponential<T>(value);                                                                                         \
      store(out + i, value);                                                                                         \
    }                                                                                                                \
    return 0;                                                                                                        \
  }

#define INPUTS(T)                                                                                                 \
  const int64_t *indptr, int64_t num_rows, const int32_t *indices, const T *values, const T *source_scores,          \
      const T *target_scores, const T *edge_scale, int64_t heads, int64_t width, double negative_slope
#define OUTPUTS(T) T *totals, T *sums, T *positive_totals, T *positive
#define ATTENTION(T)                                                                                              \
  Attention<T> {                                                                                                  \
    indptr, num_rows, indices, values, source_scores, target_scores, edge_scale, static_cast<T>(negative_slope),     \
        Heads<T>(heads), cover<T>(heads, width)                                                                      \
  }

#define INSTANCES(T, NAME)                                                                                        \
  EXPORT int64_t attention_##NAME(INPUTS(T), OUTPUTS(T)) {                                                        \
    return attention(ATTENTION(T), Outputs<T>{totals, sums, positive_totals, positive});                          \
  }                                                                                                                  \
  EXPORT int64_t attention_target_gradient_##NAME(INPUTS(T), OUTPUTS(T), const T* gradient,                       \
                                                  const T* total_gradient, T* facts, T* target_gradient) {           \
    return attention_target_gradient(ATTENTION(T), Outputs<T>{totals, sums, positive_totals, positive},           \
                                     Gradients<T>{gradient, total_gradient}, facts, target_gradient);                \
  }                                                                                                                  \
  EXPORT int64_t attention_source_gradient_##NAME(INPUTS(T), const int64_t* edges, const T* facts,                \
                                                  const T* gradient, T* value_gradient, T* source_gradient) {        \
    return attention_source_gradient(ATTENTION(T), Transposed{indptr, num_rows, indices, edges}, facts,        \
                                     gradient, value_gradient, source_gradient);                                     \
  }

SOFTMAX_INSTANCES(float, float32)
SOFTMAX_INSTANCES(double, float64)
INSTANCES(float, float32)
INSTANCES(double, float64)
