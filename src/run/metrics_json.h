/* The two JSON habits of metrics.jsonl and summary.json: null stands for what is unknown. */
#ifndef RB_RUN_METRICS_JSON_H
#define RB_RUN_METRICS_JSON_H

#include <jansson.h>
#include "core/buf.h"

/* Appends a number with that many significant digits, or null when it is NaN or infinite. */
void rb_json_number(rb_buf *b, double value, int digits);
/* A member's number; NAN when it is missing or null. */
double rb_json_get(const json_t *object, const char *key);

#endif
