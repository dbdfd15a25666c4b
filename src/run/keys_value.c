/* One key's value: from text into rb_config and back. */
#include "run/keys.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct unit {
    const char *name;
    double factor;
} unit;

/* Largest first: printing takes the first one that reads back exactly. */
static const unit rate_units[] = {{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}, {NULL, 0}};
static const unit time_units[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}, {NULL, 0}};
static const unit size_units[] = {{"T", 0x1p40}, {"G", 0x1p30}, {"M", 0x1p20},
                                  {"K", 0x1p10}, {"", 1},       {NULL, 0}};
static const unit no_units[] = {{"", 1}, {NULL, 0}};

static const unit *units_of(const rb_key *k) {
    switch (k->type) {
    case RB_KEY_RATE:
        return rate_units;
    case RB_KEY_DURATION:
        return time_units;
    case RB_KEY_SIZE:
        return size_units;
    default:
        return no_units;
    }
}

static char *field(rb_config *c, const rb_key *k) {
    return (char *)c + k->offset;
}
static const char *field_of(const rb_config *c, const rb_key *k) {
    return (const char *)c + k->offset;
}

/* ---- messages */

static void shortest(double v, char out[40]) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 40, "%.*g", digits, v);
        if (strtod(out, NULL) == v) return;
    }
}

/* 256 rather than 2.6e+02 wherever a whole number fits. */
static void number(double v, char out[40]) {
    if (v == floor(v) && fabs(v) < 1e15)
        snprintf(out, 40, "%.0f", v);
    else
        shortest(v, out);
}

void rb_key_print_number(const rb_key *k, double value, rb_buf *out) {
    char text[40];
    for (const unit *u = units_of(k); u->name; u++) {
        number(value / u->factor, text);
        bool whole = k->type == RB_KEY_RATE || k->type == RB_KEY_REAL || !strpbrk(text, ".e");
        if (((value == 0 || value >= u->factor) && whole && strtod(text, NULL) * u->factor == value) ||
            !u[1].name) {
            rb_buf_printf(out, "%s%s", text, u->name);
            return;
        }
    }
}

static bool ranged(const rb_key *k) {
    return k->type == RB_KEY_INT || k->type == RB_KEY_REAL || k->type == RB_KEY_RATE ||
           k->type == RB_KEY_DURATION || k->type == RB_KEY_SIZE;
}

void rb_key_allowed(const rb_key *k, rb_buf *out) {
    static const char *const text[] = {
        [RB_KEY_BOOL] = "true or false",
        [RB_KEY_STRING] = "text",
        [RB_KEY_SEGMENTS] = "a count from 1 to 1024, or a list of blocks per segment",
        [RB_KEY_REPLICAS] = "a count from 1 to 1024, or a list of counts per stage",
        [RB_KEY_ADDRESS] = "host:port",
        [RB_KEY_ADDRESSES] = "a list of host:port",
    };
    if (k->choices) {
        const char *list = k->choices, *word;
        const char *before = strchr(list, '|') ? "one of " : "";
        for (size_t n; (n = rb_choice_next(&list, &word)); before = ", ")
            rb_buf_printf(out, "%s%.*s", before, (int)n, word);
    } else if (ranged(k)) {
        rb_key_print_number(k, k->min, out);
        rb_buf_puts(out, " to ");
        rb_key_print_number(k, k->max, out);
        if (k->word) rb_buf_printf(out, ", or %s", k->word);
    } else {
        rb_buf_puts(out, text[k->type]);
    }
}

/* "PLACE: model.d is 'abc': WHY; allowed: 8 to 65536". */
static resbm_status refuse(const rb_key *k, const char *value, const char *place, const char *why,
                           rb_err *err) {
    char name[64];
    rb_buf allowed = {0};
    rb_key_allowed(k, &allowed);
    rb_fail(err, RESBM_E_CONFIG, "%s: %s is '%.200s'%s%s; allowed: %s", place, rb_key_name(k, name), value,
            *why ? ", " : "", why, allowed.data ? allowed.data : "?");
    rb_buf_free(&allowed);
    return RESBM_E_CONFIG;
}

/* ---- reading */

/* NULL for types whose numbers need no unit. */
static const char *unit_hint(const rb_key *k) {
    if (k->type == RB_KEY_RATE) return "which lacks a unit (bit, kbit, mbit or gbit per second: 80mbit)";
    return k->type == RB_KEY_DURATION ? "which lacks a unit (ns, us, ms or s: 20ms)" : NULL;
}

/* Digits first: strtod would take "nan", "inf" and hexadecimal, which no key wants. */
static bool looks_numeric(const char *text) {
    const char *p = text + (*text == '-' || *text == '+');
    if (*p == '.') p++;
    return *p >= '0' && *p <= '9' && !(p[0] == '0' && (p[1] == 'x' || p[1] == 'X'));
}

/* Is the text behind the number this unit? Sizes may be written 8G or 8GB. */
static bool is_unit(const rb_key *k, const unit *u, const char *suffix) {
    size_t n = strlen(u->name);
    if (strncasecmp(suffix, u->name, n)) return false;
    suffix += n;
    if (k->type == RB_KEY_SIZE && n && (*suffix == 'B' || *suffix == 'b')) suffix++;
    return !*suffix;
}

/* The number's factor; 0 when its unit is unknown. A bare 0 needs none. */
static double factor_of(const rb_key *k, const char *suffix, double v) {
    for (const unit *u = units_of(k); u->name; u++)
        if (is_unit(k, u, suffix) || (!*suffix && v == 0)) return u->factor;
    return 0;
}

resbm_status rb_key_read_number(const rb_key *k, const char *text, double *out, const char *place,
                                rb_err *err) {
    if (k->word && !strcasecmp(text, k->word)) {
        *out = k->word_value;
        return RESBM_OK;
    }
    if (!looks_numeric(text)) return refuse(k, text, place, "which is no number", err);
    char *suffix;
    double v = strtod(text, &suffix), factor = factor_of(k, suffix, v);
    if (!factor) {
        bool lacks = !*suffix && unit_hint(k);
        return refuse(k, text, place, lacks ? unit_hint(k) : "which is no number with a known unit", err);
    }
    v *= factor;
    bool integral = k->type != RB_KEY_REAL && k->type != RB_KEY_RATE;
    if (integral && v != floor(v)) return refuse(k, text, place, "which is no whole number", err);
    bool word = k->word && v == k->word_value && k->type != RB_KEY_RATE; /* 0mbit is not "none" */
    if (!word && !(v >= k->min && v <= k->max)) return refuse(k, text, place, "which is out of range", err);
    *out = v;
    return RESBM_OK;
}

static int choice_of(const char *choices, const char *text) {
    const char *word;
    size_t n;
    for (int i = 0; (n = rb_choice_next(&choices, &word)); i++)
        if (strlen(text) == n && !strncmp(word, text, n)) return i;
    return -1;
}

static resbm_status refuse_choice(const rb_key *k, const char *text, const char *place, rb_err *err) {
    const char *list = k->choices, *word;
    char best[RB_NAME_LIMIT] = "", why[128] = "";
    int least = 3; /* further off is no misspelling */
    for (size_t n; (n = rb_choice_next(&list, &word));) {
        char one[RB_NAME_LIMIT];
        snprintf(one, sizeof one, "%.*s", (int)n, word);
        int d = rb_edit_distance(text, one);
        if (d < least && d < (int)n) {
            least = d;
            memcpy(best, one, sizeof best);
        }
    }
    if (*best) snprintf(why, sizeof why, "perhaps %s is meant", best);
    return refuse(k, text, place, why, err);
}

static resbm_status set_choice(rb_config *c, const rb_key *k, const char *text, const char *place,
                               rb_err *err) {
    int i = choice_of(k->choices, text);
    if (i < 0) return refuse_choice(k, text, place, err);
    if (k->type == RB_KEY_NAME)
        snprintf(field(c, k), k->size, "%s", text);
    else if (k->size == sizeof(bool))
        *(bool *)field(c, k) = i;
    else
        memcpy(field(c, k), &i, sizeof i);
    return RESBM_OK;
}

static resbm_status set_bool(rb_config *c, const rb_key *k, const char *text, const char *place,
                             rb_err *err) {
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (int i = 0; i < 3; i++) {
        if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
            *(bool *)field(c, k) = !strcasecmp(text, yes[i]);
            return RESBM_OK;
        }
    }
    return refuse(k, text, place, "", err);
}

/* One well-formed UTF-8 character that YAML calls printable and that is no control: its length, else 0. */
static int printable(const unsigned char *p) {
    static const uint32_t least[] = {0, 0x20, 0x80, 0x800, 0x10000};
    int n = *p < 0x80 ? 1 : (*p & 0xe0) == 0xc0 ? 2 : (*p & 0xf0) == 0xe0 ? 3 : (*p & 0xf8) == 0xf0 ? 4 : 0;
    if (!n) return 0;
    uint32_t u = n == 1 ? *p : *p & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        u = u << 6 | (p[i] & 0x3fu);
    }
    bool control = u == 0x7f || (u >= 0x80 && u < 0xa0) || u == 0xfeff || (u >= 0xd800 && u < 0xe000);
    bool beyond = u > 0x10ffff || u == 0xfffe || u == 0xffff || u == 0x2028 || u == 0x2029;
    return u < least[n] || control || beyond ? 0 : n;
}

static bool all_printable(const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    for (int n; *p; p += n)
        if (!(n = printable(p))) return false;
    return true;
}

static resbm_status set_string(char *to, size_t size, const rb_key *k, const char *text, const char *place,
                               rb_err *err) {
    char name[64];
    if (strlen(text) >= size)
        return rb_fail(err, RESBM_E_CONFIG, "%s: %s is %zu bytes long; allowed: up to %zu", place,
                       rb_key_name(k, name), strlen(text), size - 1);
    if (!all_printable(text))
        return rb_fail(err, RESBM_E_CONFIG, "%s: %s has a control character or bytes that are no UTF-8",
                       place, rb_key_name(k, name));
    memset(to, 0, size);
    memcpy(to, text, strlen(text));
    return RESBM_OK;
}

static resbm_status set_number(rb_config *c, const rb_key *k, const char *text, const char *place,
                               rb_err *err) {
    double v;
    RB_TRY(rb_key_read_number(k, text, &v, place, err));
    if (k->type == RB_KEY_REAL || k->type == RB_KEY_RATE) { /* which may be infinite: no integer is */
        memcpy(field(c, k), &v, sizeof v);
        return RESBM_OK;
    }
    int64_t i = (int64_t)v;
    int small = (int)i;
    if (k->size == sizeof small)
        memcpy(field(c, k), &small, sizeof small);
    else
        memcpy(field(c, k), &i, sizeof i);
    return RESBM_OK;
}

static resbm_status set_segments(rb_config *c, const rb_key *k, const char *const *items, int n, bool list,
                                 const char *place, rb_err *err) {
    rb_key one = *k;
    one.type = RB_KEY_INT;
    one.min = 1;
    one.max = RB_MAX_SEGMENTS;
    int64_t layers[RB_MAX_SEGMENTS] = {0};
    if (n > RB_MAX_SEGMENTS || n < 1)
        return rb_fail(err, RESBM_E_CONFIG, "%s: model.segments has %d entries; allowed: 1 to %d", place, n,
                       RB_MAX_SEGMENTS);
    for (int i = 0; i < n; i++) {
        double v;
        RB_TRY(rb_key_read_number(&one, items[i], &v, place, err));
        layers[i] = (int64_t)v;
    }
    c->model.segments = list ? n : layers[0];
    memset(c->model.segment_layers, 0, sizeof c->model.segment_layers);
    if (list) memcpy(c->model.segment_layers, layers, sizeof layers);
    return RESBM_OK;
}

static resbm_status set_replicas(rb_config *c, const rb_key *k, const char *const *items, int n, bool list,
                                 const char *place, rb_err *err) {
    rb_key one = *k;
    one.min = 1;
    one.max = RB_MAX_STAGES;
    if (n > RB_MAX_STAGES || n < 1)
        return rb_fail(err, RESBM_E_CONFIG, "%s: pipeline.replicas has %d entries; allowed: 1 to %d", place,
                       n, RB_MAX_STAGES);
    memset(c->pipeline.replicas_of, 0, sizeof c->pipeline.replicas_of);
    c->pipeline.replicas = 1;
    for (int i = 0; i < n; i++) {
        double v;
        RB_TRY(rb_key_read_number(&one, items[i], &v, place, err));
        if (list)
            c->pipeline.replicas_of[i] = (int16_t)v;
        else
            c->pipeline.replicas = (int64_t)v;
    }
    c->pipeline.replica_list = list ? n : 0;
    return RESBM_OK;
}

static bool is_address(const char *text, long least_port) {
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text) return false;
    char *end;
    long port = strtol(colon + 1, &end, 10);
    return colon[1] >= '0' && colon[1] <= '9' && !*end && port >= least_port && port < 65536;
}

static resbm_status set_addresses(rb_config *c, const rb_key *k, const char *const *items, int n,
                                  const char *place, rb_err *err) {
    if (n > RB_MAX_STAGES)
        return rb_fail(err, RESBM_E_CONFIG, "%s: pipeline.addresses has %d entries; allowed: up to %d", place,
                       n, RB_MAX_STAGES);
    memset(c->pipeline.address, 0, sizeof c->pipeline.address);
    for (int i = 0; i < n; i++) {
        if (!is_address(items[i], 1)) return refuse(k, items[i], place, "which is not host:port", err);
        RB_TRY(set_string(c->pipeline.address[i], sizeof c->pipeline.address[i], k, items[i], place, err));
    }
    c->pipeline.addresses = n;
    return RESBM_OK;
}

resbm_status rb_key_set(rb_config *c, const rb_key *k, const char *const *items, int n, bool list,
                        const char *place, rb_err *err) {
    char name[64];
    if (k->type == RB_KEY_SEGMENTS) return set_segments(c, k, items, n, list, place, err);
    if (k->type == RB_KEY_REPLICAS) return set_replicas(c, k, items, n, list, place, err);
    if (k->type == RB_KEY_ADDRESSES && (list || !*items[0]))
        return set_addresses(c, k, items, list ? n : 0, place, err);
    if (list != (k->type == RB_KEY_ADDRESSES))
        return rb_fail(err, RESBM_E_CONFIG, "%s: %s takes %s, not a %s", place, rb_key_name(k, name),
                       list ? "one value" : "a list", list ? "list" : "single value");
    switch (k->type) {
    case RB_KEY_BOOL:
        return set_bool(c, k, items[0], place, err);
    case RB_KEY_ENUM:
    case RB_KEY_NAME:
        return set_choice(c, k, items[0], place, err);
    case RB_KEY_ADDRESS:
        if (*items[0] && !is_address(items[0], 0))
            return refuse(k, items[0], place, "which is not host:port", err);
        return set_string(field(c, k), k->size, k, items[0], place, err);
    case RB_KEY_STRING:
        return set_string(field(c, k), k->size, k, items[0], place, err);
    default:
        return set_number(c, k, items[0], place, err);
    }
}

/* ---- printing */

static void print_quoted(const char *text, rb_buf *out) {
    rb_buf_puts(out, "\"");
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') rb_buf_puts(out, "\\");
        rb_buf_add(out, p, 1);
    }
    rb_buf_puts(out, "\"");
}

static void print_enum(const rb_key *k, const char *p, rb_buf *out) {
    int i;
    if (k->size == sizeof(bool))
        i = *(const bool *)p;
    else
        memcpy(&i, p, sizeof i);
    const char *list = k->choices, *word;
    size_t n;
    while ((n = rb_choice_next(&list, &word)) && i > 0) i--;
    rb_buf_printf(out, "%.*s", (int)n, word);
}

static void print_segments(const rb_model_config *m, rb_buf *out) {
    if (!m->segment_layers[0]) {
        rb_buf_printf(out, "%lld", (long long)m->segments);
        return;
    }
    for (int64_t i = 0; i < m->segments; i++)
        rb_buf_printf(out, "%s%lld", i ? ", " : "[", (long long)m->segment_layers[i]);
    rb_buf_puts(out, "]");
}

static void print_replicas(const rb_pipeline_config *p, rb_buf *out) {
    if (!p->replica_list) rb_buf_printf(out, "%lld", (long long)p->replicas);
    for (int i = 0; i < p->replica_list; i++) rb_buf_printf(out, "%s%d", i ? ", " : "[", p->replicas_of[i]);
    if (p->replica_list) rb_buf_puts(out, "]");
}

static void print_addresses(const rb_pipeline_config *p, rb_buf *out) {
    rb_buf_puts(out, "[");
    for (int i = 0; i < p->addresses; i++) {
        if (i) rb_buf_puts(out, ", ");
        print_quoted(p->address[i], out);
    }
    rb_buf_puts(out, "]");
}

/* Any number's field as a double: exact, for all ranges end at 2^53. */
static double number_of(const rb_key *k, const char *p) {
    double v;
    int64_t i;
    int small;
    if (k->size == sizeof small) {
        memcpy(&small, p, sizeof small);
        return small;
    }
    if (k->type == RB_KEY_REAL || k->type == RB_KEY_RATE) {
        memcpy(&v, p, sizeof v);
        return v;
    }
    memcpy(&i, p, sizeof i);
    return (double)i;
}

static void print_number_key(const rb_key *k, const char *p, rb_buf *out) {
    double v = number_of(k, p);
    if (k->word && v == k->word_value)
        rb_buf_puts(out, k->word);
    else
        rb_key_print_number(k, v, out);
}

void rb_key_print(const rb_config *c, const rb_key *k, rb_buf *out) {
    const char *p = field_of(c, k);
    switch (k->type) {
    case RB_KEY_BOOL:
        rb_buf_puts(out, *(const bool *)p ? "true" : "false");
        break;
    case RB_KEY_ENUM:
        print_enum(k, p, out);
        break;
    case RB_KEY_NAME:
        rb_buf_puts(out, p);
        break;
    case RB_KEY_ADDRESS:
    case RB_KEY_STRING:
        print_quoted(p, out);
        break;
    case RB_KEY_SEGMENTS:
        print_segments(&c->model, out);
        break;
    case RB_KEY_REPLICAS:
        print_replicas(&c->pipeline, out);
        break;
    case RB_KEY_ADDRESSES:
        print_addresses(&c->pipeline, out);
        break;
    default:
        print_number_key(k, p, out);
    }
}
