/* Names of keys and what to say about those that do not exist. */
#include "run/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const rb_key *rb_key_find(const char *section, const char *name) {
    for (int i = 0; i < rb_key_count; i++)
        if (!strcmp(rb_keys[i].section, section) && !strcmp(rb_keys[i].name, name)) return &rb_keys[i];
    return NULL;
}

bool rb_section_exists(const char *section) {
    for (int i = 0; i < rb_key_count; i++)
        if (*section && !strcmp(rb_keys[i].section, section)) return true;
    return false;
}

const char *rb_key_name(const rb_key *k, char out[64]) {
    snprintf(out, 64, "%s%s%s", k->section, *k->section ? "." : "", k->name);
    return out;
}

size_t rb_choice_next(const char **list, const char **word) {
    *word = *list;
    size_t n = strcspn(*list, "|");
    *list += n + ((*list)[n] == '|');
    return n;
}

static int min3(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Optimal string alignment: three rows of the usual table. */
int rb_edit_distance(const char *a, const char *b) {
    int rows[3][RB_NAME_LIMIT + 1];
    int n = (int)strnlen(a, RB_NAME_LIMIT), m = (int)strnlen(b, RB_NAME_LIMIT);
    int *older = rows[0], *old = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) old[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int same = a[i - 1] == b[j - 1];
            now[j] = min3(old[j] + 1, now[j - 1] + 1, old[j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && older[j - 2] + 1 < now[j])
                now[j] = older[j - 2] + 1;
        }
        int *spare = older;
        older = old;
        old = now;
        now = spare;
    }
    return old[m];
}

static void put(char *out, size_t size, const char *text) {
    size_t n = strlen(out);
    if (n < size) snprintf(out + n, size - n, "%s", text);
}

/* Key of `section` (NULL = any) nearest to name. */
static const rb_key *nearest_key(const char *section, const char *name) {
    const rb_key *best = NULL;
    int least = 1 << 20;
    for (int i = 0; i < rb_key_count; i++) {
        if (section && strcmp(rb_keys[i].section, section)) continue;
        int d = rb_edit_distance(name, rb_keys[i].name);
        if (d < least) {
            least = d;
            best = &rb_keys[i];
        }
    }
    return best;
}

/* A key of another section that is named exactly so, or nearly so when the section's own are further off. */
static const rb_key *elsewhere(const char *section, const char *name) {
    const rb_key *own = nearest_key(section, name), *any = nearest_key(NULL, name);
    if (!any) return NULL;
    int there = rb_edit_distance(name, any->name), here = own ? rb_edit_distance(name, own->name) : 1 << 20;
    return there < here && there <= 1 && there < (int)strlen(name)
               ? any
               : NULL; /* one letter for another is no hint */
}

void rb_key_unknown(const char *section, const char *name, char *out, size_t size) {
    char full[64];
    snprintf(out, size, "unknown key '%.64s' in section %s: did you mean ", name, section);
    const rb_key *other = elsewhere(section, name), *own = nearest_key(section, name);
    put(out, size, other ? rb_key_name(other, full) : own ? own->name : "another section");
    put(out, size, other ? "? Keys of this section:" : "? Its keys:");
    for (int i = 0; i < rb_key_count; i++) {
        if (strcmp(rb_keys[i].section, section)) continue;
        put(out, size, " ");
        put(out, size, rb_keys[i].name);
    }
}

void rb_section_unknown(const char *name, char *out, size_t size) {
    char full[64];
    const char *best = "";
    int least = 1 << 20;
    char names[256] = "";
    for (int i = 0; i < rb_key_count; i++) {
        const char *s = *rb_keys[i].section ? rb_keys[i].section : rb_keys[i].name;
        if (i && !strcmp(rb_keys[i].section, rb_keys[i - 1].section)) continue;
        put(names, sizeof names, " ");
        put(names, sizeof names, s);
        int d = rb_edit_distance(name, s);
        if (d < least) {
            least = d;
            best = s;
        }
    }
    const rb_key *k = nearest_key(NULL, name);
    bool is_key = k && rb_edit_distance(name, k->name) < least;
    snprintf(out, size, "unknown section '%.64s': did you mean %s? Sections:%s", name,
             is_key ? rb_key_name(k, full) : best, names);
}
