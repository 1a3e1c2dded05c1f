# A CUDA build of LibTorch as it lies on disk: its folder (include/, lib/), as an archive or a Python wheel has it.
# LibTorch's own find_package(Torch) asks for the whole CUDA toolkit (cuBLAS's headers, cuFFT, cuSPARSE, ...); the engine
# includes none of it and needs the compiler and the runtime alone.
#
#   SWAP_LIBTORCH       in: the folder
#   TorchCuda_VERSION   out: as LibTorch says it
#   torch_cuda          out: target with the include folders and the libraries to link: torch_cpu, c10, c10_cuda, cudart
find_path(TorchCuda_INCLUDE c10/cuda/CUDAStream.h PATHS ${SWAP_LIBTORCH}/include NO_DEFAULT_PATH)
foreach(name torch_cpu torch_cuda c10 c10_cuda)
  find_library(TorchCuda_${name} ${name} PATHS ${SWAP_LIBTORCH}/lib NO_DEFAULT_PATH)
endforeach()
# The runtime that LibTorch itself is linked with: beside it in a wheel's environment, in lib/ of an archive.
file(GLOB TorchCuda_RUNTIMES ${SWAP_LIBTORCH}/lib/libcudart*.so* ${SWAP_LIBTORCH}/../nvidia/*/lib/libcudart.so*)
if(TorchCuda_RUNTIMES)
  list(GET TorchCuda_RUNTIMES 0 TorchCuda_RUNTIME)
endif()
file(GLOB TorchCuda_HEADER ${SWAP_LIBTORCH}/include/torch/headeronly/version.h)
if(TorchCuda_HEADER)
  file(READ ${TorchCuda_HEADER} header)
  foreach(part MAJOR MINOR PATCH)
    string(REGEX MATCH "TORCH_VERSION_${part} ([0-9]+)" found "${header}")
    list(APPEND TorchCuda_PARTS ${CMAKE_MATCH_1})
  endforeach()
  list(JOIN TorchCuda_PARTS "." TorchCuda_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TorchCuda
  REQUIRED_VARS TorchCuda_torch_cpu TorchCuda_torch_cuda TorchCuda_c10 TorchCuda_c10_cuda TorchCuda_INCLUDE
                TorchCuda_RUNTIME
  VERSION_VAR TorchCuda_VERSION)

if(TorchCuda_FOUND AND NOT TARGET torch_cuda)
  add_library(torch_cuda INTERFACE IMPORTED)
  target_include_directories(torch_cuda SYSTEM INTERFACE ${TorchCuda_INCLUDE}
                                                         ${TorchCuda_INCLUDE}/torch/csrc/api/include)
  target_link_libraries(torch_cuda INTERFACE ${TorchCuda_torch_cpu} ${TorchCuda_c10} ${TorchCuda_c10_cuda}
                                             ${TorchCuda_RUNTIME})
  # What they in turn ask for (cuBLAS, cuDNN, NCCL, ...) is found by their own RPATHs when they are opened.
  target_link_options(torch_cuda INTERFACE -Wl,--allow-shlib-undefined)
endif()
