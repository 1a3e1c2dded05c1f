// Where the kernels run: the emulator (emulated.cpp) or a GPU (gpu.cu). The cases are the same.
#pragma once

#include <cstddef>

namespace device {

const char* name();  // nullptr: there is none
void* allocate(size_t bytes);
void release(void* memory);
void upload(void* to, const void* from, size_t bytes);
void download(void* to, const void* from, size_t bytes);

}  // namespace device
