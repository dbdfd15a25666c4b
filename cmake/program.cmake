# libresbm.so out of all layers, the program of src/cli, and what `make install` puts where.
set(objects "")
foreach(layer ${RB_LAYERS})
  get_target_property(type ${layer} TYPE)
  if(type STREQUAL "STATIC_LIBRARY")
    list(APPEND objects $<TARGET_OBJECTS:${layer}>)
  endif()
endforeach()
foreach(isa v2 v3 v4) # the portable build's, see portable.cmake
  if(TARGET rb_isa_${isa})
    list(APPEND objects $<TARGET_OBJECTS:rb_isa_${isa}>)
  endif()
endforeach()
add_library(resbm_shared SHARED ${objects})
set_target_properties(resbm_shared PROPERTIES
  OUTPUT_NAME resbm VERSION ${RESBM_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE CXX
  LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/resbm.map)
target_link_libraries(resbm_shared PRIVATE ${RB_LAYERS}
  -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/resbm.map)

file(GLOB_RECURSE cli CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/*.c)
list(FILTER cli EXCLUDE REGEX "(_test|_fuzz)\\.c$")
if(cli)
  set(top ${RB_LAYERS})
  list(REVERSE top)
  add_executable(resbm ${cli})
  target_link_libraries(resbm PRIVATE ${top} rb_flags)
  # Which build it is: of the program alone, so that a commit links no test anew.
  add_custom_target(build_id BYPRODUCTS ${CMAKE_BINARY_DIR}/build_id/build_id.h
    COMMAND ${CMAKE_COMMAND} -D SOURCE=${CMAKE_SOURCE_DIR} -D OUT=${CMAKE_BINARY_DIR}/build_id/build_id.h
      -P ${CMAKE_SOURCE_DIR}/cmake/build_id.cmake VERBATIM)
  add_dependencies(resbm build_id)
  target_include_directories(resbm PRIVATE ${CMAKE_BINARY_DIR}/build_id)
  install(TARGETS resbm RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
else()
  message(STATUS "src/cli is empty: no program")
  add_custom_target(resbm)
endif()

configure_file(cmake/resbm.pc.in ${CMAKE_BINARY_DIR}/resbm.pc @ONLY)
install(TARGETS resbm_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/resbm.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/resbm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES docs/resbm.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES examples/train.c examples/demo.yaml examples/slurm.sh DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)

# The report's page is part of the library (src/run/report_page.c).
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/run/report_page.c PROPERTIES
  OBJECT_DEPENDS ${CMAKE_SOURCE_DIR}/src/run/report_page.html)
