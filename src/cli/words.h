/* What commands take beside their flags: one name (a configuration, a run's folder) and overrides
 * section.key=value. */
#ifndef RB_CLI_WORDS_H
#define RB_CLI_WORDS_H

#include <argp.h>
#include "run/config.h"

typedef struct rb_cli_words {
    const char *name, **set;
    int sets;
    const char *what, *missing; /* for messages: "configurations"; "name a configuration (RUN.yaml)" */
} rb_cli_words;

/* Room for argc overrides; false when memory is short. */
bool rb_cli_words_init(rb_cli_words *w, int argc, const char *what, const char *missing);
void rb_cli_words_free(rb_cli_words *w);
/* ARGP_KEY_ARG and ARGP_KEY_END of a parser; ARGP_ERR_UNKNOWN for every other key. A file whose path holds a
 * "=" is a name all the same. */
error_t rb_cli_words_parse(rb_cli_words *w, int key, char *arg, struct argp_state *state);
/* The overrides over `c`; the whole is not checked yet. */
resbm_status rb_cli_words_override(const rb_cli_words *w, rb_config *c, rb_err *err);
/* Defaults, the named file, the overrides; not checked yet. */
resbm_status rb_cli_words_read(const rb_cli_words *w, rb_config *c, rb_err *err);

#endif
