#include <cstdlib>
#include <cstring>
#include <new>

#include "device.h"

namespace device {

const char* name() { return "emulator"; }
void* allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes ? bytes : 1)) throw std::bad_alloc();
  return memory;
}
void release(void* memory) { std::free(memory); }
void upload(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
void download(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}

}  // namespace device
