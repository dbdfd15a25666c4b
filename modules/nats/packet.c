#include "packet.h"

#include "core/bytes.h"
#include "core/hash.h"
#include "core/rng.h"
#include "stream.h"

enum { MAGIC = 0x31534252, VERSION = 1 };

static uint64_t checksum(const uint8_t *p, size_t n) {
    return rb_mix64(rb_hash64(p, 48),
                    n > RB_STREAM_HEADER ? rb_hash64(p + RB_STREAM_HEADER, n - RB_STREAM_HEADER) : 0);
}

void rb_packet_put(uint8_t *b, const packet *p, size_t payload) {
    rb_put32(b, MAGIC);
    b[4] = VERSION;
    b[5] = p->type;
    b[6] = p->flags;
    b[7] = 0;
    rb_put64(b + 8, p->id);
    rb_put64(b + 16, p->port);
    rb_put64(b + 24, p->seq);
    rb_put64(b + 32, p->ack);
    rb_put32(b + 40, p->window);
    rb_put32(b + 44, p->ping);
    rb_put64(b + 48, checksum(b, RB_STREAM_HEADER + payload));
}

bool rb_packet_get(const uint8_t *b, size_t n, packet *p) {
    if (n < RB_STREAM_HEADER || rb_get32(b) != MAGIC || b[4] != VERSION || b[7] ||
        rb_get64(b + 48) != checksum(b, n))
        return false;
    *p = (packet){b[5],
                  b[6],
                  rb_get64(b + 8),
                  rb_get64(b + 16),
                  rb_get64(b + 24),
                  rb_get64(b + 32),
                  rb_get32(b + 40),
                  rb_get32(b + 44)};
    return p->type >= OPEN && p->type < TYPE_END && p->flags <= (GAP | RESUMED) && p->port &&
           (p->type == DATA) == (n > RB_STREAM_HEADER) && p->window <= RB_STREAM_WINDOW;
}
