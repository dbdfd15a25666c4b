#include "run/apart.h"

#include <math.h>
#include <string.h>
#include "core/bytes.h"
#include "core/clock.h"
#include "device/pack_layout.h"

rb_message *rb_apart_blob(size_t n, rb_traffic class) {
    rb_message *m = rb_message_new(n);
    if (!m) return NULL;
    m->head = (rb_frame_header){.kind = RB_FRAME_BLOB, .payload_bytes = n};
    m->traffic = class;
    return m;
}

resbm_status rb_apart_send_ids(rb_link *l, int peer, const int32_t *ids, int64_t n, int64_t patience_ns,
                               rb_err *err) {
    rb_message *m = rb_apart_blob((size_t)n * 4, RB_TRAFFIC_TOKENS);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for %lld token ids", (long long)n);
    for (int64_t i = 0; i < n; i++) rb_put32(m->payload + 4 * i, (uint32_t)ids[i]);
    return rb_link_send(l, peer, m, rb_now_ns() + patience_ns, err);
}

resbm_status rb_apart_recv_ids(rb_link *l, int peer, int32_t *ids, int64_t n, int64_t vocab,
                               int64_t patience_ns, rb_err *err) {
    rb_message *m;
    int from;
    RB_TRY(rb_link_recv_any(l, peer, RB_FRAME_BLOB, rb_now_ns() + patience_ns, &from, &m, err));
    resbm_status st = RESBM_OK;
    if (m->head.payload_bytes != (uint64_t)n * 4)
        st = rb_fail(err, RESBM_E_CORRUPT, "%llu bytes of token ids came, %lld were due",
                     (unsigned long long)m->head.payload_bytes, (long long)n * 4);
    for (int64_t i = 0; i < n && !st; i++) {
        uint32_t id = rb_get32(m->payload + 4 * i);
        if (id >= (uint64_t)vocab)
            st = rb_fail(err, RESBM_E_CORRUPT, "token id %u came, the vocabulary has %lld", id,
                         (long long)vocab);
        ids[i] = (int32_t)id;
    }
    rb_message_free(m);
    return st;
}

/* All ones in the exponent: an infinity, or no number. Whole numbers have no exponent. */
static bool all_finite(const rb_tensor_in *t) {
    const uint8_t *p = t->data, *end = p + t->bytes;
    bool bad = false;
    if (t->dtype == RB_F32)
        for (; p + 4 <= end; p += 4) bad |= (rb_get32(p) & 0x7f800000u) == 0x7f800000u;
    else if (t->dtype == RB_F64)
        for (; p + 8 <= end; p += 8) bad |= (rb_get64(p) >> 52 & 0x7ff) == 0x7ff;
    else if (t->dtype == RB_BF16 && !t->f16)
        for (; p + 2 <= end; p += 2) bad |= (rb_get16(p) & 0x7f80u) == 0x7f80u;
    else if (t->f16)
        for (; p + 2 <= end; p += 2) bad |= (rb_get16(p) & 0x7c00u) == 0x7c00u;
    return !bad;
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), e = strlen(end);
    return n >= e && !strcmp(name + n - e, end);
}

/* Learned steps lie where the codec takes them, means of squares are not below 0: either would show up later, at another. */
static bool all_within(const rb_tensor_in *t) {
    bool squares = strstr(t->name, "exp_avg_sq.") != NULL, steps = !squares && ends_in(t->name, ".steps");
    bool bad = false;
    if (t->dtype != RB_F32 || (!squares && !steps)) return true;
    for (const uint8_t *p = t->data, *end = p + t->bytes; p + 4 <= end; p += 4) {
        float v = rb_f32_of(rb_get32(p));
        bad |= squares ? v < 0 : !(v >= RB_UNIT_TINY && v <= RB_STEP_HUGE);
    }
    return !bad;
}

resbm_status rb_apart_check_weights(const char *path, bool computed, rb_err *err) {
    rb_safetensors *s;
    RB_TRY(rb_safetensors_open(path, &s, err));
    resbm_status st = RESBM_OK;
    for (int i = 0; i < rb_safetensors_count(s) && !st; i++) {
        const rb_tensor_in *t = rb_safetensors_at(s, i);
        const char *wrong = !all_finite(t)               ? "is not finite"
                            : computed && !all_within(t) ? "has values that it cannot have"
                                                         : NULL;
        if (wrong) st = rb_fail(err, RESBM_E_FORMAT, "%s: tensor %s %s", path, t->name, wrong);
    }
    rb_safetensors_close(s);
    return st;
}
