#include "weights/store.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <sstream>

namespace swap {
namespace {

at::ScalarType scalar_type(const TensorEntry& entry) {
  if (entry.dtype == "F32") return at::kFloat;
  if (entry.dtype == "F16") return at::kHalf;
  if (entry.dtype == "BF16") return at::kBFloat16;
  if (entry.dtype == "F64") return at::kDouble;
  if (entry.dtype == "I64") return at::kLong;
  if (entry.dtype == "I32") return at::kInt;
  if (entry.dtype == "U8") return at::kByte;
  throw Error("SWAP_MODEL_TENSOR_DTYPE", "tensor '" + entry.name + "' has an unknown dtype '" + entry.dtype + "'");
}

std::string text(at::IntArrayRef shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

constexpr int64_t kChunk = int64_t(16) << 20;  // bytes between two looks at the cancel flag
// Bytes that a thread reads at a time: still in its nearer caches when they are turned into the dtype.
constexpr int64_t kPiece = int64_t(256) << 10;

}  // namespace

WeightStore::WeightStore(const std::vector<TensorEntry>& entries, const Compute& compute, Cancel cancel,
                         std::function<void(int64_t, int64_t)> progress, const std::vector<WeightDelta>& deltas)
    : compute_(compute), cancel_(cancel), progress_(std::move(progress)) {
  for (const auto& entry : entries) {
    total_ += static_cast<int64_t>(entry.end - entry.begin);
    entries_.emplace(entry.name, entry);
  }
  for (const auto& delta : deltas) deltas_[delta.target].push_back(delta);
}

File& WeightStore::open(const std::string& file) {
  auto& opened = files_[file];
  if (!opened) opened = std::make_unique<File>(file);
  return *opened;
}

const TensorEntry& WeightStore::find(const std::string& name, const std::string& shape) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  throw Error("SWAP_MODEL_TENSOR_MISSING", "tensor '" + name + "'" + shape + " is not in the model's files",
              "the files may be incomplete, or of another architecture than their config says");
}

at::Tensor WeightStore::fetch(const TensorEntry& entry, at::ScalarType dtype) {
  const auto source = scalar_type(entry);
  const int64_t item = static_cast<int64_t>(c10::elementSize(source));
  int64_t count = 1;
  for (const int64_t size : entry.shape) count *= size;
  if (static_cast<int64_t>(entry.end - entry.begin) != count * item) {
    throw Error("SWAP_MODEL_TENSOR_SHAPE", "tensor '" + entry.name + "' has " +
                                               std::to_string(entry.end - entry.begin) +
                                               " bytes, but its shape and dtype need " + std::to_string(count * item));
  }
  File& file = open(entry.file);
  auto result = at::empty({count}, at::TensorOptions().dtype(dtype));
  const bool same = source == dtype;
  const int64_t piece = kPiece / item;
  for (int64_t begin = 0; begin < count; begin += kChunk / item) {
    cancel_.check();
    const int64_t end = std::min(count, begin + kChunk / item);
    std::atomic<bool> whole = true;
    at::parallel_for(0, (end - begin + piece - 1) / piece, 1, [&](int64_t first, int64_t last) {
      const auto staging = same ? at::Tensor() : at::empty({piece}, at::TensorOptions().dtype(source));
      for (int64_t i = first; i < last; ++i) {
        const int64_t from = begin + i * piece, n = std::min(piece, end - from);
        const auto target = result.narrow(0, from, n), read = same ? target : staging.narrow(0, 0, n);
        if (!file.read(read.data_ptr(), n * item, entry.begin + static_cast<uint64_t>(from * item))) {
          whole = false;
          return;
        }
        if (!same) target.copy_(read);
      }
    });
    if (!whole) {
      throw Error("SWAP_MODEL_FILE", "'" + entry.file + "' ends before tensor '" + entry.name + "' does",
                  "the file was cut short: copy or download it again");
    }
    read_ += (end - begin) * item;
    if (progress_) progress_(read_, total_);
  }
  if (!entry.transposed) return result.view(entry.shape);
  if (entry.shape.size() != 2)
    throw Error("SWAP_ENGINE_ARGUMENT", "tensor '" + entry.name + "' " + text(entry.shape) + " cannot be transposed");
  return result.view({entry.shape[1], entry.shape[0]}).t().contiguous();
}

at::Tensor WeightStore::read(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  cancel_.check();
  // A model of shapes alone, for dry runs.
  if (compute_.device.is_meta()) return at::empty(shape, at::TensorOptions().dtype(dtype).device(at::kMeta));
  const TensorEntry& entry = find(name, " " + text(shape));
  if (at::IntArrayRef(entry.shape) != shape) {
    throw Error("SWAP_MODEL_TENSOR_SHAPE",
                "tensor '" + name + "' is " + text(entry.shape) + ", but the model's config wants " + text(shape));
  }
  const auto deltas = deltas_.find(name);
  auto result = fetch(entry, deltas == deltas_.end() ? dtype : at::kFloat);
  if (deltas != deltas_.end()) {
    for (const auto& delta : deltas->second) add(delta, result);
    deltas_.erase(deltas);
    result = result.to(dtype);
  }
  parameters_ += result.numel();
  bytes_ += result.numel() * static_cast<int64_t>(c10::elementSize(dtype));
  return compute_.device.is_cpu() ? result : result.to(compute_.device);
}

at::Tensor WeightStore::factor(const std::string& name) {
  cancel_.check();
  return fetch(find(name, ""), at::kFloat);
}

// W [out, in, ...] += scale * up [out, rank] @ down [rank, in * ...], or, with a middle [rank, rank, kh, kw], the
// convolution that the three make one after the other.
void WeightStore::add(const WeightDelta& delta, at::Tensor& weight) {
  const auto down = factor(delta.down), up = factor(delta.up);
  const auto check = [&](bool ok) {
    if (ok) return;
    throw Error("SWAP_ENGINE_ARGUMENT", "factors " + text(up.sizes()) + " and " + text(down.sizes()) + " do not make " +
                                            text(weight.sizes()) + " of '" + delta.target + "'");
  };
  check(weight.dim() >= 2 && down.dim() >= 2 && up.dim() >= 2);
  const auto left = up.flatten(1), right = down.flatten(1);
  check(left.size(0) == weight.size(0) && left.size(1) > 0);
  at::Tensor product;
  if (delta.middle.empty()) {
    check(left.size(1) == right.size(0) && left.size(0) * right.size(1) == weight.numel());
    product = at::mm(left, right);
  } else {
    const auto middle = factor(delta.middle);
    check(middle.dim() == 4 && middle.size(0) == left.size(1) && middle.size(1) == right.size(0) &&
          left.size(0) * right.size(1) * middle.size(2) * middle.size(3) == weight.numel());
    product = at::einsum("or,rskl,si->oikl", {left, middle, right}).contiguous();
  }
  weight.add_(product.view(weight.sizes()), delta.scale);
}

void WeightStore::check_deltas() const {
  if (!deltas_.empty())
    throw Error("SWAP_ENGINE_ARGUMENT",
                "a delta is for '" + deltas_.begin()->first + "', which the model does not read");
}

}  // namespace swap
