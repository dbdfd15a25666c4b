/* What the two readers of comparisons (YAML and command line) share. */
#ifndef RB_RUN_COMPARE_WORDS_H
#define RB_RUN_COMPARE_WORDS_H

#include <stddef.h>
#include "run/compare_spec.h"

/* Adds a setting after trying it on the defaults; `place` begins the message of what the key table refuses. */
resbm_status rb_overrides_add(rb_overrides *o, const char *place, const char *text, rb_err *err);
void rb_overrides_free(rb_overrides *o);

/* *out is valid until the next call. */
resbm_status rb_compare_new_variant(rb_compare_spec *s, const char *name, const char *place,
                                    rb_compare_variant **out, rb_err *err);
/* "uncompressed", "alone of VARIANT", "same size as VARIANT" */
resbm_status rb_compare_set_control(rb_compare_variant *v, const char *text, const char *place, rb_err *err);
resbm_status rb_compare_set_sweep(rb_compare_variant *v, const char *key, const char *const *value, int n,
                                  const char *place, rb_err *err);

/* ": did you mean 'x'?" with the word of the '|' list nearest to name, or ", there are a, b, c". */
void rb_compare_hint(const char *name, const char *words, char *out, size_t size);

#endif
