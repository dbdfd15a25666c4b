/* The tensor table: one row per trained (or remembered) tensor, from which allocation, initialisation,
 * optimizer groups, checkpoints and tests are driven. Built by model/; blocks and boundaries add their rows
 * here. */
#ifndef RB_NN_TENSOR_H
#define RB_NN_TENSOR_H

#include <stdbool.h>
#include <stdint.h>
#include "core/err.h"

/* Which optimiser rule a tensor may get. */
typedef enum rb_role {
    RB_ROLE_EMBEDDING,
    RB_ROLE_HEAD,
    RB_ROLE_NORM,
    RB_ROLE_MATRIX,          /* a block's matrix */
    RB_ROLE_BOUNDARY_MATRIX, /* an encoder's or decoder's matrix */
    RB_ROLE_STEP,            /* learned steps of a codec: state, not trained by gradient */
    RB_ROLE_STATE            /* what else is not: a boundary's memory, or what follows from the seed */
} rb_role;
static inline bool rb_role_trained(rb_role r) {
    return r < RB_ROLE_STEP;
}

/* Initial values. */
typedef enum rb_values {
    RB_VALUES_NORMAL,
    RB_VALUES_IDENTITY, /* ones on the diagonal, else 0 */
    RB_VALUES_BASIS     /* orthonormal rows: normal ones through Gram and Schmidt */
} rb_values;

/* What a tensor is held to, mostly with respect to a subspace (boundary/subspace.c, model/constrain.c). */
typedef enum rb_constraint {
    RB_CONSTRAINT_NONE,
    RB_CONSTRAINT_COLUMNS,    /* each column lies in it */
    RB_CONSTRAINT_ROWS,       /* what of its rows lies outside stays as it began */
    RB_CONSTRAINT_OUTSIDE,    /* what of its rows lies inside is taken away, once */
    RB_CONSTRAINT_ORTHONORMAL /* without a subspace: its rows are orthonormal, rows <= columns */
} rb_constraint;

/* A part is what is stored in one checkpoint file and lives whole on one stage: segment i, the encoder of
 * boundary i (with segment i) or its decoder and token path (with segment i+1). */
typedef enum rb_part_kind { RB_PART_SEGMENT, RB_PART_ENCODER, RB_PART_DECODER } rb_part_kind;

/* One row of the tensor table. Its order is the order of norms, optimizer groups, checkpoints and tests:
 * segment 0, encoder 0, decoder 0, segment 1, ... */
typedef struct rb_tensor {
    char name[96]; /* Hugging Face Llama names; boundary.<i>.encoder.fc1.weight, ... */
    int rank;      /* 1 or 2 */
    int64_t shape[2];
    rb_role role;
    rb_part_kind part;
    int part_index; /* segment or boundary number */
    int segment;    /* the segment whose stage hosts it (a decoder of boundary i: i+1) */
    bool joined;    /* lies in memory straight behind the row before, so that one product does both */
    float init_mean, init_std; /* normal; std 0 = constant mean. Values are keyed by (seed, name). */
    rb_values values;
    const char *like; /* static: keyed by this name instead. Never trained, and in no checkpoint */
    rb_constraint constraint;
} rb_tensor;

typedef struct rb_tensor_table {
    rb_tensor *rows;
    int count;
} rb_tensor_table;

/* Where rows are added: the table, and what every row of the part being listed has in common. Faults are
 * sticky: look at status once, when the listing is done. */
typedef struct rb_tensor_list {
    rb_tensor_table *table;
    int capacity;
    rb_part_kind part;
    int part_index, segment;
    resbm_status status;
} rb_tensor_list;

/* Adds one row named prefix + name; cols 0 = a vector of `rows`. Returns the row, NULL once the list has
 * failed; the pointer holds until the next call. */
rb_tensor *rb_tensor_add(rb_tensor_list *l, const char *prefix, const char *name, int64_t rows, int64_t cols,
                         rb_role role, double mean, double std);
int64_t rb_tensor_count(const rb_tensor *t); /* elements */
void rb_tensor_table_free(rb_tensor_table *t);

#endif
