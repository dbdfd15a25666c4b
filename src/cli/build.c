#include "build_id.h" /* made by cmake/build_id.cmake */
#include "cli/cli.h"

const char *rb_cli_build(void) {
    return RB_BUILD_ID;
}
