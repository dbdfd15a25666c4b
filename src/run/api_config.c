/* resbm_config_*: see resbm.h. */
#include <stdlib.h>
#include <string.h>
#include "run/api.h"
#include "run/train.h"

resbm_status resbm_config_new(resbm_config **out, resbm_error *err) {
    *out = NULL;
    resbm_config *c = calloc(1, sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    resbm_status st = rb_config_defaults(&c->c, err);
    if (st)
        free(c);
    else
        *out = c;
    return st;
}

resbm_status resbm_config_load(resbm_config *c, const char *path, resbm_error *err) {
    return rb_config_load_file(&c->c, path, err);
}

resbm_status resbm_config_set(resbm_config *c, const char *assignment, resbm_error *err) {
    return rb_config_override(&c->c, assignment, err);
}

resbm_status resbm_config_of_checkpoint(const char *path, resbm_config **out, resbm_error *err) {
    RB_TRY(resbm_config_new(out, err));
    resbm_status st = rb_checkpoint_config(path, &(*out)->c, (*out)->folder, NULL, err);
    (*out)->c.link = (rb_shape_options){0};
    if (!st) return RESBM_OK;
    resbm_config_free(*out);
    *out = NULL;
    return st;
}

resbm_status resbm_config_print(const resbm_config *c, char **out, resbm_error *err) {
    rb_buf b = {0};
    *out = NULL;
    rb_config_print(&c->c, &b);
    resbm_status st = rb_buf_status(&b, err);
    if (!st) *out = strdup(b.data);
    rb_buf_free(&b);
    return st || *out ? st : rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration's text");
}

void resbm_config_free(resbm_config *c) {
    free(c);
}

resbm_status rb_api_validated(const resbm_config *c, rb_config **out, rb_err *err) {
    *out = malloc(sizeof **out);
    if (!*out) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    **out = c->c;
    resbm_status st = rb_config_validate(*out, err);
    if (!st) return RESBM_OK;
    free(*out);
    *out = NULL;
    return st;
}
