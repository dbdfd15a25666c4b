/* The manifest's parser. A random change hardly ever keeps the hash right, so each input is also tried with
 * its hash made to fit: then everything behind the hash is reached. */
#include "checkpoint/manifest.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Parses; what is taken must print, and parse again to the same text. */
static void try(const char *text, size_t len) {
    rb_manifest m, again;
    rb_err err;
    rb_buf first = {0}, second = {0};
    if (rb_manifest_parse(text, len, "fuzz", &m, &err) != RESBM_OK) return;
    if (rb_manifest_print(&m, &first, &err) != RESBM_OK) __builtin_trap();
    if (rb_manifest_parse(first.data, first.len, "again", &again, &err) != RESBM_OK) __builtin_trap();
    if (rb_manifest_print(&again, &second, &err) != RESBM_OK || strcmp(first.data, second.data))
        __builtin_trap();
    rb_manifest_free(&m);
    rb_manifest_free(&again);
    rb_buf_free(&first);
    rb_buf_free(&second);
}

static void try_signed(const char *text, size_t len) {
    char hash[33];
    json_t *body = json_loadb(text, len, 0, NULL);
    if (json_is_object(body)) {
        json_object_del(body, "hash");
        char *plain = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
        rb_hash128_hex(plain, strlen(plain), hash);
        json_object_set_new(body, "hash", json_string(hash));
        char *complete = json_dumps(body, JSON_COMPACT);
        try(complete, strlen(complete));
        free(plain);
        free(complete);
    }
    json_decref(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try((const char *)data, size);
    try_signed((const char *)data, size);
    return 0;
}
