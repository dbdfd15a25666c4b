/* Attention of the emulation's library: loops over operands in bf16, the weights rounded to bf16 before they multiply, sums in
 * f32, results rounded to bf16. RB_CUDA_EMU_CUDNN=0: the library is not there. */
#include <stdio.h>
#include <stdlib.h>
#include <new>
#include <vector>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/sdpa.h"

struct rb_sdpa {
    int unused;
};

static bool missing(void) {
    const char *given = getenv("RB_CUDA_EMU_CUDNN");
    return given && *given == '0';
}

resbm_status rb_sdpa_open(int, int major, int, rb_sdpa **out, rb_err *err) {
    *out = NULL;
    if (missing()) return rb_fail(err, RESBM_E_UNSUPPORTED, "cuDNN is missing: RB_CUDA_EMU_CUDNN=0");
    if (major < 8) return rb_fail(err, RESBM_E_UNSUPPORTED, "cuDNN's attention needs compute capability 8.0");
    *out = new (std::nothrow) rb_sdpa();
    return *out ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
}
void rb_sdpa_close(rb_sdpa *s) {
    delete s;
}
void rb_sdpa_describe(char *text, size_t size) {
    snprintf(text, size, "%s", missing() ? "missing: RB_CUDA_EMU_CUDNN=0" : "emulated");
}

/* What cuDNN asks for, in the way of its numbers: all of it is written, so that too little is seen. */
resbm_status rb_sdpa_prepare(rb_sdpa *, const rb_sdpa_call *c, size_t *room, rb_err *err) {
    if (c->D > 128 || c->D % 8)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "cuDNN's attention: heads of width %lld", (long long)c->D);
    *room = c->backward ? (size_t)(2 * c->B * c->H * c->T * c->T) : 0;
    return RESBM_OK;
}

static uint16_t *row(const rb_sdpa_rows &r, int64_t b, int64_t t, int64_t h) {
    return (uint16_t *)r.data + b * r.per_b + t * r.per_t + h * r.per_h;
}
static float rounded(float x) {
    return emu_half_value(emu_half_of(x));
}
static float dot(const uint16_t *a, const uint16_t *b, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += emu_half_value(a[i]) * emu_half_value(b[i]);
    return sum;
}
static void add(float *to, float w, const uint16_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += w * emu_half_value(x[i]);
}
static void store(uint16_t *to, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = emu_half_of(x[i]);
}

static void forward_row(const rb_sdpa_call &c, int64_t b, int64_t t, int64_t h) {
    int64_t g = h / (c.H / c.G);
    std::vector<float> score((size_t)t + 1), sum((size_t)c.D, 0.0f);
    float top = -INFINITY, all = 0;
    for (int64_t s = 0; s <= t; s++) {
        score[(size_t)s] = c.scale * dot(row(c.q, b, t, h), row(c.k, b, s, g), c.D);
        if (!(score[(size_t)s] <= top)) top = score[(size_t)s];
    }
    for (int64_t s = 0; s <= t; s++) {
        float w = expf(score[(size_t)s] - top);
        all += w;
        add(sum.data(), rounded(w), row(c.v, b, s, g), c.D);
    }
    for (float &x : sum) x /= all;
    store(row(c.out, b, t, h), sum.data(), c.D);
    c.lse[(b * c.H + h) * c.T + t] = top + logf(all);
}

/* All of one key head, over the queries of its group. */
static void backward_group(const rb_sdpa_call &c, int64_t b, int64_t g) {
    int64_t per = c.H / c.G, D = c.D;
    std::vector<float> dk((size_t)(c.T * D), 0.0f), dv = dk;
    for (int64_t h = g * per; h < (g + 1) * per; h++)
        for (int64_t t = 0; t < c.T; t++) {
            std::vector<float> dq((size_t)D, 0.0f);
            uint16_t *q = row(c.q, b, t, h), *dout = row(c.dout, b, t, h);
            float delta = dot(dout, row(c.out, b, t, h), D), lse = c.lse[(b * c.H + h) * c.T + t];
            for (int64_t s = 0; s <= t; s++) {
                uint16_t *k = row(c.k, b, s, g);
                float p = expf(c.scale * dot(q, k, D) - lse);
                float ds = p * (dot(dout, row(c.v, b, s, g), D) - delta) * c.scale;
                add(&dv[(size_t)(s * D)], rounded(p), dout, D);
                add(&dk[(size_t)(s * D)], rounded(ds), q, D);
                add(dq.data(), rounded(ds), k, D);
            }
            store(row(c.dq, b, t, h), dq.data(), D);
        }
    for (int64_t s = 0; s < c.T; s++) {
        store(row(c.dk, b, s, g), &dk[(size_t)(s * D)], D);
        store(row(c.dv, b, s, g), &dv[(size_t)(s * D)], D);
    }
}

resbm_status rb_sdpa_run(rb_sdpa *s, cudaStream_t stream, const rb_sdpa_call *call, void *room, rb_err *err) {
    size_t bytes = 0;
    RB_TRY(rb_sdpa_prepare(s, call, &bytes, err));
    rb_sdpa_call c = *call;
    emu_enqueue(stream, [=] {
        emu_f16 = false;
        if (bytes) memset(room, 0xff, bytes);
        for (int64_t b = 0; b < c.B; b++) {
            for (int64_t g = 0; c.backward && g < c.G; g++) backward_group(c, b, g);
            for (int64_t h = 0; !c.backward && h < c.H; h++)
                for (int64_t t = 0; t < c.T; t++) forward_row(c, b, t, h);
        }
    });
    return RESBM_OK;
}
