/* summary.json: what a run came to, one object. Unknown numbers are null.
 *
 *     val_loss val_ppl val_bpb steps tokens tokens_per_s step_s bytes_per_token_fwd bytes_per_token_bwd ratio
 *     wire_ratio peak_rss_bytes bubble params token_bytes_per_token boundary codec_fwd codec_bwd time_s start_s
 *     first_step_s links, and with a delayed update: delay
 *
 * attention, where pipeline.attention is not own: what each stage's device took, and the times it chose by.
 * start_s and first_step_s: seconds from the start of the program to the begin and to the end of its first step.
 * links is an array of {from, to, up_bits, activations, gradients, tokens, sync, snapshots, control}: the bytes that
 * left stage `from` for stage `to`, headers included, by what they carried, over the whole run. */
#ifndef RB_RUN_SUMMARY_H
#define RB_RUN_SUMMARY_H

#include <stdint.h>
#include "core/err.h"

enum { RB_SUMMARY_MAX_STAGES = 1024, RB_SUMMARY_MAX_LINKS = 4096, RB_CHOICES = 512 /* bytes a stage says */ };

typedef struct rb_link_bytes {
    int from, to;   /* stages */
    double up_bits; /* shaped rate of from's uplink in bits per second; 0 = unshaped */
    uint64_t activations, gradients, tokens, sync, snapshots, control;
} rb_link_bytes;

/* Doubles may be NAN: not known. */
/* Planned bytes of a stage. windows: through which states and gradients that are on disk pass; scratch: of the
 * optimizer. read, written: bytes moved from and to disk in the whole run; waited: ns of computing that stood still for
 * them. */
typedef struct rb_memory_bytes {
    uint64_t weights, gradients, states, windows, scratch, activations;
    uint64_t read, written, waited_ns;
    /* Updates on the host: its memory; bytes of gradients down, of weights up, and of those down that were asked for before
     * the step's end; ns that computing stood still for them. */
    uint64_t host, down, up, early, host_waited_ns;
    uint64_t taken; /* of a device's own memory by the end, kernels' working memory included; 0: not known */
} rb_memory_bytes;

typedef struct rb_summary {
    double val_loss; /* of the last evaluation; val_ppl = exp of it */
    double val_bpb;  /* bits per byte, where the tokenizer's bytes are known */
    int64_t steps, tokens;
    double tokens_per_s, step_s;                     /* medians over the steps */
    double bytes_per_token_fwd, bytes_per_token_bwd; /* per boundary, headers included */
    double token_bytes_per_token; /* ids that travel beside the activations, per boundary */
    double ratio, wire_ratio;     /* d / k; bf16 bytes / bytes really sent */
    double bubble;                /* share of the stages' time spent idle, 0..1 */
    uint64_t params;
    int delay; /* updates that the weights of every gradient lacked (optim.delay); written when it is not 0 */
    double time_s, start_s, first_step_s;
    char boundary[16], codec_fwd[16], codec_bwd[16];
    int stages;
    uint64_t *peak_rss_bytes;      /* (stages) */
    const rb_memory_bytes *memory; /* (stages); NULL: unknown. Written, not read back */
    char *const *
        attention; /* (stages) whose, where it was not own by default, else NULL; or NULL. Written, not read back */
    const double
        *staleness; /* (stages) asynchronous schedules: mean age of the weights in gradients, in updates; or
                                 NULL. Written, not read back */
    int links;
    rb_link_bytes *link; /* (links) */
} rb_summary;

/* Written beside and renamed: a reader finds the old file or the new one. */
resbm_status rb_summary_write(const char *path, const rb_summary *s, rb_err *err);
/* Allocates the two arrays; rb_summary_free releases them (never call it on arrays of one's own). */
resbm_status rb_summary_read(const char *path, rb_summary *out, rb_err *err);
void rb_summary_free(rb_summary *s);

#endif
