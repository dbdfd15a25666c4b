#include "nn/tensor.h"

#include <stdio.h>
#include <stdlib.h>

static bool grow(rb_tensor_list *l) {
    if (l->table->count < l->capacity) return true;
    int cap = l->capacity ? 2 * l->capacity : 64;
    rb_tensor *rows = realloc(l->table->rows, (size_t)cap * sizeof *rows);
    if (!rows) {
        l->status = RESBM_E_MEMORY;
        return false;
    }
    l->table->rows = rows;
    l->capacity = cap;
    return true;
}

rb_tensor *rb_tensor_add(rb_tensor_list *l, const char *prefix, const char *name, int64_t rows, int64_t cols,
                         rb_role role, double mean, double std) {
    if (l->status != RESBM_OK || !grow(l)) return NULL;
    rb_tensor *t = &l->table->rows[l->table->count++];
    *t = (rb_tensor){.rank = cols ? 2 : 1,
                     .shape = {rows, cols ? cols : 1},
                     .role = role,
                     .part = l->part,
                     .part_index = l->part_index,
                     .segment = l->segment,
                     .init_mean = (float)mean,
                     .init_std = (float)std};
    snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
    return t;
}

int64_t rb_tensor_count(const rb_tensor *t) {
    return t->rank == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

void rb_tensor_table_free(rb_tensor_table *t) {
    free(t->rows);
    *t = (rb_tensor_table){0};
}
