/* resbm_codec_*, resbm_pack, resbm_unpack: see resbm.h. */
#include <stdlib.h>
#include "codec/codec.h"
#include "device/pack_layout.h"

struct resbm_codec {
    rb_device *device;
    rb_queue *queue;
    rb_pack_args args;
};

resbm_status resbm_codec_open(const char *name, int direction, uint64_t seed, uint32_t boundary, resbm_codec **out,
                              resbm_error *err) {
    const rb_codec *k = rb_codec_find(name);
    rb_device_options one = {.threads = 1};
    *out = NULL;
    if (!k) return rb_fail(err, RESBM_E_ARG, "there is no codec \"%s\": there are %s", name, rb_codec_names());
    if (direction != 0 && direction != 1)
        return rb_fail(err, RESBM_E_ARG, "direction %d: 0 is forward, 1 backward", direction);
    resbm_codec *c = calloc(1, sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a codec");
    c->args = rb_codec_args(k, direction, direction ? RB_SCALE_GROUP : RB_SCALE_TOKEN, direction != 0);
    c->args.seed = seed;
    c->args.boundary = boundary;
    resbm_status st = rb_device_open("cpu", &one, &c->device, err);
    if (!st) st = rb_queue_open(c->device, &c->queue, err);
    if (st)
        resbm_codec_close(c);
    else
        *out = c;
    return st;
}

void resbm_codec_close(resbm_codec *c) {
    if (!c) return;
    if (c->queue) rb_queue_close(c->queue);
    rb_device_close(c->device);
    free(c);
}

int64_t resbm_packed_bytes(const resbm_codec *c, int64_t B, int64_t T, int64_t k) {
    return rb_packed_bytes(&c->args, B, T, k);
}

static resbm_status check(const resbm_codec *c, const char *call, int64_t B, int64_t T, int64_t k, int64_t n, rb_err *err) {
    rb_pack_plan p;
    RB_TRY(rb_pack_sizes(&p, c->args.code, c->args.scale, B, T, k, err));
    int64_t due = resbm_packed_bytes(c, B, T, k);
    if (n == due) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%s: %lld bytes for (%lld,%lld,%lld), which takes %lld", call, (long long)n,
                   (long long)B, (long long)T, (long long)k, (long long)due);
}

resbm_status resbm_pack(resbm_codec *c, const float *x, int64_t B, int64_t T, int64_t k, uint64_t step, uint64_t sequence,
                        uint8_t *bytes, int64_t n, resbm_error *err) {
    rb_pack_args a = c->args;
    a.step = step;
    a.sequence = sequence;
    RB_TRY(check(c, "resbm_pack", B, T, k, n, err));
    RB_TRY(rb_pack(c->queue, rb_view1(bytes, RB_U8, n), rb_view3((void *)(uintptr_t)x, RB_F32, B, T, k), rb_none(), &a, err));
    return rb_queue_sync(c->queue, err);
}

resbm_status resbm_unpack(resbm_codec *c, const uint8_t *bytes, int64_t n, int64_t B, int64_t T, int64_t k, float *x,
                          resbm_error *err) {
    RB_TRY(check(c, "resbm_unpack", B, T, k, n, err));
    RB_TRY(rb_unpack(c->queue, rb_view3(x, RB_F32, B, T, k), rb_view1((void *)(uintptr_t)bytes, RB_U8, n), rb_none(), &c->args, err));
    return rb_queue_sync(c->queue, err);
}
