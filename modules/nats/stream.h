/* Streams: ordered bytes between two processes over a bus that carries messages, may lose, double and reorder them,
 * and may be gone for a while. Each stream shows itself as one end of a socket pair, so that links read and write it as
 * they do any other connection.
 *
 * Packet, little-endian (payload behind it):
 *    0  4  magic "RBS1"
 *    4  1  version (1)
 *    5  1  type
 *    6  1  flags (1: bytes are missing before what came; 2: the sender was cut off from the bus)
 *    7  1  zero
 *    8  8  number of the stream, drawn by who opened it
 *   16  8  the sender's port
 *   24  8  place of the payload's first byte in the stream (data), or its length (fin)
 *   32  8  bytes received in order
 *   40  4  bytes the sender of this packet will take beyond these
 *   44  4  number of a ping; in an ack, of the ping it answers; 0: none
 *   48  8  rb_mix64(XXH3-64 of bytes 0..47, XXH3-64 of the payload or 0)
 *
 * The bus keeps the order of what one process sends another while both stay connected, so the answer to a ping tells what
 * of the bytes sent before it is lost: only that is sent again, and no timer guesses. */
#ifndef RB_NATS_STREAM_H
#define RB_NATS_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"

enum { RB_STREAM_HEADER = 56, RB_STREAM_NAME = 64, RB_STREAM_WINDOW = 1 << 20 };

/* Publishes a packet to port `port` (or, service not NULL, to a service) of participant `to`. False: it was not taken
 * (the bus is gone). May block; is never called with a lock held. */
typedef struct rb_bus {
    void *ctx;
    bool (*publish)(void *ctx, const char *to, const char *service, uint64_t port, const uint8_t *p,
                    size_t n);
    /* A packet of `from` was not well-formed; NULL: nobody wants to know. */
    void (*refused)(void *ctx, const char *from, size_t bytes);
    /* How long a stream that the process has closed lives on while the other side takes nothing; 0: as usual. */
    int64_t give_up_ns;
} rb_bus;

typedef struct rb_stream_counts {
    uint64_t packets_out, bytes_out, packets_in, bytes_in, again_bytes, doubles, refused;
    unsigned streams; /* there now */
} rb_stream_counts;

typedef struct rb_streams rb_streams;

/* port: this process's own number on the bus. piece: largest payload of a packet. */
resbm_status rb_streams_open(const rb_bus *bus, uint64_t port, size_t piece, rb_streams **out, rb_err *err);
/* After the process has closed its ends: waits until everything written has been acknowledged, and the other sides know of
 * the end; at most until the deadline. */
void rb_streams_drain(rb_streams *s, int64_t until_ns);
/* Nothing is published any more; packets may still come in. */
void rb_streams_stop(rb_streams *s);
/* Drains, then ends all. */
void rb_streams_close(rb_streams *s, int64_t linger_until_ns);
/* A packet that came for a service of this process (service NULL: for its port) from participant `from`, which the bus
 * vouches for. What is not well-formed is counted as refused. Any thread. */
void rb_streams_input(rb_streams *s, const char *from, const char *service, const uint8_t *p, size_t n);
/* The bus is there again: both sides tell each other what they have. */
void rb_streams_resumed(rb_streams *s);
/* *fd: a pipe from which the streams that were opened to `service` are read (rb_carrier_stream). */
resbm_status rb_streams_listen(rb_streams *s, const char *service, int *fd, rb_err *err);
void rb_streams_unlisten(rb_streams *s, int fd); /* closes it and what nobody took */
resbm_status rb_streams_dial(rb_streams *s, const char *to, const char *service, int64_t deadline_ns, int *fd,
                             rb_err *err);
void rb_streams_count(rb_streams *s, rb_stream_counts *out);

#endif
