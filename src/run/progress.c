#include "run/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/clock.h"

enum { MAX_FIELDS = 8, FIELD = 48, TERMINAL_INTERVAL_MS = 100, DEFAULT_EVERY_S = 10, DEFAULT_WIDTH = 80 };

struct rb_progress {
    rb_progress_options opt;
    rb_progress_state state;
    int64_t last_ns; /* when a line was last written; 0 = never */
    bool open;       /* a rewritable line stands on the terminal */
    bool stale;      /* the newest state has not been shown */
};

/* One piece of the line; the highest drop goes first when the line is too wide. */
typedef struct field {
    char text[FIELD];
    const char *colour;
    int drop;
} field;

typedef struct line {
    field field[MAX_FIELDS];
    int count;
} line;

rb_progress_options rb_progress_detect(FILE *file) {
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    bool terminal = file && isatty(fileno(file)) && term && strcmp(term, "dumb") != 0;
    return (rb_progress_options){
        .file = file, .terminal = terminal, .colour = terminal && !(no_colour && *no_colour)};
}

resbm_status rb_progress_new(const rb_progress_options *opt, rb_progress **out, rb_err *err) {
    *out = calloc(1, sizeof **out);
    if (!*out) return rb_fail(err, RESBM_E_MEMORY, "no memory for the progress line");
    (*out)->opt = *opt;
    if ((*out)->opt.every_s <= 0) (*out)->opt.every_s = DEFAULT_EVERY_S;
    return RESBM_OK;
}

static int width_of(const rb_progress *p) {
    if (p->opt.width > 0) return p->opt.width;
    struct winsize w;
    if (ioctl(fileno(p->opt.file), TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return DEFAULT_WIDTH;
}

__attribute__((format(printf, 4, 5))) static void add(line *l, int drop, const char *colour, const char *fmt,
                                                      ...) {
    if (l->count == MAX_FIELDS) return;
    field *f = &l->field[l->count++];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, ap);
    va_end(ap);
    f->colour = colour;
    f->drop = drop;
}

static void add_rate(line *l, double per_s) {
    if (per_s >= 99950)
        add(l, 2, "", "%.0fk tok/s", per_s / 1e3);
    else if (per_s >= 1000)
        add(l, 2, "", "%.1fk tok/s", per_s / 1e3);
    else
        add(l, 2, "", "%.0f tok/s", per_s);
}

static void add_left(line *l, double s) {
    int64_t t = (int64_t)ceil(s > 0 ? s : 0);
    if (t >= 3600)
        add(l, 3, "", "%" PRId64 "h%02" PRId64 "m left", t / 3600, t / 60 % 60);
    else if (t >= 60)
        add(l, 3, "", "%" PRId64 "m%02" PRId64 "s left", t / 60, t % 60);
    else
        add(l, 3, "", "%" PRId64 "s left", t);
}

static void compose(line *l, const rb_progress_state *s) {
    l->count = 0;
    if (s->steps > 0)
        add(l, 0, "", "step %" PRId64 "/%" PRId64, s->step, s->steps);
    else
        add(l, 0, "", "step %" PRId64, s->step);
    if (!isnan(s->loss)) add(l, 1, "\033[1m", "loss %.4f", s->loss);
    if (!isnan(s->val_loss)) add(l, 4, "\033[32m", "val %.4f", s->val_loss);
    if (!isnan(s->tokens_per_s)) add_rate(l, s->tokens_per_s);
    if (!isnan(s->up_use)) add(l, 5, s->up_use > 0.9 ? "\033[33m" : "", "up %.0f%%", 100 * s->up_use);
    if (!isnan(s->down_use)) add(l, 6, s->down_use > 0.9 ? "\033[33m" : "", "down %.0f%%", 100 * s->down_use);
    if (isfinite(s->left_s)) add_left(l, s->left_s);
}

static int columns(const line *l) {
    int n = 0;
    for (int i = 0; i < l->count; i++) n += (int)strlen(l->field[i].text) + (i ? 2 : 0);
    return n;
}

static void fit(line *l, int width) {
    while (l->count > 1 && columns(l) > width) {
        int worst = 0;
        for (int i = 1; i < l->count; i++)
            if (l->field[i].drop > l->field[worst].drop) worst = i;
        memmove(&l->field[worst], &l->field[worst + 1], (size_t)(l->count - worst - 1) * sizeof(field));
        l->count--;
    }
    if (l->count == 1 && columns(l) > width) l->field[0].text[width > 0 ? width : 0] = 0;
}

static void put(rb_progress *p) {
    line l;
    compose(&l, &p->state);
    /* A terminal that is filled to its last column may wrap, and the next line would not overwrite this one. */
    if (p->opt.terminal) fit(&l, width_of(p) - 1);
    FILE *f = p->opt.file;
    if (p->opt.terminal) fputs("\r\033[K", f);
    for (int i = 0; i < l.count; i++) {
        bool colour = p->opt.colour && *l.field[i].colour;
        fprintf(f, "%s%s%s%s", i ? "  " : "", colour ? l.field[i].colour : "", l.field[i].text,
                colour ? "\033[0m" : "");
    }
    if (!p->opt.terminal) fputc('\n', f);
    fflush(f);
    p->open = p->opt.terminal;
    p->stale = false;
}

void rb_progress_update(rb_progress *p, const rb_progress_state *s, int64_t now_ns) {
    p->state = *s;
    p->stale = true;
    int64_t gap = p->opt.terminal ? TERMINAL_INTERVAL_MS * RB_MS : (int64_t)(p->opt.every_s * 1e9);
    bool last = s->steps > 0 && s->step >= s->steps;
    if (p->last_ns && now_ns - p->last_ns < gap && !last && !s->evaluated) return;
    p->last_ns = now_ns;
    put(p);
}

void rb_progress_note(rb_progress *p, const char *text) {
    fprintf(p->opt.file, "%s%s\n", p->open ? "\r\033[K" : "", text);
    fflush(p->opt.file);
    if (p->open) put(p);
}

void rb_progress_end(rb_progress *p) {
    if (!p) return;
    if (p->stale) put(p);
    if (p->open) fputc('\n', p->opt.file);
    fflush(p->opt.file);
    free(p);
}
