#include <string.h>
#include "boundary/kinds.h"

const rb_boundary_kind *const rb_boundary_kinds[] = {
    &rb_boundary_none, &rb_boundary_linear,   &rb_boundary_residual,
    &rb_boundary_topk, &rb_boundary_subspace, NULL,
};

const rb_boundary_kind *rb_boundary_find(const char *name) {
    for (int i = 0; rb_boundary_kinds[i]; i++)
        if (!strcmp(rb_boundary_kinds[i]->name, name)) return rb_boundary_kinds[i];
    return NULL;
}
