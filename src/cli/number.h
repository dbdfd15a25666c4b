/* Numbers of flags. Each takes the whole text and a range; anything else ends the program by argp_error, status 2, with
 * a sentence that names the flag, the value and the range. */
#ifndef RB_CLI_NUMBER_H
#define RB_CLI_NUMBER_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

/* A whole decimal number within [low, high]. */
int64_t rb_cli_int(const char *flag, const char *text, int64_t low, int64_t high, struct argp_state *state);
/* A whole decimal number of 64 bits without sign. */
uint64_t rb_cli_uint(const char *flag, const char *text, struct argp_state *state);
/* A finite number within [low, high]. */
double rb_cli_real(const char *flag, const char *text, double low, double high, struct argp_state *state);

/* What the above say of a text, without the exit: false where it is no such number. */
bool rb_read_int(const char *text, int64_t low, int64_t high, int64_t *out);
bool rb_read_uint(const char *text, uint64_t *out);
bool rb_read_real(const char *text, double low, double high, double *out);

#endif
