/* The key table: one row per configuration key. Parser, defaults, validation, messages, the printed
 * configuration, the resume check and the reference page are all loops over it. */
#ifndef RB_RUN_KEYS_H
#define RB_RUN_KEYS_H

#include "run/config.h"

typedef enum rb_key_type {
    RB_KEY_INT,       /* int64_t, uint64_t or int */
    RB_KEY_REAL,      /* double */
    RB_KEY_BOOL,      /* bool */
    RB_KEY_ENUM,      /* an enum or a bool: the position of the word in choices */
    RB_KEY_NAME,      /* char[]: one of choices */
    RB_KEY_STRING,    /* char[]: any text */
    RB_KEY_RATE,      /* double, bits per second: 80mbit */
    RB_KEY_DURATION,  /* int64_t, nanoseconds: 20ms */
    RB_KEY_SIZE,      /* int64_t, bytes: 8G (powers of 1024) */
    RB_KEY_SEGMENTS,  /* rb_model_config: a count, or a list of layers per segment */
    RB_KEY_ADDRESS,   /* char[]: host:port (port 0: the system chooses) or nothing */
    RB_KEY_ADDRESSES, /* rb_pipeline_config: list of host:port */
    RB_KEY_REPLICAS   /* rb_pipeline_config: a count, or a list of counts per stage */
} rb_key_type;

/* What a resumed run may change. */
typedef enum rb_key_class {
    RB_CLASS_FIXED,     /* must match the checkpoint */
    RB_CLASS_TRAINING,  /* may change, with a warning: the run is then not the one that was broken off */
    RB_CLASS_DEPLOYMENT /* may change: no bit of the result depends on it */
} rb_key_class;

typedef struct rb_key {
    const char *section, *name; /* section "" = top level */
    rb_key_type type;
    size_t offset, size;  /* of the field in rb_config */
    const char *fallback; /* default, as one would write it */
    double min, max;      /* of numbers, rates, durations (ns) and sizes; both ends allowed */
    const char *choices;  /* words of ENUM and NAME, by '|' */
    const char *word;     /* a word that stands for word_value, or NULL: auto, none */
    double word_value;    /* may lie outside min..max */
    const char *unit;     /* for the reference page */
    rb_key_class class;
    const char *doc; /* one line */
} rb_key;

extern const rb_key rb_keys[];
extern const int rb_key_count; /* <= RB_MAX_KEYS */

/* NULL when there is none. */
const rb_key *rb_key_find(const char *section, const char *name);
/* Is there a section of that name? */
bool rb_section_exists(const char *section);
/* Full name "model.d" (or "engine") into out. */
const char *rb_key_name(const rb_key *k, char out[64]);

/* Sentences for an unknown name: "unknown key 'layes' in section model: did you mean 'layers'? ...". */
void rb_key_unknown(const char *section, const char *name, char *out, size_t size);
void rb_section_unknown(const char *name, char *out, size_t size);
/* Damerau-Levenshtein distance (adjacent swaps count one), at most RB_NAME_LIMIT characters looked at. */
enum { RB_NAME_LIMIT = 64 };
int rb_edit_distance(const char *a, const char *b);

/* A number in a key's notation, range and unit; for other tables of keys too. */
resbm_status rb_key_read_number(const rb_key *k, const char *text, double *out, const char *place,
                                rb_err *err);
/* Sets one key from its text(s); `place` starts the message ("run.yaml:3:7"). */
resbm_status rb_key_set(rb_config *c, const rb_key *k, const char *const *items, int n, bool list,
                        const char *place, rb_err *err);
/* The key's value as YAML (strings quoted). */
void rb_key_print(const rb_config *c, const rb_key *k, rb_buf *out);
/* "8 to 65536", "one of muon, adamw", ... */
void rb_key_allowed(const rb_key *k, rb_buf *out);
/* Numbers in the key's own notation: 80mbit, 20ms, 8G, shortest text that reads back to the same value. */
void rb_key_print_number(const rb_key *k, double value, rb_buf *out);
/* Next word of a '|' list: length of the word at *list, which moves behind it; 0 at the end. */
size_t rb_choice_next(const char **list, const char **word);

#endif
