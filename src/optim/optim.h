/* Optimizers: which tensor gets which rule, the states they keep on the device, and one update.
 *
 * Kinds (registry)   adamw: AdamW for every tensor.
 *                    muon:  Muon for the matrices of blocks, and of boundaries where min(rows, columns) >= 2;
 * AdamW for embedding, head, norms and every other tensor. What is not trained by gradient (rb_role_trained) belongs to
 * no optimizer. Weight decay is decoupled and touches matrices only: norm weights never decay, as in llm.c
 * and nanoGPT.
 *
 * AdamW is torch.optim.AdamW (Loshchilov & Hutter 2019). Muon is torch.optim.Muon (Jordan et al. 2024) with
 * the Newton-Schulz iteration in f32 where PyTorch's runs in bfloat16. A tensor's update depends on that
 * tensor alone, so its bits do not depend on which stage hosts it. */
#ifndef RB_OPTIM_OPTIM_H
#define RB_OPTIM_OPTIM_H

#include "core/buf.h"
#include "core/spill.h"
#include "device/device.h"
#include "model/model.h"

typedef enum rb_scaling {
    RB_SCALING_ORIGINAL, /* Muon's update times sqrt(max(1, rows / columns)) */
    RB_SCALING_MATCH_RMS /* times 0.2 sqrt(max(rows, columns)): the size of AdamW's usual update */
} rb_scaling;

typedef struct rb_optim_config {
    char kind[16];
    double lr;       /* of the kind */
    double adamw_lr; /* of what kind muon leaves to AdamW */
    double weight_decay;
    double beta1, beta2, eps; /* AdamW */
    double momentum;          /* Muon */
    bool nesterov;
    int ns_steps; /* Newton-Schulz iterations, 1..99 */
    rb_scaling scaling;
} rb_optim_config;

/* kind muon, lr 0.02, adamw_lr 0.002, no decay, betas 0.9 and 0.95, eps 1e-8, momentum 0.95, Nesterov, 5
 * iterations, scaling original. */
rb_optim_config rb_optim_defaults(void);

/* What happens to one tensor; rb_optim_rule's answer. */
typedef enum rb_rule { RB_RULE_NONE, RB_RULE_ADAMW, RB_RULE_MUON, RB_RULE_COUNT } rb_rule;

typedef struct rb_optim_kind {
    const char *name, *summary;
    rb_rule (*rule_of)(const rb_tensor *t);
    rb_rule main_rule; /* the one that uses config.lr; a model with no such tensor is refused */
} rb_optim_kind;
extern const rb_optim_kind *const rb_optims[]; /* NULL-terminated */
const rb_optim_kind *rb_optim_find(const char *name);

/* Over the whole model's table. RESBM_E_CONFIG: unknown kind, numbers out of range, no tensor for the kind's
 * own rule (an empty Muon group). */
resbm_status rb_optim_check(const rb_optim_config *c, const rb_tensor_table *t, rb_err *err);
/* A few lines for people, one per rule (tensors, parameters, learning rate), then one per tensor: name,
 * shape, rule. rb_optim_check has passed. */
void rb_optim_describe(const rb_optim_config *c, const rb_tensor_table *t, rb_buf *out);
/* What rb_optim_open takes for these tensors. */
typedef struct rb_optim_need {
    size_t states;  /* device bytes of the states; 0 when they are away, */
    size_t windows; /* through which they then pass (host and device) */
    size_t scratch; /* device bytes: Muon's matrices */
    uint64_t spill; /* bytes of the spill */
    size_t host;    /* of host memory, for what is updated there */
} rb_optim_need;

/* Where states are kept when it is not the device's memory (docs/offload.md). */
typedef struct rb_optim_place {
    rb_spill *spill; /* outlives the optimizer; all bytes of the states' region are still zero */
    uint64_t at;     /* where that region begins; a multiple of RB_SPILL_ALIGN */
    int64_t tile;    /* elements that pass at once, a multiple of 4096; 0: a good number */
    int host_threads; /* > 0: AdamW's states are in host memory instead, and its updates are computed there by so many
                         threads; gradients must be with the device */
} rb_optim_place;
/* place NULL: the states stay with the device. Of place only tile and host_threads are read. */
rb_optim_need rb_optim_needs(const rb_device *dev, const rb_optim_config *c, const rb_tensor *const *tensors,
                             int count, const rb_optim_place *place);

typedef struct rb_optim rb_optim;

/* One hosted tensor: its row, and contiguous f32 views of weight and gradient. Rows without a rule are
 * skipped. A gradient without memory (grad.data NULL) is in the place's spill, from byte grad_at on. */
typedef struct rb_optim_tensor {
    const rb_tensor *tensor;
    rb_view weight, grad;
    uint64_t grad_at;
    double lr_scale; /* of the rate; 0 = 1 */
} rb_optim_tensor;

/* Takes all memory at once and zeroes the states (blocks until they are). Tensor rows and memory behind the
 * views must outlive the optimizer; the array need not. place: see above; it changes no bit. */
resbm_status rb_optim_open(rb_device *dev, const rb_optim_config *c, const rb_optim_tensor *tensors,
                           int count, const rb_optim_place *place, rb_optim **out, rb_err *err);
void rb_optim_close(rb_optim *o); /* NULL is fine; no step may be under way on a queue */

/* One update of every tensor, enqueued on q; gradients are read only. lr_factor multiplies the rates
 * (lr_schedule.h). scale (count, the order of open) multiplies each gradient first (clip.h); NULL: 1. With a place it
 * blocks until all but the last writes are done. */
resbm_status rb_optim_step(rb_optim *o, rb_queue *q, double lr_factor, const float *scale, rb_err *err);

/* The same for the tensors [first, first + count) of open alone, as their update number t (from 1); the optimizer's own
 * count stays as it is. Without a place only (RESBM_E_STATE). */
resbm_status rb_optim_step_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err);

/* States for checkpoints, in the order of the tensors: "exp_avg.<tensor>", "exp_avg_sq.<tensor>" of AdamW,
 * "momentum.<tensor>" of Muon, each f32 of its tensor's shape. */
typedef struct rb_optim_state {
    char name[112];
    const rb_tensor *tensor;
} rb_optim_state;
int rb_optim_state_count(const rb_optim *o);
rb_optim_state rb_optim_state_at(const rb_optim *o, int i);
/* n bytes of state i from byte `offset` on, wherever they are; blocks until they are there. */
resbm_status rb_optim_state_read(rb_optim *o, rb_queue *q, int i, int64_t offset, void *dst, size_t n,
                                 rb_err *err);
resbm_status rb_optim_state_write(rb_optim *o, rb_queue *q, int i, int64_t offset, const void *src, size_t n,
                                  rb_err *err);
/* Updates done so far: AdamW's t, a part of the checkpoint. */
int64_t rb_optim_steps_done(const rb_optim *o);
void rb_optim_set_steps_done(rb_optim *o, int64_t steps);

#endif
