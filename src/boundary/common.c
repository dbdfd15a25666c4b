#include "boundary/kinds.h"

void rb_boundary_latents_only(const rb_boundary_config *c, const rb_boundary_dims *s,
                              rb_boundary_parts *out) {
    (void)s;
    *out = (rb_boundary_parts){.count = 1, .width = {c->k}};
}

double rb_boundary_stream_std(const rb_boundary_config *c, const rb_boundary_dims *s) {
    (void)c;
    return s->std; /* the stream begins as wide as the embedding */
}

void rb_boundary_list_nothing(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                              rb_tensor_list *l) {
    (void)c, (void)s, (void)prefix, (void)l;
}

void rb_boundary_plan_nothing(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    (void)e, (void)n, (void)p;
    *out = (rb_end_buffers){0};
}

resbm_status rb_boundary_encode_no_weight(const rb_boundary_end *e, rb_view x, rb_err *err) {
    (void)e, (void)x, (void)err;
    return RESBM_OK;
}

resbm_status rb_boundary_decode_no_weight(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                          rb_err *err) {
    (void)e, (void)dy, (void)parts, (void)err;
    return RESBM_OK;
}
