/* What the files of src/link share. Everything here belongs either to the lock (any thread, holding
 * link->lock) or to the input/output thread alone; each field says which.
 *
 *     compute threads                     input/output thread (io.c)
 *     rb_link_send -> submitted list  ->  transmit queues (transmit.c) -> uplink, delay line -> sockets
 *     rb_link_recv <- inbox of peer   <-  downlink, pending list       <- frames (receive.c)  <- sockets
 */
#ifndef RB_LINK_INTERNAL_H
#define RB_LINK_INTERNAL_H

#include <pthread.h>
#include "link/hello.h"
#include "link/link.h"
#include "link/shape.h"

struct rb_conn;

/* A message with the link's notes. The message is first, so that a pointer to one is a pointer to the other;
 * the payload follows in the same allocation. */
typedef struct rb_node {
    rb_message msg;
    struct rb_node *next; /* submitted list, transmit queue, pending list, inbox: in one of them at a time */
    struct rb_node *up_next; /* uplink queue, beside the transmit queue */
    struct rb_conn *conn;
    size_t capacity; /* of the payload */
    size_t total;    /* bytes of the frame */
    size_t up_bytes; /* of these, through the uplink */
    size_t io_bytes; /* of these, written to or read from the socket */
    int64_t queued_ns, started_ns, visible_ns;
    uint8_t head[RB_FRAME_HEADER_BYTES];
} rb_node;

typedef struct rb_list {
    rb_node *head, *tail;
} rb_list;

/* The last addresses seen from a peer, to drop a frame that comes twice. */
enum { RB_SEEN_SLOTS = 8192, RB_SEEN_KEPT = 4096 };
typedef struct rb_seen {
    uint64_t slot[RB_SEEN_SLOTS]; /* open addressing, 0 = free */
    uint64_t order[RB_SEEN_KEPT]; /* ring, oldest at next */
    uint32_t next, count;
} rb_seen;

/* A stage number (or the coordinator) we may talk to; lives as long as the link. Guarded by the lock. */
typedef struct rb_peer {
    int number;
    char name[RB_CARRIER_NAME]; /* rb_link_expect; of the thread that accepts */
    bool shaped;
    struct rb_conn *conn;       /* newest connection; NULL: never connected */
    const struct rb_conn *told; /* the connection whose end rb_link_recv_any has reported */
    resbm_status fault;         /* first fault of that connection */
    char fault_text[400];
    bool deaf;            /* nothing will be received any more */
    size_t unsent;        /* bytes handed over and not yet written */
    uint64_t undelivered; /* bytes thrown away because of a fault */
    rb_list inbox;
    size_t inbox_bytes;
    bool paused;      /* the I/O thread waits for room in the inbox */
    int64_t heard_ns; /* when the last frame came; 0 never */
    rb_seen *seen;
    rb_link_stats stats;
} rb_peer;

/* Bytes that may be written once their trip is over. */
typedef struct rb_delayed {
    int64_t first_ns, arrive_ns;
    size_t bytes;
    bool ends_frame;
} rb_delayed;

enum { RB_STAGING_BYTES = 64 * 1024 };

/* One connection. peer and fd never change; the rest belongs to the I/O thread. */
typedef struct rb_conn {
    struct rb_conn *next;
    rb_peer *peer;
    int fd;
    bool tcp, shaped;
    bool readable, writable, hung_up, broken_tx, broken_rx;
    int gone_order; /* as rb_link_gone_order tells it; with the lock */
    /* out */
    rb_list queue;
    size_t ready; /* bytes at the queue's front that may be written now (all of them when not shaped) */
    rb_delayed *delay;
    size_t delay_head, delay_count, delay_cap;
    rb_shape_stream stream;
    /* in */
    uint8_t head[RB_FRAME_HEADER_BYTES];
    size_t head_have;
    rb_node *incoming;
    bool backlogged;  /* the last read stopped for the pace, so what follows was there already */
    int64_t ready_ns; /* when the bytes being taken in were there */
    uint8_t *staging;
} rb_conn;

struct rb_link {
    rb_link_options opt; /* constant */
    pthread_mutex_t lock;
    pthread_cond_t arrived; /* inbox, fault, close; waited for with the lock */
    pthread_cond_t left;    /* credit, fault, close */
    pthread_t thread;
    bool started;
    int wake_fd, timer_fd, epoll_fd;
    /* guarded by the lock */
    bool closed, sleeping;
    rb_peer *peers; /* (stages + 1), the coordinator last */
    int peer_count;
    int strangers; /* refused over a carrier so far; of the thread that accepts */
    rb_list submitted;
    rb_conn *fresh; /* connections the I/O thread has not taken yet */
    rb_link_event *events;
    int event_count, event_cap;
    int gone; /* connections whose end was seen */
    /* I/O thread */
    rb_conn *conns;
    rb_shape shape;
    rb_node *up_head, *up_tail;
    rb_list pending; /* taken in through the downlink, visible at visible_ns */
    bool again;      /* something was queued after its turn */
    bool up_turn;    /* half duplex: sending goes first next time */
    int64_t armed_ns;
};

/* Quantum of shaping: bytes move at least this often while a frame's end stays exact. */
#define RB_QUANTUM_NS (RB_MS / 2)
#define RB_NEVER      INT64_MAX

/* message.c */
rb_node *rb_node_of(rb_message *m);
void rb_list_push(rb_list *l, rb_node *n);
rb_node *rb_list_pop(rb_list *l);
void rb_list_free(rb_list *l);
/* Which class of traffic the bytes [from, to) of a frame belong to: adds them to count. */
void rb_count_bytes(uint64_t count[RB_TRAFFIC_COUNT], const rb_node *n, size_t from, size_t to);
rb_traffic rb_traffic_of(const rb_frame_header *h);

/* seen.c: true when the address was there before; remembers it otherwise. */
bool rb_seen_before(rb_seen *s, const rb_frame_header *h);

/* link.c */
void rb_link_all_changed(rb_link *l); /* with the lock: wakes every waiting call */
rb_peer *rb_link_peer(rb_link *l, int number);
void rb_link_wake(rb_link *l); /* with the lock */
/* Makes the socket the peer's connection; RESBM_E_CANCELLED when the link was closed meanwhile. */
resbm_status rb_link_adopt(rb_link *l, rb_peer *p, int fd, bool tcp, rb_conn *c, rb_err *err);

/* io.c */
void *rb_io_main(void *link);
/* The connection's first fault: later ones change nothing. Takes the lock. */
void rb_io_fault(rb_link *l, rb_conn *c, resbm_status code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

void rb_link_see_end(rb_link *l, rb_conn *c); /* takes the lock */

/* probe.c: the answer to a probe; NULL when there is no memory. */
rb_message *rb_probe_answer(const rb_link *l, const rb_frame_header *asked);
bool rb_probe_is_sign_of_life(const rb_frame_header *h);

/* transmit.c */
void rb_transmit_take(rb_link *l, rb_list *submitted);
/* Sends a message of the I/O thread's own, unless the peer already has more unsent than its credit. */
void rb_transmit_own(rb_link *l, rb_conn *c, rb_message *m);
void rb_transmit_drop(rb_link *l, rb_conn *c); /* forgets what is queued for a broken connection */
/* Moves queued bytes through the uplink; returns when it wants to be called again. */
int64_t rb_transmit_uplink(rb_link *l, int64_t now);
/* Writes what has arrived; *more is set when the socket would take more at once. */
int64_t rb_transmit_write(rb_link *l, rb_conn *c, int64_t now, bool *more);

/* receive.c */
/* Reads what the pace and the inbox allow; *more is set when there may be more at once. */
int64_t rb_receive_read(rb_link *l, rb_conn *c, int64_t now, bool *more);
int64_t rb_receive_deliver(rb_link *l, int64_t now);
void rb_receive_stop(rb_link *l, rb_conn *c);  /* shuts the connection off, after its fault was noted */
void rb_receive_flush(rb_link *l, rb_conn *c); /* delivers what is pending of this connection */

#endif
