#include "resbm.h"

const char *resbm_version(void) {
    return RESBM_VERSION;
}
