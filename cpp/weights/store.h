// Tensor table -> tensors. Reads tensor by tensor, straight into the dtype that is computed in, so that a model
// is never in memory twice. No mmap: a file cut short would be a SIGBUS, and Windows locks mapped files. What LoRA add
// to a weight is added here, so nothing behind the store knows of them.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine.h"
#include "runtime/cancel.h"
#include "runtime/device.h"
#include "weights/file.h"

namespace swap {

class WeightStore {
 public:
  // `progress` is called with (bytes read, bytes in all).
  WeightStore(const std::vector<TensorEntry>& entries, const Compute& compute, Cancel cancel,
              std::function<void(int64_t, int64_t)> progress, const std::vector<WeightDelta>& deltas = {});

  // Throws SWAP_MODEL_TENSOR_MISSING, SWAP_MODEL_TENSOR_SHAPE, SWAP_MODEL_FILE.
  at::Tensor read(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype);

  // Throws SWAP_ENGINE_ARGUMENT when a delta's target was never read.
  void check_deltas() const;

  const Compute& compute() const { return compute_; }
  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }

 private:
  File& open(const std::string& file);
  const TensorEntry& find(const std::string& name, const std::string& shape) const;
  // The numbers of an entry, of its shape, on the CPU.
  at::Tensor fetch(const TensorEntry& entry, at::ScalarType dtype);
  at::Tensor factor(const std::string& name);
  void add(const WeightDelta& delta, at::Tensor& weight);

  std::unordered_map<std::string, std::vector<WeightDelta>> deltas_;  // by target
  std::unordered_map<std::string, TensorEntry> entries_;
  std::unordered_map<std::string, std::unique_ptr<File>> files_;
  Compute compute_;
  Cancel cancel_;
  std::function<void(int64_t, int64_t)> progress_;
  int64_t read_ = 0, total_ = 0, parameters_ = 0, bytes_ = 0;
};

// A place in the table: "unet." / "down_blocks.0." ... Modules are built from a scope and read what they need.
class Scope {
 public:
  Scope(WeightStore& store, std::string prefix, at::ScalarType dtype)
      : store_(&store), prefix_(std::move(prefix)), dtype_(dtype) {}

  Scope operator/(const std::string& name) const { return Scope(*store_, prefix_ + name + ".", dtype_); }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  at::Tensor read(const std::string& name, at::IntArrayRef shape) const {
    return store_->read(prefix_ + name, shape, dtype_);
  }

 private:
  WeightStore* store_;
  std::string prefix_;
  at::ScalarType dtype_;
};

}  // namespace swap
