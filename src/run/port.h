/* A port: one boundary in one direction, seen from one of its ends. Packs what a segment gives into the bytes of
 * a message, and unpacks them again. A hand-over inside a stage goes through the same pack and unpack, so that
 * splitting changes nothing.
 *
 * Payload of a message: the parts of the boundary's wire format one after the other (rb_model_wire; layout of
 * each in device/pack_layout.h), then, where token ids travel, (B,T+1) ids of `id_bytes` bytes each. */
#ifndef RB_RUN_PORT_H
#define RB_RUN_PORT_H

#include "model/model.h"
#include "run/guard.h"

/* What the random bits of stochastic rounding are keyed by. */
typedef struct rb_port_key {
    uint64_t seed, step, sequence; /* sequence: number of the microbatch's first one in the run's order */
} rb_port_key;

typedef struct rb_port {
    int boundary, direction; /* 0 forward, 1 backward */
    rb_wire wire;
    int64_t B, T;
    size_t part_bytes[RB_MAX_WIRE_PARTS], packed_bytes;
    rb_view steps;   /* (k) learned steps, or absent */
    rb_view stats;   /* (k) i64: sums of code^2 since the last reset; absent without learned steps */
    int64_t counted; /* messages since the last update of the learned steps, */
    uint64_t step;   /* which are of this training step */
    void *bytes;     /* device memory of packed_bytes */
    bool shared;     /* bytes belongs to another port */
    rb_guard guard;  /* of messages of other participants (stage_guard.c), */
    float *known;    /* (k) steps as they were at the first message of */
    uint64_t known_step;
    rb_device *dev;
} rb_port;

/* steps: the tensor of this end; may be absent when no part has learned steps. */
resbm_status rb_port_open(rb_device *dev, const rb_model_config *m, const rb_boundary_config *b, int boundary,
                          int direction, int64_t B, int64_t T, rb_view steps, rb_port *out, rb_err *err);
void rb_port_close(rb_port *p);
/* For a copy of a port whose B or T was made smaller: sizes computed again, on the same memory. */
resbm_status rb_port_resize(rb_port *p, rb_err *err);
/* Only the first `live` latents cross from now on (boundary.anneal_from); those left out are unpacked as 0, and their
 * steps stay. */
resbm_status rb_port_narrow(rb_port *p, int64_t live, rb_err *err);
/* Both ends of a boundary in one stage: p works on the bytes of `with` from now on. */
void rb_port_share(rb_port *p, const rb_port *with);

/* parts (B,T,width) -> p->bytes. Part 0 may be wider than the latents that cross. */
resbm_status rb_port_pack(rb_port *p, rb_queue *q, const rb_view *parts, rb_port_key key, rb_err *err);
/* p->bytes -> parts. */
resbm_status rb_port_unpack(rb_port *p, rb_queue *q, const rb_view *parts, rb_port_key key, rb_err *err);
/* Part 0 alone. */
resbm_status rb_port_unpack_latents(rb_port *p, rb_queue *q, rb_view latents, rb_port_key key, rb_err *err);
/* Adds the statistics of p->bytes to p->stats (training only: evaluation leaves learned steps alone). */
resbm_status rb_port_count(rb_port *p, rb_queue *q, rb_err *err);
/* At a step's commit: new steps from the statistics of `tokens` tokens, which are cleared. updates: how many came
 * before. Does nothing without learned steps. */
resbm_status rb_port_update_steps(rb_port *p, rb_queue *q, uint64_t updates, int64_t tokens, rb_err *err);

/* Where updates flow with the messages: to be called before each message of the boundary is packed (at one
 * end) or unpacked (at the other), in training step `step`. With the first one of a step the learned steps are updated
 * from the messages of the one before, so that both ends have the same for the same message. */
resbm_status rb_port_advance(rb_port *p, rb_queue *q, uint64_t step, rb_err *err);
/* Behind training step `done`: its messages become learned steps, those of later ones, which come again, are
 * forgotten. */
resbm_status rb_port_settle(rb_port *p, rb_queue *q, uint64_t done, rb_err *err);

/* Bytes that a message's parts are packed into; -1: they cannot be. */
int64_t rb_wire_bytes(const rb_wire *w, int64_t B, int64_t T);
/* Bytes of the largest message of any boundary between stages, token ids included, header not. */
resbm_status rb_port_most_bytes(const rb_model_config *m, const rb_boundary_config *b, int64_t B, int64_t T,
                                size_t *out, rb_err *err);

/* Token ids at the end of a payload. */
int rb_id_bytes(int64_t vocab); /* 1 to 4 */
void rb_ids_put(uint8_t *out, const int32_t *ids, int64_t n, int id_bytes);
/* RESBM_E_CORRUPT names an id outside the vocabulary. */
resbm_status rb_ids_get(int32_t *ids, const uint8_t *in, int64_t n, int id_bytes, int64_t vocab, rb_err *err);

#endif
