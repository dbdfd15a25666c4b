# Loadable modules: engines that need libraries which the program itself does not link. One that cannot be built is left
# out, and the program says so when it is asked for.
target_compile_definitions(rb_link PRIVATE RESBM_MODULE_DIR="${CMAKE_INSTALL_FULL_LIBDIR}/resbm")
target_link_libraries(rb_link PUBLIC ${CMAKE_DL_LIBS})

# rb_module(name sources... ) makes build/resbm-NAME.so, beside the program, of modules/NAME/*.c; LIBS follow.
pkg_check_modules(NATS IMPORTED_TARGET libnats)
pkg_check_modules(CRYPTO IMPORTED_TARGET libcrypto)
if(NATS_FOUND AND CRYPTO_FOUND)
  file(GLOB nats CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/modules/nats/*.c)
  list(FILTER nats EXCLUDE REGEX "_test\\.c$")
  add_library(resbm_nats MODULE ${nats})
  set_target_properties(resbm_nats PROPERTIES PREFIX "" OUTPUT_NAME resbm-nats)
  target_include_directories(resbm_nats PRIVATE ${CMAKE_SOURCE_DIR}/modules/nats)
  target_link_libraries(resbm_nats PRIVATE rb_core rb_flags PkgConfig::NATS PkgConfig::CRYPTO -Wl,--exclude-libs,ALL)
  add_dependencies(resbm resbm_nats)
  install(TARGETS resbm_nats LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/resbm)
else()
  message(STATUS "libnats or libcrypto not found: no engine nats (apt-get install libnats-dev libssl-dev)")
endif()
if(RESBM_TESTS AND TARGET resbm_nats)
  add_executable(hostile tests/internet/hostile.c)
  target_link_libraries(hostile PRIVATE rb_run PkgConfig::NATS)
endif()
if(RESBM_TESTS) # the streams need no libnats
  rb_test(stream_test ${CMAKE_SOURCE_DIR}/modules/nats/stream_test.c rb_core)
  target_sources(stream_test PRIVATE ${CMAKE_SOURCE_DIR}/modules/nats/stream.c ${CMAKE_SOURCE_DIR}/modules/nats/packet.c)
  rb_test_marks(stream_test ${CMAKE_SOURCE_DIR}/modules/nats/stream_test.c)
endif()
