/* The configuration as text: resolved YAML, the reference page, and what two configurations differ in. */
#include "run/config.h"
#include "run/keys.h"

#include <stdlib.h>
#include <string.h>

static bool new_section(int i) {
    return !i || strcmp(rb_keys[i].section, rb_keys[i - 1].section);
}

void rb_config_print(const rb_config *c, rb_buf *out) {
    for (int i = 0; i < rb_key_count; i++) {
        const rb_key *k = &rb_keys[i];
        if (*k->section && new_section(i)) rb_buf_printf(out, "%s:\n", k->section);
        rb_buf_printf(out, "%s%s: ", *k->section ? "  " : "", k->name);
        rb_key_print(c, k, out);
        rb_buf_puts(out, "\n");
    }
}

static const char *const class_text[] = {
    [RB_CLASS_FIXED] = "must match",
    [RB_CLASS_TRAINING] = "may change, with a warning",
    [RB_CLASS_DEPLOYMENT] = "may change",
};

/* Text into a table cell: | would end it. */
static void cell(const char *text, rb_buf *out) {
    for (const char *p = text; *p; p++) {
        if (*p == '|') rb_buf_puts(out, "\\");
        rb_buf_add(out, p, 1);
    }
}

static void reference_row(const rb_config *defaults, const rb_key *k, rb_buf *out) {
    rb_buf value = {0}, allowed = {0};
    rb_key_print(defaults, k, &value);
    rb_key_allowed(k, &allowed);
    rb_buf_printf(out, "| `%s` | `", k->name);
    cell(value.data ? value.data : "", out);
    rb_buf_puts(out, "` | ");
    cell(allowed.data ? allowed.data : "", out);
    rb_buf_printf(out, "%s%s | ", k->unit ? " " : "", k->unit ? k->unit : "");
    cell(k->doc, out);
    rb_buf_printf(out, " | %s |\n", class_text[k->class]);
    rb_buf_free(&value);
    rb_buf_free(&allowed);
}

static const char intro[] =
    "# Configuration keys\n\n"
    "Printed by `resbm train --keys` from the table the program itself reads (`src/run/keys.c`); do not edit "
    "by hand.\n\n"
    "A run is a YAML file of sections; every key has a default; `section.key=value` on the command line goes "
    "before "
    "the file. Rates are bits per second with a unit (`100kbit`, `80mbit`, `1gbit`), durations carry theirs "
    "(`20ms`, "
    "`1s`), sizes count powers of 1024 (`512M`, `8G`). The last column says what a resumed run may change.\n";

resbm_status rb_config_reference(rb_buf *out, rb_err *err) {
    rb_config *defaults = malloc(sizeof *defaults);
    if (!defaults) return rb_fail(err, RESBM_E_MEMORY, "no memory for the reference page");
    resbm_status st = rb_config_defaults(defaults, err);
    rb_buf_puts(out, intro);
    for (int i = 0; i < rb_key_count && st == RESBM_OK; i++) {
        const char *section = *rb_keys[i].section ? rb_keys[i].section : "top level";
        if (new_section(i))
            rb_buf_printf(
                out, "\n## %s\n\n| key | default | allowed | meaning | on resume |\n|---|---|---|---|---|\n",
                section);
        reference_row(defaults, &rb_keys[i], out);
    }
    free(defaults);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}

/* "model.d: 256 -> 512" when the key differs. */
static bool describe_change(const rb_config *a, const rb_config *b, const rb_key *k, rb_buf *out) {
    char name[64];
    rb_buf was = {0}, is = {0};
    rb_key_print(a, k, &was);
    rb_key_print(b, k, &is);
    bool same = was.data && is.data && !strcmp(was.data, is.data);
    if (!same)
        rb_buf_printf(out, "%s: %s -> %s", rb_key_name(k, name), was.data ? was.data : "?",
                      is.data ? is.data : "?");
    rb_buf_free(&was);
    rb_buf_free(&is);
    return !same;
}

resbm_status rb_config_resume_check(const rb_config *saved, const rb_config *now, rb_buf *warnings,
                                    rb_err *err) {
    rb_buf fixed = {0};
    int bad = 0;
    for (int i = 0; i < rb_key_count; i++) {
        const rb_key *k = &rb_keys[i];
        rb_buf change = {0};
        if (k->class != RB_CLASS_DEPLOYMENT && describe_change(saved, now, k, &change)) {
            const char *text = change.data ? change.data : "?";
            if (k->class == RB_CLASS_FIXED)
                rb_buf_printf(&fixed, "%s%s", bad++ ? "; " : "", text);
            else if (warnings)
                rb_buf_printf(warnings, "%s\n", text);
        }
        rb_buf_free(&change);
    }
    resbm_status st = rb_buf_status(&fixed, err);
    if (st == RESBM_OK && bad)
        st = rb_fail(err, RESBM_E_CONFIG,
                     "the checkpoint belongs to another run; %d key%s may not change on resume: %s", bad,
                     bad > 1 ? "s" : "", fixed.data);
    rb_buf_free(&fixed);
    return st;
}

static bool bears_on_loss(const rb_key *k) {
    return k->class != RB_CLASS_DEPLOYMENT || (!strcmp(k->section, "train") && !strncmp(k->name, "eval_", 5));
}

int rb_config_loss_changes(const rb_config *a, const rb_config *b, rb_buf *out) {
    int n = 0;
    for (int i = 0; i < rb_key_count; i++) {
        rb_buf change = {0};
        if (bears_on_loss(&rb_keys[i]) && describe_change(a, b, &rb_keys[i], &change))
            rb_buf_printf(out, "%s%s", n++ ? "; " : "", change.data ? change.data : "?");
        rb_buf_free(&change);
    }
    return n;
}
