#include "link/pair.h"

#include <pthread.h>
#include <string.h>
#include "core/clock.h"
#include "link/internal.h"

#define PATIENCE_NS (60 * RB_SEC) /* of those who measure: the machine may be busy */

resbm_status rb_link_pair_end(int self, const rb_shape_options *shape, rb_link **out, rb_err *err) {
    rb_link_options o = {
        .self = self,
        .stages = 3,
        .token = 1,
        .measured = true,
        .limits = {.frame_bytes = 64 << 20, .queued_bytes = 64 << 20, .inbox_bytes = 256 << 20}};
    if (shape) o.shape = *shape;
    return rb_link_open(&o, out, err);
}

typedef struct dialing {
    rb_link *from;
    int to;
    const char *address; /* NULL: fd is there already */
    int fd;
    resbm_status st;
    rb_err err;
} dialing;

static void *dial(void *arg) {
    dialing *d = arg;
    int64_t until = rb_now_ns() + PATIENCE_NS;
    d->st = d->address ? rb_link_connect(d->from, d->to, d->address, until, &d->err)
                       : rb_link_attach(d->from, d->to, d->fd, until, &d->err);
    return NULL;
}

static resbm_status meet(rb_link *a, rb_link *b, int number_b, rb_listener *listener, rb_err *err) {
    dialing d = {.from = a, .to = number_b, .address = rb_listener_address(listener)};
    pthread_t t;
    int peer;
    if (pthread_create(&t, NULL, dial, &d) != 0)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a thread");
    resbm_status st = rb_link_accept(b, listener, rb_now_ns() + PATIENCE_NS, &peer, err);
    if (st != RESBM_OK) rb_link_close(a);
    pthread_join(t, NULL);
    if (st == RESBM_OK && d.st != RESBM_OK) {
        st = d.st;
        if (err) *err = d.err;
    }
    return st;
}

resbm_status rb_link_pair_join(const char *address, rb_link *a, rb_link *b, int number_b, rb_err *err) {
    rb_listener *listener;
    RB_TRY(rb_listen(address, &listener, err));
    resbm_status st = meet(a, b, number_b, listener, err);
    rb_listener_close(listener);
    return st;
}

resbm_status rb_link_pair_attach(rb_link *a, rb_link *b, int number_b, const int fd[2], rb_err *err) {
    dialing d = {.from = a, .to = number_b, .fd = fd[0]};
    pthread_t t;
    if (pthread_create(&t, NULL, dial, &d) != 0)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a thread");
    resbm_status st = rb_link_attach(b, a->opt.self, fd[1], rb_now_ns() + PATIENCE_NS, err);
    pthread_join(t, NULL);
    if (st == RESBM_OK && d.st != RESBM_OK) {
        st = d.st;
        if (err) *err = d.err;
    }
    return st;
}

resbm_status rb_link_pair_open(const char *address, const rb_shape_options *a, const rb_shape_options *b,
                               rb_link_pair *out, rb_err *err) {
    rb_link_pair p = {0};
    resbm_status st;
    RB_TRY_GOTO(st, rb_link_pair_end(1, a, &p.a, err), out);
    RB_TRY_GOTO(st, rb_link_pair_end(2, b, &p.b, err), out);
    st = rb_link_pair_join(address, p.a, p.b, 2, err);
out:
    if (st != RESBM_OK) rb_link_pair_close(&p);
    *out = p;
    return st;
}

void rb_link_pair_close(rb_link_pair *p) {
    rb_link_fini(p->a);
    rb_link_fini(p->b);
    *p = (rb_link_pair){0};
}

static rb_frame_header address_of(uint32_t index) {
    return (rb_frame_header){.kind = RB_FRAME_FORWARD, .microbatch = index};
}

resbm_status rb_link_pair_send(rb_link *l, int to, uint32_t index, size_t bytes, rb_err *err) {
    rb_message *m = rb_message_new(bytes);
    if (!m) return rb_fail(err, RESBM_E_MEMORY, "no memory for a message of %zu bytes", bytes);
    m->head = address_of(index);
    m->head.payload_bytes = bytes;
    m->traffic = RB_TRAFFIC_ACTIVATION;
    memset(m->payload, (int)(index & 0xff), bytes);
    return rb_link_send(l, to, m, rb_now_ns() + PATIENCE_NS, err);
}

resbm_status rb_link_pair_take(rb_link *l, int from, uint32_t index, rb_err *err) {
    rb_frame_header want = address_of(index);
    rb_message *m;
    RB_TRY(rb_link_recv(l, from, &want, rb_now_ns() + PATIENCE_NS, &m, err));
    rb_message_free(m);
    return RESBM_OK;
}
