#include "weights/store.h"

#include <algorithm>
#include <filesystem>
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

constexpr int64_t kChunk = int64_t(8) << 20;  // bytes between two looks at the cancel flag

}  // namespace

WeightStore::WeightStore(const std::vector<TensorEntry>& entries, const Compute& compute, Cancel cancel,
                         std::function<void(int64_t, int64_t)> progress)
    : compute_(compute), cancel_(cancel), progress_(std::move(progress)) {
  for (const auto& entry : entries) {
    total_ += static_cast<int64_t>(entry.end - entry.begin);
    entries_.emplace(entry.name, entry);
  }
}

std::ifstream& WeightStore::open(const std::string& file) {
  auto found = files_.find(file);
  if (found != files_.end()) return found->second;
  std::ifstream stream(std::filesystem::u8path(file), std::ios::binary);
  if (!stream)
    throw Error("SWAP_MODEL_FILE", "cannot open '" + file + "'", "check that the file exists and is readable");
  return files_.emplace(file, std::move(stream)).first->second;
}

at::Tensor WeightStore::read(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  cancel_.check();
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw Error("SWAP_MODEL_TENSOR_MISSING", "tensor '" + name + "' " + text(shape) + " is not in the model's files",
                "the files may be incomplete, or of another architecture than their config says");
  }
  const TensorEntry& entry = found->second;
  if (at::IntArrayRef(entry.shape) != shape) {
    throw Error("SWAP_MODEL_TENSOR_SHAPE",
                "tensor '" + name + "' is " + text(entry.shape) + ", but the model's config wants " + text(shape));
  }
  const auto source = scalar_type(entry);
  const int64_t item = static_cast<int64_t>(c10::elementSize(source));
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  if (static_cast<int64_t>(entry.end - entry.begin) != count * item) {
    throw Error("SWAP_MODEL_TENSOR_SHAPE", "tensor '" + name + "' has " + std::to_string(entry.end - entry.begin) +
                                               " bytes, but its shape and dtype need " + std::to_string(count * item));
  }
  auto& stream = open(entry.file);
  stream.clear();
  stream.seekg(static_cast<std::streamoff>(entry.begin));
  auto result = at::empty({count}, at::TensorOptions().dtype(dtype));
  const bool same = source == dtype;
  auto staging = same ? at::Tensor() : at::empty({std::min(count, kChunk / item)}, at::TensorOptions().dtype(source));
  for (int64_t begin = 0; begin < count; begin += kChunk / item) {
    cancel_.check();
    const int64_t n = std::min(count - begin, kChunk / item);
    auto target = same ? result.narrow(0, begin, n) : staging.narrow(0, 0, n);
    stream.read(static_cast<char*>(target.data_ptr()), n * item);
    if (stream.gcount() != n * item) {
      throw Error("SWAP_MODEL_FILE", "'" + entry.file + "' ends before tensor '" + name + "' does",
                  "the file was cut short: copy or download it again");
    }
    if (!same) result.narrow(0, begin, n).copy_(target);
    read_ += n * item;
    if (progress_) progress_(read_, total_);
  }
  parameters_ += count;
  bytes_ += count * static_cast<int64_t>(c10::elementSize(dtype));
  result = result.view(shape);
  return compute_.device.is_cpu() ? result : result.to(compute_.device);
}

}  // namespace swap
