/* A stage that shares no folder with its coordinator: what it keeps of snapshots lies in weights/ of its own folder by hash, is
 * asked for where it is not there, and goes back over the control channel. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "checkpoint/checkpoint.h"
#include "core/clock.h"
#include "core/hash.h"
#include "run/apart.h"
#include "run/control.h"
#include "run/parts.h"
#include "run/sign.h"
#include "run/stage.h"

static const char weights[] = "weights", loading[] = "load", saving[] = "save";

static void path_of(const char *folder, const char *name, char out[PATH_MAX]) {
    snprintf(out, PATH_MAX, "%s/%s", folder, name);
}

static void empty_folder(const char *folder) {
    char path[PATH_MAX];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (*e->d_name != '.') {
            path_of(folder, e->d_name, path);
            unlink(path);
        }
    if (d) closedir(d);
}

static bool have(const rb_part_file *f) {
    char path[PATH_MAX];
    struct stat sb;
    path_of(weights, f->sum.hash, path);
    return !stat(path, &sb) && (uint64_t)sb.st_size == f->sum.bytes;
}

/* The file of this replica's own states in place of "segment-0.optim.safetensors", where the snapshot has one? */
static bool has_own(const rb_stage *s, const char *name) {
    char own[RB_PART_NAME + 16];
    const char *tail = strstr(name, ".optim.");
    if (!tail || !s->cfg.optim.local_steps || !s->replica) return false;
    snprintf(own, sizeof own, "%.*s.replica-%d%s", (int)(tail - name), name, s->replica, tail);
    return rb_manifest_holds(&s->snapshot, own);
}

/* Only the rows of this stage and replica stay in the manifest. */
static void keep_own(rb_stage *s) {
    int n = 0;
    rb_part_file *kept = calloc((size_t)s->snapshot.file_count + 1, sizeof *kept);
    for (int i = 0; kept && i < s->snapshot.file_count; i++) {
        const rb_part_file *f = &s->snapshot.files[i];
        int replica = rb_parts_replica_of(f->name);
        if (rb_parts_stage_of(&s->cfg, f->name) != s->stage) continue;
        if (replica ? replica == s->replica && s->cfg.optim.local_steps : !has_own(s, f->name))
            kept[n++] = *f;
    }
    if (kept) memcpy(s->snapshot.files, kept, (size_t)n * sizeof *kept);
    s->snapshot.file_count = n;
    free(kept);
}

static void forget_others(const rb_stage *s, const json_t *files) {
    char path[PATH_MAX];
    DIR *d = opendir(weights);
    for (struct dirent *e; d && (e = readdir(d));) {
        bool wanted = *e->d_name == '.';
        for (int i = 0; i < s->snapshot.file_count && !wanted; i++)
            wanted = !strcmp(s->snapshot.files[i].sum.hash, e->d_name);
        for (size_t i = 0; i < json_array_size(files) && !wanted; i++)
            wanted = !strcmp(json_string_value(json_array_get(json_array_get(files, i), 2)), e->d_name);
        path_of(weights, e->d_name, path);
        if (!wanted) unlink(path);
    }
    if (d) closedir(d);
}

resbm_status rb_stage_apart_begin(rb_stage *s, const char *manifest, json_t **need, rb_err *err) {
    *need = json_array();
    RB_TRY(rb_make_dirs(weights, err));
    RB_TRY(rb_make_dirs(loading, err));
    RB_TRY(rb_make_dirs(saving, err));
    empty_folder(loading);
    empty_folder(saving);
    if (!manifest) return RESBM_OK;
    RB_TRY(rb_manifest_parse(manifest, strlen(manifest), "the snapshot's manifest", &s->snapshot, err));
    keep_own(s);
    for (int i = 0; i < s->snapshot.file_count; i++)
        if (!have(&s->snapshot.files[i]))
            json_array_append_new(*need, json_string(s->snapshot.files[i].name));
    return RESBM_OK;
}

/* --- the download: the coordinator, who sees those of all stages, decides whether they come too slowly; a stage that may have
 * to wait for its turn waits as long as the coordinator gives signs of life, and says what it has --- */

#define TELL_NS (RB_SEC / 2)
enum { TELL_BYTES = 1 << 20 };

typedef struct download {
    rb_stage *s;
    rb_sign sign;
    uint64_t have, of, told;
    int64_t told_ns;
} download;

static resbm_status tell(download *d, rb_err *err) {
    d->told = d->have;
    d->told_ns = rb_now_ns();
    return rb_control_send(
        d->s->control, RB_PEER_COORDINATOR,
        json_pack("{s:s, s:I, s:I}", "t", "loading", "have", (json_int_t)d->have, "of", (json_int_t)d->of),
        rb_now_ns() + d->s->cfg.pipeline.deadline_ns, err);
}

static resbm_status came(void *ctx, size_t bytes, rb_err *err) {
    download *d = ctx;
    d->have += bytes;
    rb_sign_begin(&d->sign);
    bool due = d->have == d->of || d->have - d->told >= TELL_BYTES || rb_now_ns() - d->told_ns > TELL_NS;
    return due ? tell(d, err) : RESBM_OK;
}

static resbm_status still_there(void *ctx, rb_err *err) {
    download *d = ctx;
    int64_t silent_ns;
    if (rb_sign_look(&d->sign, d->s->control, RB_PEER_COORDINATOR, d->s->cfg.pipeline.deadline_ns,
                     &silent_ns))
        return RESBM_OK;
    return rb_fail(err, RESBM_E_TIMEOUT,
                   "stage %d waited %.1f s for its weights without a sign of life from the coordinator",
                   d->s->stage, (double)silent_ns * 1e-9);
}

static resbm_status fetch(download *d, const rb_part_file *f, rb_err *err) {
    char kept[PATH_MAX], path[PATH_MAX];
    rb_apart_wait w = {.look = still_there, .came = came, .ctx = d};
    path_of(weights, f->sum.hash, kept);
    path_of(loading, f->name, path);
    if (!have(f))
        RB_TRY(rb_apart_recv_file(d->s->control, RB_PEER_COORDINATOR, kept, &f->sum, &w, 0, NULL, err));
    return link(kept, path) ? rb_fail_errno(err, errno, "cannot link %s to %s", kept, path) : RESBM_OK;
}

resbm_status rb_stage_apart_load(rb_stage *s, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    download d = {.s = s};
    for (int i = 0; i < s->snapshot.file_count; i++)
        d.of += have(&s->snapshot.files[i]) ? 0 : s->snapshot.files[i].sum.bytes;
    rb_sign_begin(&d.sign);
    if (d.of) RB_TRY(tell(&d, err));
    for (int i = 0; i < s->snapshot.file_count; i++) RB_TRY(fetch(&d, &s->snapshot.files[i], err));
    resbm_status st = rb_manifest_print(&s->snapshot, &text, err);
    path_of(loading, "manifest.json", path);
    if (!st) st = rb_write_file_atomic(path, text.data, text.len, err);
    rb_buf_free(&text);
    if (!st) st = rb_checkpoint_verify(loading, err);
    return st ? st : rb_stage_load(s, loading, err);
}

/* What the first replica hands in is the same for all, who keep it as well; with local steps each has states of its own. */
static bool hands_in(const rb_stage *s, const json_t *file, bool lead) {
    int replica = rb_parts_replica_of(json_string_value(json_array_get(file, 0)));
    return replica ? replica == s->replica : lead;
}

/* What the coordinator has of the snapshot before, where this stage has the same, and it is whole. */
static rb_apart_base base_of(const json_t *bases, const char *name) {
    char path[PATH_MAX], hash[33];
    const char *wanted = json_string_value(json_object_get(bases, name));
    rb_apart_base b = {.fd = -1};
    rb_err why;
    if (!wanted || strlen(wanted) != 32 || strspn(wanted, "0123456789abcdef") != 32) return b;
    path_of(weights, wanted, path);
    if (rb_hash_file(path, hash, NULL, &why) || strcmp(hash, wanted)) return b;
    snprintf(b.hash, sizeof b.hash, "%s", wanted);
    b.fd = open(path, O_RDONLY | O_CLOEXEC);
    return b;
}

static resbm_status hand_in(rb_stage *s, const json_t *files, const json_t *bases, bool lead,
                            rb_apart_pace *pace, rb_err *err) {
    char path[PATH_MAX], kept[PATH_MAX];
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *f = json_array_get(files, i);
        path_of(saving, json_string_value(json_array_get(f, 0)), path);
        path_of(weights, json_string_value(json_array_get(f, 2)), kept);
        if (hands_in(s, f, lead))
            RB_TRY(rb_apart_send_file(s->control, RB_PEER_COORDINATOR, path,
                                      base_of(bases, json_string_value(json_array_get(f, 0))), pace,
                                      s->cfg.pipeline.deadline_ns, NULL, err));
        if (rename(path, kept)) return rb_fail_errno(err, errno, "cannot move %s to %s", path, kept);
    }
    forget_others(s, files);
    return RESBM_OK;
}

/* --- beside the steps --- */

struct rb_sending {
    rb_stage *s;
    json_t *files, *bases;
    bool lead;
    rb_apart_pace pace;
    atomic_bool stop;
    pthread_t thread;
    resbm_status st;
    rb_err err;
};

static void *send_files(void *arg) {
    struct rb_sending *o = arg;
    o->st = hand_in(o->s, o->files, o->bases, o->lead, &o->pace, &o->err);
    return NULL;
}

/* What snapshots may take of the uplink, bits per second; 0: nobody knows how much it carries. */
static double snapshot_bits(const rb_stage *s) {
    const double known[] = {s->up_bits, s->uplink_bits, s->cfg.link.up_bits};
    double least = 0;
    for (int i = 0; i < 3; i++)
        if (known[i] > 0 && (least <= 0 || known[i] < least)) least = known[i];
    return least * s->cfg.snapshot_share;
}

static void free_sending(struct rb_sending *o) {
    json_decref(o->files);
    json_decref(o->bases);
    free(o);
}

static resbm_status begin_sending(rb_stage *s, json_t *files, json_t *bases, bool lead, rb_err *err) {
    struct rb_sending *o = calloc(1, sizeof *o);
    if (!o) return rb_fail(err, RESBM_E_MEMORY, "no memory to send a snapshot");
    o->s = s;
    o->files = json_incref(files);
    o->bases = json_deep_copy(bases); /* the message's other parts are of the other thread */
    o->lead = lead;
    o->pace = (rb_apart_pace){.bits = snapshot_bits(s), .stop = &o->stop};
    int bad = pthread_create(&o->thread, NULL, send_files, o);
    if (!bad) {
        s->sending = o;
        return RESBM_OK;
    }
    free_sending(o);
    return rb_fail_errno(err, bad, "cannot start a thread");
}

resbm_status rb_stage_apart_sent(rb_stage *s, rb_err *err) {
    struct rb_sending *o = s->sending;
    if (!o) return RESBM_OK;
    pthread_join(o->thread, NULL);
    resbm_status st = o->st;
    if (st && err) *err = o->err;
    free_sending(o);
    s->sending = NULL;
    return st;
}

void rb_stage_apart_stop(rb_stage *s) {
    if (s->sending) atomic_store(&s->sending->stop, true);
    rb_stage_apart_sent(s, NULL);
}

resbm_status rb_stage_apart_save(rb_stage *s, const json_t *in, rb_err *err) {
    bool spread = json_is_true(json_object_get(in, "spread"));
    RB_TRY(rb_stage_apart_sent(s, err));
    json_t *files = json_array(), *mine = json_array(), *bases = json_object_get(in, "bases");
    bool lead = rb_stage_lead(s, s->stage) == s->self;
    resbm_status st = rb_stage_write_parts(s, saving, false, files, err);
    for (size_t i = 0; i < json_array_size(files); i++)
        if (hands_in(s, json_array_get(files, i), lead)) json_array_append(mine, json_array_get(files, i));
    if (!st)
        st = rb_control_send(s->control, RB_PEER_COORDINATOR,
                             json_pack("{s:s, s:O, s:I}", "t", "saved", "files", mine, "redeals",
                                       json_integer_value(json_object_get(in, "redeals"))),
                             rb_now_ns() + s->cfg.pipeline.deadline_ns, err);
    json_decref(mine);
    if (!st)
        st = spread ? begin_sending(s, files, bases, lead, err) : hand_in(s, files, bases, lead, NULL, err);
    json_decref(files);
    return st;
}

resbm_status rb_stage_apart_ids(rb_stage *s, int place, rb_err *err) {
    int32_t *out = s->ids + place * s->B * (s->T + 1);
    RB_TRY(rb_apart_recv_ids(s->control, RB_PEER_COORDINATOR, out, s->M * s->B * (s->T + 1),
                             s->cfg.model.vocab, s->cfg.pipeline.deadline_ns, err));
    for (int m = 0; m < s->M; m++) RB_TRY(rb_stage_upload_ids(s, place + m, err));
    return rb_queue_sync(s->q, err);
}
