#include <string.h>
#include "boundary/kinds.h"

#define ENTRY(name) &rb_boundary_##name,
const rb_boundary_kind *const rb_boundary_kinds[] = {RB_BOUNDARY_KINDS(ENTRY) NULL};

const rb_boundary_kind *rb_boundary_find(const char *name) {
    for (int i = 0; rb_boundary_kinds[i]; i++)
        if (!strcmp(rb_boundary_kinds[i]->name, name)) return rb_boundary_kinds[i];
    return NULL;
}
