# embed_files(OUT SOURCE NAME [SOURCE NAME]...): makes a C++ file that defines what src/serve/embedded_files.h declares,
# and puts its path into OUT. A SOURCE is a file, embedded as NAME, or a directory, whose files are embedded as NAME/…;
# one that is not there is left out.
function(embed_files out)
  set(sources "")
  set(names "")
  set(rest ${ARGN})
  while(rest)
    list(POP_FRONT rest source name)
    set(path ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    if(IS_DIRECTORY ${path})
      file(GLOB_RECURSE files CONFIGURE_DEPENDS LIST_DIRECTORIES false RELATIVE ${path} ${path}/*)
      list(SORT files)
      foreach(file ${files})
        list(APPEND sources ${path}/${file})
        list(APPEND names ${name}/${file})
      endforeach()
    elseif(EXISTS ${path})
      list(APPEND sources ${path})
      list(APPEND names ${name})
    endif()
  endwhile()

  find_program(GZIP_PROGRAM gzip REQUIRED)
  set(directory ${CMAKE_CURRENT_BINARY_DIR}/embedded)
  file(MAKE_DIRECTORY ${directory})
  set(declarations "")
  set(entries "")
  set(compressed "")
  set(index 0)
  foreach(source name IN ZIP_LISTS sources names)
    set(gzip ${directory}/${index}.gz)
    # -n: no time and no name in it, so that the same files give the same program.
    add_custom_command(OUTPUT ${gzip} COMMAND ${GZIP_PROGRAM} -9 -n -c ${source} > ${gzip} DEPENDS ${source} VERBATIM)
    list(APPEND compressed ${gzip})
    foreach(form plain gzip)
      if(form STREQUAL plain)
        set(path ${source})
      else()
        set(path ${gzip})
      endif()
      set(symbol embedded_${form}_${index})
      string(APPEND declarations "extern const char ${symbol}[], ${symbol}_end[];\n"
        "__asm__(\".section .rodata\\n.global ${symbol}\\n.global ${symbol}_end\\n\"\n"
        "        \"${symbol}:\\n.incbin \\\"${path}\\\"\\n${symbol}_end:\\n.byte 0\\n.previous\");\n")
    endforeach()
    string(APPEND entries "    {\"${name}\", view(embedded_plain_${index}, embedded_plain_${index}_end),\n"
      "     view(embedded_gzip_${index}, embedded_gzip_${index}_end)},\n")
    math(EXPR index "${index} + 1")
  endforeach()
  set(file ${CMAKE_CURRENT_BINARY_DIR}/embedded_files.cc)
  file(CONFIGURE OUTPUT ${file} @ONLY CONTENT "// Made by cmake/embed_files.cmake.
#include \"serve/embedded_files.h\"

#include <vector>

extern \"C\" {
@declarations@}

namespace fathom {

std::span<const EmbeddedFile> embedded_files() {
  const auto view = [](const char* begin, const char* end) {
    return std::string_view(begin, static_cast<size_t>(end - begin));
  };
  static const std::vector<EmbeddedFile> files = {
@entries@  };
  return files;
}

const EmbeddedFile* find_embedded_file(std::string_view path) {
  for (const EmbeddedFile& file : embedded_files()) {
    if (file.path == path) return &file;
  }
  return nullptr;
}

}  // namespace fathom
")
  set_source_files_properties(${file} PROPERTIES OBJECT_DEPENDS "${sources};${compressed}")
  set(${out} ${file} PARENT_SCOPE)
endfunction()
