#include <math.h>
#include "rb_cmocka.h"
#include "codec/steps.h"
#include "core/rng.h"

/* E (x - q(x))^2 and E (2 code + 1)^2 of a standard Gaussian under four levels half a step off zero. */
static void four_levels(double step, double *error, double *mean_sq) {
    double outer = erfc(step / sqrt(2)), first = exp(-step * step / 2);
    *mean_sq = 1 - outer + 9 * outer;
    *error = 1 - 2 * step * (1 - first + 3 * first) / sqrt(2 * M_PI) + step * step / 4 * *mean_sq;
}

/* E (x - q(x))^2 and E code^2 of a standard Gaussian under a uniform quantiser of 2*most + 1 levels. */
static void quantiser(double step, int most, double *error, double *mean_sq) {
    if (most == 1) {
        four_levels(step, error, mean_sq);
        return;
    }
    double xq = 0, qq = 0;
    for (int q = 1; q <= most; q++) {
        double lo = (q - 0.5) * step, hi = (q + 0.5) * step;
        double inside = erfc(lo / sqrt(2)) - (q < most ? erfc(hi / sqrt(2)) : 0);
        double first = exp(-lo * lo / 2) - (q < most ? exp(-hi * hi / 2) : 0);
        qq += q * q * inside;
        xq += 2 * q * first / sqrt(2 * M_PI);
    }
    *error = 1 - 2 * step * xq + step * step * qq;
    *mean_sq = qq;
}

/* The targets written in steps.c are the minimum, found again. */
static void targets_are_derived(void **state) {
    (void)state;
    const struct {
        rb_code code;
        int most;
        double step, error;
    } known[] = {{RB_CODE_INT4, 7, 0.35341, 0.01289},
                 {RB_CODE_INT8, 127, 0.030870, 0.0000883},
                 {RB_CODE_INT2, 1, 0.99569, 0.11885}};
    for (int i = 0; i < 3; i++) {
        double lo = (known[i].most > 1 ? 1.0 : 0.2) / known[i].most, hi = 6.0 / known[i].most, error, left,
               right, mean_sq;
        for (int n = 0; n < 80; n++) {
            double a = lo + (hi - lo) / 3, b = hi - (hi - lo) / 3;
            quantiser(a, known[i].most, &left, &mean_sq);
            quantiser(b, known[i].most, &right, &mean_sq);
            if (left < right)
                hi = b;
            else
                lo = a;
        }
        quantiser(lo, known[i].most, &error, &mean_sq);
        assert_true(fabs(lo / known[i].step - 1) < 1e-4);
        assert_true(fabs(error / known[i].error - 1) < 1e-3);
        assert_true(fabs(mean_sq / rb_steps_target(known[i].code) - 1) < 1e-4);
    }
}

/* Sums of code^2 (most 1: of int2's (2 code + 1)^2) of `tokens` Gaussian values of width sigma. */
static int64_t sum_of(float step, double sigma, int most, int64_t tokens, uint64_t key) {
    static float x[4096];
    int64_t sum = 0;
    rb_normal_fill(key, x, tokens, 0, (float)sigma);
    for (int64_t i = 0; i < tokens; i++) {
        double t = (double)x[i] / (double)step;
        double q = most > 1 ? fmin(fmax(rint(t), -most), most) : 2 * fmin(fmax(floor(t), -2), 1) + 1;
        sum += (int64_t)(q * q);
    }
    return sum;
}

/* From far off either way to within 3% of the best step, fast at first, quiet later. */
static void steps_converge(void **state) {
    (void)state;
    const double sigma[] = {0.003, 0.1, 1, 30, 1000};
    static const struct {
        rb_code code;
        int most;
        double best;
    } kinds[] = {{RB_CODE_INT8, 127, 0.030870}, {RB_CODE_INT4, 7, 0.35341}, {RB_CODE_INT2, 1, 0.99569}};
    for (int i = 0; i < 15; i++) {
        rb_code code = kinds[i % 3].code;
        double want = sigma[i / 3] * kinds[i % 3].best;
        float step = 0.3f;
        assert_float_equal(rb_steps_start(code, sigma[i / 3]), want, 1e-9 * want);
        for (uint64_t u = 0; u < 200; u++) {
            int64_t sum = sum_of(step, sigma[i / 3], kinds[i % 3].most, 2048, u);
            float before = step;
            rb_steps_update(&step, &sum, 1, 2048, code, u);
            assert_true(step <= 4 * before && step >= before / 4.0f);
            if (u == 15) assert_true(step > 0.8 * want && step < 1.25 * want);
            if (u > 150) assert_true(fabsf(step / before - 1) < 0.02f);
        }
        assert_true(fabs((double)step / want - 1) < 0.03);
    }
}

/* A coordinate that died and wakes late in a run is caught up with at the fast rate. */
static void late_changes_are_followed(void **state) {
    (void)state;
    float step = 0.35f;
    int64_t zero = 0;
    for (uint64_t u = 1000; u < 1003; u++) rb_steps_update(&step, &zero, 1, 2048, RB_CODE_INT4, u);
    assert_true(fabsf(step - 0.35f / 64) < 1e-6f);
    for (uint64_t u = 1003; u < 1015; u++) {
        int64_t sum = sum_of(step, 1, 7, 2048, u);
        rb_steps_update(&step, &sum, 1, 2048, RB_CODE_INT4, u);
    }
    assert_true(step > 0.25f && step < 0.45f);
}

/* Bits both ends must share on any machine. The golden ones come from Python's float arithmetic, which is
 * IEEE's: min(max(sum / (256 * 7.9032), 1/16), 16), its square root once and then once per halving, times the
 * f32 0.3. */
static void bits_are_fixed(void **state) {
    (void)state;
    const struct {
        int64_t sum;
        uint64_t updates;
        uint32_t bits;
    } golden[] = {
        {0, 0, 0x3d99999a},          {1, 7, 0x3d99999a},      {1000, 3, 0x3e57f920},
        {3000, 7, 0x3ebb09ca},       {3000, 8, 0x3ea97f1d},   {3000, 31, 0x3ea97f1d},
        {3000, 32, 0x3ea15a45},      {3000, 127, 0x3ea15a45}, {3000, 128, 0x3e9d6db9},
        {1700, 1000000, 0x3e97f025}, {5000, 500, 0x3ec095d2}, {900, 200, 0x3e7ae208},
        {12544, 300, 0x3f3f3b14},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        float step = 0.3f;
        uint32_t bits;
        rb_steps_update(&step, &golden[i].sum, 1, 256, RB_CODE_INT4, golden[i].updates);
        memcpy(&bits, &step, 4);
        if (bits != golden[i].bits) fail_msg("step %zu has bits %08x, not %08x", i, bits, golden[i].bits);
    }
}

static void limits_hold(void **state) {
    (void)state;
    float tiny = 1e-8f, huge = 1e8f, still = 0.5f;
    int64_t none = 0, all = 49 * 64;
    rb_steps_update(&tiny, &none, 1, 64, RB_CODE_INT4, 0);
    rb_steps_update(&huge, &all, 1, 64, RB_CODE_INT4, 0);
    rb_steps_update(&still, &none, 1, 0, RB_CODE_INT4, 0);
    assert_true(tiny == 1e-8f && huge == 1e8f && still == 0.5f);
    float sign = (float)rb_steps_start(RB_CODE_INT1, 0.01);
    rb_steps_update(&sign, &all, 1, 64, RB_CODE_INT1, 0);
    assert_true(sign == 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_derived),
        cmocka_unit_test(steps_converge),
        cmocka_unit_test(late_changes_are_followed),
        cmocka_unit_test(bits_are_fixed),
        cmocka_unit_test(limits_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
