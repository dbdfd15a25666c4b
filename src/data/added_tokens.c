#include "data/added_tokens.h"

#include <stdlib.h>
#include <string.h>

enum { most_tokens = 1 << 16 };

static int by_id(const void *a, const void *b) {
    int32_t x = ((const rb_added_token *)a)->id, y = ((const rb_added_token *)b)->id;
    return (x > y) - (x < y);
}

static resbm_status load_one(rb_added_tokens *a, const json_t *o, int64_t limit, rb_err *err) {
    static const char *const strange[] = {"single_word", "lstrip", "rstrip"};
    const json_t *content = json_object_get(o, "content"), *id = json_object_get(o, "id");
    if (!json_is_string(content) || !json_string_length(content) || !json_is_integer(id))
        return rb_fail(err, RESBM_E_FORMAT, "added token %d lacks its content or its id", a->count);
    const char *text = json_string_value(content);
    if (json_integer_value(id) < 0 || json_integer_value(id) >= limit)
        return rb_fail(err, RESBM_E_FORMAT, "added token \"%.60s\" has id %lld; ids are 0 to %lld", text,
                       (long long)json_integer_value(id), (long long)limit - 1);
    for (int i = 0; i < 3; i++)
        if (json_is_true(json_object_get(o, strange[i])))
            return rb_fail(err, RESBM_E_UNSUPPORTED,
                           "added token \"%.60s\" has \"%s\": true, which is not supported", text,
                           strange[i]);
    rb_added_token *t = &a->item[a->count];
    *t = (rb_added_token){.len = json_string_length(content),
                          .id = (int32_t)json_integer_value(id),
                          .special = json_is_true(json_object_get(o, "special")),
                          .normalized = json_is_true(json_object_get(o, "normalized"))};
    t->text = strdup(text);
    if (!t->text) return rb_fail(err, RESBM_E_MEMORY, "no memory for added tokens");
    a->count++;
    a->first[t->normalized][(unsigned char)*text] = true;
    return RESBM_OK;
}

resbm_status rb_added_load(rb_added_tokens *a, const json_t *list, int64_t limit, rb_err *err) {
    *a = (rb_added_tokens){0};
    if (!list || json_is_null(list)) return RESBM_OK;
    if (!json_is_array(list)) return rb_fail(err, RESBM_E_FORMAT, "\"added_tokens\" is no list");
    if (json_array_size(list) > most_tokens)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "it has %zu added tokens; at most %d are supported",
                       json_array_size(list), most_tokens);
    a->item = calloc(json_array_size(list) + 1, sizeof *a->item);
    if (!a->item)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %zu added tokens", json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++)
        RB_TRY(load_one(a, json_array_get(list, i), limit, err));
    qsort(a->item, (size_t)a->count, sizeof *a->item, by_id);
    for (int i = 1; i < a->count; i++)
        if (a->item[i].id == a->item[i - 1].id)
            return rb_fail(err, RESBM_E_FORMAT, "added tokens \"%.60s\" and \"%.60s\" share id %d",
                           a->item[i - 1].text, a->item[i].text, a->item[i].id);
    return RESBM_OK;
}

void rb_added_free(rb_added_tokens *a) {
    for (int i = 0; i < a->count; i++) free(a->item[i].text);
    free(a->item);
    *a = (rb_added_tokens){0};
}

static const rb_added_token *longest_at(const rb_added_tokens *a, bool normalized, const char *p, size_t n) {
    const rb_added_token *best = NULL;
    for (int i = 0; i < a->count; i++) {
        const rb_added_token *t = &a->item[i];
        bool longer = t->normalized == normalized && t->len <= n && (!best || t->len > best->len);
        if (longer && !memcmp(t->text, p, t->len)) best = t;
    }
    return best;
}

const rb_added_token *rb_added_find(const rb_added_tokens *a, bool normalized, const char *text, size_t n,
                                    size_t *at) {
    const bool *first = a->first[normalized];
    for (*at = 0; a->count && *at < n; ++*at) {
        if (!first[(unsigned char)text[*at]]) continue;
        const rb_added_token *t = longest_at(a, normalized, text + *at, n - *at);
        if (t) return t;
    }
    *at = n;
    return NULL;
}

const rb_added_token *rb_added_by_id(const rb_added_tokens *a, int32_t id) {
    const rb_added_token key = {.id = id};
    return a->count ? bsearch(&key, a->item, (size_t)a->count, sizeof key, by_id) : NULL;
}

int32_t rb_added_special(const rb_added_tokens *a, const char *text) {
    for (int i = 0; i < a->count; i++)
        if (a->item[i].special && !strcmp(a->item[i].text, text)) return a->item[i].id;
    return -1;
}
