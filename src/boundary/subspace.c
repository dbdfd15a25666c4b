/* A fixed subspace that everything written to the stream stays in: lossless at its own k (Ramasinghe et al. 2025,
 * Protocol Models, arXiv 2506.01260). B (k,d) has orthonormal rows, drawn from the run's seed, the same at all
 * boundaries, kept in no checkpoint; P = B^T B.
 *
 *     sender     z = B x
 *     receiver   y = B^T q + F[tokens]       F = E_0 (1 - P), E_0 the embedding as it began
 *     backward   g_q = B g_y                 g_x = B^T g_q
 *
 * x = F[tokens] + a sum of vectors in the subspace, where (table.c says which, model/constrain.c keeps it so)
 *
 *     columns of o_proj and down_proj before the last boundary    W <- P W after each step
 *     the embedding                                               E <- F + E P
 *
 * and as B F = 0, z holds all of x but F[tokens], which each receiver has from the token ids. Going back, what g_y
 * has outside the subspace would be lost on every tensor: dP W = P dW, and F is fixed. So the gradients of those
 * tensors are projected too, before norms and update, and the loss is that of the same training without
 * boundaries, up to rounding. Not taken over from the paper: moving the subspace during the run, and a second moment of
 * AdamW shared by rows (the projection after the step does its work).
 */
#include "boundary/kinds.h"
#include "nn/linear.h"

static resbm_status check(rb_boundary_config *c, const rb_boundary_dims *s, rb_err *err) {
    (void)s;
    c->hidden = 0;
    if (c->tokens != RB_TOKENS_NONE && c->tokens != RB_TOKENS_FIXED)
        return rb_fail(
            err, RESBM_E_CONFIG,
            "boundary.tokens: kind subspace has a token path of its own, the embedding's fixed part");
    c->tokens = RB_TOKENS_FIXED;
    return RESBM_OK;
}

static void list_basis(const rb_boundary_config *c, const rb_boundary_dims *s, const char *prefix,
                       rb_tensor_list *l) {
    rb_tensor *t = rb_tensor_add(l, prefix, "basis", c->k, s->d, RB_ROLE_STATE, 0, 1);
    if (!t) return;
    t->values = RB_VALUES_BASIS;
    t->like = "boundary.basis";
}

static resbm_status encode_forward(const rb_boundary_end *e, rb_view x, const rb_view *parts, rb_err *err) {
    return rb_linear_forward(e->q, parts[0], 0, x, e->w[0], err);
}

static resbm_status encode_backward_input(const rb_boundary_end *e, rb_view dx, const rb_view *dparts,
                                          rb_view x, rb_err *err) {
    (void)x;
    return rb_linear_backward_x(e->q, dx, 0, dparts[0], e->w[0], err);
}

static resbm_status decode_forward(const rb_boundary_end *e, rb_view y, bool add, const rb_view *parts,
                                   rb_err *err) {
    return rb_linear_backward_x(e->q, y, add ? 1 : 0, parts[0], e->w[0], err);
}

static resbm_status decode_backward_input(const rb_boundary_end *e, const rb_view *dparts, rb_view dy,
                                          rb_err *err) {
    return rb_linear_forward(e->q, dparts[0], 0, dy, e->w[0], err);
}

const rb_boundary_kind rb_boundary_subspace = {
    .name = "subspace",
    .summary = "a fixed subspace that the weights which write to the stream are kept in: lossless at its k",
    .codec = "bf16",
    .narrows = true,
    .constrains = true,
    .check = check,
    .parts = rb_boundary_latents_only,
    .latent_std = rb_boundary_stream_std,
    .list_encoder = list_basis,
    .list_decoder = list_basis,
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
