#include "run/devices.h"

#include <stdio.h>
#include <string.h>
#include "device/device.h"
#include "nn/head.h"

static int count(const char *list) {
    int n = 1;
    for (; *list; list++) n += *list == ',';
    return n;
}

/* Entry i of the list, without blanks around it. */
static void entry(const char *list, int i, char out[RB_DEVICE_NAME]) {
    while (i--) list += strcspn(list, ",") + 1;
    list += strspn(list, " ");
    size_t n = strcspn(list, ",");
    while (n && list[n - 1] == ' ') n--;
    snprintf(out, RB_DEVICE_NAME, "%.*s", (int)n, list);
}

const char *rb_device_of_stage(const rb_config *c, int stage, char out[RB_DEVICE_NAME]) {
    entry(c->pipeline.device, count(c->pipeline.device) > 1 ? stage : 0, out);
    return out;
}

resbm_status rb_devices_check(const rb_config *c, const char *at, rb_err *err) {
    char name[RB_DEVICE_NAME];
    int n = count(c->pipeline.device);
    for (int i = 0; i < n; i++) {
        entry(c->pipeline.device, i, name);
        if (!rb_device_find(name))
            return rb_fail(err, RESBM_E_CONFIG,
                           "%spipeline.device: there is no device \"%s\"; there are cpu, cuda (cuda:1 is the "
                           "second GPU), ref "
                           "and timed: one for all stages, or one per stage with commas between",
                           at, name);
    }
    if (n == 1 || n == c->pipeline.stages) return RESBM_OK;
    return rb_fail(
        err, RESBM_E_CONFIG,
        "%spipeline.device names %d devices for pipeline.stages = %lld: one for all, or one per stage", at, n,
        (long long)c->pipeline.stages);
}

int64_t rb_devices_logits(const rb_config *c, int stage) {
    char name[RB_DEVICE_NAME];
    bool gpu = strstr(rb_device_of_stage(c, stage, name), "cuda");
    if (c->pipeline.logits) return c->pipeline.logits;
    return (gpu ? RB_HEAD_CHUNK_APART : RB_HEAD_CHUNK) * (int64_t)sizeof(float);
}

bool rb_devices_all_host(const rb_config *c) {
    char name[RB_DEVICE_NAME];
    bool host = true;
    for (int i = 0; i < count(c->pipeline.device); i++) {
        entry(c->pipeline.device, i, name);
        host = host && strncmp(name, "cuda", 4) && strncmp(name, "late", 4);
    }
    return host;
}
