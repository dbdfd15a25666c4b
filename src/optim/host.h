/* Inside optim/: updates computed on the host of tensors whose weights and gradients are on a device (ZeRO-Offload, Ren et al.
 * 2021). f32 masters, moments and a copy of the gradient live in host memory and never move. A thread of its own does three
 * kinds of work in the order they are asked for, on a queue of its own beside the device's computing:
 *
 *     take      gradient down, tile by tile        as soon as the backward pass is done with it
 *     update    the host's vector code             when the step's commit is told
 *     publish   weights up, tile by tile           tile by tile of the update; with a delay, before the next one
 *
 *     device    | backward ............ | norms |  forward (waits for its weights) ....
 *     down           | take | take | take |
 *     host                              commit | update, up | update, up | ...
 */
#ifndef RB_OPTIM_HOST_H
#define RB_OPTIM_HOST_H

#include "optim/rule.h"

typedef struct rb_host rb_host;

/* One tensor; memory is the caller's. */
typedef struct rb_hosted {
    const char *name; /* of the tensor, for messages */
    int64_t count;
    rb_view grad,
        weight; /* device memory: f32; f32 or bf16, what the weights are rounded to on their way up */
    const rb_rule_table *rule;                   /* works tile by tile and has no finish */
    float *state[RB_MAX_STATES], *master, *down; /* (count) host memory; down: the gradient */
    uint64_t taken, ready;                       /* tickets: the gradient is down; the weights are up */
} rb_hosted;

/* threads: of the host's code. tile: elements, a multiple of RB_TILE_UNIT. deadline_ns: longest time without a tile moved. */
resbm_status rb_host_open(rb_device *dev, int threads, int64_t tile, int64_t deadline_ns, rb_host **out,
                          rb_err *err);
void rb_host_close(rb_host *h); /* ends after the work under way; NULL is fine */
size_t rb_host_window_bytes(int64_t tile);

/* Asks for work; q: whose queued work makes the gradient. c is as for the whole tensor but weight, grad and state, which are
 * filled in, and its config must stay. The first fault of any work is returned by each wait after it. */
resbm_status rb_host_take(rb_host *h, rb_queue *q, rb_hosted *t, rb_err *err);
resbm_status rb_host_update(rb_host *h, rb_hosted *t, const rb_rule_call *c, bool up,
                            rb_err *err); /* up: and publishes */
resbm_status rb_host_publish(rb_host *h, rb_hosted *t, rb_err *err);
/* Until the work of a ticket, and all before it, is done. RESBM_E_TIMEOUT, with what it was at, when no tile has moved for
 * deadline_ns. */
resbm_status rb_host_wait(rb_host *h, uint64_t ticket, rb_err *err);
resbm_status rb_host_settle(rb_host *h, rb_err *err); /* all of it */

typedef struct rb_host_stats {
    uint64_t down, up; /* bytes */
    int64_t waited_ns; /* of the caller, for work */
} rb_host_stats;
void rb_host_get_stats(rb_host *h, rb_host_stats *out);

/* At rest. The device's weights change places with what was in `down`: once, the masters are in use and those before are in
 * down; once more, they are back. */
resbm_status rb_host_exchange(rb_host *h, rb_hosted *t, bool back, rb_err *err);
/* Elements [from, from + count) of the device's weights as f32. */
resbm_status rb_host_read_used(rb_host *h, const rb_hosted *t, int64_t from, int64_t count, float *out,
                               rb_err *err);
resbm_status rb_host_write_used(rb_host *h, const rb_hosted *t, int64_t from, int64_t count, const float *in,
                                rb_err *err);

#endif
