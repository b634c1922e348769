// What every kernel shares: the C interface, function versions for several CPUs, index checks.
//
// Assumptions: pointers are to contiguous arrays whose sizes the caller has checked; a function returns 0, or
// 1 + the position of the first entry it cannot use. Compiled without contraction to fused multiply-adds and without
// -ffast-math, so that every version of a function gives the same bits on every CPU (the log that attention takes from
// the C library is the library's to keep).
#pragma once

#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

// VERSIONS before a function compiles it for several instruction sets; the loader picks the best the CPU has. It takes
// glibc and a compiler that knows the names of the x86-64 levels. An OpenMP region is not versioned with the function
// that holds it: the hot loop has to be a function of its own, called from the region.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define VERSIONS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VERSIONS
#endif

// Rows a thread takes at a time: enough to hide the scheduling, few enough to level out rows of unequal degree.
constexpr int64_t kRowsPerTask = 128;

// Work (roughly: elements touched) below which starting threads costs more than it saves.
constexpr int64_t kSerialWork = 1 << 15;
