/* The machines of a plan: what each stage runs on. A list in YAML, one entry per stage or per run of equal ones:
 *
 *     machines:
 *       - {count: 8, flops: 28.4e12, memory: 24G, disk: 500M, up: 80mbit, down: 400mbit, latency: 50ms, jitter: 5ms}
 *
 * What an entry leaves out comes from the run's configuration (link.*, pipeline.memory, pipeline.speed). */
#ifndef RB_RUN_MACHINES_H
#define RB_RUN_MACHINES_H

#include "run/config.h"

typedef struct rb_machine {
    int64_t count;
    double flops;                  /* FLOP/s it sustains; 0 = not stated */
    int64_t memory, disk;          /* bytes; bytes per second it writes; 0 = not stated */
    double up_bits, down_bits;     /* per second; 0 = no limit */
    int64_t latency_ns, jitter_ns; /* one way, of what it sends */
} rb_machine;

/* What the configuration itself says of every stage. */
rb_machine rb_machine_of(const rb_config *cfg);
/* Fills out (stages). RESBM_E_CONFIG with file:line: an unknown key, a bad value, another number of machines than
 * stages. */
resbm_status rb_machines_load(const char *path, const rb_config *cfg, int stages, rb_machine *out,
                              rb_err *err);

#endif
