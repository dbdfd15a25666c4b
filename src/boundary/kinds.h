/* The tables behind the registry of boundary.h. */
#ifndef RB_BOUNDARY_KINDS_H
#define RB_BOUNDARY_KINDS_H

#include "boundary/boundary.h"

extern const rb_boundary_kind rb_boundary_none, rb_boundary_linear, rb_boundary_residual, rb_boundary_topk,
    rb_boundary_subspace;

#endif
