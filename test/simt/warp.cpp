// What a warp does together, by the definitions of the PTX ISA manual.
#include "block.h"

namespace simt {
namespace {

enum Operation { kShuffle, kMma16, kMma8, kLdmatrix };  // kLdmatrix + 2 count + transposed

template <class T>
float low(uint32_t pair) {
  return to_float(T{static_cast<uint16_t>(pair)});
}
template <class T>
float high(uint32_t pair) {
  return to_float(T{static_cast<uint16_t>(pair >> 16)});
}

struct Mma {
  float c[4];
  uint32_t a[4], b[2];
};

// "Matrix fragments for mma.m16n8k16" and ".m16n8k8" of the manual; products are summed in fp32, in the order of k.
template <class T, int K>
void mma_warp(Slot* slots) {
  float a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& mine = slots[lane].as<Mma>();
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < K / 8; ++half) {
      for (int r = 0; r < 2; ++r) {
        a[group + 8 * r][pair + 8 * half] = low<T>(mine.a[2 * half + r]);
        a[group + 8 * r][pair + 8 * half + 1] = high<T>(mine.a[2 * half + r]);
      }
      b[pair + 8 * half][group] = low<T>(mine.b[half]);
      b[pair + 8 * half + 1][group] = high<T>(mine.b[half]);
    }
    for (int i = 0; i < 4; ++i) c[group + i / 2 * 8][pair + i % 2] = mine.c[i];
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) slots[lane].as<Mma>().c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

struct Rows {
  const void* row;
  uint32_t r[4];
};

template <int COUNT, bool TRANSPOSED>
void ldmatrix_warp(Slot* slots) {
  const uint16_t* rows[32];
  for (int lane = 0; lane < 32; ++lane) rows[lane] = static_cast<const uint16_t*>(slots[lane].as<Rows>().row);
  Block& block = *current_block;
  for (int m = 0; m < COUNT; ++m) {
    block.counted.ldmatrix++;
    int uses[8] = {}, most = 0;
    for (int i = 0; i < 8; ++i) {
      const size_t group = reinterpret_cast<uintptr_t>(rows[8 * m + i]) / 16 % 8;
      if (++uses[group] > most) most = uses[group];
    }
    block.counted.conflicts += most - 1;
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      const uint16_t first = TRANSPOSED ? rows[8 * m + pair][group] : rows[8 * m + group][pair];
      const uint16_t second = TRANSPOSED ? rows[8 * m + pair + 1][group] : rows[8 * m + group][pair + 1];
      slots[lane].as<Rows>().r[m] = first | uint32_t(second) << 16;
    }
  }
}

}  // namespace

template <class T>
void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, int depth) {
  Mma mine{{c[0], c[1], c[2], c[3]}, {a0, a1, a2, a3}, {b0, b1}};
  exchange(depth == 16 ? kMma16 : kMma8, mine, depth == 16 ? mma_warp<T, 16> : mma_warp<T, 8>);
  for (int i = 0; i < 4; ++i) c[i] = mine.c[i];
}
template void mma<__nv_bfloat16>(float (&)[4], uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, int);
template void mma<__half>(float (&)[4], uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, int);

void ldmatrix(uint32_t* r, int count, bool transposed, const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix: a row that is not aligned to 16 bytes");
  if (current->lane < 8u * count) note_read(row, 16);
  Rows mine{row, {}};
  if (count == 4)
    exchange(kLdmatrix + 8 + transposed, mine, transposed ? ldmatrix_warp<4, true> : ldmatrix_warp<4, false>);
  else
    exchange(kLdmatrix + 4 + transposed, mine, transposed ? ldmatrix_warp<2, true> : ldmatrix_warp<2, false>);
  for (int i = 0; i < count; ++i) r[i] = mine.r[i];
}

float shuffle_xor(unsigned mask, float value, int lane_mask) {
  if (mask != 0xffffffffu) fail("a shuffle of a part of the warp");
  struct Shuffle {
    float value;
    int lane_mask;
  } mine{value, lane_mask};
  exchange(
      kShuffle, mine, +[](Slot* slots) {
        float out[32];
        for (int lane = 0; lane < 32; ++lane)
          out[lane] = slots[(lane ^ slots[lane].as<Shuffle>().lane_mask) & 31].as<Shuffle>().value;
        for (int lane = 0; lane < 32; ++lane) slots[lane].as<Shuffle>().value = out[lane];
      });
  return mine.value;
}

}  // namespace simt
