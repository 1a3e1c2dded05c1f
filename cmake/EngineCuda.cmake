# The engine for CUDA: the same sources, the kernels of cuda/, and the one file that knows both (cpp/cuda).
set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 100-real 120 CACHE STRING "What the kernels are built for")
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # LibTorch's: streams belong to a runtime
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # older CMakes do not know that newer compilers have it
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
list(APPEND CMAKE_MODULE_PATH ${CMAKE_SOURCE_DIR}/cmake)
find_package(TorchCuda REQUIRED)

target_compile_definitions(swap_engine_objects PUBLIC SWAP_CUDA)
target_include_directories(swap_engine_objects SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})

file(GLOB KERNELS CONFIGURE_DEPENDS cuda/instances/*.cu)
add_library(swap_kernels_cuda STATIC ${KERNELS} cuda/launch.cpp)
target_include_directories(swap_kernels_cuda PRIVATE cuda)

add_library(swap_engine_cuda SHARED $<TARGET_OBJECTS:swap_engine_objects>)
target_link_libraries(swap_engine_cuda PRIVATE swap_kernels_cuda torch_cuda Threads::Threads)
# No GPU opens it where it is built: a symbol that no library has must be an error of the link.
target_link_options(swap_engine_cuda PRIVATE -Wl,-z,defs)
set_target_properties(swap_engine_cuda PROPERTIES SKIP_BUILD_RPATH ON LINKER_LANGUAGE CXX)
swap_output(swap_engine_cuda)
