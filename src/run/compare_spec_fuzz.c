/* The parser of comparisons: any bytes give a specification or a message, and every variant of one that is whole gives a
 * configuration or a message. The same bytes are tried as a variant of the command line. */
#include "run/compare_config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static rb_config base, out;

static void resolve_all(const rb_compare_spec *s) {
    rb_err err;
    if (*s->base || rb_compare_base(s, &base, &err)) return; /* no files here */
    for (int i = 0; i < s->variants; i++) {
        rb_compare_which w = {.variant = i,
                              .point = *s->variant[i].sweep.key ? s->variant[i].sweep.value[0] : NULL,
                              .share = s->sweep_share,
                              .seed = s->seed[0]};
        if (rb_compare_config(s, &base, &w, &out, &err) == RESBM_OK && out.pipeline.stages != 1 &&
            !out.pipeline.updates)
            __builtin_trap();
        rb_compare_deployed(s, &base, &w, s->links ? &s->link[0] : NULL, &out, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_compare_spec s;
    rb_err err;
    if (rb_compare_spec_parse(&s, "fuzz.yaml", (const char *)data, size, &err) == RESBM_OK) {
        char *text = strndup((const char *)data, size);
        if (text) (void)rb_compare_spec_add_variant(&s, text, &err);
        free(text);
        if (rb_compare_spec_finish(&s, &err) == RESBM_OK) resolve_all(&s);
    }
    rb_compare_spec_free(&s);
    return 0;
}
