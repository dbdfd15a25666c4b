#include "run/planned.h"

#include <stdio.h>
#include <string.h>
#include "run/config.h"

rb_planned rb_planned_from(const rb_fit_need *n, uint64_t room) {
    return (rb_planned){.total = n->total,
                        .weights = n->part.weights,
                        .gradients = n->part.gradients,
                        .optimizer = n->part.optimizer,
                        .activations = n->activations,
                        .older = n->stashes,
                        .working = n->part.working + n->rounded,
                        .room = room};
}

enum { NUMBERS = 8 };

json_t *rb_planned_json(const rb_planned *p) {
    const uint64_t v[NUMBERS] = {p->total,       p->weights, p->gradients, p->optimizer,
                                 p->activations, p->older,   p->working,   p->room};
    json_t *out = json_array();
    for (size_t i = 0; i < NUMBERS; i++) json_array_append_new(out, json_integer((json_int_t)v[i]));
    return out;
}

rb_planned rb_planned_read(const json_t *j) {
    uint64_t v[NUMBERS];
    for (size_t i = 0; i < NUMBERS; i++) {
        json_int_t n = json_integer_value(json_array_get(j, i));
        v[i] = n > 0 ? (uint64_t)n : 0;
    }
    return (rb_planned){v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]};
}

/* --- for people -------------------------------------------------------------------------------------------- */

enum { LINE = 240, MOST_LINES = 8, LEAST_PART = 100 /* less than such a share of the whole is not listed */ };

typedef struct unit {
    double bytes;
    char name[4];
} unit;

static unit unit_of(uint64_t bytes) {
    static const char prefix[] = "kMGTPE";
    unit u = {1e3, "kB"};
    for (int i = 1; prefix[i] && (double)bytes >= 999.5 * u.bytes; i++) {
        u.bytes *= 1000;
        u.name[0] = prefix[i];
    }
    return u;
}

static void print_part(char *out, size_t size, const char *name, double value) {
    snprintf(out, size, value < 9.95 ? "%s %.2g" : "%s %.0f", name, value);
}

/* "9.51 GB (weights 1.2, activations 5.9) of 79.1 GB free" */
static void describe(const rb_planned *p, char out[LINE]) {
    const struct {
        const char *name;
        uint64_t bytes;
    } part[] = {{"weights", p->weights},         {"gradients", p->gradients}, {"optimizer", p->optimizer},
                {"activations", p->activations}, {"older weights", p->older}, {"working", p->working}};
    unit u = unit_of(p->total), r = unit_of(p->room);
    int n = snprintf(out, LINE, "%.3g %s", (double)p->total / u.bytes, u.name), listed = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char text[32];
        if (part[i].bytes <= p->total / LEAST_PART) continue;
        print_part(text, sizeof text, part[i].name, (double)part[i].bytes / u.bytes);
        n += snprintf(out + n, (size_t)(LINE - n), "%s%s", listed++ ? ", " : " (", text);
    }
    n += snprintf(out + n, (size_t)(LINE - n), "%s", listed ? ")" : "");
    if (p->room) snprintf(out + n, (size_t)(LINE - n), " of %.3g %s free", (double)p->room / r.bytes, r.name);
}

typedef struct group {
    int first, last; /* stages */
    char text[LINE];
} group;

/* The stage's, with the least room that a replica has. Workers of first replicas are the stages. */
static rb_planned of_stage(const rb_planned *p, const rb_place *place, int workers, int stage) {
    rb_planned s = p[stage];
    for (int w = 0; w < workers; w++)
        if (place[w].stage == stage && p[w].room && (!s.room || p[w].room < s.room)) s.room = p[w].room;
    return s;
}

static int stages_of(const rb_place *place, int workers) {
    int n = 0;
    for (int w = 0; w < workers; w++) n += !place[w].replica;
    return n;
}

/* Where least is left; where that is not known of it, what takes most. */
static bool fuller(const rb_planned *a, const rb_planned *b) {
    if (a->room && b->room) return (double)a->room - (double)a->total < (double)b->room - (double)b->total;
    return a->total > b->total;
}

static void print_fullest(const rb_planned *p, const rb_place *place, int workers, rb_buf *out) {
    int stages = stages_of(place, workers), most = 0;
    uint64_t low = UINT64_MAX, high = 0;
    char text[LINE];
    for (int s = 0; s < stages; s++) {
        rb_planned one = of_stage(p, place, workers, s), top = of_stage(p, place, workers, most);
        if (fuller(&one, &top)) most = s;
        low = one.total < low ? one.total : low;
        high = one.total > high ? one.total : high;
    }
    unit l = unit_of(low), h = unit_of(high);
    rb_planned top = of_stage(p, place, workers, most);
    describe(&top, text);
    rb_buf_printf(out, "memory: stages plan %.3g %s to %.3g %s; the fullest, stage %d, %s\n",
                  (double)low / l.bytes, l.name, (double)high / h.bytes, h.name, most, text);
}

void rb_planned_print(const rb_planned *p, const rb_place *place, int workers, rb_buf *out) {
    int stages = stages_of(place, workers), n = 0;
    group g[MOST_LINES];
    for (int s = 0; s < stages; s++) {
        char text[LINE];
        rb_planned one = of_stage(p, place, workers, s);
        if (!one.total) return;
        describe(&one, text);
        bool alike = n && !strcmp(g[n - 1].text, text);
        if (!alike && n == MOST_LINES) {
            print_fullest(p, place, workers, out);
            return;
        }
        if (!alike) g[n++].first = s;
        g[n - 1].last = s;
        memcpy(g[n - 1].text, text, LINE);
    }
    for (int i = 0; i < n; i++) {
        if (g[i].first == g[i].last)
            rb_buf_printf(out, "memory: stage %d plans %s\n", g[i].first, g[i].text);
        else
            rb_buf_printf(out, "memory: stages %d to %d plan %s each\n", g[i].first, g[i].last, g[i].text);
    }
}
