// Philox4x32-10 (Salmon et al., SC 2011) over a block of counters at once; the same bits as framework/random.py.
#pragma once

#include "common.h"

// Counters of a block: one word of each fills a 512-bit register.
constexpr int kLanes = 16;

struct PhiloxBlock {
  uint32_t words[4][kLanes];  // the counters going in, the draws coming out
};

INLINE void philox(uint64_t key, PhiloxBlock& block) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(block.words[0][i]) * 0xD2511F53u;
      const uint64_t p1 = static_cast<uint64_t>(block.words[2][i]) * 0xCD9E8D57u;
      block.words[0][i] = static_cast<uint32_t>(p1 >> 32) ^ block.words[1][i] ^ k0;
      block.words[2][i] = static_cast<uint32_t>(p0 >> 32) ^ block.words[3][i] ^ k1;
      block.words[1][i] = static_cast<uint32_t>(p1);
      block.words[3][i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
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
