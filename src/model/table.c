/* Tensor table: segment 0, encoder 0, decoder 0, segment 1, ... */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "boundary/aux.h"
#include "codec/steps.h"
#include "model/stage.h"

rb_block_dims rb_model_block_dims(const rb_model_config *m) {
    return (rb_block_dims){.d = m->d,
                           .heads = m->heads,
                           .kv_heads = m->kv_heads,
                           .head = m->head ? m->head : m->d / m->heads,
                           .ffn = m->ffn,
                           .qk_norm = m->qk_norm,
                           .qkv_bias = m->qkv_bias,
                           .eps = (float)m->norm_eps};
}

rb_boundary_dims rb_model_boundary_dims(const rb_model_config *m) {
    return (rb_boundary_dims){.d = m->d, .vocab = m->vocab, .std = m->init_std, .eps = m->norm_eps};
}

int64_t rb_first_layer(const rb_model_config *m, int segment) {
    int64_t at = 0;
    for (int i = 0; i < segment; i++) at += m->segment_layers[i];
    return at;
}

int64_t rb_segment_blocks(const rb_model_config *m, int segment) {
    return m->segment_layers[segment] + (m->cut == RB_CUT_INSIDE && segment + 1 < m->segments);
}

rb_block_dims rb_segment_block(const rb_model_config *m, int segment, int64_t i) {
    rb_block_dims b = rb_model_block_dims(m);
    if (m->cut != RB_CUT_INSIDE) return b;
    if (i == 0 && segment > 0) b.part = RB_BLOCK_MLP;
    if (i == m->segment_layers[segment]) b.part = RB_BLOCK_ATTENTION;
    return b;
}

rb_segment_halves rb_halves_of(const rb_model_config *m, int segment) {
    int64_t all = rb_segment_blocks(m, segment);
    bool inside = m->cut == RB_CUT_INSIDE;
    return (rb_segment_halves){.attention = all - (inside && segment > 0),
                               .mlp = all - (inside && segment + 1 < m->segments)};
}

/* Before a boundary whose kind asks for it, what writes to the stream is held to its subspace. */
static void constrain(const rb_model_config *m, int from, rb_tensor_list *l) {
    rb_boundary_dims dims = rb_model_boundary_dims(m);
    for (int i = from; l->status == RESBM_OK && i < l->table->count; i++) {
        rb_tensor *t = &l->table->rows[i];
        if (strstr(t->name, ".o_proj.") || strstr(t->name, ".down_proj."))
            t->constraint = RB_CONSTRAINT_COLUMNS;
        if (t->role == RB_ROLE_EMBEDDING) t->constraint = RB_CONSTRAINT_ROWS;
    }
    if (l->part_index == 0) rb_tokens_list_fixed(&dims, "model.", l);
}

static void list_segment(const rb_model_config *m, const rb_boundary_config *bound, int s,
                         rb_tensor_list *l) {
    const rb_boundary_kind *kind = rb_boundary_find(bound->kind);
    int from = l->table->count;
    double out_std = m->init_std / sqrt(2.0 * (double)m->layers);
    int64_t first = rb_first_layer(m, s), blocks = rb_segment_blocks(m, s);
    l->part = RB_PART_SEGMENT, l->part_index = s, l->segment = s;
    if (s == 0)
        rb_tensor_add(l, "model.", "embed_tokens.weight", m->vocab, m->d, RB_ROLE_EMBEDDING, 0, m->init_std);
    for (int64_t i = 0; i < blocks; i++) {
        rb_block_dims b = rb_segment_block(m, s, i);
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%lld.", (long long)(first + i));
        rb_block_list(&b, prefix, RB_ROLE_MATRIX, m->init_std, out_std, l);
    }
    if (s < m->segments - 1 && kind && kind->constrains) constrain(m, from, l);
    if (s != m->segments - 1) return;
    rb_tensor_add(l, "model.", "norm.weight", m->d, 0, RB_ROLE_NORM, 1, 0);
    if (!m->tied) rb_tensor_add(l, "", "lm_head.weight", m->vocab, m->d, RB_ROLE_HEAD, 0, m->init_std);
}

/* Both ends remember the learned steps: each updates its own from the codes both have seen. */
static void list_steps(const rb_wire *w, double latent_std, const char *prefix, rb_tensor_list *l) {
    double start = rb_steps_start(w->part[0].pack.code, latent_std);
    if (w->part[0].learned_steps)
        rb_tensor_add(l, prefix, "steps", w->part[0].width, 0, RB_ROLE_STEP, start, 0);
}

static void list_boundary(const rb_model_config *m, const rb_boundary_config *b, const rb_wire *w, int i,
                          rb_tensor_list *l) {
    const rb_boundary_kind *kind = rb_boundary_find(b->kind);
    rb_boundary_dims s = rb_model_boundary_dims(m);
    double latent_std = kind->latent_std ? kind->latent_std(b, &s) : 1;
    char prefix[64];
    l->part = RB_PART_ENCODER, l->part_index = i, l->segment = i;
    snprintf(prefix, sizeof prefix, "boundary.%d.encoder.", i);
    kind->list_encoder(b, &s, prefix, l);
    list_steps(w, latent_std, prefix, l);
    snprintf(prefix, sizeof prefix, "boundary.%d.aux.", i);
    rb_aux_list(b, &s, prefix, l);
    l->part = RB_PART_DECODER, l->segment = i + 1;
    snprintf(prefix, sizeof prefix, "boundary.%d.decoder.", i);
    kind->list_decoder(b, &s, prefix, l);
    rb_tokens_list(b, &s, prefix, l);
    list_steps(w, latent_std, prefix, l);
}

resbm_status rb_tensor_table_build(const rb_model_config *m, const rb_boundary_config *b,
                                   rb_tensor_table *out, rb_err *err) {
    rb_tensor_list l = {.table = out};
    rb_wire wire = {0};
    *out = (rb_tensor_table){0};
    if (m->segments > 1) RB_TRY(rb_model_wire(m, b, 0, &wire, err));
    for (int s = 0; s < m->segments; s++) {
        list_segment(m, b, s, &l);
        if (s + 1 < m->segments) list_boundary(m, b, &wire, s, &l);
    }
    if (l.status == RESBM_OK) return RESBM_OK;
    rb_tensor_table_free(out);
    return rb_fail(err, l.status, "tensor table of %lld layers: out of memory", (long long)m->layers);
}

int rb_table_find(const rb_tensor_table *t, rb_part_kind part, int index) {
    for (int i = 0; i < t->count; i++)
        if (t->rows[i].part == part && t->rows[i].part_index == index) return i;
    return -1;
}
