#include "run/company.h"

#include <stdlib.h>
#include "core/thread.h"

struct rb_company {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool work, quit;
    int busy; /* members inside a piece of work */
    rb_company_work piece;
    int n;
    struct member {
        rb_company *of;
        void *ctx;
        pthread_t thread;
        resbm_status st;
        rb_err err;
    } * member; /* (n) */
};

static void *live(void *arg) {
    struct member *m = arg;
    rb_company *c = m->of;
    pthread_mutex_lock(&c->lock);
    while (!c->quit) {
        if (!c->work || m->st) {
            pthread_cond_wait(&c->changed, &c->lock);
            continue;
        }
        c->busy++;
        pthread_mutex_unlock(&c->lock);
        m->st = c->piece(m->ctx, &m->err);
        pthread_mutex_lock(&c->lock);
        if (!--c->busy) pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void rb_company_let(rb_company *c, bool work) {
    pthread_mutex_lock(&c->lock);
    c->work = work;
    pthread_cond_broadcast(&c->changed);
    while (!work && c->busy) pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

resbm_status rb_company_open(rb_company_work work, void **members, int n, rb_company **out, rb_err *err) {
    rb_company *c = *out = calloc(1, sizeof *c);
    if (c) c->member = calloc((size_t)n + 1, sizeof *c->member);
    if (!c || !c->member) {
        free(c);
        *out = NULL;
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %d threads", n);
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->piece = work;
    int bad = 0;
    while (c->n < n && !bad) {
        struct member *m = &c->member[c->n];
        *m = (struct member){.of = c, .ctx = members[c->n]};
        bad = rb_thread_start(&m->thread, NULL, live, m);
        if (!bad) c->n++;
    }
    if (!bad) return RESBM_OK;
    rb_company_close(c, NULL);
    *out = NULL;
    return rb_fail_errno(err, bad, "cannot start %d threads", n);
}

resbm_status rb_company_close(rb_company *c, rb_err *err) {
    resbm_status st = RESBM_OK;
    if (!c) return st;
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->n; i++) {
        pthread_join(c->member[i].thread, NULL);
        if (c->member[i].st && !st) {
            st = c->member[i].st;
            if (err) *err = c->member[i].err;
        }
    }
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->member);
    free(c);
    return st;
}
