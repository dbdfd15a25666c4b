#include "link/hello.h"

#include <stdio.h>
#include <string.h>
#include "core/bytes.h"
#include "core/hash.h"

enum { COORDINATOR = -1 };
static const char magic[8] = {'R', 'B', 'H', 'E', 'L', 'L', 'O', '\n'};

const char *rb_who(char buf[RB_WHO_TEXT], int number) {
    if (number == COORDINATOR) return strcpy(buf, "the coordinator");
    if (number < 0) return strcpy(buf, "any stage");
    snprintf(buf, RB_WHO_TEXT, "stage %d", number);
    return buf;
}

const char *rb_who_at(char buf[RB_WHO_TEXT], int number, const rb_place *places) {
    if (!places || number < 0) return rb_who(buf, number);
    const rb_place *p = &places[number];
    snprintf(buf, RB_WHO_TEXT, p->replica ? "stage %d replica %d" : "stage %d", p->stage, p->replica);
    return buf;
}

uint32_t rb_token_fingerprint(uint64_t token) {
    uint8_t b[8];
    rb_put64(b, token);
    return (uint32_t)(rb_hash64(b, sizeof b) >> 32);
}

void rb_hello_put(uint8_t out[RB_HELLO_BYTES], const rb_hello *h) {
    memset(out, 0, RB_HELLO_BYTES);
    memcpy(out, magic, sizeof magic);
    rb_put16(out + 8, h->version);
    rb_put16(out + 10, h->verdict);
    rb_put32(out + 12, (uint32_t)h->self);
    rb_put32(out + 16, (uint32_t)h->peer);
    rb_put32(out + 20, (uint32_t)h->stages);
    rb_put64(out + 24, h->token);
    rb_put32(out + 32, h->fingerprint);
    rb_put64(out + 40, rb_hash64(out, 40));
}

resbm_status rb_hello_get(const uint8_t in[RB_HELLO_BYTES], rb_hello *h, rb_err *err) {
    if (memcmp(in, magic, sizeof magic) != 0)
        return rb_fail(err, RESBM_E_FORMAT, "the first bytes are not a hello of resbm");
    if (rb_get64(in + 40) != rb_hash64(in, 40) || rb_get32(in + 36) != 0)
        return rb_fail(err, RESBM_E_CORRUPT, "the hello's checksum is wrong");
    *h = (rb_hello){.version = rb_get16(in + 8),
                    .verdict = rb_get16(in + 10),
                    .self = (int32_t)rb_get32(in + 12),
                    .peer = (int32_t)rb_get32(in + 16),
                    .stages = (int32_t)rb_get32(in + 20),
                    .token = rb_get64(in + 24),
                    .fingerprint = rb_get32(in + 32)};
    return RESBM_OK;
}

static rb_verdict refuse_number(const rb_hello *mine, const rb_hello *theirs, rb_err *err) {
    char a[RB_WHO_TEXT], b[RB_WHO_TEXT], c[RB_WHO_TEXT];
    rb_fail(err, RESBM_E_PEER, "%s called for %s, but this is %s of %d", rb_who(a, theirs->self),
            rb_who(b, theirs->peer), rb_who(c, mine->self), mine->stages);
    return RB_REFUSED_NUMBER;
}

rb_verdict rb_hello_judge(const rb_hello *mine, const rb_hello *theirs, rb_err *err) {
    if (theirs->version != mine->version) {
        rb_fail(err, RESBM_E_FORMAT,
                "it speaks protocol version %u, this program %u: use the same build on both sides",
                theirs->version, mine->version);
        return RB_REFUSED_VERSION;
    }
    if (theirs->token != mine->token) {
        rb_fail(err, RESBM_E_PEER, "it belongs to run %08x, this is run %08x",
                rb_token_fingerprint(theirs->token), mine->fingerprint);
        return RB_REFUSED_TOKEN;
    }
    if (theirs->stages != mine->stages) {
        rb_fail(err, RESBM_E_PEER, "it was started for %d stages, this one for %d", theirs->stages,
                mine->stages);
        return RB_REFUSED_STAGES;
    }
    if (theirs->peer != mine->self || theirs->self == mine->self || theirs->self < COORDINATOR ||
        theirs->self >= mine->stages)
        return refuse_number(mine, theirs, err);
    return RB_WELCOME;
}

resbm_status rb_hello_answer(const rb_hello *mine, const rb_hello *a, rb_err *err) {
    char who[RB_WHO_TEXT], is[RB_WHO_TEXT];
    rb_who(who, mine->peer);
    switch (a->verdict) {
    case RB_WELCOME:
        return rb_hello_judge(mine, a, err) == RB_WELCOME ? RESBM_OK : RESBM_E_PEER;
    case RB_REFUSED_VERSION:
        return rb_fail(
            err, RESBM_E_FORMAT,
            "%s refused: it speaks protocol version %u, this program %u: use the same build on both sides",
            who, a->version, mine->version);
    case RB_REFUSED_TOKEN:
        return rb_fail(err, RESBM_E_PEER, "%s refused: it belongs to run %08x, this is run %08x", who,
                       a->fingerprint, mine->fingerprint);
    case RB_REFUSED_STAGES:
        return rb_fail(err, RESBM_E_PEER, "%s refused: it was started for %d stages, this one for %d", who,
                       a->stages, mine->stages);
    case RB_REFUSED_BUSY:
        return rb_fail(err, RESBM_E_PEER, "%s refused: it already has a connection to this number", who);
    case RB_REFUSED_NAME:
        return rb_fail(err, RESBM_E_PEER, "%s refused: number %d is another participant", who, mine->self);
    default:
        return rb_fail(err, RESBM_E_PEER, "%s refused (verdict %u): it is %s of %d, this is number %d of %d",
                       who, a->verdict, rb_who(is, a->self), a->stages, mine->self, mine->stages);
    }
}
