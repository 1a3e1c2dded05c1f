#include "cpu/parallel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>

#include <algorithm>
#include <atomic>

#include "cpu/kernel.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace swap::cpu {
namespace {

class FlushDenormals {
#ifdef __SSE2__
 public:
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }  // flush to zero, denormals are zeros
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_ = _mm_getcsr();
#endif
};

}  // namespace

int64_t worker_count(int64_t items) {
  if (at::in_parallel_region()) return 1;
  return std::max<int64_t>(1, std::min<int64_t>(items, at::get_num_threads()));
}

namespace {

void run_by(int64_t workers, int64_t items, c10::function_ref<void(int64_t, int64_t)> run) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t worker) {
    const FlushDenormals flush;
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) run(item, worker);
  };
  if (workers == 1) {
    work(0);
    return;
  }
  // at::parallel_for is a template that is serial unless this file has OpenMP, which would have to be LibTorch's own
  // copy. A loop over a tensor's elements runs inside LibTorch, on its threads: each element is a worker.
  auto numbers = at::arange(workers, at::kLong);
  auto loop = at::TensorIteratorConfig()
                  .set_check_mem_overlap(false)
                  .check_all_same_dtype(false)
                  .resize_outputs(false)
                  .add_output(numbers)
                  .build();
  loop.for_each(
      [&](char** data, const int64_t* strides, int64_t columns, int64_t rows) {
        for (int64_t i = 0; i < rows * columns; ++i) {
          const char* at = data[0] + i % columns * strides[0] + i / columns * strides[1];
          work(*reinterpret_cast<const int64_t*>(at));
        }
      },
      1);
}

}  // namespace

void run_parallel(int64_t items, c10::function_ref<void(int64_t, int64_t)> run) {
  run_by(worker_count(items), items, run);
}

void run_rows(int64_t rows, int64_t width, c10::function_ref<void(int64_t)> run) {
  const int64_t some = std::max<int64_t>(1, (int64_t(1) << 15) / width);
  run_parallel(divide_up(rows, some), [&](int64_t item, int64_t) {
    for (int64_t row = item * some; row < std::min(rows, (item + 1) * some); ++row) run(row);
  });
}

void run_apart(int64_t items, c10::function_ref<void(int64_t)> run) {
  // Within a loop of LibTorch's threads there are no others. A loop needs two of them, so for one item a second thread
  // is woken, once; either may take it.
  const int64_t workers = worker_count(std::max<int64_t>(items, 2));
  run_by(workers, items, [&](int64_t item, int64_t) { run(item); });
}

}  // namespace swap::cpu
