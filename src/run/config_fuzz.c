/* The configuration's parser: any bytes give a configuration or a message, and what it took, it prints so
 * that it takes the same again. The same bytes are tried as an override. */
#include "run/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static rb_config conf, again;

/* Prints c, loads the text into a fresh configuration and prints that: both texts must be equal. */
static void check_round_trip(const rb_config *c, bool validated) {
    rb_buf first = {0}, second = {0};
    rb_err err;
    rb_config_print(c, &first);
    resbm_status st = rb_config_defaults(&again, &err);
    if (st == RESBM_OK) st = rb_config_load_text(&again, "again", first.data, first.len, &err);
    if (st == RESBM_OK && validated) st = rb_config_validate(&again, &err);
    if (st != RESBM_OK) __builtin_trap();
    rb_config_print(&again, &second);
    if (strcmp(first.data, second.data)) __builtin_trap();
    rb_buf_free(&first);
    rb_buf_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_err err;
    if (rb_config_defaults(&conf, &err) != RESBM_OK) __builtin_trap();
    if (rb_config_load_text(&conf, "fuzz.yaml", (const char *)data, size, &err) == RESBM_OK) {
        check_round_trip(&conf, false);
        if (rb_config_validate(&conf, &err) == RESBM_OK) check_round_trip(&conf, true);
    }
    char *text = strndup((const char *)data, size);
    if (text && rb_config_override(&conf, text, &err) == RESBM_OK) check_round_trip(&conf, false);
    free(text);
    return 0;
}
