# cmake -D SOURCE=... -D OUT=FILE -P build_id.cmake: writes which commit SOURCE is at, with -dirty where it was changed since;
# empty where SOURCE is no git repository of its own (an archive).
cmake_policy(VERSION 3.18)
find_program(GIT git)
set(id "")
if(GIT AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env GIT_OPTIONAL_LOCKS=0 ${GIT} -C ${SOURCE} describe --always --dirty --exclude=*
    OUTPUT_VARIABLE id OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define RB_BUILD_ID \"@id@\"\n" @ONLY)
