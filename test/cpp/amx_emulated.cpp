// The products of cpp/cpu/amx_product.cpp with tiles in memory, so that processors without AMX test them as well.
#include "amx_emulated.h"

#ifdef SWAP_X86

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")

namespace {

uint8_t tiles[8][16][64];
bool configured = false;

float widen(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Without a configuration the processor would stop the program, and so does this.
void emulated_zero(int tile) {
  if (!configured) std::abort();
  std::memset(tiles[tile], 0, sizeof tiles[tile]);
}

void emulated_load(int tile, const void* from, int stride) {
  if (!configured) std::abort();
  for (int row = 0; row < 16; ++row) std::memcpy(tiles[tile][row], static_cast<const char*>(from) + row * stride, 64);
}

void emulated_store(int tile, void* to, int stride) {
  for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * stride, tiles[tile][row], 64);
}

// c [16][16] floats += a [16][16 pairs] b [16 pairs][16]
void emulated_products(int c, int a, int b) {
  uint16_t left[16][16][2], right[16][16][2];
  float sums[16][16];
  std::memcpy(left, tiles[a], sizeof left);
  std::memcpy(right, tiles[b], sizeof right);
  std::memcpy(sums, tiles[c], sizeof sums);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      for (int pair = 0; pair < 16; ++pair) {
        for (int i = 0; i < 2; ++i) {
          sums[row][column] += widen(left[row][pair][i]) * widen(right[pair][column][i]);
        }
      }
    }
  }
  std::memcpy(tiles[c], sums, sizeof sums);
}

}  // namespace

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero(tile) emulated_zero(tile)
#define _tile_loadd(tile, from, stride) emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_store(tile, to, stride)
#define _tile_dpbf16ps(c, a, b) emulated_products(c, a, b)
#define _tile_loadconfig(config) (configured = true)
#define _tile_release() (configured = false)
#define kProductAmx kProductAmxEmulated

#include "cpu/amx_product.cpp"

#endif
