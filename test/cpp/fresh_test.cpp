// Tensors, views and checks that go past LibTorch's dispatcher: the same as what its own operators give.
#include "runtime/fresh.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "attention/layout.h"
#include "checks.h"
#include "models/layers.h"
#include "runtime/tensors.h"

namespace {

// The same memory, seen the same way.
bool same_view(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides() && a.data_ptr() == b.data_ptr() &&
         a.scalar_type() == b.scalar_type() && a.is_contiguous() == b.is_contiguous() &&
         a.is_contiguous(at::MemoryFormat::ChannelsLast) == b.is_contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace

TEST_CASE("views are LibTorch's own, with and without its graph's bookkeeping") {
  for (const bool inference : {false, true}) {
    const c10::InferenceMode mode(inference);
    const auto rows = at::randn({3, 20, 32}), part = rows.narrow(0, 1, 2).narrow(2, 8, 16);
    for (const auto& x : {rows, part}) {
      const auto heads = swap::split_heads(x, 4);
      CHECK(same_view(heads, x.view({x.size(0), 20, 4, x.size(2) / 4}).transpose(1, 2)));
      const auto joined = swap::join_heads(heads);
      CHECK(same_view(joined, x));
      CHECK(same_view(swap::picture_of_rows(x, 4, 5), x.view({x.size(0), 4, 5, x.size(2)}).permute({0, 3, 1, 2})));
      CHECK(same_view(swap::rows_of_picture(swap::picture_of_rows(x, 4, 5)), x));
      CHECK(same_view(swap::samples_of(x, 1, 1), x.narrow(0, 1, 1)));
    }
    // What no view can show is copied.
    const auto apart = at::randn({2, 3, 5, 8}), picture = at::randn({2, 3, 4, 5}).narrow(3, 0, 4);
    CHECK(at::equal(swap::join_heads(apart), apart.transpose(1, 2).reshape({2, 5, 24})));
    CHECK(at::equal(swap::rows_of_picture(picture), picture.permute({0, 2, 3, 1}).reshape({2, 16, 3})));
    CHECK_THROWS(swap::samples_of(rows, 2, 2));
    CHECK_THROWS(swap::samples_of(rows, -1, 1));
    CHECK_THROWS(swap::split_heads(rows, 5));
    CHECK_THROWS(swap::split_sides(rows, 2));
    CHECK_THROWS(swap::picture_of_rows(rows, 4, 6));
  }
}

TEST_CASE("a view of what has a gradient has it too") {
  const auto x = at::randn({2, 6, 8}).requires_grad_(true);
  const auto through = [&](const at::Tensor& view) { return torch::autograd::grad({view.square().sum()}, {x})[0]; };
  const auto expected = 2 * x.detach();
  CHECK(at::equal(through(swap::split_heads(x, 2)), expected));
  CHECK(at::equal(through(swap::join_heads(swap::split_heads(x, 2))), expected));
  CHECK(at::equal(through(swap::rows_of_picture(swap::picture_of_rows(x, 2, 3))), expected));
  CHECK(at::equal(through(swap::samples_of(x, 0, 2)), expected));
  const c10::NoGradGuard constant;
  CHECK(!swap::in_graph(x));
}

TEST_CASE("a fresh tensor is of the asked type, layout and device") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto like = at::empty({1}, type);
    const auto x = swap::fresh(like, {2, 32, 3, 4}, at::MemoryFormat::ChannelsLast);
    CHECK((x.scalar_type() == type));
    CHECK(x.is_contiguous(at::MemoryFormat::ChannelsLast));
    CHECK(swap::fresh(like, {0, 3}).numel() == 0);
    CHECK((swap::fresh(like, {5}, at::kInt).scalar_type() == at::kInt));
    CHECK(swap::rows_with_heads(at::empty({2, 3, 5, 8}, type)).transpose(1, 2).is_contiguous());
  }
  const auto meta = at::empty({1}, at::TensorOptions().device(at::kMeta));
  CHECK(swap::fresh(meta, {2, 3}).is_meta());
}

TEST_CASE("a number that is none is found wherever it is") {
  using Limits = std::numeric_limits<float>;
  for (const int64_t n : {1, 7, 64, 1000}) {
    const auto x = at::full({n}, Limits::max());
    x[n / 2] = -Limits::denorm_min();
    CHECK(!swap::has_nan({x, -x}));
    for (const float none : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
      for (const int64_t at : {int64_t(0), n / 2, n - 1}) {
        auto y = x.clone();
        y[at] = none;
        CHECK(swap::has_nan({x, y}));
        // By LibTorch's operators.
        CHECK(swap::has_nan({y.to(at::kDouble)}));
        CHECK(swap::has_nan({y.view({n, 1}).expand({n, 2})}));
      }
    }
    CHECK(!swap::has_nan({x.to(at::kDouble)}));
  }
  CHECK(!swap::has_nan(at::TensorList{}));
}
