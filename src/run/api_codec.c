/* resbm_codec_*, resbm_pack, resbm_unpack: see resbm.h. The Python package builds this file without the layers above
 * codec (python/native/). */
#include <stdlib.h>
#include <string.h>
#include "codec/codec.h"
#include "codec/steps.h"
#include "device/pack_layout.h"

static const int64_t MOST_STEPS = (int64_t)1 << 30;

struct resbm_codec {
    rb_device *device;
    rb_queue *queue;
    rb_pack_args args;
    float *steps; /* (k) or NULL */
    int64_t k;
};

resbm_status resbm_codec_open(const char *name, int direction, uint64_t seed, uint32_t boundary,
                              resbm_codec **out, resbm_error *err) {
    const rb_codec *k = rb_codec_find(name);
    rb_device_options one = {.threads = 1};
    *out = NULL;
    if (!k)
        return rb_fail(err, RESBM_E_ARG, "there is no codec \"%s\": there are %s", name, rb_codec_names());
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
    if (c->device) rb_device_close(c->device);
    free(c->steps);
    free(c);
}

static rb_view steps_of(const resbm_codec *c) {
    return c->steps ? rb_view1(c->steps, RB_F32, c->k) : rb_none();
}

resbm_status resbm_codec_steps(resbm_codec *c, const float *steps, int64_t k, resbm_error *err) {
    bool integers = c->args.scale == RB_SCALE_TOKEN || c->args.scale == RB_SCALE_STEP;
    if (!integers) return rb_fail(err, RESBM_E_ARG, "learned steps: only for int8 and int4 going forward");
    if (steps && (k < 1 || k > MOST_STEPS))
        return rb_fail(err, RESBM_E_ARG, "learned steps: k %lld, 1 to %lld", (long long)k,
                       (long long)MOST_STEPS);
    float *copy = steps && k != c->k ? realloc(c->steps, (size_t)k * sizeof *copy) : c->steps;
    if (steps && !copy) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld steps", (long long)k);
    if (steps) memcpy(copy, steps, (size_t)k * sizeof *copy);
    if (!steps) free(copy);
    c->steps = steps ? copy : NULL;
    c->k = steps ? k : 0;
    c->args.scale = steps ? RB_SCALE_STEP : RB_SCALE_TOKEN;
    return RESBM_OK;
}

int64_t resbm_packed_bytes(const resbm_codec *c, int64_t B, int64_t T, int64_t k) {
    return rb_packed_bytes(&c->args, B, T, k);
}

static resbm_status check(const resbm_codec *c, const char *call, int64_t B, int64_t T, int64_t k, int64_t n,
                          rb_err *err) {
    rb_pack_plan p;
    RB_TRY(rb_pack_sizes(&p, c->args.code, c->args.scale, B, T, k, err));
    if (c->steps && k != c->k)
        return rb_fail(err, RESBM_E_ARG, "%s: k %lld, but the learned steps are %lld", call, (long long)k,
                       (long long)c->k);
    int64_t due = resbm_packed_bytes(c, B, T, k);
    if (n == due) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%s: %lld bytes for (%lld,%lld,%lld), which takes %lld", call,
                   (long long)n, (long long)B, (long long)T, (long long)k, (long long)due);
}

resbm_status resbm_pack(resbm_codec *c, const float *x, int64_t B, int64_t T, int64_t k, uint64_t step,
                        uint64_t sequence, uint8_t *bytes, int64_t n, resbm_error *err) {
    rb_pack_args a = c->args;
    a.step = step;
    a.sequence = sequence;
    RB_TRY(check(c, "resbm_pack", B, T, k, n, err));
    RB_TRY(rb_pack(c->queue, rb_view1(bytes, RB_U8, n), rb_view3((void *)(uintptr_t)x, RB_F32, B, T, k),
                   steps_of(c), &a, err));
    return rb_queue_sync(c->queue, err);
}

resbm_status resbm_unpack(resbm_codec *c, const uint8_t *bytes, int64_t n, int64_t B, int64_t T, int64_t k,
                          float *x, resbm_error *err) {
    RB_TRY(check(c, "resbm_unpack", B, T, k, n, err));
    RB_TRY(rb_unpack(c->queue, rb_view3(x, RB_F32, B, T, k), rb_view1((void *)(uintptr_t)bytes, RB_U8, n),
                     steps_of(c), &c->args, err));
    return rb_queue_sync(c->queue, err);
}

resbm_status resbm_code_sums(resbm_codec *c, const uint8_t *bytes, int64_t n, int64_t B, int64_t T, int64_t k,
                             int64_t *sums, resbm_error *err) {
    if (!c->steps) return rb_fail(err, RESBM_E_STATE, "resbm_code_sums: this codec has no learned steps");
    RB_TRY(check(c, "resbm_code_sums", B, T, k, n, err));
    RB_TRY(rb_code_stats(c->queue, rb_view1(sums, RB_I64, k), rb_view1((void *)(uintptr_t)bytes, RB_U8, n), B,
                         T, &c->args, err));
    return rb_queue_sync(c->queue, err);
}

resbm_status resbm_steps_update(const resbm_codec *c, float *steps, const int64_t *sums, int64_t k,
                                int64_t tokens, uint64_t updates, resbm_error *err) {
    if (c->args.scale != RB_SCALE_TOKEN && c->args.scale != RB_SCALE_STEP)
        return rb_fail(err, RESBM_E_ARG, "learned steps: only for int8 and int4 going forward");
    if (k < 1 || tokens < 0)
        return rb_fail(err, RESBM_E_ARG, "resbm_steps_update: k %lld, tokens %lld", (long long)k,
                       (long long)tokens);
    rb_steps_update(steps, sums, k, tokens, c->args.code, updates);
    return RESBM_OK;
}
