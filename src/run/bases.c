#include "run/bases.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rb_bases {
    int count;
    struct {
        rb_part_file file;
        int fd;
    } at[RB_MOST_BASES];
};

static void open_files(rb_bases *b, const char *folder, const rb_manifest *m) {
    char path[PATH_MAX];
    for (int i = 0; i < m->file_count && b->count < RB_MOST_BASES; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, m->files[i].name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        b->at[b->count].file = m->files[i];
        b->at[b->count++].fd = fd;
    }
}

rb_bases *rb_bases_open(const char *folder) {
    char path[PATH_MAX];
    rb_buf text = {0};
    rb_manifest m = {0};
    rb_err why;
    rb_bases *b = calloc(1, sizeof *b);
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    if (b && !rb_read_file(path, RB_MANIFEST_LIMIT, &text, &why) &&
        !rb_manifest_parse(text.data, text.len, path, &m, &why)) {
        open_files(b, folder, &m);
        rb_manifest_free(&m);
    }
    rb_buf_free(&text);
    if (b && b->count) return b;
    free(b);
    return NULL;
}

void rb_bases_close(rb_bases *b) {
    for (int i = 0; b && i < b->count; i++) close(b->at[i].fd);
    free(b);
}

json_t *rb_bases_offer(const rb_bases *b) {
    json_t *offer = json_object();
    for (int i = 0; b && i < b->count; i++)
        json_object_set_new(offer, b->at[i].file.name, json_string(b->at[i].file.sum.hash));
    return offer;
}

int rb_bases_take(const rb_bases *b, const char *name, const char *hash) {
    for (int i = 0; b && i < b->count; i++)
        if (!strcmp(b->at[i].file.name, name) && !strcmp(b->at[i].file.sum.hash, hash))
            return fcntl(b->at[i].fd, F_DUPFD_CLOEXEC, 0);
    return -1;
}
