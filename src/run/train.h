/* Training as its coordinator runs it: every step is a transaction. The stages compute; their norms and losses are
 * agreed here; the commit is told; all apply it. What happens is handed to the caller through rb_train_hooks. */
#ifndef RB_RUN_TRAIN_H
#define RB_RUN_TRAIN_H

#include <stdatomic.h>
#include "run/blame.h"
#include "run/config.h"
#include "run/planned.h"
#include "run/stage.h"

/* One training step as it was committed. */
typedef struct rb_step_record {
    int64_t step, tokens; /* steps and tokens done, this one included */
    double loss, lr, grad_norm;
    const double *grad_norm_segments;
    int segments;
    const double
        *aux_loss; /* (segments - 1) per token, not weighted; NULL in steps without auxiliary losses */
    bool evaluated;
    double val_loss;
    double step_s, tokens_per_s,
        elapsed_s; /* elapsed: training time since the run began, resumed parts included */
    int64_t wire_bytes_fwd, wire_bytes_bwd; /* over all links, headers included; token ids count as forward */
    const double
        *staleness;  /* (stages) mean age, in updates, of the weights in this step's gradients; NULL: 0 */
    const int *deal; /* (stages) microbatches of each process, with replicas; else NULL */
    const double
        *speed; /* (stages) microbatches a second of computation, over the last steps; 0: not measured */
    const int64_t (
        *packets)[2]; /* (stages) bytes of packets out and in since each process began; 0 without a carrier */
    const double *busy_s; /* (stages) of computation in this step */
    int stages;           /* processes */
    double bubble;        /* share of the stages' time of this step without computation */
} rb_step_record;

/* What the whole run came to. */
typedef struct rb_train_summary {
    int64_t steps, tokens, params, eval_tokens;
    bool has_val;
    double val_loss, step_s, tokens_per_s, bubble, elapsed_s; /* step_s, tokens_per_s: medians */
    double bytes_per_token_fwd, bytes_per_token_bwd,
        token_bytes_per_token; /* per boundary crossed by a link */
    double ratio, wire_ratio;
    bool nothing_left; /* resumed with all steps done: nothing was started, no other field is filled */
    double start_s,
        first_step_s; /* from begun_ns to the begin and to the end of the first step; NAN without one */
    int stages;
    double staleness[RB_MAX_STAGES]; /* mean over the steps; NAN with a synchronous schedule */
    int64_t peak_rss[RB_MAX_STAGES];
    rb_memory_bytes memory[RB_MAX_STAGES];
    int64_t sent[RB_MAX_STAGES][RB_TRAFFIC_COUNT];
    rb_blame blame;     /* whom the fault concerns that it ended with */
    bool stopped_early; /* by request or train.max_seconds */
} rb_train_summary;

typedef struct rb_train_hooks {
    void *ctx;
    /* Once everything is ready: which rule each parameter gets, parameter count; resumed_from < 0: a new run. */
    resbm_status (*ready)(void *ctx, const char *rules, int64_t params, int64_t resumed_from, rb_err *err);
    /* Behind that: what each process (stages) plans to take of its device's memory. NULL: nobody asks. */
    void (*memory)(void *ctx, const rb_planned *p);
    resbm_status (*step)(void *ctx, const rb_step_record *r, rb_err *err);
    void (*note)(void *ctx, const char *text); /* one line for people */
    /* At the end: what a stage's device took for attention, where it was not own by default. NULL: nobody asks. */
    void (*attention)(void *ctx, int stage, const char *text);
    /* Before a commit is told: step (from 0), its loss, fingerprint of its gradients' norms. The commit waits until it
     * is recorded; a fault ends the run. NULL: nothing is recorded. */
    resbm_status (*commit)(void *ctx, int64_t step, double loss, const char *fingerprint, rb_err *err);
    /* A snapshot stands whole in `folder`; NULL: nobody asks. */
    resbm_status (*saved)(void *ctx, int64_t step, const char *folder, rb_err *err);
    /* Spans of one stage, for the trace. */
    resbm_status (*spans)(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err);
} rb_train_hooks;

typedef struct rb_train_options {
    const rb_config *cfg; /* validated */
    const char *dir;      /* of checkpoints */
    const char *program;  /* the resbm program */
    int64_t begun_ns;     /* when the program was started, on rb_now_ns's clock; 0: with this call */
    bool resume;
    int announce; /* what rb_crew_options.announce and .everywhere are; 0: stages are started here */
    bool everywhere;
    uint32_t least_epoch; /* of the run: at least this one */
    int slack; /* times that a step's learned deadline is longer, because of those that passed it before; 0: once */
    bool throwaway; /* dir goes away afterwards: a fault does not speak of its snapshots */
    const struct rb_crew_outside *outside; /* stages on other machines; NULL: what cfg->engine says */
    const atomic_int *
        stop; /* becomes 1: snapshot after the present step and end; 2: end without. RESBM_E_CANCELLED; or NULL */
    rb_train_hooks hooks;
} rb_train_options;

/* Blocks until the run has ended. On a fault the text names the last snapshot. out is filled as far as it got. */
resbm_status rb_train(const rb_train_options *o, rb_train_summary *out, rb_err *err);

/* Loss of a checkpoint (DIR or DIR/step-N) on the validation data, on cfg's stages. */
typedef struct rb_eval_result {
    int64_t step, tokens;
    double loss;
} rb_eval_result;
resbm_status rb_eval(const rb_config *cfg, const char *program, const char *checkpoint, int64_t sequences,
                     rb_eval_result *out, rb_err *err);

/* Continues `prompt` (ids) by up to n tokens; each new id is handed to `emit`. */
typedef struct rb_generate_options {
    const int32_t *prompt;
    int64_t prompt_len, n;
    double temperature, top_p;
    uint64_t seed;
    int32_t eos; /* ends the text; -1: none */
    resbm_status (*emit)(void *ctx, int32_t id, rb_err *err);
    void *ctx;
} rb_generate_options;
resbm_status rb_generate(const rb_config *cfg, const char *program, const char *checkpoint,
                         const rb_generate_options *o, rb_err *err);

/* The configuration a checkpoint was written with, and which folder it is: path may be a run's DIR (its newest whole
 * checkpoint is taken; damaged ones are named in notes) or a step-N folder itself. */
resbm_status rb_checkpoint_config(const char *path, rb_config *cfg, char folder[4096], rb_buf *notes,
                                  rb_err *err);

#endif
