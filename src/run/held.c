#include "run/held.h"

#include <math.h>
#include "core/clock.h"

/* A machine that suddenly has ten times the work on its processors, or a tenth of its rate, goes on; what interrupts everybody for a
 * moment (a server that is started again, a cut of seconds) is longer than many a step, and has the floor. */
enum { KNOWN = 8, MEDIANS = 12, DEVIATIONS = 16 };
#define FLOOR (5 * RB_SEC)
/* Whoever takes that long is rather replaced than waited for; of steps that are long themselves so many medians. */
#define LONG (60 * RB_SEC)
enum { LONG_MEDIANS = 4 };
#define PAUSE RB_SEC /* between two looks: this process did not run itself */
enum {
    MOST_TOLD = 65536,
    HEAVIER = 4 /* times that one may have more to do than the last of the others that has answered */
};

int64_t rb_step_deadline_ns(const rb_usual *steps, int slack, int64_t most_ns) {
    if (rb_usual_known(steps) < KNOWN) return 0;
    int64_t deviation, median = rb_usual_median(steps, &deviation);
    double varies = (double)DEVIATIONS * (double)deviation, ns = (double)MEDIANS * (double)median + varies;
    if (ns > (double)LONG) ns = fmax((double)LONG, (double)LONG_MEDIANS * (double)median + varies);
    ns = fmax(ns, (double)FLOOR);
    ns *= slack > 1 ? slack : 1;
    return ns < (double)most_ns ? (int64_t)ns : 0;
}

void rb_held_begin(rb_held *h, int64_t now_ns) {
    for (int i = 0; i < RB_MAX_STAGES; i++) h->by[i] = (rb_wait){.on = -1};
    h->looked_ns = now_ns;
    h->passed_ns = 0;
    h->found = -1;
    h->answers = 0;
    h->answered_ns = 0;
}

void rb_held_answers(rb_held *h, int answers) {
    if (answers != h->answers) h->answered_ns = h->passed_ns;
    h->answers = answers;
}

static json_int_t within(const json_t *j, const char *key, json_int_t most) {
    json_int_t v = json_integer_value(json_object_get(j, key));
    return v < 0 ? 0 : v > most ? most : v;
}

bool rb_held_note(rb_held *h, int from, const json_t *said, int workers) {
    const json_t *on = json_object_get(said, "on");
    json_int_t n = json_integer_value(on);
    if (from < 0 || from >= workers || !json_is_integer(on) || n < -1 || n >= workers || n == from ||
        ++h->by[from].told > MOST_TOLD)
        return false;
    h->by[from].waits = n >= 0;
    h->by[from].on = (int)n;
    h->by[from].what = (rb_frame_header){.kind = (uint8_t)within(said, "kind", RB_FRAME_KIND_END),
                                         .boundary = (uint16_t)within(said, "boundary", UINT16_MAX),
                                         .microbatch = (uint32_t)within(said, "microbatch", UINT32_MAX),
                                         .step = (uint64_t)within(said, "step", INT64_MAX)};
    return true;
}

bool rb_held_due(rb_held *h, int64_t now_ns, bool connected) {
    int64_t passed = now_ns - h->looked_ns;
    h->looked_ns = now_ns;
    if (connected && passed < PAUSE) h->passed_ns += passed;
    if (rb_held_hangs(h)) return true;
    return h->deadline_ns > 0 && h->passed_ns > h->deadline_ns + RB_SEC + 2 * h->usual_ns;
}

bool rb_held_hangs(const rb_held *h) {
    return h->most_ns > 0 && h->answers > 0 && h->passed_ns > h->most_ns + HEAVIER * h->answered_ns + RB_SEC;
}

/* Most others wait for it. */
static int popularity(const rb_held *h, int worker, int workers) {
    int n = 0;
    for (int w = 0; w < workers; w++) n += h->by[w].waits && h->by[w].on == worker;
    return n;
}

/* Where everybody who owes an answer waits, a message is under way that does not come: its receiver; *on: its sender. */
static int receiver(const rb_held *h, const bool *owes, int workers, int *on) {
    int w = 0;
    *on = -1;
    while (w < workers && !owes[w]) w++;
    if (w == workers) return -1;
    for (int i = 0; i < workers && h->by[h->by[w].on].waits; i++) w = h->by[w].on;
    *on = h->by[w].on;
    return w;
}

int rb_held_find(const rb_held *h, const bool *owes, const bool *answered, int workers, int *other) {
    int best = -1, most = -1;
    bool idle = workers == 1, works = false; /* one alone holds up the coordinator */
    *other = -1;
    for (int w = 0; w < workers; w++) {
        idle |= answered[w] || (owes[w] && h->by[w].waits);
        if (!owes[w] || h->by[w].waits) continue;
        works = true;
        int n = popularity(h, w, workers);
        if (n <= most) continue;
        best = w;
        most = n;
    }
    if (works) return idle ? best : -1;
    return receiver(h, owes, workers, other);
}

int rb_held_behind(const rb_held *h, int from) {
    if (!h->by[from].waits) return -1;
    for (int i = 0; i <= RB_MAX_STAGES; i++) {
        if (!h->by[from].waits) return from;
        from = h->by[from].on;
    }
    return -1;
}
