# The CUDA kernels by the host's compiler over the emulator of test/simt, for tests of what launches them.
file(GLOB KERNELS CONFIGURE_DEPENDS cuda/instances/*.cu)
set_source_files_properties(${KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
add_library(swap_kernels_emulated STATIC ${KERNELS} cuda/launch.cpp test/simt/block.cpp test/simt/warp.cpp
                                         test/simt/memory.cpp)
target_include_directories(swap_kernels_emulated PRIVATE cuda test test/simt)
target_compile_options(swap_kernels_emulated PRIVATE -Wno-unknown-pragmas)
target_compile_definitions(swap_kernels_emulated INTERFACE SWAP_KERNELS_EMULATED)
