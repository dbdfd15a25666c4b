/* Learned steps of the forward integer codecs: one quantisation step per latent coordinate.
 *
 * Both ends of a boundary hold the same steps without a byte on the wire, because they are updated from what
 * both see: the codes. After each training step, with mean_sq the mean square of a coordinate's codes (int2: of
 * 2 code + 1) over all tokens of the step (integer sums: the same however the step was cut into microbatches) and ratio =
 * mean_sq / target (int2: its square, as four levels answer half as strongly),
 *
 *     step *= clamp(ratio, 1/16, 16)^(eta/2),   kept in [1e-8, 1e8]
 *     eta = 1 for updates 0..7, 1/2 to 31, 1/4 to 127, then 1/8;
 *         at least 1/2 whenever ratio leaves [1/2, 2] and 1 whenever it leaves [1/4, 4]
 *
 * so one update moves a step by at most 4 either way, a fresh run finds its steps in a few updates, later
 * ones follow slowly, and a coordinate that dies or wakes is caught up with. eta is a power of two so that
 * the power is a chain of square roots: IEEE square root, product and quotient are exact to the last bit on
 * every machine, libm's pow() is not, and both ends must hold the same bits.
 *
 * target is the mean square of the codes that the uniform quantiser of least mean square error gives for a
 * Gaussian of width sigma (Max, "Quantizing for minimum distortion", 1960; steps_test.c derives it again by
 * minimising E (x - q(x))^2): at 15 levels step 0.35341 sigma, mean square 7.9032 (error 1.29% of the
 * variance); at 255 levels step 0.030870 sigma, mean square 1049.27 (error 0.0088%); at 4 levels step 0.99569
 * sigma, mean square 3.5552 (error 11.9%).
 *
 * A sign says nothing about size: the steps of int1 stay at 2, its levels at -1 and 1, and what they are worth is
 * the decoder's to learn. */
#ifndef RB_CODEC_STEPS_H
#define RB_CODEC_STEPS_H

#include <stdint.h>
#include "device/ops.h"

/* The step of least mean square error for a Gaussian of width sigma; 2 for int1. What a run begins with: steps
 * far too wide round every latent to zero, and behind a stream of zeros every RMSNorm multiplies the gradient by
 * 1 / sqrt(eps). */
double rb_steps_start(rb_code code, double sigma);
/* Mean square of codes the steps are driven to; code int8, int4 or int2. */
double rb_steps_target(rb_code code);

/* New steps (k) from sums of code^2 (k) over `tokens` tokens; updates: how many came before. Pure: the same
 * bits on every machine. Without tokens nothing changes. */
void rb_steps_update(float *steps, const int64_t *sums, int64_t k, int64_t tokens, rb_code code,
                     uint64_t updates);

#endif
