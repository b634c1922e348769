// Philox4x32-10 (Salmon et al., SC 2011) over a block of counters at once; the same bits as framework/random.py.
#pragma once

#include <cstring>

#include "common.h"

// Counters of a block: one word of each fills a 512-bit register.
constexpr int kLanes = 16;

struct PhiloxBlock {
  uint32_t words[4][kLanes];  // the counters going in, the draws coming out
};

// Words 0 and 2 are multiplied to 64 bits: a register holds every other lane, each in a half of 64 bits of its own.
INLINE void philox(uint64_t key, PhiloxBlock& block) {
  typedef uint64_t Wide __attribute__((vector_size(64)));
  constexpr uint64_t kMask = 0xFFFFFFFFu;
  uint64_t k0 = key & kMask, k1 = key >> 32;
  Wide c[4][2];
  for (int word = 0; word < 4; ++word) {
    Wide lanes;
    std::memcpy(&lanes, block.words[word], sizeof(lanes));
    c[word][0] = lanes & kMask;
    c[word][1] = lanes >> 32;
  }
  for (int round = 0; round < 10; ++round) {
    for (int half = 0; half < 2; ++half) {
      const Wide p0 = c[0][half] * uint64_t{0xD2511F53u}, p1 = c[2][half] * uint64_t{0xCD9E8D57u};
      c[0][half] = (p1 >> 32) ^ c[1][half] ^ k0;
      c[2][half] = (p0 >> 32) ^ c[3][half] ^ k1;
      c[1][half] = p1 & kMask;
      c[3][half] = p0 & kMask;
    }
    k0 = (k0 + 0x9E3779B9u) & kMask;
    k1 = (k1 + 0xBB67AE85u) & kMask;
  }
  for (int word = 0; word < 4; ++word) {
    const Wide lanes = c[word][0] | (c[word][1] << 32);
    std::memcpy(block.words[word], &lanes, sizeof(lanes));
  }
}

// Counters (first + lane, id low, id high, last), one id for all lanes.
INLINE void count_up(PhiloxBlock& block, uint32_t first, int64_t id, uint32_t last) {
  const uint64_t bits = static_cast<uint64_t>(id);
  for (int i = 0; i < kLanes; ++i) {
    block.words[0][i] = first + i;
    block.words[1][i] = static_cast<uint32_t>(bits);
    block.words[2][i] = static_cast<uint32_t>(bits >> 32);
    block.words[3][i] = last;
  }
}
