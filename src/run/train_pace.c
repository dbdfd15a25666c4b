/* How long a step may take, learned from those before it in this epoch. */
#include "run/training.h"

void rb_training_set_pace(training *t) {
    int64_t deviation;
    rb_held *h = &t->crew->held;
    bool hosted = t->o->outside && t->o->outside->apart; /* else nobody takes the place of who is set aside */
    if (!t->timed) t->saved_before = t->saved;
    int slack = t->saved == t->saved_before ? t->o->slack : 1; /* the run has come on since */
    h->deadline_ns = hosted ? rb_step_deadline_ns(&t->steps, slack, t->cfg->pipeline.deadline_ns) : 0;
    h->usual_ns = rb_usual_median(&t->steps, &deviation);
    h->steps = rb_usual_known(&t->steps);
}

void rb_training_note_pace(training *t, int64_t took_ns) {
    t->crew->held.deadline_ns = 0;
    if (!t->losses) rb_usual_note(&t->steps, took_ns);
}
