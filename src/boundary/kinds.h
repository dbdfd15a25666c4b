/* The tables behind the registry of boundary.h. */
#ifndef RB_BOUNDARY_KINDS_H
#define RB_BOUNDARY_KINDS_H

#include "boundary/boundary.h"

/* The registry, a word each. The table of kinds and the words of boundary.kind follow from it. */
#define RB_BOUNDARY_KINDS(kind) kind(none) kind(linear) kind(residual) kind(topk) kind(subspace)

#define RB_BOUNDARY_DECLARE(name) extern const rb_boundary_kind rb_boundary_##name;
RB_BOUNDARY_KINDS(RB_BOUNDARY_DECLARE)

/* What several kinds have in common. */
void rb_boundary_latents_only(const rb_boundary_config *c, const rb_boundary_dims *s, rb_boundary_parts *out);
double rb_boundary_stream_std(const rb_boundary_config *c, const rb_boundary_dims *s);
void rb_boundary_list_nothing(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                              rb_tensor_list *l);
void rb_boundary_plan_nothing(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out);
resbm_status rb_boundary_encode_no_weight(const rb_boundary_end *e, rb_view x, rb_err *err);
resbm_status rb_boundary_decode_no_weight(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                          rb_err *err);

#endif
