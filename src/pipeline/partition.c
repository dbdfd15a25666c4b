#include "pipeline/partition.h"

#include <math.h>
#include <stdlib.h>

static resbm_status check(int count, int parts, rb_err *err) {
    if (parts >= 1 && parts <= count) return RESBM_OK;
    return rb_fail(err, RESBM_E_ARG,
                   "%d things cannot be cut into %d parts of at least one; use 1 to %d parts", count, parts,
                   count);
}

resbm_status rb_partition_even(int count, int parts, int *sizes, rb_err *err) {
    RB_TRY(check(count, parts, err));
    for (int i = 0; i < parts; i++) sizes[i] = count / parts + (i < count % parts);
    return RESBM_OK;
}

/* best[p][i]: the lightest possible heaviest part when things i.. are cut into p parts. */
static void fill_table(double *best, const double *sum, int count, int parts) {
    for (int i = 0; i < count; i++) best[(size_t)count + i] = sum[count] - sum[i];
    for (int p = 2; p <= parts; p++) {
        double *now = best + (size_t)p * count, *before = now - count;
        for (int i = 0; i + p <= count; i++) {
            now[i] = INFINITY;
            for (int j = i + 1; j + p - 1 <= count; j++)
                now[i] = fmin(now[i], fmax(sum[j] - sum[i], before[j]));
        }
    }
}

/* Walks the table forwards; the longest first part that keeps the optimum. */
static void read_table(const double *best, const double *sum, int count, int parts, int *sizes) {
    double goal = best[(size_t)parts * count];
    int i = 0;
    for (int p = parts; p >= 2; p--) {
        int j = count - p + 1;
        while (j > i + 1 && fmax(sum[j] - sum[i], best[(size_t)(p - 1) * count + j]) > goal) j--;
        sizes[parts - p] = j - i;
        i = j;
    }
    sizes[parts - 1] = count - i;
}

resbm_status rb_partition_weighted(const double *weights, int count, int parts, int *sizes, rb_err *err) {
    RB_TRY(check(count, parts, err));
    for (int i = 0; i < count; i++) {
        if (!(weights[i] >= 0) || isinf(weights[i]))
            return rb_fail(err, RESBM_E_ARG,
                           "weight %d of a partition is %g; it must be finite and not negative", i,
                           weights[i]);
    }
    double *sum = malloc(((size_t)count + 1) * sizeof *sum);
    double *best = malloc(((size_t)parts + 1) * (size_t)count * sizeof *best);
    resbm_status st = RESBM_OK;
    if (sum && best) {
        sum[0] = 0;
        for (int i = 0; i < count; i++) sum[i + 1] = sum[i] + weights[i];
        fill_table(best, sum, count, parts);
        read_table(best, sum, count, parts, sizes);
    } else {
        st = rb_fail(err, RESBM_E_MEMORY, "no memory to cut %d things into %d parts", count, parts);
    }
    free(sum);
    free(best);
    return st;
}

void rb_partition_owners(const int *sizes, int parts, int *owner) {
    for (int p = 0; p < parts; p++) {
        for (int i = 0; i < sizes[p]; i++) *owner++ = p;
    }
}
