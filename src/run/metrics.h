/* metrics.jsonl: one JSON object per step and line, in the order of the keys below. Written and flushed line by
 * line, so a reader (or a crash) sees whole steps. Losses carry 9 significant digits: equal text means equal f32
 * bits. A number that is unknown, NaN or infinite is null.
 *
 *     step tokens loss [val_loss] [aux_loss] [staleness] [deal] lr grad_norm grad_norm_segments step_s tokens_per_s
 *     wire_bytes_fwd wire_bytes_bwd time_s
 *
 * val_loss stands only in the lines of steps after which the model was evaluated, aux_loss only in those of steps with
 * auxiliary losses, staleness only under asynchronous schedules (per stage, the mean age in updates of the weights in the
 * step's gradients), deal only with replicas (microbatches of each process, those of the stages' first replicas first); aux_loss: one per boundary, a token's mean, not weighted, and no part of loss. wire_bytes_fwd and _bwd are sums
 * over all links within this step: what left the processes with forward activations and with gradients, headers
 * included. time_s is the time trained so far, over all resumes, evaluations not counted. */
#ifndef RB_RUN_METRICS_H
#define RB_RUN_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/err.h"

enum { RB_METRICS_MAX_SEGMENTS = 1024, RB_METRICS_FILE_LIMIT = 1 << 29 };

typedef struct rb_step_metrics {
    int64_t step;   /* this step's number; the first is 1 */
    int64_t tokens; /* trained on so far */
    double loss;
    double val_loss; /* NAN = not evaluated after this step */
    double lr, grad_norm;
    const double *grad_norm_segments; /* (segments), may be NULL with segments 0 */
    int segments;
    const double *aux_loss;  /* (segments - 1), or NULL */
    const double *staleness; /* (stages), or NULL; written, not read back */
    const int *deal;         /* (workers), or NULL; written, not read back */
    int workers;
    int stages;
    double step_s, tokens_per_s;
    uint64_t wire_bytes_fwd, wire_bytes_bwd;
    double time_s;
} rb_step_metrics;

/* Writing. Not for use by several threads at once. */
typedef struct rb_metrics_writer rb_metrics_writer;

/* resumed_step 0: starts an empty file. Otherwise an existing file is continued: lines of later steps, and a line
 * a crash left unfinished, are cut off. */
resbm_status rb_metrics_open(const char *path, int64_t resumed_step, rb_metrics_writer **out, rb_err *err);
resbm_status rb_metrics_write(rb_metrics_writer *w, const rb_step_metrics *m, rb_err *err);
/* Closes and frees; NULL is fine. The status is that of the last write reaching the file. */
resbm_status rb_metrics_close(rb_metrics_writer *w, rb_err *err);

/* Reading. */
typedef struct rb_metrics {
    rb_step_metrics *steps; /* (count), ascending by step; grad_norm_segments point into norms */
    size_t count;
    double *norms;
} rb_metrics;

/* An unfinished last line is ignored (the run may still be writing); any other fault is RESBM_E_FORMAT with the
 * line's number. Files over RB_METRICS_FILE_LIMIT bytes are refused. */
resbm_status rb_metrics_read(const char *path, rb_metrics *out, rb_err *err);
void rb_metrics_free(rb_metrics *m);

/* Median over the steps of one member; the first step (start-up) is left out when there are more. NAN for no steps.
 * offset is offsetof(rb_step_metrics, step_s) or another double member. RESBM_E_MEMORY gives NAN too. */
double rb_metrics_median(const rb_metrics *m, size_t offset);

#endif
