#include "model/pager.h"

#include <stdlib.h>
#include <string.h>

typedef struct unit {
    int row;
    size_t bytes; /* without the padding of its region */
    uint64_t at;
    bool zero;        /* nothing was added since the last rb_pager_zero */
    int window, next; /* -1: none; next: the unit borrowed behind it the last time */
} unit;

/* host and device are the same memory where the device can use the host's. */
typedef struct window {
    char *host, *device;
    int unit; /* -1: free */
    bool lent;
    bool fresh;      /* host holds bytes that the device's memory does not */
    uint64_t ticket; /* of its last transfer */
    uint64_t used;   /* when: the least goes first */
} window;

struct rb_pager {
    rb_device *dev;
    rb_spill *spill;
    unit *unit;
    int units;
    int *unit_of;     /* (rows) -1: not away */
    uint64_t *offset; /* (rows) inside the unit */
    int rows, last;   /* last: the unit borrowed before; -1 at the beginning */
    size_t window_bytes;
    uint64_t clock;
    window window[RB_PAGER_WINDOWS];
    void *host_memory, *device_memory;
};

bool rb_pager_takes(const rb_tensor *t) {
    bool large = t->role == RB_ROLE_MATRIX || t->role == RB_ROLE_EMBEDDING || t->role == RB_ROLE_HEAD;
    return large && t->part == RB_PART_SEGMENT;
}

static uint64_t bytes_of(const rb_tensor *t) {
    return (uint64_t)rb_tensor_count(t) * sizeof(float);
}

/* Units in the order of the table. unit NULL: counts them and the spill's bytes. */
static int list_units(const rb_tensor_table *t, const bool *hosted, uint64_t at, unit *u, int *unit_of,
                      uint64_t *offset, uint64_t *end) {
    int n = 0;
    uint64_t used = 0;
    for (int i = 0; i < t->count; i++) {
        const rb_tensor *row = &t->rows[i];
        if (unit_of) unit_of[i] = -1;
        if (!hosted[i] || !rb_pager_takes(row)) continue;
        if (!row->joined) {
            at += rb_spill_round(used);
            used = 0;
            if (u) u[n] = (unit){.row = i, .at = at, .window = -1, .next = -1, .zero = true};
            n++;
        }
        if (unit_of) unit_of[i] = n - 1;
        if (offset) offset[i] = used;
        used += bytes_of(row);
        if (u) u[n - 1].bytes = used;
    }
    *end = at + rb_spill_round(used);
    return n;
}

uint64_t rb_pager_spill_bytes(const rb_tensor_table *t, const bool *hosted) {
    uint64_t end;
    list_units(t, hosted, 0, NULL, NULL, NULL, &end);
    return end;
}

void rb_pager_measure(const rb_device *dev, const rb_tensor_table *t, const bool *hosted, size_t *gradients,
                      size_t *windows) {
    uint64_t group = 0, most = 0, all = 0;
    for (int i = 0; i < t->count; i++) {
        if (!hosted[i] || !rb_pager_takes(&t->rows[i])) continue;
        group = t->rows[i].joined ? group + bytes_of(&t->rows[i]) : bytes_of(&t->rows[i]);
        all += bytes_of(&t->rows[i]);
        if (group > most) most = group;
    }
    *gradients = all;
    *windows = rb_spill_round(most) * RB_PAGER_WINDOWS * (dev->table->host_memory ? 1 : 2);
}

/* --- open and close */

static resbm_status open_windows(rb_pager *p, bool bare, rb_err *err) {
    for (int i = 0; i < p->units; i++)
        if (rb_spill_round(p->unit[i].bytes) > p->window_bytes)
            p->window_bytes = rb_spill_round(p->unit[i].bytes);
    size_t all = p->window_bytes * RB_PAGER_WINDOWS;
    bare = bare && !p->dev->table->host_memory;
    if (!bare) p->host_memory = rb_spill_memory(all);
    if (!bare && !p->host_memory)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for gradient windows of %zu bytes", all);
    if (!p->dev->table->host_memory) RB_TRY(rb_alloc(p->dev, all, &p->device_memory, err));
    for (size_t i = 0; i < RB_PAGER_WINDOWS; i++) {
        char *host = bare ? NULL : (char *)p->host_memory + i * p->window_bytes;
        char *device = p->device_memory ? (char *)p->device_memory + i * p->window_bytes : host;
        p->window[i] = (window){.host = host, .device = device, .unit = -1};
    }
    return RESBM_OK;
}

resbm_status rb_pager_open(rb_device *dev, rb_spill *spill, uint64_t at, const rb_tensor_table *t,
                           const bool *hosted, bool bare, rb_pager **out, rb_err *err) {
    uint64_t end;
    *out = NULL;
    rb_pager *p = calloc(1, sizeof *p);
    if (!p) return rb_fail(err, RESBM_E_MEMORY, "no memory for offloaded gradients");
    p->dev = dev;
    p->spill = spill;
    p->rows = t->count;
    p->last = -1;
    p->units = list_units(t, hosted, at, NULL, NULL, NULL, &end);
    p->unit = calloc((size_t)p->units + 1, sizeof *p->unit);
    p->unit_of = calloc((size_t)t->count, sizeof *p->unit_of);
    p->offset = calloc((size_t)t->count, sizeof *p->offset);
    resbm_status st = RESBM_OK;
    if (!p->unit || !p->unit_of || !p->offset)
        st = rb_fail(err, RESBM_E_MEMORY, "no memory for a list of %d gradients", p->units);
    if (!st) {
        list_units(t, hosted, at, p->unit, p->unit_of, p->offset, &end);
        st = open_windows(p, bare, err);
    }
    if (st)
        rb_pager_close(p);
    else
        *out = p;
    return st;
}

void rb_pager_close(rb_pager *p) {
    if (!p) return;
    rb_err ignored;
    for (int i = 0; i < RB_PAGER_WINDOWS; i++) rb_spill_wait(p->spill, p->window[i].ticket, &ignored);
    if (p->device_memory) rb_free(p->dev, p->device_memory);
    free(p->host_memory);
    free(p->unit);
    free(p->unit_of);
    free(p->offset);
    free(p);
}

/* --- windows */

/* The window not lent that was used longest ago, -1 when all are lent. */
static int oldest(const rb_pager *p) {
    int found = -1;
    for (int i = 0; i < RB_PAGER_WINDOWS; i++)
        if (!p->window[i].lent && (found < 0 || p->window[i].used < p->window[found].used)) found = i;
    return found;
}

/* Gives a window to unit u and queues the read of its bytes. The write of what was in it is queued already, and done
 * first. */
static resbm_status bring(rb_pager *p, int u, rb_err *err) {
    int i = oldest(p);
    if (i < 0) return rb_fail(err, RESBM_E_STATE, "all %d gradient windows are lent", RB_PAGER_WINDOWS);
    window *w = &p->window[i];
    if (w->unit >= 0) p->unit[w->unit].window = -1;
    w->unit = u;
    w->used = ++p->clock;
    p->unit[u].window = i;
    if (p->unit[u].zero) return RESBM_OK;
    w->fresh = true;
    return rb_spill_read(p->spill, p->unit[u].at, w->host, rb_spill_round(p->unit[u].bytes), &w->ticket, err);
}

static resbm_status hand_out(rb_pager *p, rb_queue *q, unit *u, window *w, rb_err *err) {
    RB_TRY(rb_spill_wait(p->spill, w->ticket, err));
    rb_view all = rb_view1(w->device, RB_F32, (int64_t)(u->bytes / sizeof(float)));
    if (u->zero) RB_TRY(rb_fill(q, all, 0, err));
    if (!u->zero && w->fresh && w->device != w->host) RB_TRY(rb_upload(q, w->device, w->host, u->bytes, err));
    w->fresh = false;
    w->lent = true;
    return RESBM_OK;
}

/* --- the lender */

static resbm_status find(const rb_pager *p, int row, int *u, rb_err *err) {
    *u = row >= 0 && row < p->rows ? p->unit_of[row] : -1;
    if (*u >= 0 && p->unit[*u].row == row) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG, "row %d of the tensor table is no gradient that can be borrowed", row);
}

static resbm_status borrow(void *ctx, rb_queue *q, int row, void **memory, rb_err *err) {
    rb_pager *p = ctx;
    int u = -1;
    RB_TRY(find(p, row, &u, err));
    if (p->unit[u].window < 0) RB_TRY(bring(p, u, err));
    window *w = &p->window[p->unit[u].window];
    if (w->lent) return rb_fail(err, RESBM_E_STATE, "the gradient of row %d is borrowed already", row);
    RB_TRY(hand_out(p, q, &p->unit[u], w, err));
    w->used = ++p->clock;
    if (p->last >= 0) p->unit[p->last].next = u;
    p->last = u;
    *memory = w->device;
    int more = p->unit[u].next;
    bool read_ahead = more >= 0 && p->unit[more].window < 0 && !p->unit[more].zero && oldest(p) >= 0;
    return read_ahead ? bring(p, more, err) : RESBM_OK;
}

static resbm_status give(void *ctx, rb_queue *q, int row, bool changed, rb_err *err) {
    rb_pager *p = ctx;
    int i = -1;
    RB_TRY(find(p, row, &i, err));
    unit *u = &p->unit[i];
    if (u->window < 0 || !p->window[u->window].lent)
        return rb_fail(err, RESBM_E_STATE, "the gradient of row %d was not borrowed", row);
    window *w = &p->window[u->window];
    if (changed && w->device != w->host) RB_TRY(rb_download(q, w->host, w->device, u->bytes, err));
    RB_TRY(rb_queue_sync(q, err));
    w->lent = false;
    if (!changed && !u->zero) return RESBM_OK; /* zeros have not been written yet */
    u->zero = false;
    return rb_spill_write(p->spill, u->at, w->host, rb_spill_round(u->bytes), &w->ticket, err);
}

rb_lender rb_pager_lender(rb_pager *p) {
    return (rb_lender){p, borrow, give};
}

size_t rb_pager_window_bytes(const rb_pager *p) {
    return p->window_bytes * RB_PAGER_WINDOWS * (p->device_memory ? 2 : 1);
}

static bool among(const unit *u, int first, int end) {
    return u->row >= first && u->row < end;
}

void rb_pager_zero(rb_pager *p, int first, int end) {
    for (int i = 0; i < p->units; i++) {
        unit *u = &p->unit[i];
        if (!among(u, first, end)) continue;
        if (u->window >= 0) p->window[u->window].unit = -1;
        u->window = -1;
        u->zero = true;
    }
    p->last = -1;
}

void rb_pager_walk(rb_pager *p, int first, int end) {
    for (int i = 0; i < p->units; i++) {
        bool more = i + 1 < p->units && among(&p->unit[i + 1], first, end);
        if (among(&p->unit[i], first, end)) p->unit[i].next = more ? i + 1 : -1;
    }
    p->last = -1;
}

uint64_t rb_pager_at(const rb_pager *p, int row) {
    return p->unit[p->unit_of[row]].at + p->offset[row];
}

int rb_pager_unit_row(const rb_pager *p, int row) {
    return row >= 0 && row < p->rows && p->unit_of[row] >= 0 ? p->unit[p->unit_of[row]].row : -1;
}
