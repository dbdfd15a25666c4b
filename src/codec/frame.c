#include "codec/frame.h"

#include "core/bytes.h"
#include "core/hash.h"
#include "core/rng.h"
#include "device/ops.h"

static const uint32_t magic = 0x31464252; /* "RBF1" */

static void put_fields(uint8_t *o, const rb_frame_header *h) {
    rb_put32(o, magic);
    o[4] = RB_FRAME_VERSION;
    o[5] = h->kind;
    o[6] = h->direction;
    o[7] = (uint8_t)(h->code | h->scale << 4);
    rb_put32(o + 8, h->epoch);
    rb_put16(o + 12, h->boundary);
    rb_put16(o + 14, h->attempt);
    rb_put64(o + 16, h->step);
    rb_put32(o + 24, h->microbatch);
    rb_put32(o + 28, h->B);
    rb_put32(o + 32, h->T);
    rb_put32(o + 36, h->k);
    rb_put64(o + 40, h->payload_bytes);
}

static uint64_t checksum(const uint8_t *fields, const rb_frame_header *h, const void *payload) {
    uint64_t body = h->payload_bytes ? rb_hash64(payload, h->payload_bytes) : 0;
    return rb_mix64(rb_hash64(fields, 48), body);
}

void rb_frame_put(uint8_t out[RB_FRAME_HEADER_BYTES], const rb_frame_header *h, const void *payload) {
    put_fields(out, h);
    rb_put64(out + 48, checksum(out, h, payload));
}

static resbm_status check_names(const rb_frame_header *h, rb_err *err) {
    if (!h->kind || h->kind >= RB_FRAME_KIND_END)
        return rb_fail(err, RESBM_E_FORMAT, "frame has unknown kind %d", h->kind);
    if (h->direction > 1)
        return rb_fail(err, RESBM_E_FORMAT, "frame has direction %d, not 0 or 1", h->direction);
    if (h->code >= RB_CODE_COUNT || h->scale >= RB_SCALE_COUNT)
        return rb_fail(err, RESBM_E_FORMAT, "frame has unknown code %d with scale %d", h->code, h->scale);
    return RESBM_OK;
}

/* The shape against the payload's length. */
static resbm_status check_tensor(const rb_frame_header *h, rb_err *err) {
    if (!h->B && !h->T && !h->k && !h->code && !h->scale) return RESBM_OK;
    if (h->kind != RB_FRAME_FORWARD && h->kind != RB_FRAME_BACKWARD)
        return rb_fail(err, RESBM_E_CORRUPT, "frame of kind %d has shape (%u,%u,%u), but holds no tensor",
                       h->kind, h->B, h->T, h->k);
    rb_pack_args a = {.code = (rb_code)h->code, .scale = (rb_scale)h->scale};
    int64_t want = rb_packed_bytes(&a, h->B, h->T, h->k);
    if (want < 0)
        return rb_fail(err, RESBM_E_CORRUPT,
                       "frame has shape (%u,%u,%u) in code %d with scale %d, which cannot be", h->B, h->T,
                       h->k, h->code, h->scale);
    if ((uint64_t)want <= h->payload_bytes) return RESBM_OK;
    return rb_fail(err, RESBM_E_CORRUPT,
                   "frame has shape (%u,%u,%u) in code %d with scale %d, %lld bytes, but a payload of %llu",
                   h->B, h->T, h->k, h->code, h->scale, (long long)want,
                   (unsigned long long)h->payload_bytes);
}

resbm_status rb_frame_get(const uint8_t in[RB_FRAME_HEADER_BYTES], rb_frame_header *h, rb_err *err) {
    if (rb_get32(in) != magic)
        return rb_fail(err, RESBM_E_FORMAT, "frame begins with %08x, not with %08x", rb_get32(in), magic);
    if (in[4] != RB_FRAME_VERSION)
        return rb_fail(err, RESBM_E_FORMAT, "frame has version %d, this program speaks %d", in[4],
                       RB_FRAME_VERSION);
    *h = (rb_frame_header){.kind = in[5],
                           .direction = in[6],
                           .code = in[7] & 15,
                           .scale = in[7] >> 4,
                           .epoch = rb_get32(in + 8),
                           .boundary = rb_get16(in + 12),
                           .attempt = rb_get16(in + 14),
                           .step = rb_get64(in + 16),
                           .microbatch = rb_get32(in + 24),
                           .B = rb_get32(in + 28),
                           .T = rb_get32(in + 32),
                           .k = rb_get32(in + 36),
                           .payload_bytes = rb_get64(in + 40),
                           .checksum = rb_get64(in + 48)};
    RB_TRY(check_names(h, err));
    return check_tensor(h, err);
}

resbm_status rb_frame_check_payload(const rb_frame_header *h, const void *payload, rb_err *err) {
    uint8_t fields[48];
    put_fields(fields, h);
    uint64_t have = checksum(fields, h, payload);
    if (have == h->checksum) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CORRUPT,
        "frame of boundary %d, microbatch %u, step %llu has checksum %016llx, its header says %016llx",
        h->boundary, h->microbatch, (unsigned long long)h->step, (unsigned long long)have,
        (unsigned long long)h->checksum);
}

resbm_status rb_frame_expect(const rb_frame_header *got, const rb_frame_header *want, rb_err *err) {
    const struct {
        const char *name;
        uint64_t got, want;
    } fields[] = {
        {"kind", got->kind, want->kind},
        {"run epoch", got->epoch, want->epoch},
        {"step", got->step, want->step},
        {"boundary", got->boundary, want->boundary},
        {"direction", got->direction, want->direction},
        {"microbatch", got->microbatch, want->microbatch},
        {"B (sequences)", got->B, want->B},
        {"T (positions)", got->T, want->T},
        {"k (width)", got->k, want->k},
        {"code", got->code, want->code},
        {"scale", got->scale, want->scale},
        {"payload bytes", got->payload_bytes, want->payload_bytes},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].got != fields[i].want)
            return rb_fail(err, RESBM_E_CORRUPT, "frame has %s %llu where %llu was expected", fields[i].name,
                           (unsigned long long)fields[i].got, (unsigned long long)fields[i].want);
    return RESBM_OK;
}
