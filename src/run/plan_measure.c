/* A plan's measuring of a segment, and the line that says so where that takes long. Opening a large stage, or one action of it, may
 * take longer than anybody should wait for that line: a thread has an eye on the time. */
#include <stdio.h>
#include <string.h>
#include "core/clock.h"
#include "core/thread.h"
#include "run/plan.h"

#define NOTICE_NS (3 * RB_SEC)

typedef struct watch {
    const rb_plan_options *o;
    const rb_config *cfg;
    const char *boundary;
    int segment;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over;
    bool runs; /* the thread */
    pthread_t thread;
} watch;

static void tell(const watch *w) {
    rb_plan_notice *n = w->o->notice;
    char line[400];
    n->said = true;
    snprintf(
        line, sizeof line,
        "measuring this machine for the plan (boundary %s, segment %d of %lld), which takes minutes for a "
        "large model; pipeline.speed=FLOP/s, or flops in a list of machines (--machines), plans without "
        "measuring%s",
        w->boundary, w->segment + 1, (long long)w->cfg->model.segments,
        w->o->boundary_count == 1 ? "" : "; --own measures one boundary alone");
    n->say(n->ctx, line);
}

static void *wait_and_tell(void *arg) {
    watch *w = arg;
    int64_t at = w->o->notice->begin_ns + NOTICE_NS;
    pthread_mutex_lock(&w->lock);
    while (!w->over && rb_cond_wait_until(&w->changed, &w->lock, at)) {
    }
    pthread_mutex_unlock(&w->lock);
    if (rb_now_ns() >= at) tell(w);
    return NULL;
}

/* Where no thread can be had, nothing is said. */
static void begin(watch *w) {
    rb_plan_notice *n = w->o->notice;
    if (!n || n->said) return;
    if (!n->begin_ns) n->begin_ns = rb_now_ns();
    pthread_mutex_init(&w->lock, NULL);
    rb_cond_init(&w->changed);
    w->runs = !rb_thread_start(&w->thread, NULL, wait_and_tell, w);
}

static void end(watch *w) {
    if (!w->runs) return;
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
}

bool rb_plan_measures(const rb_plan_options *o) {
    return !((o->machine ? o->machine[0].flops : o->cfg->pipeline.speed) > 0);
}

resbm_status rb_plan_measure(const rb_plan_options *o, const rb_config *c, const char *boundary,
                             const char *device, int segment, int beside, rb_segment_measure *out,
                             rb_err *err) {
    watch w = {.o = o, .cfg = c, .boundary = boundary, .segment = segment};
    if (strcmp(device, "timed")) begin(&w); /* which counts, and takes no time */
    resbm_status st = rb_measure_segment(c, device, segment, beside, o->seconds, out, err);
    end(&w);
    return st;
}
