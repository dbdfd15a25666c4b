/* The result as JSON: compare.json, and what report.html draws. Unknown numbers are null. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "run/compare_result.h"

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *numbers(const double *v, int n) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, number(v[i]));
    return a;
}

static json_t *curve(const rb_compare_row *row) {
    json_t *o = json_object();
    json_object_set_new(o, "step", numbers(row->mean.step, row->mean.n));
    json_object_set_new(o, "loss", numbers(row->mean.loss, row->mean.n));
    json_object_set_new(o, "deviation", numbers(row->spread, row->mean.n));
    return o;
}

static json_t *sweep(const rb_compare_row *row) {
    const rb_sweep *w = &row->variant->sweep;
    json_t *o = json_object(), *values = json_array();
    if (!*w->key) {
        json_decref(o);
        json_decref(values);
        return json_null();
    }
    for (int i = 0; i < w->values; i++) json_array_append_new(values, json_string(w->value[i]));
    json_object_set_new(o, "key", json_string(w->key));
    json_object_set_new(o, "values", values);
    json_object_set_new(o, "best", *row->point ? json_string(row->point) : json_null());
    json_object_set_new(o, "at_edge", json_boolean(row->edge != 0));
    return o;
}

static json_t *row_object(const rb_compare_row *row) {
    static const char *const control[] = {"none", "uncompressed", "same size", "alone", "alone, equal time"};
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(row->variant->name));
    json_object_set_new(o, "boundary", json_string(row->boundary));
    json_object_set_new(o, "control", json_string(control[row->variant->control]));
    json_object_set_new(o, "uncompressed", json_boolean(row->uncompressed));
    json_object_set_new(o, "sweep", sweep(row));
    json_object_set_new(o, "seeds", json_integer(row->seeds));
    json_object_set_new(o, "done", json_integer(row->done));
    json_object_set_new(o, "failed", json_integer(row->failed));
    json_object_set_new(o, "fault", row->fault ? json_string(row->fault) : json_null());
    json_object_set_new(o, "steps", json_integer(row->steps));
    json_object_set_new(o, "tokens_per_step", json_integer(row->tokens_per_step));
    json_object_set_new(o, "val_loss", number(row->loss));
    json_object_set_new(o, "val_loss_deviation", number(row->deviation));
    json_object_set_new(o, "val_ppl", number(exp(row->loss)));
    json_object_set_new(o, "val_loss_seeds", numbers(row->seed_loss, row->done));
    json_object_set_new(o, "steps_to_target", number(row->reach));
    json_object_set_new(o, "steps_to_target_seeds", numbers(row->seed_reach, row->done));
    json_object_set_new(o, "steps_ratio", number(row->ratio));
    json_object_set_new(o, "params", row->params ? json_integer((json_int_t)row->params) : json_null());
    json_object_set_new(o, "curve", curve(row));
    return o;
}

resbm_status rb_compare_json(const rb_compare_result *r, rb_buf *out, rb_err *err) {
    json_t *root = json_object(), *rows = json_array();
    json_object_set_new(root, "version", json_integer(1));
    json_object_set_new(root, "target", number(r->target));
    json_object_set_new(root, "reference", r->reference < 0 ? json_null() : json_string(r->row[r->reference].variant->name));
    for (int i = 0; i < r->rows; i++) json_array_append_new(rows, row_object(&r->row[i]));
    json_object_set_new(root, "rows", rows);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for compare.json");
    rb_buf_puts(out, text);
    rb_buf_puts(out, "\n");
    free(text);
    return rb_buf_status(out, err);
}
