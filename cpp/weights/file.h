// A file that several threads may read at once, each from where it wants.
#pragma once

#include <cstdint>
#include <string>

#ifdef _WIN32
#include <fstream>
#include <mutex>
#endif

namespace swap {

class File {
 public:
  // Throws SWAP_MODEL_FILE where it cannot be opened. `path` is UTF-8.
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Reads the `n` bytes that begin at `offset`. False where the file has not as many, or cannot be read.
  bool read(void* to, int64_t n, uint64_t offset);

 private:
#ifdef _WIN32
  std::mutex mutex_;
  std::ifstream stream_;
#else
  int descriptor_;
#endif
};

}  // namespace swap
