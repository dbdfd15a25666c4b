#include "run/parts.h"

#include <stdio.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "run/workers.h"

void rb_parts_name(const rb_tensor *t, const char *tail, char out[RB_PART_NAME]) {
    static const char *const sides[] = {"", "encoder", "decoder"};
    rb_checkpoint_file_name(out, t->part == RB_PART_SEGMENT ? "segment" : "boundary", t->part_index,
                            sides[t->part], tail);
}

int rb_parts_stage_of(const rb_config *c, const char *file) {
    int i, n = 0, segments = (int)c->model.segments;
    if (!rb_part_name_ok(file)) return -1;
    if (sscanf(file, "segment-%d.%n", &i, &n) == 1 && n && i >= 0 && i < segments) return rb_stage_of(c, i);
    n = 0;
    if (sscanf(file, "boundary-%d.encoder.%n", &i, &n) == 1 && n && i >= 0 && i + 1 < segments)
        return rb_stage_of(c, i);
    n = 0;
    if (sscanf(file, "boundary-%d.decoder.%n", &i, &n) == 1 && n && i >= 0 && i + 1 < segments)
        return rb_stage_of(c, i + 1);
    return -1;
}

int rb_parts_replica_of(const char *file) {
    int r = 0;
    const char *at = file ? strstr(file, ".replica-") : NULL;
    return at && sscanf(at, ".replica-%d.", &r) == 1 && r > 0 && r < RB_MAX_STAGES ? r : 0;
}

bool rb_parts_missing(const rb_tensor_table *t, const rb_manifest *m, char name[RB_PART_NAME]) {
    for (int i = 0; i < t->count; i++) {
        rb_parts_name(&t->rows[i], "", name);
        if (!t->rows[i].like && !rb_manifest_holds(m, name)) return true; /* a copy is in no checkpoint */
    }
    return false;
}
