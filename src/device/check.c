#include "device/check.h"

#include <stdio.h>
#include <string.h>

/* One operand: its types, one letter each (f f32, h bf16, i i32, b u8, d f64, l i64), and its shape, one
 * letter per dimension. Equal letters within an operation mean equal sizes. Beside letters: 1 is the size
 * one, a leading * any number of dimensions whose product is n, = the shape of the first operand, ~ any
 * shape, . a size left to the operation's own check. */
typedef struct operand {
    const char *name, *types, *dims;
} operand;

typedef struct spec {
    rb_op_desc desc;
    operand t[RB_MAX_VIEWS];
    resbm_status (*more)(const rb_op *op, rb_err *err);
} spec;

#define BIT(i) (1u << (i))

static resbm_status check_gemm(const rb_op *op, rb_err *err) {
    const rb_view *c = &op->t[0], *a = &op->t[1], *b = &op->t[2];
    int ta = op->i[0] != 0, tb = op->i[1] != 0;
    int64_t m = a->shape[ta], k = a->shape[!ta], kb = b->shape[tb], n = b->shape[!tb];
    const rb_view *e = &op->t[3];
    if (e->rank && (e->shape[0] != m || e->shape[1] != n))
        return rb_fail(err, RESBM_E_ARG, "gemm: e is %lldx%lld, but op(a) op(b) is %lldx%lld",
                       (long long)e->shape[0], (long long)e->shape[1], (long long)m, (long long)n);
    if (k == kb && c->shape[0] == m && c->shape[1] == n) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "gemm: c is %lldx%lld, but op(a) is %lldx%lld and op(b) %lldx%lld",
                   (long long)c->shape[0], (long long)c->shape[1], (long long)m, (long long)k, (long long)kb,
                   (long long)n);
}

static resbm_status check_syrk(const rb_op *op, rb_err *err) {
    const rb_view *c = &op->t[0], *a = &op->t[1];
    int ta = op->i[0] != 0;
    int64_t m = a->shape[ta], k = a->shape[!ta];
    if (c->shape[0] == m && c->shape[1] == m) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "syrk: c is %lldx%lld, but op(a) is %lldx%lld and its square %lldx%lld",
                   (long long)c->shape[0], (long long)c->shape[1], (long long)m, (long long)k, (long long)m,
                   (long long)m);
}

static resbm_status check_rope(const rb_op *op, rb_err *err) {
    int64_t T = op->t[0].shape[1], D = op->t[0].shape[3], rows = op->t[1].shape[0], off = op->i[0];
    if (D % 2) return rb_fail(err, RESBM_E_ARG, "rope: head width %lld is odd", (long long)D);
    if (op->t[1].shape[1] != D / 2)
        return rb_fail(err, RESBM_E_ARG, "rope: cos has %lld columns, half of head width %lld is %lld",
                       (long long)op->t[1].shape[1], (long long)D, (long long)(D / 2));
    if (off < 0 || off > rows || T > rows - off)
        return rb_fail(err, RESBM_E_ARG, "rope: positions %lld..%lld, but cos has %lld rows", (long long)off,
                       (long long)(off + T - 1), (long long)rows);
    return RESBM_OK;
}

static resbm_status check_groups(const char *name, int64_t H, int64_t G, rb_err *err) {
    if (H % G == 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%s: %lld heads are no multiple of %lld key/value heads", name,
                   (long long)H, (long long)G);
}

static resbm_status check_attention_forward(const rb_op *op, rb_err *err) {
    int64_t T = op->t[2].shape[1], S = op->t[3].shape[1], off = op->i[0];
    if (off < 0 || off > S || T > S - off)
        return rb_fail(err, RESBM_E_ARG, "attention_forward: %lld queries from offset %lld, but %lld keys",
                       (long long)T, (long long)off, (long long)S);
    return check_groups("attention_forward", op->t[2].shape[2], op->t[3].shape[2], err);
}

static resbm_status check_attention_backward(const rb_op *op, rb_err *err) {
    return check_groups("attention_backward", op->t[6].shape[2], op->t[7].shape[2], err);
}

static resbm_status check_topk(const rb_op *op, rb_err *err) {
    int64_t k = op->t[0].shape[1], d = op->t[2].shape[1];
    if (k <= d && d <= 1 << 24) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "topk: the %lld largest of %lld", (long long)k, (long long)d);
}

static resbm_status check_xent(const rb_op *op, rb_err *err) {
    if (!op->t[3].data || op->f[0] != 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "xent: a place for the gradient, but a grad_scale of 0 makes none");
}

static const spec specs[RB_OP_COUNT] = {
    [RB_OP_FILL] = {{"fill", 1, BIT(0), 0, 0}, {{"x", "fdlib", "~"}}, NULL},
    [RB_OP_AXPBY] = {{"axpby", 2, BIT(0), BIT(0), 0}, {{"y", "fh", "~"}, {"x", "fh", "="}}, NULL},
    [RB_OP_GEMM] = {{"gemm", 4, BIT(0), BIT(0), BIT(3)},
                    {{"c", "fh", ".."}, {"a", "fh", ".."}, {"b", "fh", ".."}, {"e", "fh", ".."}},
                    check_gemm},
    [RB_OP_SYRK] = {{"syrk", 2, BIT(0), BIT(0), 0}, {{"c", "fh", ".."}, {"a", "fh", ".."}}, check_syrk},
    [RB_OP_EMBED_FWD] = {{"embed_forward", 3, BIT(0), 0, 0},
                         {{"out", "f", "nd"}, {"table", "f", "Vd"}, {"ids", "i", "n"}},
                         NULL},
    [RB_OP_EMBED_BWD] = {{"embed_backward", 3, BIT(0), BIT(0), 0},
                         {{"dtable", "f", "Vd"}, {"dout", "f", "nd"}, {"ids", "i", "n"}},
                         NULL},
    [RB_OP_RMSNORM_FWD] = {{"rmsnorm_forward", 4, BIT(0) | BIT(1), 0, BIT(3)},
                           {{"y", "fh", "*d"}, {"rstd", "f", "n"}, {"x", "fh", "="}, {"w", "f", "d"}},
                           NULL},
    [RB_OP_RMSNORM_BWD_X] =
        {{"rmsnorm_backward_x", 5, BIT(0), BIT(0), BIT(3)},
         {{"dx", "fh", "*d"}, {"dy", "fh", "="}, {"x", "fh", "="}, {"w", "f", "d"}, {"rstd", "f", "n"}},
         NULL},
    [RB_OP_RMSNORM_BWD_W] = {{"rmsnorm_backward_w", 4, BIT(0), BIT(0), 0},
                             {{"dw", "f", "d"}, {"dy", "fh", "*d"}, {"x", "fh", "*d"}, {"rstd", "f", "n"}},
                             NULL},
    [RB_OP_ROPE] = {{"rope", 3, BIT(0), BIT(0), 0},
                    {{"x", "fh", "BTHD"}, {"cos", "f", "se"}, {"sin", "f", "se"}},
                    check_rope},
    [RB_OP_ATTN_FWD] = {{"attention_forward", 5, BIT(0) | BIT(1), 0, 0},
                        {{"out", "fh", "BTHD"},
                         {"lse", "f", "BHT"},
                         {"q", "fh", "BTHD"},
                         {"k", "fh", "BSGD"},
                         {"v", "fh", "BSGD"}},
                        check_attention_forward},
    [RB_OP_ATTN_BWD] = {{"attention_backward", 9, BIT(0) | BIT(1) | BIT(2), 0, 0},
                        {{"dq", "fh", "BTHD"},
                         {"dk", "fh", "BTGD"},
                         {"dv", "fh", "BTGD"},
                         {"dout", "fh", "BTHD"},
                         {"out", "fh", "BTHD"},
                         {"lse", "f", "BHT"},
                         {"q", "fh", "BTHD"},
                         {"k", "fh", "BTGD"},
                         {"v", "fh", "BTGD"}},
                        check_attention_backward},
    [RB_OP_SWIGLU_FWD] = {{"swiglu_forward", 3, BIT(0), 0, 0},
                          {{"h", "fh", "nf"}, {"gate", "fh", "nf"}, {"up", "fh", "nf"}},
                          NULL},
    [RB_OP_SWIGLU_BWD] = {{"swiglu_backward", 6, BIT(0) | BIT(1) | BIT(2), 0, BIT(2)},
                          {{"dgate", "fh", "nf"},
                           {"dup", "fh", "nf"},
                           {"h", "fh", "nf"},
                           {"dh", "fh", "nf"},
                           {"gate", "fh", "nf"},
                           {"up", "fh", "nf"}},
                          NULL},
    [RB_OP_SILU_FWD] = {{"silu_forward", 2, BIT(0), 0, 0}, {{"y", "f", "~"}, {"x", "f", "="}}, NULL},
    [RB_OP_SILU_BWD] = {{"silu_backward", 3, BIT(0), 0, 0},
                        {{"dx", "f", "~"}, {"dy", "f", "="}, {"x", "f", "="}},
                        NULL},
    [RB_OP_XENT] = {{"xent", 4, BIT(0) | BIT(1) | BIT(3), BIT(1), BIT(3)},
                    {{"loss", "f", "n"}, {"logits", "f", "nV"}, {"targets", "i", "n"}, {"grad", "fh", "nV"}},
                    check_xent},
    [RB_OP_SUM] = {{"sum", 2, BIT(0), 0, 0}, {{"out", "d", "1"}, {"x", "f", "~"}}, NULL},
    [RB_OP_SUMSQ] = {{"sumsq", 2, BIT(0), 0, 0}, {{"out", "d", "1"}, {"x", "f", "~"}}, NULL},
    [RB_OP_NORMALIZE] = {{"normalize", 3, BIT(0), 0, 0},
                         {{"y", "fh", "~"}, {"x", "f", "="}, {"sumsq", "d", "1"}},
                         NULL},
    [RB_OP_ADAMW] = {{"adamw", 4, BIT(0) | BIT(1) | BIT(2), BIT(0) | BIT(1) | BIT(2), 0},
                     {{"p", "f", "c"}, {"m", "f", "c"}, {"v", "f", "c"}, {"g", "f", "c"}},
                     NULL},
    [RB_OP_MUON_MOMENTUM] = {{"muon_momentum", 3, BIT(0) | BIT(1), BIT(0), 0},
                             {{"buf", "f", "~"}, {"update", "f", "="}, {"g", "f", "="}},
                             NULL},
    [RB_OP_PACK] = {{"pack", 3, BIT(0), 0, BIT(2)},
                    {{"bytes", "b", "y"}, {"x", "f", "BTk"}, {"steps", "f", "k"}},
                    NULL},
    [RB_OP_UNPACK] = {{"unpack", 3, BIT(0), 0, BIT(2)},
                      {{"x", "f", "BTk"}, {"bytes", "b", "y"}, {"steps", "f", "k"}},
                      NULL},
    [RB_OP_CODE_STATS] = {{"code_stats", 2, BIT(0), BIT(0), 0},
                          {{"stats", "l", "k"}, {"bytes", "b", "y"}},
                          NULL},
    [RB_OP_TOPK] = {{"topk", 3, BIT(0) | BIT(1), 0, 0},
                    {{"values", "f", "nk"}, {"index", "f", "nk"}, {"x", "f", "nd"}},
                    check_topk},
    [RB_OP_SCATTER] = {{"scatter", 3, BIT(0), BIT(0), 0},
                       {{"y", "f", "nd"}, {"values", "f", "nk"}, {"index", "f", "nk"}},
                       NULL},
};

const rb_op_desc *rb_op_info(rb_op_kind kind) {
    return (unsigned)kind < RB_OP_COUNT ? &specs[kind].desc : NULL;
}

const char *rb_op_view_name(rb_op_kind kind, int index) {
    if ((unsigned)kind >= RB_OP_COUNT || index < 0 || index >= specs[kind].desc.views) return "?";
    return specs[kind].t[index].name;
}

static bool type_fits(rb_dtype t, const char *types) {
    static const char letter[RB_DTYPE_COUNT] = {'f', 'h', 'i', 'b', 'd', 'l'};
    return (unsigned)t < RB_DTYPE_COUNT && strchr(types, letter[t]);
}

static const char *shape_text(const rb_view *v, char *text, size_t size) {
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < v->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, i ? "x%lld" : "%lld", (long long)v->shape[i]);
    return text;
}

/* Presence, type, rank and strides of one view. */
static resbm_status check_view(const spec *s, int j, const rb_view *v, rb_err *err) {
    const char *op = s->desc.name, *name = s->t[j].name;
    if (v->rank < 1 || v->rank > 4)
        return rb_fail(err, RESBM_E_ARG, "%s: %s has rank %d%s", op, name, v->rank,
                       v->rank ? "" : " (it is absent)");
    if (!type_fits(v->dtype, s->t[j].types))
        return rb_fail(err, RESBM_E_ARG, "%s: %s has element type %d, which this operation does not take", op,
                       name, (int)v->dtype);
    if (!v->data) return rb_fail(err, RESBM_E_ARG, "%s: %s has no memory", op, name);
    for (int i = 0; i < v->rank; i++) {
        if (v->shape[i] < 1)
            return rb_fail(err, RESBM_E_ARG, "%s: dimension %d of %s is %lld", op, i, name,
                           (long long)v->shape[i]);
        bool last = i == v->rank - 1;
        if (v->shape[i] > 1 && (last ? v->stride[i] != 1 : v->stride[i] < 1))
            return rb_fail(err, RESBM_E_ARG, "%s: dimension %d of %s has stride %lld%s", op, i, name,
                           (long long)v->stride[i], last ? "; the last dimension must be contiguous" : "");
    }
    return RESBM_OK;
}

static resbm_status wrong_shape(const spec *s, int j, const rb_view *v, const char *why, rb_err *err) {
    char text[96];
    return rb_fail(err, RESBM_E_ARG, "%s: %s is %s, %s", s->desc.name, s->t[j].name,
                   shape_text(v, text, sizeof text), why);
}

/* Binds one size to its letter, or compares it with what the letter already is. */
static resbm_status bind(const spec *s, int j, const rb_view *v, char letter, int64_t size, int64_t *bound,
                         rb_err *err) {
    char why[96];
    if (letter == '.') return RESBM_OK;
    int64_t want = letter == '1' ? 1 : bound[letter & 127];
    if (!want) bound[letter & 127] = size;
    if (!want || want == size) return RESBM_OK;
    snprintf(why, sizeof why, "where its %s is %lld the other operands ask for %lld",
             letter == 'n' ? "number of rows" : "size", (long long)size, (long long)want);
    return wrong_shape(s, j, v, why, err);
}

static resbm_status check_shape(const spec *s, int j, const rb_op *op, int64_t *bound, rb_err *err) {
    const rb_view *v = &op->t[j], *first = &op->t[0];
    const char *dims = s->t[j].dims;
    if (*dims == '~') return RESBM_OK;
    if (*dims == '=') {
        bool same =
            v->rank == first->rank && !memcmp(v->shape, first->shape, (size_t)v->rank * sizeof *v->shape);
        char text[96], why[128];
        snprintf(why, sizeof why, "but %s is %s", s->t[0].name, shape_text(first, text, sizeof text));
        return same ? RESBM_OK : wrong_shape(s, j, v, why, err);
    }
    if (*dims == '*') {
        int64_t rows = 1;
        if (v->rank < 2) return wrong_shape(s, j, v, "it needs rows of a last dimension", err);
        for (int i = 0; i < v->rank - 1; i++) rows *= v->shape[i];
        RB_TRY(bind(s, j, v, 'n', rows, bound, err));
        return bind(s, j, v, dims[1], v->shape[v->rank - 1], bound, err);
    }
    if (v->rank != (int)strlen(dims)) {
        char why[64];
        snprintf(why, sizeof why, "it must have %d dimensions", (int)strlen(dims));
        return wrong_shape(s, j, v, why, err);
    }
    for (int i = 0; i < v->rank; i++) RB_TRY(bind(s, j, v, dims[i], v->shape[i], bound, err));
    return RESBM_OK;
}

resbm_status rb_check_op(const rb_op *op, rb_err *err) {
    if ((unsigned)op->kind >= RB_OP_COUNT)
        return rb_fail(err, RESBM_E_ARG, "operation %d: there are %d", (int)op->kind, RB_OP_COUNT);
    const spec *s = &specs[op->kind];
    int64_t bound[128] = {0};
    for (int j = 0; j < s->desc.views; j++) {
        if (!op->t[j].rank && !op->t[j].data && s->desc.optional & BIT(j)) continue;
        RB_TRY(check_view(s, j, &op->t[j], err));
        RB_TRY(check_shape(s, j, op, bound, err));
    }
    return s->more ? s->more(op, err) : RESBM_OK;
}
