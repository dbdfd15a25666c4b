# Vector code (src/device/cpu/isa/*.c). A native build compiles it once, for this machine. A portable build for
# x86-64 compiles it once per instruction set (RB_ISA names it) and cpu/table.c picks one when the device opens;
# on other architectures it is compiled once, plainly.
get_target_property(RB_DEVICE_SOURCES rb_device SOURCES)
set(RB_ISA_SOURCES ${RB_DEVICE_SOURCES})
list(FILTER RB_ISA_SOURCES INCLUDE REGEX "/cpu/isa/")

# 512-bit registers wherever the instruction set has them; compilers prefer 256 for processors of 2017.
include(CheckCCompilerFlag)
check_c_compiler_flag(-mprefer-vector-width=512 RB_HAS_VECTOR_WIDTH)
set(RB_WIDE "")
if(RB_HAS_VECTOR_WIDTH)
  set(RB_WIDE -mprefer-vector-width=512)
endif()

if(NOT RESBM_PORTABLE)
  set_source_files_properties(${RB_ISA_SOURCES} PROPERTIES COMPILE_OPTIONS "${RB_WIDE}")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(FILTER RB_DEVICE_SOURCES EXCLUDE REGEX "/cpu/isa/")
  set_property(TARGET rb_device PROPERTY SOURCES ${RB_DEVICE_SOURCES})
  target_compile_definitions(rb_device PRIVATE RB_PORTABLE_X86=1)
  foreach(isa v2 v3 v4)
    add_library(rb_isa_${isa} OBJECT ${RB_ISA_SOURCES})
    target_link_libraries(rb_isa_${isa} PRIVATE rb_flags)
    target_compile_options(rb_isa_${isa} PRIVATE -march=x86-64-${isa})
    target_compile_definitions(rb_isa_${isa} PRIVATE RB_ISA=${isa})
    target_sources(rb_device PRIVATE $<TARGET_OBJECTS:rb_isa_${isa}>)
  endforeach()
  target_compile_options(rb_isa_v4 PRIVATE ${RB_WIDE})
else()
  set_source_files_properties(${RB_ISA_SOURCES} PROPERTIES COMPILE_DEFINITIONS RB_ISA=plain)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/device/cpu/table.c PROPERTIES COMPILE_DEFINITIONS RB_ISA=plain)
endif()
