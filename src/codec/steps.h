/* Learned steps of the forward integer codecs: one quantisation step per latent coordinate.
 *
 * Both ends of a boundary hold the same steps without a byte on the wire, because they are updated from what both
 * see: the codes. After each training step, with mean_sq the mean square of a coordinate's codes over all tokens of
 * the step (integer sums: the same however the step was cut into microbatches),
 *     step *= clamp((mean_sq / target)^(eta/2), 1/4, 4),   eta = max(0.02, 1 / (1 + updates/4))
 * drives the step to (width of the coordinate) / sqrt(target). target is what the uniform quantiser of least mean
 * square error for a Gaussian gives: step 0.3352 sigma at 15 levels, 0.0308 sigma at 255 levels (Max, "Quantizing for
 * minimum distortion", 1960), so 8.9 for int4 and 1050 for int8. */
#ifndef RB_CODEC_STEPS_H
#define RB_CODEC_STEPS_H

#include <stdint.h>
#include "device/ops.h"

#define RB_STEP_START 0.3f

/* New steps (k) from sums of code^2 (k) over `tokens` tokens; updates: how many came before. Pure. */
void rb_steps_update(float *steps, const int64_t *sums, int64_t k, int64_t tokens, rb_code code, uint64_t updates);

#endif
