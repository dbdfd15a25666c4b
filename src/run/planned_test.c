/* What a run's stages plan, as it is told, read and shown. */
#include <string.h>
#include "rb_cmocka.h"
#include "run/planned.h"

static const rb_planned big = {.total = 9510000000,
                               .weights = 1200000000,
                               .gradients = 650000000,
                               .optimizer = 1300000000,
                               .activations = 5900000000,
                               .working = 460000000,
                               .room = 79100000000};

static void expect(const rb_planned *p, const rb_place *place, int workers, const char *want) {
    rb_buf out = {0};
    rb_planned_print(p, place, workers, &out);
    assert_string_equal(out.len ? out.data : "", want);
    rb_buf_free(&out);
}

static void one_stage(void **state) {
    (void)state;
    const rb_place place[] = {{0, 0}};
    expect(&big, place, 1,
           "memory: stage 0 plans 9.51 GB (weights 1.2, gradients 0.65, optimizer 1.3, activations 5.9, "
           "working 0.46) of 79.1 GB free\n");
    rb_planned small = {.total = 999600, .weights = 999600};
    expect(&small, place, 1, "memory: stage 0 plans 1 MB (weights 1)\n");
    small = (rb_planned){.total = 1000, .weights = 995, .older = 5}; /* half a percent is not listed */
    expect(&small, place, 1, "memory: stage 0 plans 1 kB (weights 0.99)\n");
    expect(&(rb_planned){0}, place, 1, "");
}

static void those_alike_share_a_line(void **state) {
    (void)state;
    const rb_place place[] = {{0, 0}, {1, 0}, {2, 0}};
    rb_planned p[3] = {big, {.total = 2000000, .weights = 2000000}, {.total = 2000400, .weights = 2000100}};
    expect(p, place, 3,
           "memory: stage 0 plans 9.51 GB (weights 1.2, gradients 0.65, optimizer 1.3, activations 5.9, "
           "working 0.46) of 79.1 GB free\n"
           "memory: stages 1 to 2 plan 2 MB (weights 2) each\n");
    p[2].total = 0; /* not told */
    expect(p, place, 3, "");
}

/* A stage and its replicas have one plan; the card with least room counts. */
static void replicas_of_a_stage(void **state) {
    (void)state;
    const rb_place place[] = {{0, 0}, {1, 0}, {0, 1}};
    rb_planned p[3] = {{.total = 5000000, .older = 5000000, .room = 9000000},
                       {.total = 5000000, .older = 5000000, .room = 9000000},
                       {.total = 5000000, .older = 5000000, .room = 7000000}};
    expect(p, place, 3,
           "memory: stage 0 plans 5 MB (older weights 5) of 7 MB free\n"
           "memory: stage 1 plans 5 MB (older weights 5) of 9 MB free\n");
}

static void many_stages(void **state) {
    (void)state;
    rb_planned p[40];
    rb_place place[40];
    for (int i = 0; i < 40; i++) {
        p[i] = (rb_planned){.total = (uint64_t)(900 - 10 * i) * 1000000, .weights = 400000000};
        place[i] = (rb_place){i, 0};
    }
    expect(p, place, 40,
           "memory: stages plan 510 MB to 900 MB; the fullest, stage 0, 900 MB (weights 400)\n");
    for (int i = 0; i < 40; i++) p[i].room = i == 30 ? 700000000 : 8000000000;
    expect(p, place, 40,
           "memory: stages plan 510 MB to 900 MB; the fullest, stage 30, 600 MB (weights 400) of 700 MB "
           "free\n");
}

static void told_and_read(void **state) {
    (void)state;
    json_t *j = rb_planned_json(&big);
    rb_planned p = rb_planned_read(j);
    assert_memory_equal(&p, &big, sizeof p);
    json_decref(j);
    const char *const odd[] = {"[-1, {}, \"x\"]", "{\"a\": 1}", "[]"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        j = json_loads(odd[i], 0, NULL);
        p = rb_planned_read(j);
        assert_memory_equal(&p, &(rb_planned){0}, sizeof p);
        json_decref(j);
    }
    p = rb_planned_read(NULL);
    assert_int_equal(p.total, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_stage), cmocka_unit_test(those_alike_share_a_line),
        cmocka_unit_test(replicas_of_a_stage), cmocka_unit_test(many_stages), cmocka_unit_test(told_and_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
