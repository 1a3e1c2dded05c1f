// The tiles of AMX, as all kernels here set them: eight of 16 rows of 64 bytes.
#pragma once

#include <cstdint>

namespace swap::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTiles;

// GCC does not know that the tile instructions read memory: what was written must be there, and be there now.
inline void written() { __asm__ volatile("" ::: "memory"); }

}  // namespace
}  // namespace swap::cpu
