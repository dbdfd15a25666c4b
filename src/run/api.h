/* What the public interface's files share. */
#ifndef RB_RUN_API_H
#define RB_RUN_API_H

#include "run/config.h"

struct resbm_config {
    rb_config c;       /* not yet validated */
    char folder[4096]; /* the checkpoint it came from; empty = none */
};

/* A validated copy, for the caller to free(). */
resbm_status rb_api_validated(const resbm_config *c, rb_config **out, rb_err *err);

#endif
