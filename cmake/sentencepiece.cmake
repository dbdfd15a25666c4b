# The SentencePiece tokenizer (src/data/sentencepiece_shim.cc) where libsentencepiece is installed. Without it the
# tokenizer stays in the list and says what to install.
if(RESBM_SENTENCEPIECE AND TARGET rb_data)
  find_path(SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
  find_library(SENTENCEPIECE_LIBRARY sentencepiece)
  if(SENTENCEPIECE_INCLUDE AND SENTENCEPIECE_LIBRARY)
    target_sources(rb_data PRIVATE ${CMAKE_SOURCE_DIR}/src/data/sentencepiece_shim.cc)
    target_compile_definitions(rb_data PUBLIC RB_HAVE_SENTENCEPIECE=1) # tests ask for it too
    target_include_directories(rb_data SYSTEM PRIVATE ${SENTENCEPIECE_INCLUDE})
    target_link_libraries(rb_data PUBLIC ${SENTENCEPIECE_LIBRARY})
  else()
    message(STATUS "libsentencepiece-dev is not installed: no SentencePiece tokenizer")
  endif()
endif()
