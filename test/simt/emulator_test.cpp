// The emulator itself: does it do what the manual says, and does it see what it is there to see?
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cp_async.cuh"
#include "ldmatrix.cuh"
#include "mma.cuh"

using namespace swap::cuda;

TEST_CASE("every half and bfloat16 survives a round trip, and ties go to even") {
  for (int i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    if ((bits & 0x7c00) != 0x7c00 || !(bits & 0x3ff)) CHECK(bits::float_to_half(bits::half_to_float(bits)) == bits);
    if ((bits & 0x7f80) != 0x7f80 || !(bits & 0x7f)) CHECK(bits::float_to_bf16(bits::bf16_to_float(bits)) == bits);
  }
  CHECK(bits::float_to_half(1 + 0x1p-11f) == 0x3c00);
  CHECK(bits::float_to_half(1 + 0x3p-11f) == 0x3c02);
  CHECK(bits::float_to_half(65519.f) == 0x7bff);
  CHECK(bits::float_to_half(65520.f) == 0x7c00);
  CHECK(bits::float_to_half(0x1p-25f) == 0);
  CHECK(bits::float_to_half(0x3p-25f) == 2);
  CHECK(bits::float_to_half(-0x1p-14f) == 0x8400);
  CHECK(bits::float_to_bf16(1 + 0x1p-8f) == 0x3f80);
  CHECK(bits::float_to_bf16(1 + 0x3p-8f) == 0x3f82);
}

// A product through ldmatrix and mma, as the kernels do it, against three loops.
TEST_CASE("ldmatrix and mma multiply matrices") {
  constexpr int stride = 24;
  std::vector<float> a(16 * 16), b(16 * 8), c(16 * 8);
  std::mt19937 random(1);
  for (auto* m : {&a, &b})
    for (float& x : *m) x = static_cast<float>(static_cast<int>(random() % 17) - 8);
  for (const int depth : {16, 8}) {
    simt::launch(1, 32, (16 + 16) * stride * 2, [&] {
      auto* rows = reinterpret_cast<__half*>(simt::shared_memory());
      auto* columns = rows + 16 * stride;  // B as it lies, row by row: needs the transposing load
      const int lane = threadIdx.x;
      for (int i = lane; i < 256; i += 32) rows[i / 16 * stride + i % 16] = __float2half(a[i]);
      for (int i = lane; i < 128; i += 32) columns[i / 8 * stride + i % 8] = __float2half(b[i]);
      __syncthreads();
      float sums[4] = {};
      uint32_t fb[2];
      load_matrices_transposed(fb, columns + (lane & 15) * stride);
      if (depth == 16) {
        uint32_t fa[4];
        load_matrices(fa, rows + (lane & 15) * stride + (lane >> 4) * 8);
        mma_k16<Fp16>(sums, fa, fb[0], fb[1]);
      } else {
        uint32_t fa[2];
        load_matrices(fa, rows + (lane & 15) * stride);
        mma_k8<Fp16>(sums, fa[0], fa[1], fb[0]);
      }
      for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
    });
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) {
        float want = 0;
        for (int k = 0; k < depth; ++k) want += a[m * 16 + k] * b[k * 8 + n];
        CHECK(c[m * 8 + n] == want);
      }
  }
}

TEST_CASE("shared memory is NaN until it is written, again for every block") {
  std::vector<float> seen(2);
  simt::launch(2, 32, 4, [&] {
    auto* word = reinterpret_cast<float*>(simt::shared_memory());
    if (threadIdx.x == 0) {
      seen[blockIdx.x] = *word;
      *word = 1;
    }
  });
  CHECK(std::isnan(seen[0]));
  CHECK(std::isnan(seen[1]));
}

TEST_CASE("a copy lands at the wait, or at once, by schedule; an invalid one brings zeros") {
  alignas(16) const uint32_t source[4] = {1, 2, 3, 4};
  for (const bool late : {true, false}) {
    simt::options.copies_land_late = late;
    uint32_t before = 0, after = 0, zero = 1;
    simt::launch(1, 32, 1024, [&] {
      auto* memory = simt::shared_memory() + threadIdx.x * 32;
      copy_chunk(memory, source, true);
      copy_chunk(memory + 16, source, false);
      if (threadIdx.x == 5) before = reinterpret_cast<uint32_t*>(memory)[1];
      wait_for_copies();
      if (threadIdx.x == 5) {
        after = reinterpret_cast<uint32_t*>(memory)[1];
        zero = reinterpret_cast<uint32_t*>(memory)[5];
      }
    });
    CHECK(before == (late ? 0xffffffffu : 2u));
    CHECK(after == 2);
    CHECK(zero == 0);
  }
  simt::options.copies_land_late = true;
}

TEST_CASE("barriers hold, and greedy schedules show where one is missing") {
  const auto sum_of_all = [](bool with_barrier) {
    float sum = 0;
    simt::launch(1, 128, 512, [&] {
      auto* words = reinterpret_cast<float*>(simt::shared_memory());
      words[threadIdx.x] = 1;
      if (with_barrier) __syncthreads();
      if (threadIdx.x == 0)
        for (int i = 0; i < 128; ++i) sum += words[i];
    });
    return sum;
  };
  for (const simt::Order order : simt::kOrders) {
    simt::options.order = order;
    CHECK(sum_of_all(true) == 128);
    if (order == simt::Order::greedy_up) CHECK(std::isnan(sum_of_all(false)));
  }
  simt::options.order = simt::Order::up;
}

// ThreadSanitizer must stop this: scripts/test-simt.mjs asks for it by name.
TEST_CASE("a shuffle orders no memory" * doctest::skip()) {
  simt::launch(1, 32, 128, [&] {
    auto* words = reinterpret_cast<float*>(simt::shared_memory());
    words[threadIdx.x] = 1;
    __shfl_xor_sync(0xffffffffu, 0.f, 1);
    words[threadIdx.x ^ 1] = 2;
  });
}

TEST_CASE("bank conflicts are counted") {
  const auto conflicts = [](int stride_bytes) {
    simt::counters = {};
    simt::launch(1, 32, 32 * stride_bytes, [&] {
      const int lane = threadIdx.x;
      uint32_t r[4];
      load_matrices(r, simt::shared_memory() + lane * stride_bytes);
    });
    return simt::counters.conflicts;
  };
  CHECK(conflicts(80) == 0);       // 5 chunks of 16 bytes
  CHECK(conflicts(64) == 4 * 3);   // 4: rows 0, 2, 4, 6 start in one group
  CHECK(conflicts(128) == 4 * 7);  // 8: all do
  simt::counters = {};
  simt::launch(1, 32, 32 * (1 + 2 + 8) * 4, [&] {
    auto* words = reinterpret_cast<uint32_t*>(simt::shared_memory());
    store_pair(words + threadIdx.x, 0);
    store_pair(words + 32 + threadIdx.x * 2, 0);
    store_pair(words + 96 + threadIdx.x * 8, 0);
    __syncthreads();
  });
  CHECK(simt::counters.stores == 3);
  CHECK(simt::counters.conflicts == 0 + 1 + 7);
}
