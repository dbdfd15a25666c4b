/* A delayed update (ZeRO-Offload's one-step delayed parameter update): the newest weights, which updates are made to, run one
 * update ahead of those in use.
 *
 *     step          0     1     2     3           g(n): gradient of step n, by the weights in use then
 *     in use        w0    w0    w1    w2
 *     newest        w0    w1    w2    w3          w(n+1) = w(n) updated by g(n)
 */
#include "device/ops.h"
#include "optim/inside.h"

resbm_status rb_optim_begin_newest(rb_optim *o, rb_queue *q, rb_err *err) {
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        if (e->newest.data) RB_TRY(rb_axpby(q, 1, e->tensor.weight, 0, e->newest, err));
        if (e->hosted && e->tensor.weight.data)
            RB_TRY(rb_download(q, e->hosted->master, e->tensor.weight.data,
                               (size_t)e->hosted->count * sizeof(float), err));
    }
    return RESBM_OK;
}

resbm_status rb_optim_use_newest(rb_optim *o, rb_queue *q, rb_err *err) {
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        if (e->newest.data) RB_TRY(rb_axpby(q, 1, e->newest, 0, e->tensor.weight, err));
        if (e->hosted) RB_TRY(rb_host_publish(o->host, e->hosted, err));
    }
    return rb_optim_settle(o, err);
}

static rb_view piece(rb_view v, int64_t from, int64_t count) {
    return rb_view1((float *)v.data + from, RB_F32, count);
}

resbm_status rb_optim_exchange(rb_optim *o, rb_queue *q, rb_err *err) {
    if (!o->config.delay) return RESBM_OK;
    RB_TRY(rb_optim_settle(o, err));
    RB_TRY(rb_queue_sync(q, err)); /* whatever still computes with them */
    for (int i = 0; i < o->count; i++) {
        const rb_optim_entry *e = &o->entries[i];
        int64_t all = e->newest.data ? rb_count(e->newest) : 0, most = rb_count(o->exchange);
        for (int64_t at = 0, n; at < all; at += n) {
            n = all - at < most ? all - at : most;
            rb_view used = piece(e->tensor.weight, at, n), newest = piece(e->newest, at, n),
                    between = piece(o->exchange, 0, n);
            RB_TRY(rb_axpby(q, 1, used, 0, between, err));
            RB_TRY(rb_axpby(q, 1, newest, 0, used, err));
            RB_TRY(rb_axpby(q, 1, between, 0, newest, err));
        }
        if (e->hosted) RB_TRY(rb_host_exchange(o->host, e->hosted, o->exchanged, err));
    }
    o->exchanged = !o->exchanged;
    return RESBM_OK;
}
