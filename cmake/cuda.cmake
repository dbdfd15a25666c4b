# The CUDA device: build/resbm-cuda.so, loaded at run time by device cuda. Built wherever nvcc and cuBLASLt's header are
# found, by target `cuda`; nothing else needs it. RESBM_CUDA: AUTO, ON (an error when it cannot be built) or OFF.
# The same sources also become build/resbm-cuda-emulated.so, which runs them on the host (tests only).
set(RESBM_CUDA AUTO CACHE STRING "CUDA device: AUTO, ON or OFF")
set(RESBM_CUDA_ARCHITECTURES 75,80,86,89,90,120 CACHE STRING "Compute capabilities, ascending (cuda_code.cmake)")
include(cmake/cuda_code.cmake)
string(REPLACE "," ";" RB_ARCHITECTURES "${RESBM_CUDA_ARCHITECTURES}")

file(GLOB RB_CUDA_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/device/cuda/*.cu) # for the GPU
file(GLOB RB_CUDA_HOST CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/device/cuda/*.cc)    # only calls it
list(FILTER RB_CUDA_HOST EXCLUDE REGEX "/sdpa_") # attention by cuDNN: below
# What the plugin needs of the rest of the library, in C.
set(RB_CUDA_SHARED_SOURCES ${CMAKE_SOURCE_DIR}/src/core/err.c ${CMAKE_SOURCE_DIR}/src/core/rng.c
  ${CMAKE_SOURCE_DIR}/src/device/check.c ${CMAKE_SOURCE_DIR}/src/device/pack_layout.c)
set(RB_CUDA_MAP -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/cuda.map)

set(RB_CUDA_CXX_OPTIONS -Wno-missing-field-initializers -Wno-unused-function)

# --- for the GPU
find_program(RB_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda/bin PATH_SUFFIXES bin)
file(GLOB RB_WHEELS LIST_DIRECTORIES true ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/*)
find_path(CUBLASLT_INCLUDE cublasLt.h HINTS ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda ${RB_WHEELS} PATH_SUFFIXES include targets/x86_64-linux/include)
set(RB_CUDA_MISSING "")
if(NOT RB_NVCC)
  set(RB_CUDA_MISSING "nvcc is not here")
elseif(NOT CUBLASLT_INCLUDE)
  set(RB_CUDA_MISSING "cublasLt.h is not here (the CUDA toolkit's cuBLAS, or `scripts/venv.sh cuda`)")
elseif(RESBM_SANITIZE OR RESBM_FUZZ)
  set(RB_CUDA_MISSING "this is a build for sanitizers")
endif()

if(NOT RESBM_CUDA STREQUAL OFF AND NOT RB_CUDA_MISSING)
  get_filename_component(cublas_root ${CUBLASLT_INCLUDE} DIRECTORY)
  file(GLOB RB_CUBLASLT ${cublas_root}/lib/libcublasLt.so.* ${cublas_root}/lib64/libcublasLt.so.*)
  set(cublas_path "")
  if(RB_CUBLASLT)
    list(GET RB_CUBLASLT 0 cublas_path)
  endif()
  # nvcc reads CUDA's own headers once per source and architecture, which takes longer than our kernels: so the small
  # ones are one source together, and what only calls the GPU is left to the C++ compiler.
  set(tiles ${RB_CUDA_KERNELS})
  list(FILTER tiles INCLUDE REGEX "attention_(forward|backward)\\.cu$")
  set(small ${RB_CUDA_KERNELS})
  list(REMOVE_ITEM small ${tiles})
  set(flags -std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden -I${CMAKE_SOURCE_DIR}/src -I${CMAKE_SOURCE_DIR}/include)
  rb_cuda_code(${RB_NVCC} "${RB_ARCHITECTURES}" code made left)
  if(NOT made)
    message(FATAL_ERROR "${RB_NVCC} knows none of the compute capabilities ${RESBM_CUDA_ARCHITECTURES}: a newer CUDA toolkit does, or RESBM_CUDA=OFF")
  elseif(left)
    message(STATUS "device cuda: left out ${left}, which ${RB_NVCC} does not know")
  endif()
  list(APPEND flags ${code})
  find_program(RB_CCACHE ccache)
  set(launcher "")
  if(CMAKE_CXX_COMPILER_LAUNCHER AND RB_CCACHE)
    set(launcher ${RB_CCACHE})
  endif()
  set(objects "")
  foreach(unit small tiles)
    set(text "")
    foreach(source ${${unit}})
      string(APPEND text "#include \"${source}\"\n")
    endforeach()
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/cuda/${unit}.cu CONTENT "${text}" @ONLY)
    set(object ${CMAKE_BINARY_DIR}/cuda/${unit}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${launcher} ${RB_NVCC} ${flags} -MD -MF ${object}.d -c ${CMAKE_BINARY_DIR}/cuda/${unit}.cu -o ${object}
      DEPENDS ${CMAKE_BINARY_DIR}/cuda/${unit}.cu ${${unit}} DEPFILE ${object}.d
      COMMENT "CUDA kernels: ${unit}" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  find_path(CUDART_INCLUDE cuda_runtime.h HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda ${RB_WHEELS} PATH_SUFFIXES include targets/x86_64-linux/include)
  find_library(CUDART_STATIC cudart_static HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda ${RB_WHEELS} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
  if(NOT CUDART_INCLUDE OR NOT CUDART_STATIC)
    message(FATAL_ERROR "${RB_NVCC} is here, but not cuda_runtime.h and libcudart_static.a: set CUDA_HOME, or RESBM_CUDA=OFF")
  endif()
  # Attention by cuDNN, where its headers and those of its frontend are (the frontend's want nvrtc.h).
  file(GLOB site LIST_DIRECTORIES true ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages)
  find_path(CUDNN_INCLUDE cudnn.h HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS ${RB_WHEELS} PATH_SUFFIXES include)
  find_path(CUDNN_FRONTEND_INCLUDE cudnn_frontend.h PATHS ${site} PATH_SUFFIXES include)
  find_path(NVRTC_INCLUDE nvrtc.h HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda ${RB_WHEELS} PATH_SUFFIXES include targets/x86_64-linux/include)
  set(sdpa ${CMAKE_SOURCE_DIR}/src/device/cuda/sdpa_missing.cc)
  set(tools "")
  if(RESBM_TESTS) # in the places of the driver and of cuBLASLt
    add_library(cuda_stub MODULE EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/driver_stub.c)
    target_link_options(cuda_stub PRIVATE -Wl,-soname,libcuda.so.1)
    set_target_properties(cuda_stub PROPERTIES PREFIX "" OUTPUT_NAME libcuda_stub C_VISIBILITY_PRESET default)
    add_library(cublaslt_stub MODULE EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/cublaslt_stub.c)
    set_target_properties(cublaslt_stub PROPERTIES PREFIX "" OUTPUT_NAME libcublaslt_stub C_VISIBILITY_PRESET default)
    add_executable(cublaslt_open EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/cublaslt_open.cc
      ${CMAKE_SOURCE_DIR}/src/device/cuda/lt_cublas.cc)
    target_link_libraries(cublaslt_open PRIVATE rb_core ${CUDART_STATIC} ${CMAKE_DL_LIBS} rt)
    target_include_directories(cublaslt_open SYSTEM PRIVATE ${CUDART_INCLUDE} ${CUBLASLT_INCLUDE})
    target_compile_options(cublaslt_open PRIVATE ${RB_CUDA_CXX_OPTIONS})
    set(tools cuda_stub cublaslt_stub cublaslt_open)
  endif()
  if(CUDNN_INCLUDE AND CUDNN_FRONTEND_INCLUDE AND NVRTC_INCLUDE)
    get_filename_component(cudnn_root ${CUDNN_INCLUDE} DIRECTORY)
    file(GLOB cudnn_path ${cudnn_root}/lib/libcudnn.so.*)
    if(cudnn_path)
      list(GET cudnn_path 0 cudnn_path)
    endif()
    add_library(resbm_sdpa OBJECT EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/src/device/cuda/sdpa_cudnn.cc
      ${CMAKE_SOURCE_DIR}/src/device/cuda/sdpa_runtime.cc)
    target_link_libraries(resbm_sdpa PRIVATE rb_flags)
    target_include_directories(resbm_sdpa SYSTEM PRIVATE ${CUDART_INCLUDE} ${CUDNN_FRONTEND_INCLUDE} ${CUDNN_INCLUDE}
      ${NVRTC_INCLUDE})
    target_compile_definitions(resbm_sdpa PRIVATE NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING RB_CUDNN_PATH="${cudnn_path}")
    target_compile_options(resbm_sdpa PRIVATE ${RB_CUDA_CXX_OPTIONS} -O1 -g0) # the frontend is large, and waits for the GPU
    set(sdpa $<TARGET_OBJECTS:resbm_sdpa>)
    if(RESBM_TESTS)
      add_executable(cudnn_plans EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/cudnn_plans.cc ${sdpa})
      target_link_libraries(cudnn_plans PRIVATE rb_core ${CUDART_STATIC} ${CMAKE_DL_LIBS} rt)
      target_include_directories(cudnn_plans SYSTEM PRIVATE ${CUDART_INCLUDE})
      target_compile_options(cudnn_plans PRIVATE ${RB_CUDA_CXX_OPTIONS})
      target_compile_definitions(cudnn_plans PRIVATE RB_CUBLASLT_PATH="${cublas_path}")
      list(APPEND tools cudnn_plans)
    endif()
    message(STATUS "attention by cuDNN: ${CUDNN_INCLUDE}, frontend ${CUDNN_FRONTEND_INCLUDE}")
  endif()
  add_library(resbm_cuda MODULE EXCLUDE_FROM_ALL ${RB_CUDA_HOST} ${sdpa} ${RB_CUDA_SHARED_SOURCES} ${objects})
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  target_link_libraries(resbm_cuda PRIVATE rb_flags ${CUDART_STATIC} ${CMAKE_DL_LIBS} rt)
  target_include_directories(resbm_cuda SYSTEM PRIVATE ${CUDART_INCLUDE} ${CUBLASLT_INCLUDE})
  target_compile_definitions(resbm_cuda PRIVATE RB_CUBLASLT_PATH="${cublas_path}")
  target_compile_options(resbm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${RB_CUDA_CXX_OPTIONS}>)
  target_link_options(resbm_cuda PRIVATE ${RB_CUDA_MAP} -Wl,-z,defs)
  set_target_properties(resbm_cuda PROPERTIES PREFIX "" OUTPUT_NAME resbm-cuda LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
    LINKER_LANGUAGE CXX)
  add_custom_target(cuda DEPENDS resbm_cuda ${tools})
  message(STATUS "device cuda: ${RB_NVCC}, cuBLASLt ${CUBLASLT_INCLUDE}, for ${made}")
  install(TARGETS resbm_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/resbm OPTIONAL)
elseif(RESBM_CUDA STREQUAL ON)
  message(FATAL_ERROR "RESBM_CUDA=ON: ${RB_CUDA_MISSING}")
else()
  if(RESBM_CUDA STREQUAL OFF)
    set(RB_CUDA_MISSING "RESBM_CUDA is OFF")
  endif()
  add_custom_target(cuda COMMAND ${CMAKE_COMMAND} -E echo "device cuda is not built: ${RB_CUDA_MISSING}" VERBATIM)
endif()

# --- for the host, with every thread of a block a fibre (x86-64's and other setjmp alike); sanitizers cannot follow those
if(RESBM_TESTS AND NOT RESBM_SANITIZE AND NOT RESBM_FUZZ)
  set(emulated ${RB_CUDA_HOST})
  list(FILTER emulated EXCLUDE REGEX "lt_cublas")
  file(GLOB emulation CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/device/cuda/emu/*.cc)
  set_source_files_properties(${RB_CUDA_KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  add_library(resbm_cuda_emulated MODULE ${RB_CUDA_KERNELS} ${emulated} ${emulation} ${RB_CUDA_SHARED_SOURCES})
  target_link_libraries(resbm_cuda_emulated PRIVATE rb_flags)
  target_compile_definitions(resbm_cuda_emulated PRIVATE RB_CUDA_EMULATED=1)
  target_compile_options(resbm_cuda_emulated PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${RB_CUDA_CXX_OPTIONS};-Wno-unknown-pragmas;-U_FORTIFY_SOURCE>)
  target_link_options(resbm_cuda_emulated PRIVATE ${RB_CUDA_MAP} -Wl,-z,defs)
  set_target_properties(resbm_cuda_emulated PROPERTIES PREFIX "" OUTPUT_NAME resbm-cuda-emulated
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endif()
