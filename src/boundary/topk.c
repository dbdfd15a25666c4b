/* Each token's k largest coordinates, and each gradient's; the rest is dropped, or kept for later:
 *
 *     sender     (z, i) = top_k(x)                       z (k) values, largest first   i (k) where they were
 *     wire       z by the codec, i in 8 bits (d <= 256) or 16
 *     receiver   y = sum_j z_j e_{i_j} [+ S]
 *     backward   a = g_y + r        (g, i') = top_k(a)      g_x = sum_j g_j e_{i'_j}
 *                r <- a - sum_j g_j e_{i'_j}                feedback gradient; none: a = g_y
 *
 * Straight-through: the gradient's coordinates are its own, not those that went forward.
 *
 * r is error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847; on gradients of activations:
 * Rudakov et al. 2023, arXiv 2401.07788): what was dropped is added to the gradient of the same place in the next step's
 * batch. One row per token of a step, by (sequence in the batch, position), so that it depends neither on the
 * microbatches nor on the stages. It is the receiver's state and in the checkpoint. Rounding by the codec is not in
 * it: that is unbiased.
 *
 * Forward there is none. Another step's error belongs to other tokens, and at evaluation there is no step before;
 * AQ-SGD (arXiv 2206.01299), which sends the change of each sample's activation since it was last seen, needs every
 * sample twice and memory for all of them, and one pass over the data sees it once.
 */
#include "boundary/kinds.h"
#include "nn/linear.h"

enum { W_RESIDUE }; /* (feedback_rows,d), decoder */
enum { LARGEST_D = 65536 };

static resbm_status check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    c->hidden = 0;
    if (s->d <= LARGEST_D) return RESBM_OK;
    return rb_fail(err, RESBM_E_CONFIG, "boundary.kind topk: places take 16 bits, model.d %lld is above %d",
                   (long long)s->d, LARGEST_D);
}

static void parts_of(const rb_boundary_config *c, const rb_boundary_dims *s, rb_boundary_parts *out) {
    *out = (rb_boundary_parts){
        .count = 2, .width = {c->k, c->k}, .code = s->d <= 256 ? RB_CODE_INDEX8 : RB_CODE_INDEX16};
}

static double latent_std(const rb_boundary_config *c, const rb_boundary_dims *s) {
    (void)c;
    return 2 * s->std; /* the largest of a stream as wide as the embedding */
}

static bool feeds_back(const rb_boundary_config *c) {
    return c->feedback == RB_FEEDBACK_GRADIENT && c->feedback_rows > 0;
}

static void list_decoder(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                         rb_tensor_list *l) {
    if (feeds_back(c)) rb_tensor_add(l, prefix, "residue", c->feedback_rows, s->d, RB_ROLE_STATE, 0, 0);
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    return rb_topk(e->q, parts[0], parts[1], x, err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    (void)x;
    return rb_scatter(e->q, 1, dparts[0], dparts[1], 0, dx, err);
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    return rb_scatter(e->q, 1, parts[0], parts[1], add ? 1 : 0, y, err);
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    if (!feeds_back(e->cfg)) return rb_topk(e->q, dparts[0], dparts[1], dy, err);
    int64_t n = dy.shape[0], rows = e->cfg->feedback_rows;
    if (e->row < 0 || e->row > rows - n)
        return rb_fail(err, RESBM_E_ARG, "topk: rows %lld to %lld of a step of %lld tokens",
                       (long long)e->row, (long long)(e->row + n), (long long)rows);
    rb_view residue = rb_rows(e->w[W_RESIDUE], e->row, n);
    RB_TRY(rb_add(e->q, residue, dy, err));
    RB_TRY(rb_topk(e->q, dparts[0], dparts[1], residue, err));
    return rb_scatter(e->q, -1, dparts[0], dparts[1], 1, residue, err);
}

const rb_boundary_kind rb_boundary_topk = {
    .name = "topk",
    .summary = "each token's largest coordinates with their places",
    .codec = "int8",
    .narrows = true,
    .straight_through = true,
    .check = check,
    .parts = parts_of,
    .latent_std = latent_std,
    .list_encoder = rb_boundary_list_nothing,
    .list_decoder = list_decoder,
    .plan_saved = rb_boundary_plan_nothing,
    .plan_kept = rb_boundary_plan_nothing,
    .plan_scratch = rb_boundary_plan_nothing,
    .encode_forward = encode_forward,
    .encode_backward_input = encode_backward_input,
    .encode_backward_weight = rb_boundary_encode_no_weight,
    .decode_forward = decode_forward,
    .decode_backward_input = decode_backward_input,
    .decode_backward_weight = rb_boundary_decode_no_weight,
};
