// Tensor table -> tensors. Reads straight into the dtype and layout that are computed in, so that a model is never in
// memory twice. No mmap: a file cut short would be a SIGBUS, and Windows locks mapped files. What LoRA add
// to a weight is added here, so nothing behind the store knows of them.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine.h"
#include "runtime/arena.h"
#include "runtime/cancel.h"
#include "runtime/device.h"
#include "weights/file.h"

namespace swap {

// Bytes of a small model's tensors in its files, at most.
constexpr int64_t kSmallModel = int64_t(128) << 20;

class WeightStore {
 public:
  // `progress` is called with (bytes read, bytes in all).
  WeightStore(const std::vector<TensorEntry>& entries, const Compute& compute, Cancel cancel,
              std::function<void(int64_t, int64_t)> progress, const std::vector<WeightDelta>& deltas = {});

  // A tensor of this shape and layout, whose numbers come until finish(): many are read at a time, by all threads.
  // Throws SWAP_MODEL_TENSOR_MISSING, SWAP_MODEL_TENSOR_SHAPE, SWAP_MODEL_TENSOR_DTYPE, SWAP_MODEL_FILE.
  at::Tensor read(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype,
                  at::MemoryFormat layout = at::MemoryFormat::Contiguous);

  // Tensors of this shape, the rows of one below those of the other: [names * rows, ...].
  at::Tensor read_rows(const std::vector<std::string>& names, at::IntArrayRef shape, at::ScalarType dtype);

  // The same in the half precision that the file has it in, else in `dtype`: for tables of which few rows are used.
  at::Tensor read_stored(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype);

  // Reads what was asked for and is not there yet. Throws SWAP_MODEL_FILE, and SWAP_ENGINE_ARGUMENT when a delta's
  // target was never asked for.
  void finish();

  const Compute& compute() const { return compute_; }
  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }
  // A small model's layers keep their weights packed as well, and threads work on shares of its batches.
  bool small() const { return total_ <= kSmallModel; }
  // For what those layers keep; null in a large model.
  const Arena::Ptr& arena() const { return arena_; }

 private:
  // Numbers of an entry on their way into a tensor on the CPU.
  struct Pending {
    const TensorEntry* entry;
    File* file;
    at::Tensor target;
    int64_t bytes() const { return static_cast<int64_t>(entry->end - entry->begin); }
  };

  File& open(const std::string& file);
  const TensorEntry& find(const std::string& name, const std::string& shape) const;
  at::Tensor allocate(at::IntArrayRef shape, at::ScalarType dtype, at::MemoryFormat layout) const;
  // The entry of a tensor that must be of this shape, before memory is taken for it; null on a meta device.
  const TensorEntry* expect(const std::string& name, at::IntArrayRef shape) const;
  // Fills `target`, until finish().
  void read_into(const TensorEntry* entry, const at::Tensor& target, at::MemoryFormat layout);
  void enqueue(const TensorEntry& entry, const at::Tensor& target);
  void read_pending();
  // The numbers of an entry now.
  at::Tensor fetch(const TensorEntry& entry);
  at::Tensor factor(const std::string& name);
  void add(const WeightDelta& delta, at::Tensor& weight);

  std::unordered_map<std::string, std::vector<WeightDelta>> deltas_;  // by target
  std::unordered_map<std::string, TensorEntry> entries_;
  std::unordered_map<std::string, std::unique_ptr<File>> files_;
  std::vector<Pending> pending_;
  int64_t pending_bytes_ = 0;
  Compute compute_;
  Cancel cancel_;
  std::function<void(int64_t, int64_t)> progress_;
  Arena::Ptr arena_;
  int64_t read_ = 0, total_ = 0, parameters_ = 0, bytes_ = 0;
};

// A place in the table: "unet." / "down_blocks.0." ... Modules are built from a scope and read what they need.
class Scope {
 public:
  Scope(WeightStore& store, std::string prefix, at::ScalarType dtype)
      : store_(&store), prefix_(std::move(prefix)), dtype_(dtype) {}

  Scope operator/(const std::string& name) const { return Scope(*store_, prefix_ + name + ".", dtype_); }
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  // The same place, read into another dtype.
  Scope as(at::ScalarType dtype) const { return Scope(*store_, prefix_, dtype); }
  at::Tensor read(const std::string& name, at::IntArrayRef shape,
                  at::MemoryFormat layout = at::MemoryFormat::Contiguous) const {
    return store_->read(prefix_ + name, shape, dtype_, layout);
  }
  at::Tensor read_rows(const std::vector<std::string>& names, at::IntArrayRef shape) const {
    auto whole = names;
    for (auto& name : whole) name = prefix_ + name;
    return store_->read_rows(whole, shape, dtype_);
  }
  const Arena::Ptr& arena() const { return store_->arena(); }
  at::Tensor read_stored(const std::string& name, at::IntArrayRef shape) const {
    return store_->read_stored(prefix_ + name, shape, dtype_);
  }

 private:
  WeightStore* store_;
  std::string prefix_;
  at::ScalarType dtype_;
};

}  // namespace swap
