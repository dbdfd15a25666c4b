/* What checkpoints hold of an optimizer, wherever it is. */
#include <stdio.h>
#include <string.h>
#include "optim/inside.h"

int rb_optim_state_count(const rb_optim *o) {
    int n = 0;
    for (int i = 0; i < o->count; i++) n += rb_optim_states_of(o, &o->entries[i]);
    return n;
}

/* The entry of state i, and which of its states it is. */
static const rb_optim_entry *entry_of(const rb_optim *o, int *i) {
    const rb_optim_entry *e = o->entries;
    while (*i >= rb_optim_states_of(o, e)) *i -= rb_optim_states_of(o, e++);
    return e;
}

/* Is state i of the entry its weights in use? */
static bool is_behind(const rb_optim_entry *e, int i) {
    return i >= rb_rule_find(e->rule)->states;
}

rb_optim_state rb_optim_state_at(const rb_optim *o, int i) {
    const rb_optim_entry *e = entry_of(o, &i);
    rb_optim_state s = {.tensor = e->tensor.tensor, .behind = is_behind(e, i)};
    snprintf(s.name, sizeof s.name, "%s.%s", s.behind ? "behind" : rb_rule_find(e->rule)->state[i],
             e->tensor.tensor->name);
    return s;
}

static resbm_status in_state(const rb_optim_entry *e, int64_t offset, size_t n, rb_err *err) {
    uint64_t bytes = (uint64_t)rb_optim_elements(e->tensor.tensor) * sizeof(float);
    if (offset >= 0 && n <= bytes && (uint64_t)offset <= bytes - n) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%zu bytes at %lld of the states of %s, which have %llu", n,
                   (long long)offset, e->tensor.tensor->name, (unsigned long long)bytes);
}

/* Bytes from `offset` on that lie in one tile, n at most; *tile and *inside: which one, and where in it. */
static size_t in_tile(const rb_optim *o, int64_t offset, size_t n, int *tile, int64_t *inside) {
    int64_t bytes = o->tile * (int64_t)sizeof(float);
    *tile = (int)(offset / bytes);
    *inside = offset % bytes;
    return n < (size_t)(bytes - *inside) ? n : (size_t)(bytes - *inside);
}

/* Memory on the host is read and written when the host's thread has nothing to do. */
static resbm_status whole_floats(int64_t offset, size_t n, rb_err *err) {
    if (offset % 4 == 0 && n % 4 == 0) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "%zu bytes at %lld of weights: not whole numbers of f32", n,
                   (long long)offset);
}

static resbm_status read_device(rb_queue *q, rb_view v, int64_t offset, void *dst, size_t n, rb_err *err) {
    RB_TRY(rb_download(q, dst, (const char *)v.data + offset, n, err));
    return rb_queue_sync(q, err);
}

static resbm_status write_device(rb_queue *q, rb_view v, int64_t offset, const void *src, size_t n,
                                 rb_err *err) {
    RB_TRY(rb_upload(q, (char *)v.data + offset, src, n, err));
    return rb_queue_sync(q, err);
}

resbm_status rb_optim_state_read(rb_optim *o, rb_queue *q, int i, int64_t offset, void *dst, size_t n,
                                 rb_err *err) {
    const rb_optim_entry *e = entry_of(o, &i);
    RB_TRY(in_state(e, offset, n, err));
    RB_TRY(rb_optim_settle(o, err));
    if (is_behind(e, i) && e->hosted) {
        RB_TRY(whole_floats(offset, n, err));
        return rb_host_read_used(o->host, e->hosted, offset / 4, (int64_t)n / 4, dst, err);
    }
    if (is_behind(e, i)) return read_device(q, e->tensor.weight, offset, dst, n, err);
    if (e->hosted) {
        memcpy(dst, (const char *)e->hosted->state[i] + offset, n);
        return RESBM_OK;
    }
    if (!o->stream) return read_device(q, e->state[i], offset, dst, n, err);
    int tile = 0;
    int64_t inside = 0;
    for (size_t done = 0, k; done < n; done += k) {
        k = in_tile(o, offset + (int64_t)done, n - done, &tile, &inside);
        RB_TRY(rb_stream_peek(o->stream, e->first_tile + tile, i, inside, (char *)dst + done, k, err));
    }
    return RESBM_OK;
}

resbm_status rb_optim_state_write(rb_optim *o, rb_queue *q, int i, int64_t offset, const void *src, size_t n,
                                  rb_err *err) {
    const rb_optim_entry *e = entry_of(o, &i);
    RB_TRY(in_state(e, offset, n, err));
    RB_TRY(rb_optim_settle(o, err));
    if (is_behind(e, i) && e->hosted) {
        RB_TRY(whole_floats(offset, n, err));
        return rb_host_write_used(o->host, e->hosted, offset / 4, (int64_t)n / 4, src, err);
    }
    if (is_behind(e, i)) return write_device(q, e->tensor.weight, offset, src, n, err);
    if (e->hosted) {
        memcpy((char *)e->hosted->state[i] + offset, src, n);
        return RESBM_OK;
    }
    if (!o->stream) return write_device(q, e->state[i], offset, src, n, err);
    int tile = 0;
    int64_t inside = 0;
    for (size_t done = 0, k; done < n; done += k) {
        k = in_tile(o, offset + (int64_t)done, n - done, &tile, &inside);
        RB_TRY(rb_stream_poke(o->stream, e->first_tile + tile, i, inside, (const char *)src + done, k, err));
    }
    return RESBM_OK;
}

static const rb_optim_entry *entry_given(const rb_optim *o, int i) {
    for (int k = 0; k < o->count; k++)
        if (o->entries[k].given == i) return &o->entries[k];
    return NULL;
}

rb_view rb_optim_newest(const rb_optim *o, int i) {
    const rb_optim_entry *e = entry_given(o, i);
    return e ? e->newest : rb_none();
}

bool rb_optim_keeps(const rb_optim *o, int i) {
    const rb_optim_entry *e = entry_given(o, i);
    return e && (e->hosted || e->newest.data);
}

resbm_status rb_optim_weight_read(rb_optim *o, rb_queue *q, int i, int64_t offset, void *dst, size_t n,
                                  rb_err *err) {
    const rb_optim_entry *e = entry_given(o, i);
    RB_TRY(in_state(e, offset, n, err));
    if (!e->hosted) return read_device(q, e->newest.data ? e->newest : e->tensor.weight, offset, dst, n, err);
    RB_TRY(rb_optim_settle(o, err));
    memcpy(dst, (const char *)e->hosted->master + offset, n);
    return RESBM_OK;
}

resbm_status rb_optim_weight_write(rb_optim *o, rb_queue *q, int i, int64_t offset, const void *src, size_t n,
                                   rb_err *err) {
    const rb_optim_entry *e = entry_given(o, i);
    RB_TRY(in_state(e, offset, n, err));
    if (!e->hosted)
        return write_device(q, e->newest.data ? e->newest : e->tensor.weight, offset, src, n, err);
    RB_TRY(rb_optim_settle(o, err));
    memcpy((char *)e->hosted->master + offset, src, n);
    return RESBM_OK;
}
