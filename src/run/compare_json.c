/* The result as JSON: compare.json, and what report.html draws. Unknown numbers are null. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "run/compare_result.h"

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

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
    json_object_set_new(o, "losses", numbers(row->sweep_loss, w->values));
    json_object_set_new(o, "best", *row->point ? json_string(row->point) : json_null());
    json_object_set_new(o, "at_edge", json_boolean(row->edge != 0));
    return o;
}

/* Everything that depends on measuring, apart from the rest. */
static json_t *time_object(const rb_compare_row *row, int links) {
    json_t *o = json_object();
    json_object_set_new(o, "bytes_per_token_fwd", number(row->bytes_forward));
    json_object_set_new(o, "bytes_per_token_bwd", number(row->bytes_backward));
    json_object_set_new(o, "token_bytes_per_token", number(row->bytes_ids));
    json_object_set_new(o, "step_s_measured", number(row->step_measured));
    json_object_set_new(o, "step_s_model", numbers(row->step, links));
    json_object_set_new(o, "seconds_to_target", numbers(row->time_to, links));
    json_object_set_new(o, "peak_rss_bytes", number(row->rss));
    json_object_set_new(o, "fault", row->time_fault ? json_string(row->time_fault) : json_null());
    return o;
}

static json_t *overrides(const rb_overrides *o) {
    json_t *a = json_array();
    for (int i = 0; i < o->count; i++) json_array_append_new(a, json_string(o->text[i]));
    return a;
}

static json_t *row_object(const rb_compare_row *row, int links) {
    static const char *const control[] = {"none", "uncompressed", "same size", "alone", "alone, equal time"};
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(row->variant->name));
    json_object_set_new(o, "boundary", json_string(row->boundary));
    json_object_set_new(o, "control", json_string(control[row->variant->control]));
    json_object_set_new(o, "uncompressed", json_boolean(row->uncompressed));
    json_object_set_new(o, "like", *row->variant->like ? json_string(row->variant->like) : json_null());
    json_object_set_new(o, "set", overrides(&row->variant->set));
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
    json_object_set_new(o, "params", number(row->params));
    json_object_set_new(o, "extra_params", number(row->extra_params));
    json_object_set_new(o, "operations_per_step", number(row->compute));
    json_object_set_new(o, "extra_compute", number(row->extra_compute));
    json_object_set_new(o, "bytes_per_token_fwd_model", number(row->frame_forward));
    json_object_set_new(o, "bytes_per_token_bwd_model", number(row->frame_backward));
    json_object_set_new(o, "time", time_object(row, links));
    json_object_set_new(o, "curve", curve(row));
    return o;
}

static json_t *notes(const rb_compare_result *r) {
    json_t *a = json_array();
    rb_buf text = {0};
    rb_compare_notes(r, &text);
    for (char *p = text.data, *end; p && (end = strchr(p, '\n')); p = end + 1) {
        *end = 0;
        json_array_append_new(a, json_string(p + strlen("- ")));
    }
    rb_buf_free(&text);
    return a;
}

resbm_status rb_compare_json(const rb_compare_result *r, rb_buf *out, rb_err *err) {
    json_t *root = json_object(), *rows = json_array(), *links = json_array();
    json_object_set_new(root, "version", json_integer(1));
    json_object_set_new(root, "seeds", json_integer(r->study->s->seeds));
    json_object_set_new(root, "target", number(r->target));
    json_object_set_new(root, "reference",
                        r->reference < 0 ? json_null() : json_string(r->row[r->reference].variant->name));
    for (int i = 0; i < r->study->s->links; i++)
        json_array_append_new(links, json_string(r->study->s->link[i].name));
    json_object_set_new(root, "links", links);
    for (int i = 0; i < r->rows; i++) json_array_append_new(rows, row_object(&r->row[i], r->study->s->links));
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "notes", notes(r));
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for compare.json");
    rb_buf_puts(out, text);
    rb_buf_puts(out, "\n");
    free(text);
    return rb_buf_status(out, err);
}
