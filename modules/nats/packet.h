/* The packets that streams travel in: a header of RB_STREAM_HEADER bytes with a checksum of everything, then data. */
#ifndef RB_NATS_PACKET_H
#define RB_NATS_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPEN = 1, OPENED, DATA, ACK, PING, FIN, RST, TYPE_END };
enum { GAP = 1, RESUMED = 2 };

typedef struct packet {
    uint8_t type, flags;
    uint64_t id, port, seq, ack;
    uint32_t window, ping;
} packet;

/* Writes the header in front of payload bytes that lie behind it already. */
void rb_packet_put(uint8_t *b, const packet *p, size_t payload);

/* False: n bytes that are no packet of this version, or damaged, or whose fields are out of range. */
bool rb_packet_get(const uint8_t *b, size_t n, packet *p);

#endif
