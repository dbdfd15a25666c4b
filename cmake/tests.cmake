# Every tests/*_test.sh is a CTest test. It finds the source and build folders in RB_SOURCE_DIR and RB_BINARY_DIR,
# runs in a folder of its own, and exits 77 to report itself skipped (with the reason printed).
# A comment line "# ctest: timeout=N serial" in the first lines of such a script, or "/* ctest: timeout=N serial */"
# in a *_test.c, sets the deadline in seconds (default 120) and keeps other tests from running beside it.
# N is what a quiet machine needs at the most. A deadline is there to end what hangs, so a busy machine gets four times
# that, and sanitized programs, which are several times slower, six times more. It goes before ctest --timeout.
# Long deadlines start first: what is long must not begin when nothing is left to run beside it.
function(rb_test_marks name file)
  file(STRINGS ${file} marks REGEX "ctest:" LIMIT_COUNT 1)
  set(seconds 120)
  if(marks MATCHES "timeout=([0-9]+)")
    set(seconds ${CMAKE_MATCH_1})
  endif()
  set_tests_properties(${name} PROPERTIES COST ${seconds})
  math(EXPR seconds "${seconds} * 4")
  if(RESBM_SANITIZE)
    math(EXPR seconds "${seconds} * 6")
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds})
  if(marks MATCHES "serial")
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

if(RESBM_TESTS)
  add_executable(frame_proxy tests/frame_proxy.c)
  target_link_libraries(frame_proxy PRIVATE rb_link)
  add_executable(middle_stage bench/middle_stage.c)
  target_link_libraries(middle_stage PRIVATE rb_run)
  target_link_options(reach_test PRIVATE -Wl,--wrap=getaddrinfo -Wl,--wrap=rb_resolve)
  target_link_options(socket_test PRIVATE -Wl,--wrap=getaddrinfo)

  file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*_test.sh)
  foreach(file ${scripts})
    get_filename_component(stem ${file} NAME_WE)
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/tests/${stem})
    add_test(NAME ${stem} COMMAND sh ${file} WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests/${stem})
    set_tests_properties(${stem} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 ENVIRONMENT
      "RB_SOURCE_DIR=${CMAKE_SOURCE_DIR};RB_BINARY_DIR=${CMAKE_BINARY_DIR}")
    rb_test_marks(${stem} ${file})
  endforeach()

  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/*_test.c)
  foreach(file ${files})
    get_filename_component(stem ${file} NAME_WE)
    if(NOT TEST ${stem})
      message(FATAL_ERROR "${file} belongs to no layer of CMakeLists.txt and would never run")
    endif()
    rb_test_marks(${stem} ${file})
  endforeach()
endif()
