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
    int delay; /* 1: an update is made, but used only from the step after the next one on (newest.c); 0: at once */
} rb_optim_config;

/* kind muon, lr 0.01, adamw_lr 0.002, no decay, betas 0.9 and 0.95, eps 1e-8, momentum 0.95, Nesterov, 5
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
    size_t states;         /* device bytes of the states; 0 when they are away, */
    size_t windows;        /* through which they then pass (host and device), */
    size_t device_windows; /* of these, of a device with memory of its own */
    size_t scratch;        /* device bytes: Muon's matrices, what weights are exchanged through */
    size_t newest;         /* device bytes, with a delay: weights beside those in use */
    uint64_t spill;        /* bytes of the spill */
    size_t host;           /* of host memory, for what is updated there */
} rb_optim_need;

/* Where states are kept when it is not the device's memory (docs/offload.md). */
typedef struct rb_optim_place {
    rb_spill *spill; /* outlives the optimizer; all bytes of the states' region are still zero */
    uint64_t at;     /* where that region begins; a multiple of RB_SPILL_ALIGN */
    int64_t tile;    /* elements that pass at once, a multiple of 4096; 0: a good number */
    int host_threads; /* > 0: what AdamW updates, and nothing holds to a subspace, is updated on the host by so many threads
                         (host.h): masters and moments are in its memory; gradients must be with the device */
    int64_t deadline_ns; /* of these: longest wait in which none of their tiles moves */
} rb_optim_place;
/* Is that tensor updated on the host? */
bool rb_optim_hosts(const rb_optim_config *c, const rb_optim_place *place, const rb_tensor *t);
/* place NULL: the states stay with the device. c has passed rb_optim_check. Of place only tile and host_threads are read. */
rb_optim_need rb_optim_needs(const rb_device *dev, const rb_optim_config *c, const rb_tensor *const *tensors,
                             int count, const rb_optim_place *place);

typedef struct rb_optim rb_optim;

/* One hosted tensor: its row, and contiguous f32 views of weight and gradient. Rows without a rule are
 * skipped. A gradient without memory (grad.data NULL) is in the place's spill, from byte grad_at on. */
typedef struct rb_optim_tensor {
    const rb_tensor *tensor;
    rb_view weight, grad;
    rb_view
        half; /* what is updated on the host may have its weights on the device in bf16 alone: this view, and a `weight`
                     without memory */
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
 * blocks until all but the last writes are done; updates on the host are under way. */
resbm_status rb_optim_step(rb_optim *o, rb_queue *q, double lr_factor, const float *scale, rb_err *err);

/* The same for the tensors [first, first + count) of open alone, as their update number t (from 1); the optimizer's own
 * count stays as it is. */
resbm_status rb_optim_step_some(rb_optim *o, rb_queue *q, int64_t t, double lr_factor, const float *scale,
                                int first, int count, rb_err *err);

/* --- tensors that are updated on the host. All these do nothing where there are none.
 *
 * rb_optim_step asks for their updates and returns; the device has the new weights of a segment's tensors once rb_optim_await
 * has returned, a fault of the update with it. Their gradients may be asked for sooner: rb_optim_take, when what is queued on
 * q makes those of a segment what they will be at the step. Device memory of gradients may change again behind
 * rb_optim_await_taken. */
resbm_status rb_optim_take(rb_optim *o, rb_queue *q, int segment, rb_err *err);
resbm_status rb_optim_take_some(rb_optim *o, rb_queue *q, int first, int count,
                                rb_err *err); /* those of open */
resbm_status rb_optim_await(rb_optim *o, int segment, rb_err *err);
resbm_status rb_optim_await_taken(rb_optim *o, rb_err *err);
resbm_status rb_optim_settle(rb_optim *o, rb_err *err); /* nothing is under way on the host */
typedef struct rb_host_work {
    uint64_t down, up; /* bytes */
    uint64_t early;    /* of those down: asked for before their step */
    int64_t waited_ns; /* by the calls above */
} rb_host_work;
rb_host_work rb_optim_host_work(const rb_optim *o);

/* The newest weights of the ith tensor of open where they are the optimizer's own (on the host, or with a delay), n bytes from
 * byte `offset` on; block. Written ones come into use with rb_optim_use_newest. A tensor without a rule has none. */
bool rb_optim_keeps(const rb_optim *o, int i);
resbm_status rb_optim_weight_read(rb_optim *o, rb_queue *q, int i, int64_t offset, void *dst, size_t n,
                                  rb_err *err);
resbm_status rb_optim_weight_write(rb_optim *o, rb_queue *q, int i, int64_t offset, const void *src, size_t n,
                                   rb_err *err);

/* --- config.delay = 1: updates are made to the newest weights; those of rb_optim_tensor.weight, which gradients are of,
 * follow one update behind. A checkpoint holds both: the newest as the model's, those in use as states.
 *
 * The newest weights of the ith tensor of open (device memory); absent where there are none but those in use. */
rb_view rb_optim_newest(const rb_optim *o, int i);
/* The newest weights come into use, as in a run that begins with them. Nothing without a delay, as below. */
resbm_status rb_optim_use_newest(rb_optim *o, rb_queue *q, rb_err *err); /* masters on the host too */
/* Those in use and the newest change places: before an evaluation and after it. */
resbm_status rb_optim_exchange(rb_optim *o, rb_queue *q, rb_err *err);

/* States for checkpoints, in the order of the tensors: "exp_avg.<tensor>", "exp_avg_sq.<tensor>" of AdamW,
 * "momentum.<tensor>" of Muon, and with a delay "behind.<tensor>", the weights in use; each f32 of its tensor's shape. */
typedef struct rb_optim_state {
    char name[112];
    const rb_tensor *tensor;
    bool behind; /* weights in use: a checkpoint made without a delay has none */
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
