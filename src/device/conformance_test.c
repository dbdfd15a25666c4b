/* ctest: timeout=600 */
/* Every device of the registry against the reference, every kind of operation: odd sizes, strided views,
 * absent operands, outputs that share memory with inputs where ops.h allows it, NaN and inf told apart, guard
 * bands round every buffer, and the same bits for 1, 2 and 3 threads. */
#include "device/testing.h"

#define P1(a, what)                                                                                          \
    { RB_F32, 1, {a}, 0, what, 0, 0, NULL, 0 }
#define P2(a, b, gap, what)                                                                                  \
    { RB_F32, 2, {a, b}, gap, what, 0, 0, NULL, 0 }
#define ABSENT                                                                                               \
    { RB_F32, 0, {0}, 0, ZERO, 0, 0, NULL, 0 }
#define SHARED2(a, b, gap, of)                                                                               \
    { RB_F32, 2, {a, b}, gap, ZERO, 0, (of) + 1, NULL, 0 }
#define IDS1(n, range, what)                                                                                 \
    { RB_I32, 1, {n}, 0, what, range, 0, NULL, 0 }

/* The case with the views of the mask in bf16, as activations are kept; outputs among them are rounded once. */
static void check_halves(fixture *f, const test_case *c, unsigned views) {
    test_case half = *c;
    for (int j = 0; j < PARTS; j++) {
        half.t[j].host = NULL; /* made anew: what c had is freed */
        if (views >> j & 1 && half.t[j].rank) half.t[j].dtype = RB_BF16;
    }
    if (views & rb_op_info(c->op.kind)->out && half.tolerance < 1. / 128) half.tolerance = 1. / 128;
    check(f, &half);
}
enum { ALL_VIEWS = (1 << PARTS) - 1, LSE_OF_FORWARD = 1 << 1, LSE_OF_BACKWARD = 1 << 5 };

static void test_gemm(void **state) {
    static const int64_t size[][3] = {{1, 1, 1},      {1, 300, 64},  {5, 7, 3},    {64, 64, 64},
                                      {130, 70, 33},  {257, 96, 40}, {33, 520, 9}, {520, 33, 65},
                                      {3, 1030, 130}, {600, 5, 200}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int t = 0; t < 4; t++) {
            int64_t M = size[i][0], N = size[i][1], K = size[i][2], ta = t & 1, tb = t >> 1,
                    gap = i % 2 ? 3 : 0;
            test_case c = {{.kind = RB_OP_GEMM, .f = {t == 1 ? 0.5f : 1, t == 3 ? 1.f : 0}, .i = {ta, tb}},
                           {P2(M, N, gap, t == 3 ? NORMAL : NAN_FILL),
                            P2(ta ? K : M, ta ? M : K, gap, NORMAL), P2(tb ? N : K, tb ? K : N, 0, NORMAL)},
                           1e-5,
                           "",
                           0};
            check(*state, &c);
            if (M < 33)
                continue; /* enough rows: errors of one go the same way, as its numbers are positive */
            static const unsigned halves[] = {1 << 0, 1 << 1, 1 << 2 /* as weights are kept */, 7};
            for (int j = 0; j < 4; j++) check_halves(*state, &c, halves[j]);
        }
}

/* What is added lies elsewhere, in any mix of types; beta 0 does not read it. */
static void test_gemm_plus(void **state) {
    static const int64_t size[][3] = {{40, 72, 48}, {33, 67, 70}, {130, 41, 33}};
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 4; t++) {
            int64_t M = size[i][0], N = size[i][1], K = size[i][2], ta = t & 1, gap = i == 1 ? 5 : 0;
            test_case c = {{.kind = RB_OP_GEMM, .f = {0.5f, t < 3 ? -2.f : 0}, .i = {ta, t >> 1}},
                           {P2(M, N, gap, NAN_FILL), P2(ta ? K : M, ta ? M : K, 0, NORMAL),
                            P2(t >> 1 ? N : K, t >> 1 ? K : N, gap, NORMAL),
                            P2(M, N, 8, t < 3 ? NORMAL : NAN_FILL)},
                           1e-5,
                           "",
                           0};
            check(*state, &c);
            static const unsigned halves[] = {1 << 0, 1 << 3, 1 << 0 | 1 << 3, 1 << 2, 15};
            for (int j = 0; j < 5; j++) check_halves(*state, &c, halves[j]);
        }
    /* An addend that is a factor as well, as Muon has it. */
    test_case own = {{.kind = RB_OP_GEMM, .f = {2, -3}, .i = {0, 1}},
                     {P2(72, 72, 0, NAN_FILL), P2(72, 72, 0, NORMAL), SHARED2(72, 72, 0, 1),
                      SHARED2(72, 72, 0, 1)},
                     1e-5,
                     "",
                     0};
    check(*state, &own);
    check_halves(*state, &own, 15);
}

/* What lies above the diagonal is mirrored, whatever was there before: the lower half to the bit. */
static void check_symmetric(fixture *f, const test_case *c) {
    for (int d = 0; d < f->devices; d++) {
        void *got[PARTS];
        run_case(c, f->d[d].dev, f->d[d].q, got);
        rb_view v = view_of(&c->t[0], got[0]);
        for (int64_t i = 0; i < v.shape[0]; i++)
            for (int64_t j = 0; j < i; j++)
                if (get(&v, i * v.stride[0] + j) != get(&v, j * v.stride[0] + i))
                    fail_msg("%s on %s: row %lld column %lld is no mirror image", c->name, f->d[d].name,
                             (long long)j, (long long)i);
        free_results(got, 2);
    }
}

static void check_syrk(fixture *f, test_case c, unsigned halves) {
    for (int j = 0; j < 2; j++)
        if (halves >> j & 1) c.t[j].dtype = RB_BF16;
    if (halves & 1) c.tolerance = 1. / 128;
    make_case(&c);
    rb_view v = view_of(&c.t[0], c.t[0].host);
    for (int64_t r = 0; r < v.shape[0]; r++)
        for (int64_t j = r + 1; j < v.shape[0]; j++) put(&v, r * v.stride[0] + j, NAN);
    check_symmetric(f, &c);
    check(f, &c);
}

/* One strip and several, with a last one of a few rows; panels of transposed columns, with a rest. */
static void test_syrk(void **state) {
    static const int64_t size[][2] = {{1, 1},     {5, 3},    {64, 64},   {65, 40},
                                      {130, 300}, {200, 33}, {259, 257}, {512, 300},
                                      {196, 40} /* whole vectors, but not whole tiles */};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int t = 0; t < 4; t++) {
            int64_t M = size[i][0], K = size[i][1], ta = t & 1, gap = i % 2 && M < 512 ? 3 : 0;
            float beta = t >> 1 ? 0.5f : 0;
            test_case c = {
                {.kind = RB_OP_SYRK, .f = {beta != 0 ? 1 : 2, beta}, .i = {ta}},
                {P2(M, M, gap, beta != 0 ? NORMAL : NAN_FILL), P2(ta ? K : M, ta ? M : K, gap, NORMAL)},
                1e-5,
                "",
                0};
            check_syrk(*state, c, 0);
            for (unsigned halves = 1; halves < 4 && M > 5 && M <= 200; halves++) check_syrk(*state, c, halves);
        }
}

/* Factors whose rows lie a power of two or far apart, which the cpu copies in panels: full ones and rests of them. */
static void test_gemm_of_distant_rows(void **state) {
    static const int64_t size[][3] = {{512, 40, 300}, {40, 512, 300}, {200, 512, 33}, {1030, 270, 260}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int t = 0; t < 4; t++) {
            int64_t M = size[i][0], N = size[i][1], K = size[i][2], ta = t & 1;
            test_case c = {{.kind = RB_OP_GEMM, .f = {0.5f, t >> 1 ? 2.f : 0}, .i = {ta, 0}},
                           {P2(M, N, 5, t >> 1 ? NORMAL : NAN_FILL), P2(ta ? K : M, ta ? M : K, 0, NORMAL),
                            P2(K, N, 0, NORMAL)},
                           1e-5,
                           "",
                           0};
            check(*state, &c);
        }
}

/* Factors in f32 whose rows are whole vectors, with gaps of them or of less; and squares, which have one factor. */
static void test_gemm_of_whole_vectors(void **state) {
    static const int64_t gaps[] = {0, 4, 6};
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 3; i++) {
            int64_t ta = t & 1, tb = t >> 1, gap = gaps[i];
            test_case c = {{.kind = RB_OP_GEMM, .f = {0.5f, 0}, .i = {ta, tb}},
                           {P2(40, 72, gap, NAN_FILL), P2(ta ? 48 : 40, ta ? 40 : 48, gap, NORMAL),
                            P2(tb ? 72 : 48, tb ? 48 : 72, gap, NORMAL)},
                           1e-5,
                           "",
                           0};
            test_case square = {{.kind = RB_OP_GEMM, .f = {2, 0}, .i = {ta, !ta}},
                                {P2(40, 40, gap, NAN_FILL), P2(ta ? 48 : 40, ta ? 40 : 48, gap, NORMAL),
                                 SHARED2(ta ? 48 : 40, ta ? 40 : 48, gap, 1)},
                                1e-5,
                                "",
                                0};
            check(*state, &c);
            check(*state, &square);
        }
    test_case large = {{.kind = RB_OP_GEMM, .f = {1, 0}}, /* more of one factor than the emulation counts in 32 bits */
                       {P2(8, 256, 0, NAN_FILL), P2(8, 264, 0, NORMAL), P2(264, 256, 4, NORMAL)},
                       1e-5,
                       "",
                       0};
    check(*state, &large);
}

/* Tiles large enough that oneDNN would cut them by the number of threads if it were let. */
static void test_gemm_bits_of_large_tiles(void **state) {
    fixture *f = *state;
    enum { M = 1024, N = 256, K = 1000 };
    for (int t = 0; t < 4; t++) {
        int ta = t & 1, tb = t >> 1;
        test_case c = {{.kind = RB_OP_GEMM, .f = {1, 0}, .i = {ta, tb}},
                       {P2(M, N, 0, NAN_FILL), P2(ta ? K : M, ta ? M : K, 0, NORMAL),
                        P2(tb ? N : K, tb ? K : N, 0, NORMAL)},
                       0,
                       "",
                       0};
        void *one[PARTS] = {NULL}, *got[PARTS];
        make_case(&c);
        for (int i = 0; i < f->devices; i++) {
            if (strcmp(f->d[i].name, "cpu")) continue;
            run_case(&c, f->d[i].dev, f->d[i].q, one[0] ? got : one);
            if (f->d[i].threads == 1) continue;
            if (memcmp(one[0], got[0], c.t[0].bytes))
                fail_msg("%s: other bits with %d threads", c.name, f->d[i].threads);
            free_results(got, 3);
        }
        free_results(one, 3);
        free_case(&c);
    }
}

static void test_fill_and_axpby(void **state) {
    static const rb_dtype types[] = {RB_F32, RB_F64, RB_I32, RB_I64, RB_U8};
    for (int i = 0; i < 5; i++)
        for (int64_t n = 1; n < 30000; n = n * 7 + 2) {
            test_case c = {{.kind = RB_OP_FILL, .f = {3}},
                           {{types[i], 2, {n, 3}, n % 3, NORMAL, 0, 0, NULL, 0}},
                           0,
                           "",
                           0};
            check(*state, &c);
        }
    for (int64_t n = 5; n < 4000; n *= 25) { /* whole vectors */
        test_case c = {{.kind = RB_OP_FILL, .f = {3}}, {P2(n, 4, n % 2 * 4, NORMAL)}, 0, "", 0};
        check(*state, &c);
    }
    for (int mix = 0; mix < 8; mix++)
        for (int64_t n = 1; n < 30000; n = n * 11 + 3) {
            rb_dtype x = mix & 1 ? RB_BF16 : RB_F32, y = mix & 2 ? RB_BF16 : RB_F32;
            float beta = mix & 4 ? 0.25f : 0;
            test_case c = {{.kind = RB_OP_AXPBY, .f = {beta != 0 ? 1.f : 2.f, beta}},
                           {{y, 3, {2, n, 5}, n % 2, beta != 0 ? POSITIVE : NAN_FILL, 0, 0, NULL, 0},
                            {x, 3, {2, n, 5}, n % 5, POSITIVE, 0, 0, NULL, 0}},
                           y == RB_BF16 ? 1. / 128 : 1e-6,
                           "",
                           0};
            check(*state, &c);
            for (int gap = 0; gap < 9; gap += 8) { /* rows of whole vectors */
                c.t[0].shape[2] = c.t[1].shape[2] = 8;
                c.t[0].gap = 0, c.t[1].gap = gap;
                c.t[0].host = c.t[1].host = NULL;
                check(*state, &c);
            }
        }
    test_case own = {
        {.kind = RB_OP_AXPBY, .f = {2, 1}}, {P2(9, 5000, 0, NORMAL), SHARED2(9, 5000, 0, 0)}, 1e-6, "", 0};
    check(*state, &own);
}

static void test_embed(void **state) {
    static const int64_t size[][3] = {{1, 1, 1}, {7, 5, 3}, {300, 64, 11}, {129, 257, 40}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        int64_t n = size[i][0], d = size[i][1], V = size[i][2];
        test_case f = {{.kind = RB_OP_EMBED_FWD},
                       {P2(n, d, 2, NAN_FILL), P2(V, d, 1, NORMAL), IDS1(n, V, IDS)},
                       0,
                       "",
                       0};
        test_case b = {{.kind = RB_OP_EMBED_BWD},
                       {P2(V, d, 0, NORMAL), P2(n, d, 3, NORMAL), IDS1(n, V, IDS)},
                       1e-6,
                       "",
                       0};
        check(*state, &f);
        check(*state, &b);
    }
}

/* One id's tokens come one after the other, to the bit: few and many of them, all the same, tables of one digit and of several. */
static void test_embed_of_skewed_ids(void **state) {
    static const struct {
        int64_t n, d, V, range;
        init ids;
    } size[] = {{1, 8, 3, 3, IDS},           {129, 32, 2, 1, IDS},          {1500, 8, 5, 1, IDS},
                {1300, 136, 256, 256, SKEWED_IDS}, {1025, 36, 700, 700, SKEWED_IDS}, {700, 33, 300, 300, SKEWED_IDS},
                {600, 12, 300000, 300000, IDS},    {513, 264, 4, 4, IDS},            {260, 70, 600, 2, IDS}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int gap = 0; gap < 4; gap += 4) {
            test_case c = {{.kind = RB_OP_EMBED_BWD},
                           {P2(size[i].V, size[i].d, 0, NORMAL), P2(size[i].n, size[i].d, gap, NORMAL),
                            IDS1(size[i].n, size[i].range, size[i].ids)},
                           0,
                           "",
                           0};
            check(*state, &c);
            test_case f = {{.kind = RB_OP_EMBED_FWD},
                           {P2(size[i].n, size[i].d, gap, NAN_FILL), P2(size[i].V, size[i].d, 0, NORMAL),
                            IDS1(size[i].n, size[i].range, size[i].ids)},
                           0,
                           "",
                           0};
            check(*state, &f);
        }
}

static void test_rmsnorm(void **state) {
    static const int64_t size[][3] = {{1, 1, 0},    {3, 5, 1},     {64, 64, 2},   {131, 100, 0}, {200, 257, 1}, {67, 64, 8},
                                      {65, 128, 0}, {9, 200, 4},   {5, 768, 8},   {11, 1024, 0}, {3, 1544, 0},  {2, 4096, 8},
                                      {2, 8192, 0}, {2, 20000, 0}, {70, 32, 0}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int mode = 0; mode < 4; mode += size[i][0] * size[i][1] > 10000 || size[i][1] > 1024 ? 3 : 1) {
            int64_t n = size[i][0], d = size[i][1], gap = size[i][2]; /* mode: bit 0: no w; bit 1: rank 3 */
            part rows = P2(n, d, gap, NORMAL), w = P1(d, NORMAL), rstd = P1(n, POSITIVE), none = ABSENT;
            if (mode & 1) w = none;
            if (mode & 2)
                rows = (part){RB_F32, 3, {n, 2, d}, gap, NORMAL, gap + 8, 0, NULL, 0}, rstd.shape[0] = 2 * n;
            part y = rows, dw = P1(d, NORMAL), inplace = rows;
            y.init = NAN_FILL;
            inplace.shares = 2;
            test_case f = {{.kind = RB_OP_RMSNORM_FWD, .f = {1e-5f}}, {y, rstd, rows, w}, 3e-6, "", 0};
            test_case b = {{.kind = RB_OP_RMSNORM_BWD_X, .f = {0}}, {y, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case a = {{.kind = RB_OP_RMSNORM_BWD_X, .f = {1}}, {rows, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case s = {
                {.kind = RB_OP_RMSNORM_BWD_X, .f = {0}}, {inplace, rows, rows, w, rstd}, 3e-6, "", 0};
            test_case g = {{.kind = RB_OP_RMSNORM_BWD_W}, {dw, rows, rows, rstd}, 1e-5, "", 0};
            test_case *all[] = {&f, &b, &a, &s, &g};
            static const unsigned halves[] = {1 << 0 | 1 << 2, 7, 7, 7, 1 << 1 | 1 << 2};
            for (int j = 0; j < 5; j++) {
                check(*state, all[j]);
                check_halves(*state, all[j], halves[j]);
            }
            check_halves(*state, &a, 1 << 1); /* into the residual stream's gradient */
            check_halves(*state, &f, 1 << 0);
            check_halves(*state, &b, 1 << 1);
            check_halves(*state, &g, 1 << 1);
        }
}

static void test_rope(void **state) {
    static const int64_t size[][5] = {{1, 1, 1, 2, 0},    {2, 5, 3, 6, 1},   {1, 40, 4, 64, 2},  {3, 33, 2, 128, 3},
                                      {2, 37, 3, 64, 0}, {1, 21, 5, 16, 8}, {3, 10, 2, 128, 16}, {1, 1, 1, 32, 0}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int inverse = 0; inverse < 2; inverse++) {
            const int64_t *s = size[i];
            int64_t offset = (int64_t)i * 3, apart = i < 4 ? 1 : 4 * (int64_t)(i % 2); /* rows of the angles */
            test_case c = {{.kind = RB_OP_ROPE, .i = {offset, inverse}},
                           {{RB_F32, 4, {s[0], s[1], s[2], s[3]}, s[4], NORMAL, s[4] + 8, 0, NULL, 0},
                            P2(s[1] + offset, s[3] / 2, apart, ANGLE_COS),
                            P2(s[1] + offset, s[3] / 2, apart, ANGLE_SIN)},
                           1e-6,
                           "",
                           0};
            check(*state, &c);
            check_halves(*state, &c, 1 << 0);
        }
}

typedef struct heads {
    int64_t B, T, H, G, D, offset;
} heads;
static const heads attention_sizes[] = {{1, 1, 1, 1, 1, 0},   {2, 7, 2, 1, 8, 0},    {1, 65, 4, 2, 32, 0},
                                        {3, 50, 3, 3, 20, 0}, {1, 130, 6, 2, 64, 0}, {2, 97, 1, 1, 128, 0},
                                        {1, 1, 4, 2, 64, 77}, {2, 5, 2, 2, 33, 100}, {1, 260, 2, 1, 16, 0},
                                        {17, 20, 1, 1, 4, 3}, {1, 49, 2, 2, 65, 0},  {1, 300, 1, 1, 32, 13},
                                        {1, 150, 2, 1, 96, 40}};

static part rows_of(const heads *s, int64_t T, int64_t H, int64_t gap, init what) {
    return (part){RB_F32, 4, {s->B, T, H, s->D}, gap, what, 0, 0, NULL, 0};
}

/* `even`: rows of bf16 begin at 16 bytes where the width lets them, else nowhere in particular. */
static test_case attention_forward_case(const heads *s, bool even) {
    int64_t S = s->offset + s->T + (s->offset ? 2 : 0), gap = even ? 8 : 1;
    return (test_case){{.kind = RB_OP_ATTN_FWD, .i = {s->offset}, .f = {1 / sqrtf((float)s->D)}},
                       {rows_of(s, s->T, s->H, 0, NAN_FILL),
                        {RB_F32, 3, {s->B, s->H, s->T}, 0, NAN_FILL, 0, 0, NULL, 0},
                        rows_of(s, s->T, s->H, 3 * gap, NORMAL),
                        rows_of(s, S, s->G, gap, NORMAL),
                        rows_of(s, S, s->G, 2 * gap, NORMAL)},
                       5e-6,
                       "",
                       0};
}

static void test_attention_forward(void **state) {
    for (size_t i = 0; i < sizeof attention_sizes / sizeof *attention_sizes; i++) {
        test_case c = attention_forward_case(&attention_sizes[i], false);
        check(*state, &c);
        check_halves(*state, &c, ALL_VIEWS & ~LSE_OF_FORWARD);
        c = attention_forward_case(&attention_sizes[i], true);
        check_halves(*state, &c, ALL_VIEWS & ~LSE_OF_FORWARD);
    }
}

/* out and lse must belong to q, k, v: the reference computes them first. */
static void check_attention_backward(fixture *f, heads s, bool halves, bool even) {
    int64_t gap = even ? 8 : 1;
    s.offset = 0;
    test_case fwd = attention_forward_case(&s, even);
    for (int j = 0; halves && j < 5; j++)
        if (!(LSE_OF_FORWARD >> j & 1)) fwd.t[j].dtype = RB_BF16;
    make_case(&fwd);
    void *done[PARTS];
    run_case(&fwd, f->d[0].dev, f->d[0].q, done);
    test_case c = {{.kind = RB_OP_ATTN_BWD, .f = {fwd.op.f[0]}},
                   {rows_of(&s, s.T, s.H, gap, NAN_FILL), rows_of(&s, s.T, s.G, 0, NAN_FILL),
                    rows_of(&s, s.T, s.G, 2 * gap, NAN_FILL), rows_of(&s, s.T, s.H, 4 * gap, NORMAL),
                    fwd.t[0], fwd.t[1], fwd.t[2], fwd.t[3], fwd.t[4]},
                   halves ? 1. / 64 : 2e-5,
                   "",
                   0.1};
    for (int j = 0; halves && j < PARTS; j++)
        if (!(LSE_OF_BACKWARD >> j & 1)) c.t[j].dtype = RB_BF16;
    make_case(&c);
    for (int j = 4; j < 9; j++) memcpy(c.t[j].host, done[j - 4], c.t[j].bytes);
    check(f, &c);
    free_results(done, 5);
    free_case(&fwd);
}
static void test_attention_backward(void **state) {
    for (size_t i = 0; i < sizeof attention_sizes / sizeof *attention_sizes; i++)
        for (int way = 0; way < 3; way++)
            check_attention_backward(*state, attention_sizes[i], way > 0, way > 1);
}

static void test_activations(void **state) {
    static const int64_t size[][2] = {{1, 1}, {3, 7}, {50, 704}, {17, 1000}, {1, 8}, {7, 12}, {50, 160}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int gap = 0; gap <= 8; gap = gap ? gap + 5 : 3) {
            int64_t n = size[i][0], w = size[i][1];
            part x = P2(n, w, gap, NORMAL), out = P2(n, w, gap, NAN_FILL), none = ABSENT;
            part on3 = SHARED2(n, w, gap, 3), on4 = SHARED2(n, w, gap, 4), on5 = SHARED2(n, w, gap, 5);
            part on1 = SHARED2(n, w, gap, 1), on2 = SHARED2(n, w, gap, 2);
            test_case all[] = {{{.kind = RB_OP_SWIGLU_FWD}, {out, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {out, out, out, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {out, out, none, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SWIGLU_BWD}, {on4, on5, on3, x, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_FWD}, {out, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_FWD}, {on1, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {out, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {on1, x, x}, 2e-6, "", 0},
                               {{.kind = RB_OP_SILU_BWD}, {on2, x, x}, 2e-6, "", 0}};
            for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
                check(*state, &all[j]);
                if (all[j].op.kind == RB_OP_SWIGLU_FWD || all[j].op.kind == RB_OP_SWIGLU_BWD)
                    check_halves(*state, &all[j], ALL_VIEWS);
            }
        }
    test_case odd[] = {{{.kind = RB_OP_SILU_FWD}, {P2(3, 39, 0, ZERO), P2(3, 39, 0, SPECIAL)}, 2e-6, "", 0},
                       {{.kind = RB_OP_SWIGLU_FWD},
                        {P2(3, 39, 0, ZERO), P2(3, 39, 0, SPECIAL), P2(3, 39, 0, POSITIVE)},
                        2e-6,
                        "",
                        0}};
    for (int j = 0; j < 2; j++) check(*state, &odd[j]);
    check_halves(*state, &odd[1], ALL_VIEWS);
}

/* What a device writes of output j in bf16 is what it writes in f32, to the nearest: the bound of check_halves would let what is cut
 * off pass. */
static void check_nearest(fixture *f, const test_case *c, int j) {
    test_case whole = *c, half = *c;
    half.t[j].dtype = RB_BF16;
    make_case(&whole);
    make_case(&half);
    for (int d = 0; d < f->devices; d++) {
        void *x[PARTS], *h[PARTS];
        run_case(&whole, f->d[d].dev, f->d[d].q, x);
        run_case(&half, f->d[d].dev, f->d[d].q, h);
        rb_view vx = view_of(&whole.t[j], x[j]), vh = view_of(&half.t[j], h[j]);
        for (int64_t r = 0; r < rb_row_count(&vx); r++)
            for (int64_t i = 0; i < rb_row_width(&vx); i++) {
                double want = get(&vx, rb_row_offset(&vx, r) + i), got = get(&vh, rb_row_offset(&vh, r) + i);
                if (isfinite(want) && fabs(got - want) > fabs(want) / 256 * 1.0001)
                    fail_msg("%s on %s: %g in bf16 is %g", whole.name, f->d[d].name, want, got);
            }
        free_results(x, rb_op_info(c->op.kind)->views);
        free_results(h, rb_op_info(c->op.kind)->views);
    }
    free_case(&whole);
    free_case(&half);
}

/* The gradient apart from the logits, which stay: in f32 and in bf16. */
static void check_xent_apart(fixture *f, const test_case *in_place, int64_t gap) {
    test_case c = *in_place;
    c.t[3] = c.t[1];
    c.t[3].gap = gap;
    c.t[3].init = NAN_FILL;
    for (int j = 0; j < 4; j++) c.t[j].host = NULL;
    check_nearest(f, &c, 3);
    check(f, &c);
    check_halves(f, &c, 1 << 3);
}

static void test_xent(void **state) {
    static const int64_t size[][3] = {{1, 1, 0},    {5, 7, 1},     {70, 256, 2}, {33, 5000, 3},  {70, 256, 0},
                                      {9, 1000, 4}, {3, 20000, 0}, {5, 12, 0},   {11, 1028, 8}, {2, 50257, 0}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int g = 0; g < 2; g++) {
            int64_t n = size[i][0], V = size[i][1];
            test_case c = {{.kind = RB_OP_XENT, .f = {g ? 1.f / 64 : 0}},
                           {P1(n, NAN_FILL), P2(n, V, size[i][2], NORMAL), IDS1(n, V, TARGETS)},
                           5e-6,
                           "",
                           0};
            check(*state, &c);
            if (g) check_xent_apart(*state, &c, i % 2 ? 4 : 0);
        }
    static const int64_t odd_width[] = {5, 4, 8, 1032};
    for (int i = 0; i < 4; i++) {
        int64_t V = odd_width[i];
        test_case odd = {
            {.kind = RB_OP_XENT, .f = {1}}, {P1(4, ZERO), P2(4, V, 0, SPECIAL), IDS1(4, V, IDS)}, 5e-6, "", 0};
        check(*state, &odd);
        check_xent_apart(*state, &odd, 0);
    }
}

static void test_reductions(void **state) {
    for (int64_t n = 1; n < 3000; n = n * 6 + 1)
        for (int gap = 0; gap < 2; gap++) {
            part out = {RB_F64, 1, {1}, 0, NAN_FILL, 0, 0, NULL, 0}, norm = out, x = P2(n, 37, gap, NORMAL);
            norm.init = POSITIVE;
            part y = P2(n, 37, 0, NAN_FILL), inplace = SHARED2(n, 37, gap, 1);
            test_case all[] = {{{.kind = RB_OP_SUM}, {out, x}, 1e-10, "", 0},
                               {{.kind = RB_OP_SUMSQ}, {out, x}, 1e-12, "", 0},
                               {{.kind = RB_OP_NORMALIZE, .f = {1e-7f}}, {y, x, norm}, 1e-6, "", 0},
                               {{.kind = RB_OP_NORMALIZE, .f = {10}}, {inplace, x, norm}, 1e-6, "", 0}};
            for (int j = 0; j < 4; j++) check(*state, &all[j]);
            check_halves(*state, &all[2], 1);
        }
    for (int gap = 0; gap < 5; gap += 2) { /* whole vectors, with gaps that are and that are not */
        part norm = {RB_F64, 1, {1}, 0, POSITIVE, 0, 0, NULL, 0};
        test_case c = {{.kind = RB_OP_NORMALIZE, .f = {1e-7f}},
                       {P2(93, 52, gap, NAN_FILL), P2(93, 52, gap, NORMAL), norm},
                       1e-6,
                       "",
                       0};
        check(*state, &c);
        check_halves(*state, &c, 1);
        c.t[0] = (part)SHARED2(93, 52, gap, 1);
        c.t[1].host = c.t[2].host = NULL;
        check(*state, &c);
    }
}

/* A GPU's sum has the same bits wherever its elements lie: on other numbers of stages that is elsewhere. */
static void test_sums_have_the_same_bits_anywhere(void **state) {
    fixture *f = *state;
    enum { ROWS = 150, WIDTH = 64 };
    for (int d = 0; d < f->devices; d++)
        for (int squared = 0; squared < 2 && strstr(f->d[d].name, "cuda"); squared++) {
            void *sum[2][PARTS];
            test_case flat = {{.kind = squared ? RB_OP_SUMSQ : RB_OP_SUM},
                              {{RB_F64, 1, {1}, 0, NAN_FILL, 0, 0, NULL, 0}, P2(ROWS, WIDTH, 0, NORMAL)},
                              0,
                              "",
                              0},
                      gaps = flat;
            gaps.t[1].gap = 3;
            make_case(&flat), make_case(&gaps);
            rb_view from = view_of(&flat.t[1], flat.t[1].host), to = view_of(&gaps.t[1], gaps.t[1].host);
            for (int64_t r = 0; r < ROWS; r++)
                memcpy(rb_row_f32(&to, r), rb_row_f32(&from, r), WIDTH * sizeof(float));
            run_case(&flat, f->d[d].dev, f->d[d].q, sum[0]);
            run_case(&gaps, f->d[d].dev, f->d[d].q, sum[1]);
            if (memcmp(sum[0][0], sum[1][0], flat.t[0].bytes))
                fail_msg("%s: other bits with gaps", f->d[d].name);
            free_results(sum[0], 2), free_results(sum[1], 2);
            free_case(&flat), free_case(&gaps);
        }
}

static void test_optimizers(void **state) {
    for (int64_t n = 1; n < 40000; n = n * 13 + 2) {
        test_case a = {{.kind = RB_OP_ADAMW, .f = {0.999f, 0.1f, 0.95f, 0.05f, 1e-2f, 0.3f, 1e-8f, 0.5f}},
                       {P1(n, NORMAL), P1(n, NORMAL), P1(n, POSITIVE), P1(n, NORMAL)},
                       2e-6,
                       "",
                       0};
        check(*state, &a);
        for (int m = 0; m < 4; m++) {
            part update = P2(n, 3, 0, NAN_FILL), shared = SHARED2(n, 3, 2, 2);
            test_case c = {{.kind = RB_OP_MUON_MOMENTUM, .f = {0.95f, 0.5f}, .i = {m & 1}},
                           {P2(n, 3, 1, NORMAL), m & 2 ? shared : update, P2(n, 3, 2, NORMAL)},
                           2e-6,
                           "",
                           0};
            check(*state, &c);
        }
    }
}

static int64_t packed_bytes(int code, int scale, const heads *s) {
    rb_pack_args a = {.code = (rb_code)code, .scale = (rb_scale)scale};
    return rb_packed_bytes(&a, s->B, s->T, s->D);
}

/* Bytes are equal, not close. Unpack and code_stats read what the reference packed. */
static void check_code(fixture *f, int code, int scale, const heads *s, int stochastic, int64_t gap,
                       init what) {
    int64_t n = packed_bytes(code, scale, s);
    if (n < 0) return;
    part none = ABSENT, steps = P1(s->D, POSITIVE), bytes = {RB_U8, 1, {n}, 0, ZERO, 0, 0, NULL, 0};
    part x = {RB_F32, 3, {s->B, s->T, s->D}, gap, what, 0, 0, NULL, 0}, out = x;
    rb_op op = {.kind = RB_OP_PACK, .i = {code, scale, stochastic, 3, 1}, .key = {7, 11, 13}};
    if (scale != RB_SCALE_STEP) steps = none;
    out.init = NAN_FILL;
    test_case pack = {op, {bytes, x, steps}, 0, "", 0}, unpack = {op, {out, bytes, steps}, 0, "", 0};
    unpack.op.kind = RB_OP_UNPACK;
    test_case stats = {{.kind = RB_OP_CODE_STATS, .i = {code, scale, s->B, s->T}},
                       {{RB_I64, 1, {s->D}, 0, ZERO, 0, 0, NULL, 0}, bytes},
                       0,
                       "",
                       0};
    void *packed[PARTS];
    make_case(&pack);
    run_case(&pack, f->d[0].dev, f->d[0].q, packed);
    make_case(&unpack);
    memcpy(unpack.t[1].host, packed[0], unpack.t[1].bytes);
    make_case(&stats);
    memcpy(stats.t[1].host, packed[0], stats.t[1].bytes);
    free_results(packed, 3);
    check(f, &pack);
    check(f, &unpack);
    if (scale == RB_SCALE_STEP)
        check(f, &stats);
    else
        free_case(&stats);
}

/* Rows of whole vectors and others; scales of values in one GPU thread, in several, in a warp and in more; sequences
 * whose codes begin at an odd byte. */
static void test_codec(void **state) {
    static const heads sizes[] = {{1, 1, 0, 0, 1, 0},   {2, 5, 0, 0, 8, 0},    {1, 33, 0, 0, 3, 0},
                                  {3, 70, 0, 0, 16, 0}, {3, 24, 0, 0, 24, 0},  {2, 36, 0, 0, 32, 0},
                                  {1, 44, 0, 0, 64, 0}, {1, 8, 0, 0, 2, 0},    {2, 4, 0, 0, 256, 0},
                                  {1, 4, 0, 0, 520, 0}, {5, 12, 0, 0, 4, 0},   {2, 8, 0, 0, 128, 0},
                                  {1, 144, 0, 0, 64, 0}};
    for (int code = 0; code < RB_CODE_COUNT; code++)
        for (int scale = 0; scale < RB_SCALE_COUNT; scale++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int stochastic = 0; stochastic < 2; stochastic++)
                    check_code(*state, code, scale, &sizes[i], stochastic, 0, NORMAL);
}

/* Latents whose rows are part of wider ones, which may or may not begin where vectors do. */
static void test_codec_with_gaps(void **state) {
    static const heads sizes[] = {
        {2, 12, 0, 0, 8, 0}, {2, 9, 0, 0, 24, 0}, {3, 4, 0, 0, 64, 0}, {2, 6, 0, 0, 4, 0}};
    for (int code = 0; code < RB_CODE_COUNT; code++)
        for (int scale = 0; scale < RB_SCALE_COUNT; scale++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int m = 0; m < 4; m++)
                    check_code(*state, code, scale, &sizes[i], m & 1, m & 2 ? 8 : 3, NORMAL);
}

/* Infinite and NaN, and sizes at the ends. Codes of 2 and 1 bits with learned steps refuse them. */
static void test_codec_of_no_numbers(void **state) {
    static const heads sizes[] = {{2, 16, 0, 0, 8, 0}, {1, 9, 0, 0, 5, 0}, {2, 4, 0, 0, 256, 0}};
    for (int code = 0; code < RB_CODE_COUNT; code++)
        for (int scale = 0; scale < RB_SCALE_COUNT; scale++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int stochastic = 0; stochastic < 2; stochastic++)
                    if (scale != RB_SCALE_STEP || code <= RB_CODE_INT4)
                        check_code(*state, code, scale, &sizes[i], stochastic, 0, SPECIAL);
}

/* Picks of every row, with equal sizes and odd numbers among them; and putting back what was picked. */
static void test_picks(void **state) {
    static const int64_t size[][3] = {{1, 1, 1}, {5, 7, 7}, {70, 256, 2}, {33, 100, 16}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int m = 0; m < 4; m++) {
            int64_t n = size[i][0], d = size[i][1], k = size[i][2];
            part values = P2(n, k, 0, NAN_FILL), index = values,
                 x = P2(n, d, m & 1, m & 2 ? SPECIAL : NORMAL);
            test_case pick = {{.kind = RB_OP_TOPK}, {values, index, x}, 0, "", 0}, put;
            void *picked[PARTS];
            make_case(&pick);
            run_case(&pick, ((fixture *)*state)->d[0].dev, ((fixture *)*state)->d[0].q, picked);
            values.init = index.init = NORMAL;
            put = (test_case){{.kind = RB_OP_SCATTER, .f = {m & 1 ? 1 : -2, m & 2 ? 1 : 0}},
                              {P2(n, d, m & 1, m & 2 ? NORMAL : NAN_FILL), values, index},
                              0,
                              "",
                              0};
            make_case(&put);
            memcpy(put.t[2].host, picked[1], put.t[2].bytes);
            free_results(picked, 3);
            check(*state, &pick);
            check(*state, &put);
        }
}

/* Larger than what a device may have put aside for them: all there, in the order of the calls. */
static void test_large_copies(void **state) {
    enum { COPIED = (40 << 20) + 12, FRONT = 1000 };
    fixture *f = *state;
    unsigned char *first = malloc(COPIED), *second = malloc(COPIED), *a = malloc(COPIED), *b = malloc(COPIED);
    for (size_t i = 0; i < COPIED; i++) first[i] = (unsigned char)(i * 2654435761u >> 23), second[i] = (unsigned char)~first[i];
    for (int i = 0; i < f->devices; i++) {
        rb_queue *q = f->d[i].q;
        rb_err err;
        void *x;
        assert_ok(rb_alloc(f->d[i].dev, COPIED, &x, &err), &err);
        assert_ok(rb_upload(q, x, first, COPIED, &err), &err);
        assert_ok(rb_fill(q, rb_view1(x, RB_U8, FRONT), 7, &err), &err);
        assert_ok(rb_download(q, a, x, COPIED, &err), &err);
        assert_ok(rb_upload(q, x, second, COPIED, &err), &err);
        assert_ok(rb_download(q, b, (char *)x + 5, COPIED - 5, &err), &err);
        assert_ok(rb_queue_sync(q, &err), &err);
        bool head = true;
        for (int j = 0; j < FRONT; j++) head &= a[j] == 7;
        if (!head || memcmp(a + FRONT, first + FRONT, COPIED - FRONT) || memcmp(b, second + 5, COPIED - 5))
            fail_msg("%s: copies of %d bytes came back otherwise", f->d[i].name, COPIED);
        rb_free(f->d[i].dev, x);
    }
    free(first), free(second), free(a), free(b);
}

/* Runs last: no kind of operation may be without a case above. */
static void test_every_kind_was_seen(void **state) {
    fixture *f = *state;
    for (int k = 0; k < RB_OP_COUNT; k++)
        if (!f->cases[k]) fail_msg("operation %s has no case", rb_op_info((rb_op_kind)k)->name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_gemm_of_distant_rows),
        cmocka_unit_test(test_gemm_of_whole_vectors),
        cmocka_unit_test(test_gemm_plus),
        cmocka_unit_test(test_syrk),
        cmocka_unit_test(test_gemm_bits_of_large_tiles),
        cmocka_unit_test(test_fill_and_axpby),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_embed_of_skewed_ids),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention_forward),
        cmocka_unit_test(test_attention_backward),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_xent),
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_sums_have_the_same_bits_anywhere),
        cmocka_unit_test(test_optimizers),
        cmocka_unit_test(test_codec),
        cmocka_unit_test(test_codec_with_gaps),
        cmocka_unit_test(test_codec_of_no_numbers),
        cmocka_unit_test(test_picks),
        cmocka_unit_test(test_large_copies),
        cmocka_unit_test(test_every_kind_was_seen),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
