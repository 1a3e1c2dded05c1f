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

WeightStore store(const TensorEntry& entry, at::ScalarType dtype, const std::atomic<bool>* flag = nullptr) {
  Compute compute;
  compute.dtype = dtype;
  return WeightStore({entry}, compute, Cancel(flag), {});
}

std::string code_of(const TensorEntry& entry, at::IntArrayRef shape) {
  try {
    store(entry, at::kFloat).read(entry.name, shape, at::kFloat);
  } catch (const Error& e) {
    return e.code;
  }
  return "";
}

}  // namespace

TEST_CASE("a tensor is read into the dtype that is asked for") {
  // More than one chunk of 8 MB, so that the seams are read too.
  const auto values = at::randn({3, 1 << 20}, at::detail::createCPUGenerator(1), at::TensorOptions().dtype(at::kFloat));
  const auto halves = values.to(at::kHalf);
  const TemporaryFile file(halves);
  const TensorEntry entry{"w", "F16", {3, 1 << 20}, file.path, 0, static_cast<uint64_t>(halves.nbytes())};
  CHECK(at::equal(store(entry, at::kFloat).read("w", {3, 1 << 20}, at::kFloat), halves.to(at::kFloat)));
  CHECK(at::equal(store(entry, at::kBFloat16).read("w", {3, 1 << 20}, at::kBFloat16), halves.to(at::kBFloat16)));
  CHECK(at::equal(store(entry, at::kHalf).read("w", {3, 1 << 20}, at::kHalf), halves));
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
  auto cancelled = store({"w", "F32", {2}, file.path, 0, 8}, at::kFloat, &flag);
  CHECK_THROWS_AS(cancelled.read("w", {2}, at::kFloat), Cancelled);
}
