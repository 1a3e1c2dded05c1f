#pragma once

#include <ATen/ATen.h>

// By how much two tensors differ, as a part of the greatest value of the second. NaN where one has it.
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  const auto found = a.to(at::kDouble), expected = b.to(at::kDouble);
  return ((found - expected).abs().max() / expected.abs().max()).item<double>();
}
