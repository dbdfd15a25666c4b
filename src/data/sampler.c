#include "data/sampler.h"

#include "core/rng.h"

resbm_status rb_sampler_init(rb_sampler *s, const rb_shards *shards, int64_t T, uint64_t seed, rb_err *err) {
    int64_t tokens = rb_shards_tokens(shards);
    if (T < 1)
        return rb_fail(err, RESBM_E_CONFIG, "a window of %lld tokens; model.context must be at least 1",
                       (long long)T);
    *s = (rb_sampler){.shards = shards, .T = T, .windows = (tokens - 1) / T, .seed = seed};
    if (tokens < T + 1)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s has %lld tokens, one window of model.context %lld takes %lld: give more text or a "
                       "shorter context",
                       rb_shards_name(shards), (long long)tokens, (long long)T, (long long)T + 1);
    return RESBM_OK;
}

static uint64_t feistel(uint64_t x, int half_bits, uint64_t key) {
    uint64_t mask = (UINT64_C(1) << half_bits) - 1, left = x >> half_bits, right = x & mask;
    for (int r = 0; r < 4; r++) {
        uint64_t next = left ^ (rb_mix64(key + (uint64_t)r, right) & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

int64_t rb_sampler_pick(const rb_sampler *s, uint64_t number) {
    uint64_t n = (uint64_t)s->windows, x = number % n, key = rb_mix64(s->seed, number / n);
    int half = 1;
    while (half < 31 && (UINT64_C(1) << (2 * half)) < n) half++;
    do x = feistel(x, half, key);
    while (x >= n);
    return (int64_t)x;
}

resbm_status rb_sampler_window(const rb_sampler *s, uint64_t number, int32_t *out, rb_err *err) {
    return rb_shards_read(s->shards, rb_sampler_pick(s, number) * s->T, s->T + 1, out, err);
}

resbm_status rb_sampler_eval_window(const rb_sampler *s, int64_t i, int64_t n, int32_t *out, rb_err *err) {
    if (i < 0 || n < 1)
        return rb_fail(err, RESBM_E_ARG, "evaluation sequence %lld of %lld", (long long)i, (long long)n);
    int64_t count = n < s->windows ? n : s->windows;
    int64_t window = (int64_t)((__int128)(i % count) * s->windows / count);
    return rb_shards_read(s->shards, window * s->T, s->T + 1, out, err);
}
