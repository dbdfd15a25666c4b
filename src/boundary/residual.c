/* The residual bottleneck. n(.) is RMSNorm with a weight; E and D are two matrices with SiLU between (or
 * one):
 *
 *     a = W_e1 n(x)   E(x) = W_e2 silu(a)      hidden 0:  E(x) = W_e1 n(x)        W_e1 (m,d)  W_e2 (k,m)
 *     b = W_d1 q      D(q) = W_d2 silu(b)      hidden 0:  D(q) = W_d1 q           W_d1 (m,k)  W_d2 (d,m)
 *
 * I_j takes the first j coordinates, I_j^T puts them back among zeros; i is the identity part of width w, w =
 * d when identity is full. S is added by the caller before.
 *
 *     identity    sender                  wire      receiver                 backward
 *     truncate    z = E(x) + I_k x        z         y = D(q) + I_k^T q       g_q = J_D^T g_y + I_k g_y
 *                                                                            g_x = J_E^T g_q + I_k^T g_q
 *     split       z = E(x)   i = I_w x    z, i      y = D(q) + I_w^T i       g_q = J_D^T g_y   g_i = I_w g_y
 *     full        z = E(x)   i = x        z, i      y = D(q) + i             g_x = J_E^T g_q + I_w^T g_i
 *     none        z = E(x)                z         y = D(q)                 g_q = J_D^T g_y   g_x = J_E^T g_q
 *     rotate      z = E(x) + R x          z         y = D(q) + R'^T q        as truncate, R and R' for I_k
 *
 * R and R' (k,d) are trained, each at its own end, and have orthonormal rows: retracted after each update
 * (model/constrain.c). Both begin as I_k, so that the run begins as that of truncate.
 */
#include <math.h>
#include "boundary/kinds.h"
#include "nn/linear.h"

enum { W_NORM, W_E1, W_E2 };   /* encoder's rows; R is the last */
enum { W_D1, W_D2 };           /* decoder's; R' is the last */
enum { SAVED_A, SAVED_RSTD };  /* (n,m) input of SiLU; (n), encoder */
enum { KEPT_DA, KEPT_DZ };     /* (n,m) its gradient; (n,k), encoder */
enum { TMP_HIDDEN, TMP_NORM }; /* (n,m), (n,d) */

static resbm_status check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    if (c->hidden < 0) c->hidden = 4 * c->k > 64 ? 4 * c->k : 64;
    if (c->identity == RB_IDENTITY_FULL) c->identity_width = s->d;
    if (c->identity != RB_IDENTITY_FULL && c->identity != RB_IDENTITY_SPLIT) c->identity_width = 0;
    if (c->identity != RB_IDENTITY_SPLIT || (c->identity_width >= 1 && c->identity_width <= s->d))
        return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CONFIG,
        "boundary.identity_width %lld: identity split sends 1 to model.d (%lld) coordinates uncompressed",
        (long long)c->identity_width, (long long)s->d);
}

static void parts_of(const rb_boundary_config *c, const rb_boundary_dims *s, rb_boundary_parts *out) {
    (void)s;
    *out = (rb_boundary_parts){c->identity_width ? 2 : 1, {c->k, c->identity_width}, RB_CODE_BF16};
}

/* E(x) of a normed x, by the maps' initial sizes (SiLU of a standard normal number has a mean square of 0.3558), and
 * the coordinates of a stream that begins as wide as the embedding. */
/* The latents are also the identity path. */
static bool through_latents(const rb_boundary_config *c) {
    return c->identity == RB_IDENTITY_TRUNCATE || c->identity == RB_IDENTITY_ROTATE;
}

static double latent_std(const rb_boundary_config *c, const rb_boundary_dims *s) {
    double normed = c->hidden ? sqrt(0.3558 * (double)c->hidden) : sqrt((double)s->d);
    return s->std * sqrt(normed * normed + through_latents(c));
}

static bool may_vanish(const rb_boundary_config *c) {
    return through_latents(c) || c->identity == RB_IDENTITY_NONE;
}

static void list_rotation(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                          rb_tensor_list *l) {
    if (c->identity != RB_IDENTITY_ROTATE) return;
    rb_tensor *t = rb_tensor_add(l, prefix, "rotation.weight", c->k, s->d, RB_ROLE_BOUNDARY_MATRIX, 0, 0);
    if (!t) return;
    t->values = RB_VALUES_IDENTITY;
    t->constraint = RB_CONSTRAINT_ORTHONORMAL;
}

/* The first map keeps the size of a coordinate, the last starts as small as a block's matrices. */
static void list_encoder(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    rb_role role = RB_ROLE_BOUNDARY_MATRIX;
    rb_tensor_add(l, prefix, "norm.weight", s->d, 0, RB_ROLE_NORM, 1, 0);
    if (c->hidden) rb_tensor_add(l, prefix, "fc1.weight", c->hidden, s->d, role, 0, 1 / sqrt((double)s->d));
    if (c->hidden) rb_tensor_add(l, prefix, "fc2.weight", c->k, c->hidden, role, 0, s->std);
    if (!c->hidden) rb_tensor_add(l, prefix, "fc1.weight", c->k, s->d, role, 0, s->std);
    list_rotation(c, s, prefix, l);
}

static void list_decoder(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    rb_role role = RB_ROLE_BOUNDARY_MATRIX;
    double last = rb_decoder_std(c, s->std);
    if (c->hidden) rb_tensor_add(l, prefix, "fc1.weight", c->hidden, c->k, role, 0, 1 / sqrt((double)c->k));
    if (c->hidden) rb_tensor_add(l, prefix, "fc2.weight", s->d, c->hidden, role, 0, last);
    if (!c->hidden) rb_tensor_add(l, prefix, "fc1.weight", s->d, c->k, role, 0, last);
    list_rotation(c, s, prefix, l);
}

static void plan_saved(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    *out = (rb_end_buffers){0};
    if (e->cfg->hidden) out->v[SAVED_A] = rb_plan2(p, n, e->cfg->hidden);
    if (e->encoder) out->v[SAVED_RSTD] = rb_plan1(p, n);
}

static void plan_kept(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    *out = (rb_end_buffers){0};
    if (e->cfg->hidden) out->v[KEPT_DA] = rb_plan2(p, n, e->cfg->hidden);
    if (e->encoder) out->v[KEPT_DZ] = rb_plan2(p, n, e->cfg->k);
}

static void plan_scratch(const rb_boundary_end *e, int64_t n, rb_plan *p, rb_end_buffers *out) {
    *out = (rb_end_buffers){0};
    if (e->cfg->hidden) out->v[TMP_HIDDEN] = rb_plan2(p, n, e->cfg->hidden);
    out->v[TMP_NORM] = rb_plan2(p, n, e->dims.d);
}

static bool truncates(const rb_boundary_end *e) {
    return e->cfg->identity == RB_IDENTITY_TRUNCATE;
}
/* Number of R's row; -1 without one. */
static int rotation(const rb_boundary_end *e) {
    if (e->cfg->identity != RB_IDENTITY_ROTATE) return -1;
    return (e->encoder ? W_E1 : W_D1) + (e->cfg->hidden ? 2 : 1);
}
static resbm_status norm(const rb_boundary_end *e, rb_view x, rb_err *err) {
    return rb_rmsnorm_forward(e->q, e->scratch.v[TMP_NORM], e->saved.v[SAVED_RSTD], x, e->w[W_NORM],
                              (float)e->dims.eps, err);
}
static resbm_status activate(const rb_boundary_end *e, rb_err *err) {
    return rb_silu_forward(e->q, e->scratch.v[TMP_HIDDEN], e->saved.v[SAVED_A], err);
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    rb_view z = parts[0], normed = e->scratch.v[TMP_NORM];
    float beta = through_latents(e->cfg) ? 1 : 0;
    int turn = rotation(e);
    if (turn >= 0) RB_TRY(rb_linear_forward(e->q, z, 0, x, e->w[turn], err));
    if (truncates(e)) RB_TRY(rb_copy(e->q, z, rb_columns(x, 0, e->cfg->k), err));
    if (e->cfg->identity_width)
        RB_TRY(rb_copy(e->q, parts[1], rb_columns(x, 0, e->cfg->identity_width), err));
    RB_TRY(norm(e, x, err));
    if (!e->cfg->hidden) return rb_linear_forward(e->q, z, beta, normed, e->w[W_E1], err);
    RB_TRY(rb_linear_forward(e->q, e->saved.v[SAVED_A], 0, normed, e->w[W_E1], err));
    RB_TRY(activate(e, err));
    return rb_linear_forward(e->q, z, beta, e->scratch.v[TMP_HIDDEN], e->w[W_E2], err);
}

/* Gradient of the input of the two (or one) maps from that of their output: dx = beta dx + ... */
static resbm_status maps_backward(const rb_boundary_end *e, rb_view dx, float beta, rb_view dy, rb_err *err) {
    rb_view da = e->kept.v[KEPT_DA];
    int first = e->encoder ? W_E1 : W_D1, last = e->encoder ? W_E2 : W_D2;
    if (!e->cfg->hidden) return rb_linear_backward_x(e->q, dx, beta, dy, e->w[first], err);
    RB_TRY(rb_linear_backward_x(e->q, da, 0, dy, e->w[last], err));
    RB_TRY(rb_silu_backward(e->q, da, da, e->saved.v[SAVED_A], err));
    return rb_linear_backward_x(e->q, dx, beta, da, e->w[first], err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    rb_view dn = e->scratch.v[TMP_NORM], rstd = e->saved.v[SAVED_RSTD];
    int64_t w = e->cfg->identity_width, k = e->cfg->k;
    int turn = rotation(e);
    RB_TRY(rb_copy(e->q, e->kept.v[KEPT_DZ], dparts[0], err));
    RB_TRY(maps_backward(e, dn, 0, dparts[0], err));
    RB_TRY(rb_rmsnorm_backward_w(e->q, e->dw[W_NORM], dn, x, rstd, err));
    RB_TRY(rb_rmsnorm_backward_x(e->q, dx, 0, dn, x, e->w[W_NORM], rstd, err));
    if (turn >= 0) return rb_linear_backward_x(e->q, dx, 1, dparts[0], e->w[turn], err);
    if (truncates(e)) return rb_add(e->q, rb_columns(dx, 0, k), dparts[0], err);
    return w ? rb_add(e->q, rb_columns(dx, 0, w), dparts[1], err) : RESBM_OK;
}

static resbm_status encode_backward_weight(const rb_boundary_end *e, rb_view x, rb_err *err) {
    rb_view dz = e->kept.v[KEPT_DZ], normed = e->scratch.v[TMP_NORM];
    int turn = rotation(e);
    if (turn >= 0) RB_TRY(rb_linear_backward_w(e->q, e->dw[turn], dz, x, err));
    RB_TRY(norm(e, x, err));
    if (!e->cfg->hidden) return rb_linear_backward_w(e->q, e->dw[W_E1], dz, normed, err);
    RB_TRY(activate(e, err));
    RB_TRY(rb_linear_backward_w(e->q, e->dw[W_E2], dz, e->scratch.v[TMP_HIDDEN], err));
    return rb_linear_backward_w(e->q, e->dw[W_E1], e->kept.v[KEPT_DA], normed, err);
}

static resbm_status decode_maps(const rb_boundary_end *e, rb_view y, bool add, rb_view latents, rb_err *err) {
    float beta = add ? 1 : 0;
    if (!e->cfg->hidden) return rb_linear_forward(e->q, y, beta, latents, e->w[W_D1], err);
    RB_TRY(rb_linear_forward(e->q, e->saved.v[SAVED_A], 0, latents, e->w[W_D1], err));
    RB_TRY(activate(e, err));
    return rb_linear_forward(e->q, y, beta, e->scratch.v[TMP_HIDDEN], e->w[W_D2], err);
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    int64_t w = e->cfg->identity_width;
    int turn = rotation(e);
    RB_TRY(decode_maps(e, y, add, parts[0], err));
    if (turn >= 0) return rb_linear_backward_x(e->q, y, 1, parts[0], e->w[turn], err);
    if (truncates(e)) return rb_add(e->q, rb_columns(y, 0, e->cfg->k), parts[0], err);
    return w ? rb_add(e->q, rb_columns(y, 0, w), parts[1], err) : RESBM_OK;
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    int64_t w = e->cfg->identity_width;
    int turn = rotation(e);
    if (turn >= 0) RB_TRY(rb_linear_forward(e->q, dparts[0], 0, dy, e->w[turn], err));
    if (truncates(e)) RB_TRY(rb_copy(e->q, dparts[0], rb_columns(dy, 0, e->cfg->k), err));
    if (w) RB_TRY(rb_copy(e->q, dparts[1], rb_columns(dy, 0, w), err));
    return maps_backward(e, dparts[0], through_latents(e->cfg) ? 1 : 0, dy, err);
}

static resbm_status decode_backward_weight(const rb_boundary_end *e, rb_view dy, const rb_view *parts,
                                           rb_err *err) {
    int turn = rotation(e);
    if (turn >= 0) RB_TRY(rb_linear_backward_w(e->q, e->dw[turn], parts[0], dy, err));
    if (!e->cfg->hidden) return rb_linear_backward_w(e->q, e->dw[W_D1], dy, parts[0], err);
    RB_TRY(activate(e, err));
    RB_TRY(rb_linear_backward_w(e->q, e->dw[W_D2], dy, e->scratch.v[TMP_HIDDEN], err));
    return rb_linear_backward_w(e->q, e->dw[W_D1], e->kept.v[KEPT_DA], parts[0], err);
}

const rb_boundary_kind rb_boundary_residual = {
    .name = "residual",
    .summary = "residual bottleneck: small encoder and decoder beside an identity path",
    .codec = "int4",
    .keeps_latents = true,
    .masks = true,
    .narrows = true,
    .check = check,
    .parts = parts_of,
    .latent_std = latent_std,
    .may_vanish = may_vanish,
    .list_encoder = list_encoder,
    .list_decoder = list_decoder,
    .plan_saved = plan_saved,
    .plan_kept = plan_kept,
    .plan_scratch = plan_scratch,
    .encode_forward = encode_forward,
    .encode_backward_input = encode_backward_input,
    .encode_backward_weight = encode_backward_weight,
    .decode_forward = decode_forward,
    .decode_backward_input = decode_backward_input,
    .decode_backward_weight = decode_backward_weight,
};
