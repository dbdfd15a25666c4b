/* Drops doubles: a window of the last addresses, as 64-bit hashes, in an open-addressing table. */
#include "link/internal.h"

#include <string.h>
#include "core/bytes.h"
#include "core/hash.h"

static uint64_t address_key(const rb_frame_header *h) {
    uint8_t b[24] = {h->kind, h->direction};
    rb_put16(b + 2, h->boundary);
    rb_put16(b + 4, h->attempt);
    rb_put32(b + 8, h->epoch);
    rb_put32(b + 12, h->microbatch);
    rb_put64(b + 16, h->step);
    return rb_hash64(b, sizeof b) | 1; /* 0 marks a free slot */
}

static uint32_t home(uint64_t key) {
    return (uint32_t)(key >> 32) % RB_SEEN_SLOTS;
}

/* Deletion that keeps probing chains whole: later members of the chain move into the hole. */
static void forget(rb_seen *s, uint64_t key) {
    uint32_t hole = home(key);
    while (s->slot[hole] != key) hole = (hole + 1) % RB_SEEN_SLOTS;
    for (uint32_t i = (hole + 1) % RB_SEEN_SLOTS; s->slot[i]; i = (i + 1) % RB_SEEN_SLOTS) {
        uint32_t from_home = (i - home(s->slot[i])) % RB_SEEN_SLOTS, from_hole = (i - hole) % RB_SEEN_SLOTS;
        if (from_home < from_hole) continue;
        s->slot[hole] = s->slot[i];
        hole = i;
    }
    s->slot[hole] = 0;
}

bool rb_seen_before(rb_seen *s, const rb_frame_header *h) {
    if (h->kind != RB_FRAME_FORWARD && h->kind != RB_FRAME_BACKWARD) return false; /* these have no address */
    uint64_t key = address_key(h);
    uint32_t i = home(key);
    for (; s->slot[i]; i = (i + 1) % RB_SEEN_SLOTS)
        if (s->slot[i] == key) return true;
    if (s->count == RB_SEEN_KEPT) {
        forget(s, s->order[s->next]);
        for (i = home(key); s->slot[i]; i = (i + 1) % RB_SEEN_SLOTS) {
        }
    } else {
        s->count++;
    }
    s->slot[i] = key;
    s->order[s->next] = key;
    s->next = (s->next + 1) % RB_SEEN_KEPT;
    return false;
}
