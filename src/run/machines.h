/* The machines of a plan: what each stage runs on. A list in YAML, one entry per stage or per run of equal ones:
 *
 *     machines:
 *       - {count: 8, flops: 28.4e12, memory: 24G, disk: 500M, up: 80mbit, down: 400mbit, latency: 50ms, jitter: 5ms}
 *
 *     relay: {up: 1gbit, down: 1gbit, latency: 10ms, message: 20us, moves: 500M, memory: 8G, participant: 300K}
 *
 * What a machine leaves out comes from the run's configuration (link.*, pipeline.memory, pipeline.speed). A relay is a server
 * that every message passes (engine nats); what it leaves out costs nothing. */
#ifndef RB_RUN_MACHINES_H
#define RB_RUN_MACHINES_H

#include "run/config.h"

typedef struct rb_machine {
    int64_t count;
    double flops;                  /* FLOP/s it sustains; 0 = not stated, of any */
    int64_t memory, disk;          /* bytes; bytes per second it writes; 0 = not stated */
    double up_bits, down_bits;     /* per second; 0 = no limit */
    int64_t latency_ns, jitter_ns; /* one way, of what it sends */
} rb_machine;

typedef struct rb_relay {
    double up_bits, down_bits;      /* per second, of its line; 0 = no limit */
    int64_t latency_ns, message_ns; /* one way, to a machine; of its thread, for each message */
    int64_t moves, memory,
        participant; /* bytes a second of that thread; bytes it has; those a participant takes; 0 = not stated */
} rb_relay;

/* What the configuration itself says of every stage. */
rb_machine rb_machine_of(const rb_config *cfg);
/* Fills out (stages); relayed: the list has a relay too. RESBM_E_CONFIG with file:line: an unknown key, a bad value, FLOP/s of
 * some machines and not of others, another number of machines than stages. */
resbm_status rb_machines_load(const char *path, const rb_config *cfg, int stages, rb_machine *out,
                              rb_relay *relay, bool *relayed, rb_err *err);

#endif
