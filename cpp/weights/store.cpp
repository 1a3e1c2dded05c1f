#include "weights/store.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <sstream>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/memory.h"

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

// Bytes that are read at a time, between two looks at the cancel flag: threads that are woken for less cost more than
// they read.
constexpr int64_t kBatch = int64_t(48) << 20;
// Bytes that a thread reads at a time: still in its nearer caches when they are turned into the dtype.
constexpr int64_t kPiece = int64_t(256) << 10;

// Elements `from` to `from + n` of a tensor as they lie in its file.
struct Piece {
  size_t tensor;
  int64_t from, n;
};

// A tensor as rows that lie one behind the other in its file and in memory: of a convolution that is channels-last one
// for each output channel, else its elements.
int64_t row_length(const at::Tensor& target) { return target.is_contiguous() ? 1 : target.numel() / target.size(0); }

// Turns the type of numbers that lie one behind the other. `floats` holds at least as many.
void convert(const at::Tensor& target, const at::Tensor& numbers, const at::Tensor& floats) {
  if (numbers.scalar_type() != at::kHalf || target.scalar_type() != at::kBFloat16) {
    target.copy_(numbers);
  } else if (const auto* kernel = cpu::halves_kernel()) {
    kernel->to_bfloat16(static_cast<const uint16_t*>(numbers.const_data_ptr()),
                        static_cast<uint16_t*>(target.data_ptr()), numbers.numel());
  } else {
    // LibTorch turns float16 into bfloat16 one by one, but both from and to float32 many at a time.
    target.copy_(floats.narrow(0, 0, numbers.numel()).copy_(numbers));
  }
}

// One row [channels, P] to [P, channels], four channels a store where they are whole fours.
template <int64_t P, typename T>
void turn(const T* from, T* to, int64_t channels) {
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4, from += 4 * P) {
    for (int64_t p = 0; p < P; ++p) {
      const T four[4] = {from[p], from[P + p], from[2 * P + p], from[3 * P + p]};
      std::memcpy(to + p * channels + c, four, sizeof(four));
    }
  }
  for (; c < channels; ++c, from += P) {
    for (int64_t p = 0; p < P; ++p) to[p * channels + c] = from[p];
  }
}

template <typename T>
void to_channels_last(const at::Tensor& source, char* target, int64_t channels, int64_t pixels) {
  const int64_t row = channels * pixels;
  const auto* from = static_cast<const T*>(source.const_data_ptr());
  auto* to = reinterpret_cast<T*>(target);
  const auto* const end = from + source.numel();
  const auto* const kernel = sizeof(T) == 2 && pixels == 9 && channels % 32 == 0 ? cpu::halves_kernel() : nullptr;
  for (; from < end; from += row, to += row) {
    if constexpr (sizeof(T) == 2) {
      if (kernel) {
        kernel->turn(from, to, channels);
        continue;
      }
    }
    if (pixels == 9) {  // all but a few
      turn<9>(from, to, channels);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) to[p * channels + c] = from[c * pixels + p];
    }
  }
}

// Where one thread turns its pieces.
struct Scratch {
  at::Tensor bytes;      // as they lie in the file
  at::Tensor floats;     // float16 on its way to bfloat16
  at::Tensor converted;  // bytes of the target's type, still in the file's order
};

// Puts numbers, as they lie in the file, in their places.
void place(const at::Tensor& target, int64_t from, const at::Tensor& numbers, const Scratch& scratch) {
  const int64_t n = numbers.numel();
  if (target.is_contiguous()) {
    convert(target.view(-1).narrow(0, from, n), numbers, scratch.floats);
    return;
  }
  // First the type, then the order: LibTorch's copy does both at once one by one.
  auto source = numbers;
  const auto item = static_cast<int64_t>(target.element_size());
  if (numbers.scalar_type() != target.scalar_type()) {
    source = scratch.converted.narrow(0, 0, n * item).view(target.scalar_type());
    convert(source, numbers, scratch.floats);
  }
  const int64_t channels = target.size(1), pixels = row_length(target) / channels;
  auto* const to = static_cast<char*>(target.data_ptr()) + from * item;
  if (item == 2) {
    to_channels_last<uint16_t>(source, to, channels, pixels);
  } else {
    to_channels_last<uint32_t>(source, to, channels, pixels);
  }
}

}  // namespace

WeightStore::WeightStore(const std::vector<TensorEntry>& entries, const Compute& compute, Cancel cancel,
                         std::function<void(int64_t, int64_t)> progress, const std::vector<WeightDelta>& deltas)
    : compute_(compute), cancel_(cancel), progress_(std::move(progress)) {
  for (const auto& entry : entries) {
    total_ += static_cast<int64_t>(entry.end - entry.begin);
    entries_.emplace(entry.name, entry);
  }
  if (small()) arena_ = c10::make_intrusive<Arena>();
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

at::Tensor WeightStore::allocate(at::IntArrayRef shape, at::ScalarType dtype, at::MemoryFormat layout) const {
  const SmallPages pages;
  return at::empty(shape, at::TensorOptions().dtype(dtype).memory_format(layout).device(compute_.device));
}

void WeightStore::enqueue(const TensorEntry& entry, const at::Tensor& target) {
  const int64_t item = static_cast<int64_t>(c10::elementSize(scalar_type(entry)));
  int64_t count = 1;
  for (const int64_t size : entry.shape) count *= size;
  Pending pending{&entry, nullptr, target};
  if (pending.bytes() != count * item) {
    throw Error("SWAP_MODEL_TENSOR_SHAPE", "tensor '" + entry.name + "' has " + std::to_string(pending.bytes()) +
                                               " bytes, but its shape and dtype need " + std::to_string(count * item));
  }
  pending.file = &open(entry.file);
  pending_.push_back(pending);
  pending_bytes_ += pending.bytes();
  if (pending_bytes_ >= kBatch) read_pending();
}

void WeightStore::read_pending() {
  cancel_.check();
  std::vector<Piece> pieces;
  int64_t longest = 0;  // bytes
  for (size_t i = 0; i < pending_.size(); ++i) {
    const auto& target = pending_[i].target;
    const int64_t item = static_cast<int64_t>(c10::elementSize(scalar_type(*pending_[i].entry)));
    const int64_t row = row_length(target), n = std::max<int64_t>(1, kPiece / (row * item)) * row;
    for (int64_t from = 0; from < target.numel(); from += n)
      pieces.push_back({i, from, std::min(n, target.numel() - from)});
    longest = std::max(longest, std::min(n, target.numel()) * item);
  }
  const int64_t count = static_cast<int64_t>(pieces.size()), workers = cpu::worker_count(count);
  std::vector<Scratch> scratch(static_cast<size_t>(workers));
  for (auto& one : scratch) {
    one = {at::empty({longest}, at::kByte), at::empty({longest / 2}, at::kFloat), at::empty({4 * longest}, at::kByte)};
  }
  std::atomic<int64_t> failed = -1;
  cpu::run_parallel(count, [&](int64_t index, int64_t worker) {
    const auto& [tensor, from, n] = pieces[static_cast<size_t>(index)];
    const auto& [entry, file, target] = pending_[tensor];
    const auto dtype = scalar_type(*entry);
    const int64_t item = static_cast<int64_t>(c10::elementSize(dtype));
    const bool straight = dtype == target.scalar_type() && target.is_contiguous();
    const auto size = static_cast<int64_t>(target.element_size());
    take_pages(static_cast<char*>(target.data_ptr()) + from * size, static_cast<size_t>(n * size));
    const auto& own = scratch[static_cast<size_t>(worker)];
    const auto numbers = straight ? target.view(-1).narrow(0, from, n) : own.bytes.narrow(0, 0, n * item).view(dtype);
    if (!file->read(numbers.data_ptr(), n * item, entry->begin + static_cast<uint64_t>(from * item))) {
      failed = static_cast<int64_t>(tensor);
    } else if (!straight) {
      place(target, from, numbers, own);
    }
  });
  if (failed >= 0) {
    const auto& entry = *pending_[static_cast<size_t>(failed)].entry;
    throw Error("SWAP_MODEL_FILE", "'" + entry.file + "' ends before tensor '" + entry.name + "' does",
                "the file was cut short: copy or download it again");
  }
  read_ += pending_bytes_;
  pending_.clear();
  pending_bytes_ = 0;
  if (progress_) progress_(read_, total_);
}

at::Tensor WeightStore::fetch(const TensorEntry& entry) {
  const auto result = at::empty(entry.shape, at::kFloat);
  enqueue(entry, result);
  read_pending();
  if (!entry.transposed) return result;
  if (entry.shape.size() != 2)
    throw Error("SWAP_ENGINE_ARGUMENT", "tensor '" + entry.name + "' " + text(entry.shape) + " cannot be transposed");
  return result.view({entry.shape[1], entry.shape[0]}).t().contiguous();
}

const TensorEntry* WeightStore::expect(const std::string& name, at::IntArrayRef shape) const {
  cancel_.check();
  // A model of shapes alone, for dry runs.
  if (compute_.device.is_meta()) return nullptr;
  const TensorEntry& entry = find(name, " " + text(shape));
  if (at::IntArrayRef(entry.shape) == shape) return &entry;
  throw Error("SWAP_MODEL_TENSOR_SHAPE",
              "tensor '" + name + "' is " + text(entry.shape) + ", but the model's config wants " + text(shape));
}

at::Tensor WeightStore::read(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype,
                             at::MemoryFormat layout) {
  const auto* entry = expect(name, shape);
  const auto result = allocate(shape, dtype, layout);
  read_into(entry, result, layout);
  return result;
}

at::Tensor WeightStore::read_rows(const std::vector<std::string>& names, at::IntArrayRef shape, at::ScalarType dtype) {
  std::vector<const TensorEntry*> entries;
  for (const auto& name : names) entries.push_back(expect(name, shape));
  auto whole = shape.vec();
  whole[0] *= static_cast<int64_t>(names.size());
  const auto result = allocate(whole, dtype, at::MemoryFormat::Contiguous);
  for (size_t i = 0; i < names.size(); ++i) {
    const auto rows = result.narrow(0, static_cast<int64_t>(i) * shape[0], shape[0]);
    read_into(entries[i], rows, at::MemoryFormat::Contiguous);
  }
  return result;
}

void WeightStore::read_into(const TensorEntry* entry, const at::Tensor& target, at::MemoryFormat layout) {
  if (!entry) return;
  const auto deltas = deltas_.find(entry->name);
  if (deltas == deltas_.end() && !entry->transposed && compute_.device.is_cpu()) {
    enqueue(*entry, target);
  } else {
    auto numbers = fetch(*entry);
    if (deltas != deltas_.end()) {
      for (const auto& delta : deltas->second) add(delta, numbers);
      deltas_.erase(deltas);
    }
    target.copy_(numbers.to(target.scalar_type()).contiguous(layout));
  }
  parameters_ += target.numel();
  bytes_ += target.numel() * static_cast<int64_t>(target.element_size());
}

at::Tensor WeightStore::read_stored(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  const auto found = entries_.find(name);
  const bool half = found != entries_.end() && (found->second.dtype == "F16" || found->second.dtype == "BF16");
  return read(name, shape, half ? scalar_type(found->second) : dtype);
}

at::Tensor WeightStore::factor(const std::string& name) {
  cancel_.check();
  return fetch(find(name, ""));
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

void WeightStore::finish() {
  read_pending();
  if (!deltas_.empty())
    throw Error("SWAP_ENGINE_ARGUMENT",
                "a delta is for '" + deltas_.begin()->first + "', which the model does not read");
}

}  // namespace swap
