#include "run/invitation.h"

#include <stdlib.h>
#include <string.h>

static const char prefix[] = "resbm1.";
static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode(const uint8_t *p, size_t n, rb_buf *out) {
    uint32_t bits = 0;
    int have = 0;
    for (; n; n--) {
        bits = bits << 8 | *p++;
        for (have += 8; have >= 6; have -= 6) rb_buf_add(out, &alphabet[bits >> (have - 6) & 63], 1);
    }
    if (have) rb_buf_add(out, &alphabet[bits << (6 - have) & 63], 1);
}

static bool decode(const char *s, size_t n, rb_buf *out) {
    uint32_t bits = 0;
    int have = 0;
    for (; n; n--, s++) {
        const char *at = *s ? strchr(alphabet, *s) : NULL;
        if (!at) return false;
        bits = bits << 6 | (uint32_t)(at - alphabet);
        if ((have += 6) < 8) continue;
        char byte = (char)(bits >> (have -= 8));
        rb_buf_add(out, &byte, 1);
    }
    return out->len > 0;
}

resbm_status rb_invitation_print(const rb_access *a, rb_buf *out, rb_err *err) {
    char *text;
    RB_TRY(rb_access_print(a, &text, err));
    rb_buf_puts(out, prefix);
    encode((const uint8_t *)text, strlen(text), out);
    explicit_bzero(text, strlen(text));
    free(text);
    return rb_buf_status(out, err);
}

static resbm_status parse(const char *text, rb_access *out, rb_err *err) {
    rb_buf json = {0};
    size_t n = strcspn(text, " \t\r\n");
    bool ok = !strncmp(text, prefix, strlen(prefix)) && n < RB_INVITATION_LIMIT &&
              decode(text + strlen(prefix), n - strlen(prefix), &json);
    resbm_status st = ok ? rb_access_parse(json.data, out, err) : RESBM_E_FORMAT;
    if (json.data) explicit_bzero(json.data, json.len);
    rb_buf_free(&json);
    return st ? rb_fail(err, RESBM_E_FORMAT,
                        "this is no invitation (a line that begins with \"%s\"), or a part of it is missing",
                        prefix)
              : RESBM_OK;
}

resbm_status rb_invitation_read(const char *text, rb_access *out, rb_err *err) {
    rb_buf file = {0};
    if (!strncmp(text, prefix, strlen(prefix))) return parse(text, out, err);
    resbm_status st = rb_read_file(text, RB_INVITATION_LIMIT, &file, err);
    if (!st) st = parse(file.data ? file.data : "", out, err);
    rb_buf_free(&file);
    return st;
}
