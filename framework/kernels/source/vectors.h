// Vectors of a fixed number of lanes, their exponential and their sums: what rows of any width and heads are made of.
//
// Assumptions: a vector is longer than the registers of some CPUs; the compiler splits it for each version of a
// function. Vectors go by reference: one that is returned has no stable ABI.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common.h"

// By default 64 bytes of T: one AVX-512 register, two of AVX2, four of SSE.
template <class T, int64_t kLanes = 64 / sizeof(T)>
struct Vector {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
  static constexpr int64_t kWidth = kLanes;
};

template <class T, class V>
INLINE void load(V& value, const T* from) {
  std::memcpy(&value, from, sizeof(value));
}

template <class T, class V>
INLINE void store(T* to, const V& value) {
  std::memcpy(to, &value, sizeof(value));
}

// What exponential() takes from the type: ln 2 in two parts, the first with so few bits that it times a whole exponent
// is exact; the degree of the series that is exact to the last bit for half of ln 2; the least argument whose
// exponential is a normal number; 1.5 * 2^(bits of the mantissa), which rounds what is added to it to a whole number.
template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  typedef int32_t Bits;
  static constexpr float kLn2 = 0x1.62e4p-1f, kLn2Rest = 1.4286068203094173e-06f;
  static constexpr float kLeast = -87.33f, kRounder = 0x1.8p23f;
  static constexpr int kDegree = 7, kMantissa = 23, kBias = 127;
};

template <>
struct Exponential<double> {
  typedef int64_t Bits;
  static constexpr double kLn2 = 0x1.62e42fefa2p-1, kLn2Rest = 7.371002565167799e-13;
  static constexpr double kLeast = -708.39, kRounder = 0x1.8p52;
  static constexpr int kDegree = 13, kMantissa = 52, kBias = 1023;
};

constexpr double inverse_factorial(int k) { return k < 2 ? 1.0 : inverse_factorial(k - 1) / k; }

// The coefficients of the series of e^r, highest first.
template <class T>
struct Series {
  T of[Exponential<T>::kDegree + 1];
  constexpr Series() : of() {
    for (int k = 0; k <= Exponential<T>::kDegree; ++k)
      of[k] = static_cast<T>(inverse_factorial(Exponential<T>::kDegree - k));
  }
};

// x = e^x in each lane, for x <= 0 or NaN; 0 where e^x is below the least normal number. e^x = 2^n e^r with n whole and
// |r| <= ln(2) / 2, e^r by its series.
template <class T>
INLINE void exponential(typename Vector<T>::type& x) {
  using Of = Exponential<T>;
  typedef typename Vector<typename Of::Bits>::type Bits;
  typedef typename Vector<T>::type V;
  constexpr T kLog2 = T(1.44269504088896340736);
  const V rounded = x * kLog2 + Of::kRounder;
  const V n = rounded - Of::kRounder;
  const V r = (x - n * Of::kLn2) - n * Of::kLn2Rest;
  constexpr Series<T> kSeries;
  V power = r * kSeries.of[0] + kSeries.of[1];
#pragma GCC unroll 16
  for (int k = 2; k <= Of::kDegree; ++k) power = power * r + kSeries.of[k];
  Bits bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits = (bits + Of::kBias) << Of::kMantissa;  // of 2^n: the low bits of `rounded` are n
  V scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  x = x < Of::kLeast ? V{} : power * scale;
}

// out = lanes of a and b by their position in the two, one behind the other.
template <int64_t... kFrom, class V>
INLINE void pick(V& out, const V& a, const V& b) {
#ifdef __clang__
  out = __builtin_shufflevector(a, b, kFrom...);
#else
  out = __builtin_shuffle(a, b, decltype(a == b){kFrom...});
#endif
}

// v[i] and v[i + kHalf], in both of which blocks of 2 kHalf lanes are to be summed, become v[i] with blocks of kHalf.
template <int64_t kHalf, class V, size_t... kLane>
INLINE void halve(V* v, std::index_sequence<kLane...> lanes) {
  constexpr int64_t kCount = sizeof...(kLane);
#pragma GCC unroll 8
  for (int64_t i = 0; i < kHalf; ++i) {
    V low, high;
    pick<(kLane / kHalf % 2 == 0 ? kLane : kCount + kLane - kHalf)...>(low, v[i], v[i + kHalf]);
    pick<(kLane / kHalf % 2 == 0 ? kLane + kHalf : kCount + kLane)...>(high, v[i], v[i + kHalf]);
    v[i] = low + high;
  }
  if constexpr (kHalf > 1) halve<kHalf / 2>(v, lanes);
}

// Rows whose lanes are summed together: as many as numbers in 16 bytes, the vector that every CPU can shuffle.
template <class T, int64_t kLanes>
constexpr int64_t kSummed = std::min<int64_t>(kLanes, 16 / sizeof(T));

// out[i] = the sum of the kLanes numbers from rows[i * kLanes], for i < kSummed, in the same order on every CPU.
template <int64_t kLanes, class T>
INLINE void sum_lanes(const T* rows, T* out) {
  constexpr int64_t kRows = kSummed<T, kLanes>;
  typename Vector<T, kRows>::type v[kRows], part;
#pragma GCC unroll 4
  for (int64_t i = 0; i < kRows; ++i) {
    load(v[i], rows + i * kLanes);
#pragma GCC unroll 4
    for (int64_t c = kRows; c < kLanes; c += kRows) {
      load(part, rows + i * kLanes + c);
      v[i] += part;
    }
  }
  if constexpr (kRows > 1) halve<kRows / 2>(v, std::make_index_sequence<kRows>());
  store(out, v[0]);
}
