#include "cli/words.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool rb_cli_words_init(rb_cli_words *w, int argc, const char *what, const char *missing) {
    *w = (rb_cli_words){.set = calloc((size_t)argc, sizeof *w->set), .what = what, .missing = missing};
    return w->set != NULL;
}

void rb_cli_words_free(rb_cli_words *w) {
    free(w->set);
    w->set = NULL;
}

static void take(rb_cli_words *w, const char *arg, struct argp_state *state) {
    if (strchr(arg, '=') && access(arg, F_OK))
        w->set[w->sets++] = arg;
    else if (w->name)
        argp_error(state, "two %s: %s and %s (an override looks like section.key=value)", w->what, w->name,
                   arg);
    else
        w->name = arg;
}

error_t rb_cli_words_parse(rb_cli_words *w, int key, char *arg, struct argp_state *state) {
    if (key == ARGP_KEY_ARG)
        take(w, arg, state);
    else if (key != ARGP_KEY_END)
        return ARGP_ERR_UNKNOWN;
    else if (!w->name)
        argp_error(state, "%s", w->missing);
    return 0;
}

resbm_status rb_cli_words_override(const rb_cli_words *w, rb_config *c, rb_err *err) {
    for (int i = 0; i < w->sets; i++) RB_TRY(rb_config_override(c, w->set[i], err));
    return RESBM_OK;
}

resbm_status rb_cli_words_read(const rb_cli_words *w, rb_config *c, rb_err *err) {
    RB_TRY(rb_config_defaults(c, err));
    RB_TRY(rb_config_load_file(c, w->name, err));
    return rb_cli_words_override(w, c, err);
}
