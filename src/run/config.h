/* The configuration of a run: one plain struct, filled from defaults, then a YAML file, then overrides
 * `section.key=value`, then checked as a whole. All keys, their types, defaults, ranges and sentences are
 * rows of one table (keys.c); nothing here or elsewhere lists them a second time.
 *
 *     rb_config c;
 *     rb_config_defaults(&c, err);  rb_config_load_file(&c, "run.yaml", err);
 *     rb_config_override(&c, "model.d=512", err);  rb_config_validate(&c, err);
 *
 * The struct holds no pointers: copy it with =. It is large (about 50 KiB). Every fault is RESBM_E_CONFIG
 * with file:line:column (or the override's text), the value, the allowed range and the nearest right name. */
#ifndef RB_RUN_CONFIG_H
#define RB_RUN_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/buf.h"
#include "core/err.h"
#include "link/shape.h"
#include "model/model.h"
#include "optim/clip.h"
#include "optim/lr_schedule.h"
#include "optim/optim.h"
#include "pipeline/schedules.h"

enum { RB_MAX_STAGES = 1024, RB_MAX_KEYS = 128, RB_CONFIG_FILE_LIMIT = 1 << 18 };

typedef enum rb_distribute { RB_DISTRIBUTE_AUTO, RB_DISTRIBUTE_SHARED, RB_DISTRIBUTE_WIRE } rb_distribute;
typedef enum rb_offload_update { RB_OFFLOAD_UPDATE_DEVICE, RB_OFFLOAD_UPDATE_HOST } rb_offload_update;
typedef enum rb_offload_parts { RB_OFFLOAD_STATES, RB_OFFLOAD_STATES_GRADIENTS } rb_offload_parts;
typedef enum rb_transport { RB_TRANSPORT_UNIX, RB_TRANSPORT_TCP } rb_transport;

typedef enum rb_deal_rule { RB_DEAL_MEASURED, RB_DEAL_EVEN } rb_deal_rule;

typedef struct rb_data_config {
    char train[1024], val[1024]; /* glob patterns of shards; empty = none */
    char tokenizer[1024];        /* "bytes" or the path of a SentencePiece model or tokenizer.json */
    rb_distribute distribute;    /* after rb_config_validate never auto */
} rb_data_config;

typedef struct rb_optim_settings {
    rb_optim_config rule; /* kind, rates, decay, momenta: what rb_optim_open takes */
    rb_lr_schedule rates; /* what rb_lr_factor takes; steps is train.steps, filled in by rb_config_validate */
    double segment_lr_scale, boundary_lr_scale; /* what rb_tensor_lr takes */
    double clip;                                /* largest norm; 0 = no clipping */
    rb_clip_scope clip_scope;
    int64_t local_steps; /* of each replica between two outer updates; 0 = gradients are added up at each */
    double outer_lr, outer_momentum;
    char offload[16];
    rb_offload_parts offload_parts;
    rb_offload_update offload_update;
    char offload_dir[1024]; /* empty: the run's folder */
} rb_optim_settings;

typedef struct rb_train_config {
    int64_t steps;
    double max_seconds; /* 0 = no limit */
    int64_t batch, microbatches;
    double aux_weight, aux_until;       /* what rb_aux_weight takes */
    double anneal_until;                /* what rb_live_width takes */
    int64_t eval_every, eval_sequences; /* eval_every 0 = only at the end */
    int64_t checkpoint_every, keep;     /* checkpoint_every 0 = only at the end */
    bool save;                          /* false: no checkpoints, whatever checkpoint_every says */
    bool recompute;
    uint64_t seed;
} rb_train_config;

/* What activations inside blocks are kept in. */
typedef enum rb_activations {
    RB_ACTIVATIONS_AUTO, /* bf16 where products round their factors to it */
    RB_ACTIVATIONS_F32,
    RB_ACTIVATIONS_BF16
} rb_activations;

typedef struct rb_pipeline_config {
    int64_t stages;
    int64_t replicas; /* processes per stage, where there is no list */
    int replica_list; /* entries of the list: 0 or stages */
    int16_t replicas_of[RB_MAX_STAGES];
    rb_deal_rule deal;
    char replica_codec[16];
    char schedule[512];                /* registry name: gpipe, 1f1b, ...; or file:PATH */
    bool vertical_sync;                /* pipedream: the first stage's version on every stage */
    bool updates;                      /* derived: the schedule updates inside its list */
    bool placed;                       /* stage_of has been filled from the file's text */
    int16_t stage_of[RB_MAX_SEGMENTS]; /* with a file: where it puts each segment */
    int64_t inflight;                  /* 0 = auto */
    int64_t memory;                    /* bytes per stage that inflight: auto may plan with; 0 = auto */
    int64_t threads;                   /* compute threads per stage; 0 = auto */
    rb_transport transport;
    int addresses; /* 0 or stages */
    char address[RB_MAX_STAGES][128];
    char control[128];  /* host:port of the coordinator with tcp; empty: loopback */
    char launcher[512]; /* command prefix, "{stage}" replaced; empty = none */
    char mpi[16];       /* auto, openmpi or mpich */
    char device[512];   /* run/devices.h */
    rb_math math;
    rb_attention attention;
    bool weight_copies;
    int64_t logits; /* bytes of them in memory at once; 0 = auto */
    rb_activations activations;
    double speed; /* FLOP/s; 0 = not stated */
    int64_t deadline_ns, startup_deadline_ns;
} rb_pipeline_config;

typedef struct rb_config {
    rb_model_config model;       /* seed and recompute are train.*'s, filled in by rb_config_validate */
    rb_boundary_config boundary; /* k likewise, from ratio */
    rb_data_config data;
    rb_optim_settings optim;
    rb_train_config train;
    rb_pipeline_config pipeline;
    rb_shape_options link; /* of every stage */
    double snapshot_share; /* of a stage's uplink, for snapshots on their way to the host */
    char engine[16];

    /* Where each key (by its number in the table) was set, for messages: line of `file`, 0 = default, -1 =
     * override. */
    char file[256];
    int32_t line[RB_MAX_KEYS];
} rb_config;

resbm_status rb_config_defaults(rb_config *c, rb_err *err);
/* YAML on top of what is there. A file over RB_CONFIG_FILE_LIMIT bytes, an unknown or repeated key, a value
 * of the wrong kind or out of range: RESBM_E_CONFIG. c may be half filled after a fault. */
resbm_status rb_config_load_file(rb_config *c, const char *path, rb_err *err);
resbm_status rb_config_load_text(rb_config *c, const char *name, const char *text, size_t len, rb_err *err);
/* "section.key=value", or "engine=value". Lists: [1,2,3]. */
resbm_status rb_config_override(rb_config *c, const char *assignment, rb_err *err);
/* What no single key can know: k divides d, microbatches divide the batch, stages <= segments, ... and
 * rb_model_check. Fills derived values in (model.seed, boundary.k, what auto means where the configuration
 * alone decides it); call it last, and again after further overrides. */
resbm_status rb_config_validate(rb_config *c, rb_err *err);
/* Before a run begins: can data.tokenizer be read, which only what is done with the model will need? RESBM_E_CONFIG. */
resbm_status rb_config_check_tokenizer(const rb_config *c, rb_err *err);

/* pipeline.schedule (schedule.c). The path of a schedule's file, NULL when it is one by name. */
const char *rb_config_schedule_file(const rb_config *c);
/* The text of that file; empty when there is none. */
resbm_status rb_config_schedule_text(const rb_config *c, rb_buf *out, rb_err *err);
/* Takes the placement of segments from a schedule's text, where rb_config_validate would read the file: in a stage,
 * which may live where there is no such file. */
resbm_status rb_config_place(rb_config *c, const char *text, size_t len, rb_err *err);
/* For rb_config_validate: does the schedule exist and take this model, these stages and microbatches? */
resbm_status rb_config_check_schedule(rb_config *c, rb_err *err);
/* Does the list of a step go on into the next one's? */
bool rb_config_flows(const rb_config *c);
/* What the configuration's lists do with receivers' trunks (rb_trunks); validated. */
rb_trunks rb_config_trunks(const rb_config *c);
/* Which stage hosts a segment; stages >= 1. The coordinator and every stage come to the same. */
int rb_stage_of(const rb_config *c, int segment);

/* Factor of a tensor's learning rate: optim.segment_lr_scale once for every segment behind its own, and
 * optim.boundary_lr_scale for the matrices of encoders and decoders. */
double rb_tensor_lr(const rb_config *c, const rb_tensor *t);
/* Latents that cross at a step (from 0): boundary.k, or with boundary.anneal_from as many fewer as the run has got. */
int64_t rb_live_width(const rb_config *c, int64_t step);
/* Weight of the auxiliary losses at a step (from 0): falls in a line to 0 at step aux_until * steps and stays there
 * (aux_until infinite: aux_weight throughout); 0 without boundary.aux. */
double rb_aux_weight(const rb_config *c, int64_t step);

/* Every key in table order, as YAML that loads back to the same values. */
void rb_config_print(const rb_config *c, rb_buf *out);
/* The reference page (Markdown): docs/configuration.md and `resbm train --keys`. */
resbm_status rb_config_reference(rb_buf *out, rb_err *err);

/* Resuming: `saved` comes from the checkpoint, `now` from the user, both validated. A model or seed key that
 * differs is RESBM_E_CONFIG naming every such key with both values; a training key that differs adds a line
 * to warnings (may be NULL); a deployment key may differ silently. */
resbm_status rb_config_resume_check(const rb_config *saved, const rb_config *now, rb_buf *warnings,
                                    rb_err *err);
/* What makes two runs two, as "model.d: 256 -> 512; ...": every key but those of the deployment, and when the loss is
 * measured. Returns how many there are. */
int rb_config_loss_changes(const rb_config *a, const rb_config *b, rb_buf *out);

#endif
