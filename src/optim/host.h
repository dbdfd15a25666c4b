/* Inside optim/: AdamW on the host for tensors whose weights and gradients are on a device (ZeRO-Offload, Ren et al. 2021).
 * Both moments live in host memory and never move. Tiles of gradient and weight come down, the host's vector code updates
 * them, the weight goes up again:
 *
 *     down      | tile 0 | tile 1 | tile 2 | ...
 *     host               | tile 0 | tile 1 | tile 2 | ...
 *     up                          | tile 0 | tile 1 | ...
 */
#ifndef RB_OPTIM_HOST_H
#define RB_OPTIM_HOST_H

#include "optim/rule.h"

typedef struct rb_host rb_host;

/* threads: of the host's code. tile: elements, a multiple of RB_TILE_UNIT. */
resbm_status rb_host_open(rb_device *dev, int threads, int64_t tile, rb_host **out, rb_err *err);
void rb_host_close(rb_host *h); /* NULL is fine */
size_t rb_host_window_bytes(int64_t tile);

/* One tensor's update by `rule`, which works tile by tile and has no finish; c as for the whole tensor. state: host
 * memory. Returns with the last tiles queued to go up. */
resbm_status rb_host_update(rb_host *h, rb_queue *q, const rb_rule_table *rule, const rb_rule_call *c,
                            float *const *state, rb_err *err);

#endif
