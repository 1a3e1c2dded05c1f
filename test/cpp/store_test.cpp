// Reading tensors from files: into the dtype that is computed in, and with a coded error for what does not fit.
#include "weights/store.h"

#include <filesystem>
#include <fstream>

#include "checks.h"

using namespace swap;

namespace {

struct TemporaryFile {
  std::string path = (std::filesystem::temp_directory_path() / "swap-store-test.bin").string();
  explicit TemporaryFile(const at::Tensor& values) {
    std::ofstream(path, std::ios::binary)
        .write(static_cast<const char*>(values.const_data_ptr()), static_cast<std::streamsize>(values.nbytes()));
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

// The entry's tensor, read whole.
at::Tensor read(const TensorEntry& entry, at::IntArrayRef shape, at::ScalarType dtype,
                at::MemoryFormat layout = at::MemoryFormat::Contiguous, const std::atomic<bool>* flag = nullptr) {
  Compute compute;
  compute.dtype = dtype;
  WeightStore store({entry}, compute, Cancel(flag), {});
  const auto result = store.read(entry.name, shape, dtype, layout);
  store.finish();
  return result;
}

std::string code_of(const TensorEntry& entry, at::IntArrayRef shape) {
  try {
    read(entry, shape, at::kFloat);
  } catch (const Error& e) {
    return e.code;
  }
  return "";
}

}  // namespace

TEST_CASE("a tensor is read into the dtype that is asked for") {
  // More than one piece, and a last one that is not whole, so that the seams are read too.
  const auto values = at::randn({3, 1000003}, at::detail::createCPUGenerator(1), at::TensorOptions().dtype(at::kFloat));
  const auto halves = values.to(at::kHalf);
  const TemporaryFile file(halves);
  const TensorEntry entry{"w", "F16", {3, 1000003}, file.path, 0, static_cast<uint64_t>(halves.nbytes())};
  CHECK(at::equal(read(entry, {3, 1000003}, at::kFloat), halves.to(at::kFloat)));
  CHECK(at::equal(read(entry, {3, 1000003}, at::kBFloat16), halves.to(at::kBFloat16)));
  CHECK(at::equal(read(entry, {3, 1000003}, at::kHalf), halves));
}

TEST_CASE("a convolution is read into channels-last, in more than one piece") {
  const auto values = at::randn({70, 301, 3, 3}, at::detail::createCPUGenerator(2), at::kFloat);
  for (const auto stored : {at::kFloat, at::kHalf}) {
    const auto numbers = values.to(stored);
    const TemporaryFile file(numbers);
    const TensorEntry entry{"w", stored == at::kHalf ? "F16" : "F32",    {70, 301, 3, 3}, file.path,
                            0,   static_cast<uint64_t>(numbers.nbytes())};
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const auto weight = read(entry, {70, 301, 3, 3}, dtype, at::MemoryFormat::ChannelsLast);
      CHECK(weight.is_contiguous(at::MemoryFormat::ChannelsLast));
      CHECK(at::equal(weight, numbers.to(dtype)));
    }
  }
}

TEST_CASE("every float16 becomes the bfloat16 nearest to it") {
  const auto bits = at::arange(65536, at::kInt).to(at::kUInt16);
  const TemporaryFile file(bits);
  const TensorEntry entry{"w", "F16", {65536}, file.path, 0, 131072};
  const auto expected = bits.view(at::kHalf).to(at::kFloat).to(at::kBFloat16);
  const auto got = read(entry, {65536}, at::kBFloat16), finite = expected.isfinite();
  CHECK(finite.sum().item<int64_t>() == 65536 - 2 * 1024);
  CHECK(at::equal(got.masked_select(finite).view(at::kShort), expected.masked_select(finite).view(at::kShort)));
  CHECK(at::equal(got.isnan(), expected.isnan()));
  CHECK(at::equal(got.isinf().logical_and(got.signbit()), expected.isinf().logical_and(expected.signbit())));
}

TEST_CASE("a convolution of whole vectors of channels, or not of whole ones, is read into channels-last") {
  for (const int64_t channels : {4, 32, 96, 100, 320}) {
    const auto numbers = at::randn({5, channels, 3, 3}, at::detail::createCPUGenerator(3), at::kFloat).to(at::kHalf);
    const TemporaryFile file(numbers);
    const TensorEntry entry{"w", "F16", {5, channels, 3, 3}, file.path, 0, static_cast<uint64_t>(numbers.nbytes())};
    for (const auto dtype : {at::kBFloat16, at::kHalf}) {
      const auto weight = read(entry, {5, channels, 3, 3}, dtype, at::MemoryFormat::ChannelsLast);
      CHECK(at::equal(weight, numbers.to(dtype)));
    }
  }
}

TEST_CASE("tensors are read one below the other, whole, transposed and with a delta; all are checked first") {
  const auto values = at::arange(30, at::kFloat);
  const TemporaryFile file(values);
  const auto entry = [&](const char* name, std::vector<int64_t> shape, uint64_t begin) {
    return TensorEntry{name, "F32", shape, file.path, begin * 4, (begin + 6) * 4};
  };
  auto turned = entry("turned", {2, 3}, 6);
  turned.transposed = true;
  const std::vector<TensorEntry> entries{entry("plain", {2, 3}, 0),
                                         turned,
                                         entry("changed", {2, 3}, 12),
                                         entry("other", {3, 2}, 18),
                                         {"up", "F32", {2, 1}, file.path, 4, 12},
                                         {"down", "F32", {1, 3}, file.path, 4, 16}};
  const auto part = [&](int64_t first) { return values.narrow(0, first, 6); };
  WeightDelta delta;
  delta.target = "changed", delta.up = "up", delta.down = "down", delta.scale = 2;
  WeightStore store(entries, Compute(), Cancel(nullptr), {}, {delta});
  const auto rows = store.read_rows({"plain", "turned", "changed"}, {2, 3}, at::kHalf);
  CHECK_THROWS_AS(store.read_rows({"plain", "other"}, {2, 3}, at::kHalf), Error);
  store.finish();
  const auto added = 2 * at::tensor({1.0F, 2.0F}).outer(at::tensor({1.0F, 2.0F, 3.0F}));
  const auto expected = at::cat(
      {part(0).view({2, 3}), part(6).view({3, 2}).t().contiguous().view({2, 3}), part(12).view({2, 3}) + added});
  CHECK(at::equal(rows, expected.to(at::kHalf)));
  CHECK(store.parameters() == 18);
}

TEST_CASE("a matrix that lies column by column is turned") {
  const auto values = at::arange(6, at::kFloat).view({3, 2});
  const TemporaryFile file(values);
  TensorEntry entry{"w", "F32", {2, 3}, file.path, 0, 24};
  entry.transposed = true;
  const auto turned = read(entry, {2, 3}, at::kHalf);
  CHECK(at::equal(turned, values.t().to(at::kHalf)));
  CHECK(turned.is_contiguous());
}

namespace {

// W, and the factors of a LoRA of it, one behind the other in one file.
struct Lora {
  std::vector<TensorEntry> entries;
  at::Tensor all;
  uint64_t end = 0;
  std::vector<at::Tensor> tensors;

  void add(const std::string& name, at::IntArrayRef shape) {
    tensors.push_back(at::randn(shape, at::detail::createCPUGenerator(entries.size() + 1), at::kFloat));
    const uint64_t bytes = static_cast<uint64_t>(tensors.back().nbytes());
    entries.push_back({name, "F32", shape.vec(), "", end, end + bytes});
    end += bytes;
  }
};

}  // namespace

TEST_CASE("LoRA are added in fp32 while a weight is read") {
  Lora lora;
  lora.add("w", {6, 4, 3, 3});
  lora.add("d", {2, 4, 3, 3}), lora.add("u", {6, 2, 1, 1});                                 // of a convolution
  lora.add("d2", {2, 4, 1, 1}), lora.add("u2", {6, 3, 1, 1}), lora.add("m", {3, 2, 3, 3});  // factored once more
  std::vector<at::Tensor> flat;
  for (const auto& tensor : lora.tensors) flat.push_back(tensor.flatten());
  const TemporaryFile file(at::cat(flat));
  for (auto& entry : lora.entries) entry.file = file.path;
  const auto merge = [&](std::vector<WeightDelta> deltas) {
    Compute compute;
    WeightStore store(lora.entries, compute, Cancel(), {}, deltas);
    const auto weight = store.read("w", {6, 4, 3, 3}, at::kHalf);
    store.finish();
    return weight;
  };
  const auto& t = lora.tensors;
  // As a convolution would do it: first the one factor, then the others.
  const auto image = at::randn({1, 4, 5, 5}, at::detail::createCPUGenerator(9), at::kFloat);
  const auto expected = at::conv2d(image, t[0]) + 0.5 * at::conv2d(at::conv2d(image, t[1]), t[2]) -
                        0.25 * at::conv2d(at::conv2d(at::conv2d(image, t[3]), t[5]), t[4]);
  const auto merged = merge({{"w", "d", "u", "", 0.5}, {"w", "d2", "u2", "m", -0.25}});
  CHECK(at::allclose(at::conv2d(image, merged.to(at::kFloat)), expected, 1e-2, 2e-2));
  CHECK(at::equal(merge({}), t[0].to(at::kHalf)));
  CHECK_FALSE(at::allclose(merged.to(at::kFloat), t[0], 1e-2, 2e-2));
  CHECK_THROWS_AS(merge({{"w", "d2", "u", "", 1}}), Error);
  CHECK_THROWS_AS(merge({{"w", "d", "none", "", 1}}), Error);
  CHECK_THROWS_AS(merge({{"v", "d", "u", "", 1}}), Error);
}

TEST_CASE("what does not fit has a code") {
  const auto values = at::ones({4, 2});
  const TemporaryFile file(values);
  const TensorEntry good{"w", "F32", {4, 2}, file.path, 0, 32};
  CHECK(code_of(good, {4, 2}) == "");
  CHECK(code_of(good, {2, 4}) == "SWAP_MODEL_TENSOR_SHAPE");
  auto entry = good;
  entry.end = 28;
  CHECK(code_of(entry, {4, 2}) == "SWAP_MODEL_TENSOR_SHAPE");
  entry = good;
  entry.begin = 8, entry.end = 40;  // past the end of the file
  CHECK(code_of(entry, {4, 2}) == "SWAP_MODEL_FILE");
  entry = good;
  entry.dtype = "F8";
  CHECK(code_of(entry, {4, 2}) == "SWAP_MODEL_TENSOR_DTYPE");
  entry = good;
  entry.file += ".none";
  CHECK(code_of(entry, {4, 2}) == "SWAP_MODEL_FILE");
  Compute compute;
  WeightStore empty({}, compute, Cancel(), {});
  CHECK_THROWS_AS(empty.read("w", {4, 2}, at::kFloat), Error);
}

TEST_CASE("reading stops when it is cancelled") {
  const TemporaryFile file(at::ones({2}));
  const std::atomic<bool> flag{true};
  const TensorEntry entry{"w", "F32", {2}, file.path, 0, 8};
  CHECK_THROWS_AS(read(entry, {2}, at::kFloat, at::MemoryFormat::Contiguous, &flag), Cancelled);
}
