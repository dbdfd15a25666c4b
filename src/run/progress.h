/* The progress line. On a terminal one line that is rewritten in place, at most ten times a second and never wider
 * than the terminal (what matters least is left out first); elsewhere plain lines now and then: the first step, every
 * evaluation, the last step, and otherwise one every `every_s` seconds. No colour when NO_COLOR is set.
 *
 *     step 120/350  loss 2.1034  val 2.2210  18.2k tok/s  up 97% down 96%  1m12s left */
#ifndef RB_RUN_PROGRESS_H
#define RB_RUN_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "core/err.h"

typedef struct rb_progress_options {
    FILE *file;    /* where it goes; stays the caller's */
    bool terminal; /* rewrite one line; rb_progress_is_terminal(file) tells */
    bool colour;
    int width;      /* of the terminal in columns; 0 = ask it at every line */
    double every_s; /* between plain lines; 0 = 10 */
} rb_progress_options;

/* What file (NULL: no terminal), the environment (NO_COLOR, TERM=dumb) and the terminal suggest. */
rb_progress_options rb_progress_detect(FILE *file);

/* NAN = unknown or not applicable: left out. */
typedef struct rb_progress_state {
    int64_t step, steps; /* done, of; steps 0 = open end */
    double loss, val_loss;
    double tokens_per_s;
    double up_use, down_use; /* of the shaped rate, 0..1; of the busiest link */
    double left_s;
    bool evaluated; /* val_loss is new */
} rb_progress_state;

typedef struct rb_progress rb_progress;
resbm_status rb_progress_new(const rb_progress_options *opt, rb_progress **out, rb_err *err);
/* now_ns: rb_now_ns(). */
void rb_progress_update(rb_progress *p, const rb_progress_state *s, int64_t now_ns);
/* A line of its own above the progress line, for what should stay ("checkpoint step-100 written"). */
void rb_progress_note(rb_progress *p, const char *text);
/* Ends the line and frees; NULL is fine. */
void rb_progress_end(rb_progress *p);

#endif
