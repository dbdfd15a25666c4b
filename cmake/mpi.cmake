# One loadable module per MPI that is installed (modules/mpi/mpi.c, compiled by its own wrapper): Open MPI and MPICH
# have different binary interfaces. Without any, engine: mpi says what is missing.
set(RB_MPI_MODULES "")
target_compile_definitions(rb_link PRIVATE RB_LIBDIR="${CMAKE_INSTALL_LIBDIR}") # where they are, seen from bin/..
foreach(wrapper mpicc.openmpi mpicc.mpich mpicc)
  string(MAKE_C_IDENTIFIER "RB_${wrapper}" var)
  find_program(${var} ${wrapper})
  if(NOT ${var})
    continue()
  endif()
  file(WRITE ${CMAKE_BINARY_DIR}/mpi_kind.c "#include <mpi.h>\n#if defined(OPEN_MPI)\nkind openmpi\n#elif defined(MPICH_VERSION)\nkind mpich\n#endif\n")
  execute_process(COMMAND ${${var}} -E ${CMAKE_BINARY_DIR}/mpi_kind.c OUTPUT_VARIABLE text ERROR_QUIET)
  if(NOT text MATCHES "kind (openmpi|mpich)")
    message(STATUS "${${var}} is of neither Open MPI nor MPICH: not used")
    continue()
  endif()
  set(kind ${CMAKE_MATCH_1})
  if(kind IN_LIST RB_MPI_MODULES)
    continue()
  endif()
  list(APPEND RB_MPI_MODULES ${kind})
  set(module ${CMAKE_BINARY_DIR}/resbm-mpi-${kind}.so)
  add_custom_command(OUTPUT ${module}
    COMMAND ${${var}} -std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror
      -I${CMAKE_SOURCE_DIR}/src -o ${module} ${CMAKE_SOURCE_DIR}/modules/mpi/mpi.c
    DEPENDS ${CMAKE_SOURCE_DIR}/modules/mpi/mpi.c ${CMAKE_SOURCE_DIR}/src/link/mpi_module.h
    COMMENT "MPI module for ${kind}" VERBATIM)
  add_custom_target(rb_mpi_${kind} ALL DEPENDS ${module})
  add_dependencies(resbm rb_mpi_${kind})
  install(FILES ${module} DESTINATION ${CMAKE_INSTALL_LIBDIR}/resbm)
endforeach()
if(NOT RB_MPI_MODULES)
  message(STATUS "no MPI (libopenmpi-dev, libmpich-dev): engine: mpi will say so")
endif()
