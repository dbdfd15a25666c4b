/* Links: what carries messages between the stages of a run, and between each stage and its coordinator.
 *
 * An endpoint (rb_link) belongs to one process. It has one input/output thread; compute threads only hand
 * messages over and pick them up, so sending overlaps computation and shaping never sleeps on a compute
 * thread.
 *
 * Contract
 *  - Addressing: a message is a frame (codec/frame.h) whose header names run epoch, step, boundary,
 * direction, microbatch and attempt; receivers ask for exactly that address. Frames of an older epoch are
 * dropped and counted; a second forward or backward frame of the same address and attempt is dropped and
 * counted (control frames have no address, they only have an order).
 *  - Ownership: a message handed to rb_link_send belongs to the link from then on, also when the call fails.
 * A message that rb_link_recv returns belongs to the caller (rb_message_free).
 *  - Blocking: rb_link_send blocks only while the endpoint holds more than limits.queued_bytes unsent bytes
 * for that peer (credit), at most until the deadline. rb_link_recv blocks until the message is there, the
 * peer is gone, the link is cancelled, or the deadline passes: RESBM_E_TIMEOUT says who waited for which
 * message of which microbatch from whom, for how long, and which message lies there instead.
 *  - Order: messages to one peer leave in the order of their rb_link_send calls.
 *  - Faults: a peer that closes, or sends a frame with a wrong checksum, version, size, is shut off; every
 *    waiting and later call concerning it returns RESBM_E_PEER, RESBM_E_CORRUPT or RESBM_E_FORMAT with the
 * first fault's sentence; messages that had come whole before it can still be picked up. A peer that comes
 * back may connect again: counters, inbox and addresses seen go on.
 *  - close does not block and makes every waiting call return RESBM_E_CANCELLED; stop waits until what was
 * sent has left (or the deadline); fini frees.
 */
#ifndef RB_LINK_LINK_H
#define RB_LINK_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include "codec/frame.h"
#include "core/err.h"
#include "link/carrier.h"
#include "link/hello.h"
#include "link/shape.h"

enum { RB_PEER_COORDINATOR = -1, RB_PEER_ANY = -2 };

/* What reported bytes are split into. Counted when they leave (enter) the process, frame headers included. */
typedef enum rb_traffic {
    RB_TRAFFIC_ACTIVATION,
    RB_TRAFFIC_GRADIENT,
    RB_TRAFFIC_TOKENS,
    RB_TRAFFIC_SYNC,
    RB_TRAFFIC_SNAPSHOT,
    RB_TRAFFIC_CONTROL,
    RB_TRAFFIC_COUNT
} rb_traffic;

typedef struct rb_message {
    rb_frame_header head; /* payload_bytes is the payload's length */
    rb_traffic traffic;
    uint32_t token_bytes; /* of the payload, how many are token ids (counted under RB_TRAFFIC_TOKENS) */
    uint8_t *payload;
    int from; /* of what was received: the peer */
} rb_message;

/* A message with room for `bytes` of payload; NULL when there is no memory. */
rb_message *rb_message_new(size_t bytes);
void rb_message_free(rb_message *m);

typedef struct rb_link_limits {
    size_t frame_bytes;  /* largest frame accepted, header included */
    size_t queued_bytes; /* unsent bytes per peer before rb_link_send blocks */
    size_t inbox_bytes;  /* received and not yet asked for, per peer, before reading from it pauses */
} rb_link_limits;

typedef struct rb_link_options {
    int self; /* this stage's number, or RB_PEER_COORDINATOR */
    int stages;
    uint32_t epoch;
    uint64_t token; /* secret of the run: a peer whose hello carries another one is refused */
    rb_link_limits limits;
    rb_shape_options
        shape; /* of this endpoint's up- and downlink, shared by all stage peers; control is not shaped */
    const rb_place
        *places; /* (stages) what the numbers stand for, in messages; borrowed; NULL: a number is a stage */
    bool record_events;  /* keep rb_link_event records for the trace */
    bool measured;       /* probes get as many bytes back as they ask for (link/probe.h); else none */
    rb_carrier *carrier; /* where addresses "nats:…" lead; NULL: nowhere. Outlives the link */
    /* Somebody who called over the carrier was refused (rb_link_expect); on the thread that accepts, a hundred times at most.
     * NULL: nobody wants to know. */
    void (*refused)(void *ctx, const char *text);
    void *refused_ctx;
} rb_link_options;

typedef struct rb_link rb_link;
typedef struct rb_listener rb_listener;

/* Addresses: "unix:/path", "tcp:host:port" (port 0: chosen by the system), or "nats:PARTICIPANT/SERVICE" over a carrier
 * (which may be NULL otherwise, and is to outlive the listener). */
resbm_status rb_listen(const char *address, rb_listener **out, rb_err *err);
resbm_status rb_listen_over(rb_carrier *carrier, const char *address, rb_listener **out, rb_err *err);
const char *rb_listener_address(const rb_listener *l); /* the real one, port filled in */
void rb_listener_close(rb_listener *l);                /* removes a Unix socket's file */

resbm_status rb_link_open(const rb_link_options *opt, rb_link **out, rb_err *err);
/* Dials until the deadline (the peer may not listen yet) and exchanges hellos (version, token, stage
 * numbers). */
resbm_status rb_link_connect(rb_link *l, int peer, const char *address, int64_t deadline_ns, rb_err *err);
/* Accepts one peer; *peer gets its number. A stranger (bad hello) is closed and the wait goes on. */
resbm_status rb_link_accept(rb_link *l, rb_listener *from, int64_t deadline_ns, int *peer, rb_err *err);
/* Accepts until each stage of missing (stages) has come at least once, which then says false of it. One that comes again stands for
 * no other. */
resbm_status rb_link_accept_all(rb_link *l, rb_listener *from, bool *missing, int64_t deadline_ns,
                                rb_err *err);

/* Who `peer` is on the carrier: over it nobody else is accepted under this number, and nobody at all under a number of whom
 * this was not said. */
void rb_link_expect(rb_link *l, int peer, const char *name);

/* Takes a connected, non-blocking stream socket that an engine has made (link/mpi.h) as the connection to peer; the other
 * side calls it too. Both say hello at once. The socket is the link's from now on, also when the call fails. */
resbm_status rb_link_attach(rb_link *l, int peer, int fd, int64_t deadline_ns, rb_err *err);

resbm_status rb_link_send(rb_link *l, int peer, rb_message *m, int64_t deadline_ns, rb_err *err);
/* The message of `want`'s kind, epoch, step, boundary, direction, microbatch (and attempt) from peer. */
resbm_status rb_link_recv(rb_link *l, int peer, const rb_frame_header *want, int64_t deadline_ns,
                          rb_message **out, rb_err *err);
/* The same; a wait that began at since_ns goes on, as its fault then says. */
resbm_status rb_link_recv_since(rb_link *l, int peer, const rb_frame_header *want, int64_t since_ns,
                                int64_t deadline_ns, rb_message **out, rb_err *err);
/* Forgets what came of steps before `step`, and of evaluations (bit 63 set), and was not asked for. */
void rb_link_drop_before(rb_link *l, uint64_t step);
/* The oldest message of kind `kind` from peer (or RB_PEER_ANY; *from tells): the control channel's way. With
 * RB_PEER_ANY the end of each peer is reported once, *from naming it, and the others can be waited for again.
 */
resbm_status rb_link_recv_any(rb_link *l, int peer, uint8_t kind, int64_t deadline_ns, int *from,
                              rb_message **out, rb_err *err);

typedef struct rb_link_stats {
    uint64_t sent[RB_TRAFFIC_COUNT], received[RB_TRAFFIC_COUNT]; /* bytes */
    uint64_t frames_sent, frames_received, dropped_epoch, dropped_double, retransmitted_bytes;
} rb_link_stats;
/* Totals with one peer, or with all stage peers (RB_PEER_ANY). The hellos of a connection (48 bytes each way)
 * are control. Which bytes of a payload are token ids only its sender knows: `received` counts them with the
 * activation. */
void rb_link_get_stats(rb_link *l, int peer, rb_link_stats *out);
/* Asks the peer's input/output thread for a sign of life and does not wait; its answer is dropped once it has counted
 * as heard. A peer that cannot be asked is not heard either. */
void rb_link_ask(rb_link *l, int peer);
/* "stage 2", "the coordinator"; returns buf. */
const char *rb_link_who(const rb_link *l, int peer, char buf[RB_WHO_TEXT]);
/* "the forward activation of boundary 1, microbatch 3, step 17"; returns buf. */
enum { RB_WHAT_TEXT = 160 };
const char *rb_what(char buf[RB_WHAT_TEXT], const rb_frame_header *h);
int rb_link_stages(const rb_link *l); /* rb_link_options.stages */
/* A stage whose connection was shut off because of what came over it; -1: none. */
int rb_link_bad_peer(rb_link *l);
/* When the last frame of any kind came from the peer (rb_now_ns); 0: none yet. */
int64_t rb_link_heard_ns(rb_link *l, int peer);
/* Which connection ended first: 0 for a peer whose connection has not ended, else counted up from 1 in the order in which
 * the ends were seen. */
int rb_link_gone_order(rb_link *l, int peer);
/* The socket of a peer, for TCP_INFO in tests; -1 when there is none. */
int rb_link_fd(rb_link *l, int peer);

/* Processor time that the endpoint's input/output thread has taken so far; 0 where the system does not say. */
int64_t rb_link_cpu_ns(rb_link *l);

/* One message's life on the sender's side, for the trace. Times are rb_now_ns. */
typedef struct rb_link_event {
    int peer;
    rb_frame_header head;
    int64_t queued_ns, started_ns,
        left_ns; /* handed over; first byte through the uplink; last byte written */
} rb_link_event;
/* Moves up to max recorded events to out; returns how many. */
int rb_link_take_events(rb_link *l, rb_link_event *out, int max);

/* Waits until everything sent has left, at most until the deadline. */
resbm_status rb_link_stop(rb_link *l, int64_t deadline_ns, rb_err *err);
void rb_link_close(rb_link *l);
void rb_link_fini(rb_link *l); /* close first if needed; joins the thread; NULL is fine */

#endif
