#include "weights/file.h"

#include "runtime/error.h"

#ifdef _WIN32
#include <filesystem>
#else
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace swap {
namespace {

[[noreturn]] void refuse(const std::string& path) {
  throw Error("SWAP_MODEL_FILE", "cannot open '" + path + "'", "check that the file exists and is readable");
}

}  // namespace

#ifdef _WIN32

File::File(const std::string& path) : stream_(std::filesystem::u8path(path), std::ios::binary) {
  if (!stream_) refuse(path);
}

File::~File() = default;

bool File::read(void* to, int64_t n, uint64_t offset) {
  const std::lock_guard lock(mutex_);
  stream_.clear();
  stream_.seekg(static_cast<std::streamoff>(offset));
  stream_.read(static_cast<char*>(to), n);
  return stream_.gcount() == n;
}

#else

File::File(const std::string& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) refuse(path);
}

File::~File() { ::close(descriptor_); }

bool File::read(void* to, int64_t n, uint64_t offset) {
  for (int64_t done = 0; done < n;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char*>(to) + done, static_cast<size_t>(n - done),
                                static_cast<off_t>(offset + static_cast<uint64_t>(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += got;
  }
  return true;
}

#endif

}  // namespace swap
