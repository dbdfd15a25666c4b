/* Attention by a library: cuDNN's (sdpa_cudnn.cc; sdpa_missing.cc in builds without its headers), or plain loops with the same
 * rounding in the emulation (emu/sdpa_plain.cc). Causal, as many queries as keys, operands in bf16. */
#ifndef RB_DEVICE_CUDA_SDPA_H
#define RB_DEVICE_CUDA_SDPA_H

extern "C" {
#include "device/device.h"
}
#include "device/cuda/rt.h"

struct rb_sdpa;

/* bf16 (B,T,H,D) in the device's memory: row (b,t,h) begins b*per_b + t*per_t + h*per_h elements behind data, at a multiple
 * of 16 bytes. */
struct rb_sdpa_rows {
    void *data;
    int64_t per_b, per_t, per_h;
};

/* One call. H query heads share G key heads; D is a multiple of 8. Forward writes out and lse (f32, (B,H,T) without gaps) from
 * q, k and v; backward writes dq, dk and dv from all others. Scores are multiplied with scale. */
struct rb_sdpa_call {
    bool backward;
    int64_t B, T, H, G, D;
    float scale;
    rb_sdpa_rows q, k, v, out, dout, dq, dk, dv;
    float *lse;
};

/* RESBM_E_UNSUPPORTED says where the library was looked for, or what it cannot do on this card. index: the card, of compute
 * capability major.minor. */
resbm_status rb_sdpa_open(int index, int major, int minor, rb_sdpa **out, rb_err *err);
void rb_sdpa_close(rb_sdpa *s); /* NULL is fine */
/* "cuDNN 9.28.1" into text, or why there is none; opens no card. */
void rb_sdpa_describe(char *text, size_t size);

/* Gets such calls ready (once per shape and strides, which may take a second) and says how many bytes of working memory one
 * takes. RESBM_E_UNSUPPORTED: the library does not do them, and why. */
resbm_status rb_sdpa_prepare(rb_sdpa *s, const rb_sdpa_call *c, size_t *room, rb_err *err);
/* Queues the call on the stream. room: what prepare asked for. */
resbm_status rb_sdpa_run(rb_sdpa *s, cudaStream_t stream, const rb_sdpa_call *c, void *room, rb_err *err);

/* Does the library do such calls on a card described by `card` (the text that cuDNN serializes a card's properties to)? Needs
 * no card; tests only. */
resbm_status rb_sdpa_try(const char *card, int sm, const rb_sdpa_call *c, size_t *room, rb_err *err);

#endif
