/* What this build and this machine can do. */
#include <argp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#include "cli/cli.h"
#include "codec/codec.h"
#include "data/tokenizer.h"
#include "device/bench_peak.h"
#include "device/cuda/plugin.h"
#include "link/bench_link.h"
#include "link/mpi.h"
#include "optim/optim.h"
#include "pipeline/schedules.h"
#include "run/memory.h"
#include "run/reach.h"

static void names(const char *what) {
    printf("%-14s", what);
}

static resbm_status devices(rb_err *err) {
    for (int i = 0; rb_devices[i]; i++) {
        rb_device_options o = {.threads = 1};
        rb_device *d;
        resbm_status st = rb_device_open(rb_devices[i]->name, &o, &d, err);
        names(i ? "" : "devices");
        printf("%s: %s%s%s\n", rb_devices[i]->name, rb_devices[i]->summary, st ? "; not usable here: " : "",
               st ? err->text : "");
        char cards[1024], attention[1024] = "";
        if (!st) rb_device_close(d);
        if (strcmp(rb_devices[i]->name, "cuda")) continue;
        rb_cuda_describe(cards, sizeof cards);
        if (!st) printf("%14s%s\n", "", cards);
        /* What would load cuDNN, which ends the program where there is no cuBLASLt. */
        if (!st) rb_cuda_describe_attention(attention, sizeof attention);
        if (*attention) printf("%14sbesides its own attention: %s\n", "", attention);
    }
    return RESBM_OK;
}

static void registries(void) {
    names("boundaries");
    for (int i = 0; rb_boundary_kinds[i]; i++) printf("%s ", rb_boundary_kinds[i]->name);
    puts("");
    names("codecs");
    for (int i = 0; i < RB_CODEC_COUNT; i++) printf("%s ", rb_codecs[i].name);
    puts("");
    names("schedules");
    for (int i = 0; rb_schedules[i]; i++)
        if (!rb_schedules[i]->forward_only) printf("%s ", rb_schedules[i]->name);
    puts("");
    names("optimizers");
    for (int i = 0; rb_optims[i]; i++) printf("%s ", rb_optims[i]->name);
    puts("");
    for (int i = 0; rb_tokenizers[i]; i++) {
        names(i ? "" : "tokenizers");
        printf("%s: %s\n", rb_tokenizers[i]->name, rb_tokenizers[i]->summary);
    }
}

static void engines(void) {
    char program[4096];
    names("engines");
    puts("local: starts its stages itself");
    for (int i = 0; rb_mpi_kinds[i]; i++) {
        char version[128], path[4096];
        rb_err err;
        names("");
        if (rb_mpi_find(rb_mpi_kinds[i], rb_cli_program(program), path, &err))
            printf("mpi, %s: no module here (install lib%s-dev and build again)\n", rb_mpi_kinds[i],
                   rb_mpi_kinds[i]);
        else if (rb_mpi_describe(rb_mpi_kinds[i], rb_cli_program(program), version, &err))
            printf("mpi, %s: %s\n", rb_mpi_kinds[i], err.text);
        else
            printf("mpi, %s: %s\n", rb_mpi_kinds[i], version);
    }
}

static resbm_status machine(rb_err *err) {
    struct sysinfo s;
    double one, all;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    sysinfo(&s);
    names("machine");
    printf("%ld processors, %.1f GB memory, %.1f GB available\n", cores,
           (double)s.totalram * s.mem_unit * 1e-9, rb_memory_available() * 1e-9);
    RB_TRY(rb_bench_sgemm_peak(1, &one, err));
    RB_TRY(rb_bench_sgemm_peak((int)cores, &all, err));
    names("products");
    printf("%.0f GFLOP/s on one thread, %.0f on %ld (dnnl_sgemm, f32)\n", one, all, cores);
    return RESBM_OK;
}

static resbm_status links(rb_err *err) {
    rb_buf b = {0};
    resbm_status st = rb_bench_link(&b, 0.5, err);
    if (!st) printf("\n%s", b.data ? b.data : "");
    rb_buf_free(&b);
    return st;
}

typedef struct arguments {
    const char *listen, *announce;
} arguments;

static const struct argp_option options[] = {
    {"listen", 'l', "HOST[:PORT]", 0,
     "says instead whether participants would reach a server that resbm host starts with this --listen "
     "(0.0.0.0:4222)",
     0},
    {"announce", 'a', "HOST[:PORT]", 0,
     "and with this --announce: name or address by which they are to reach it", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    if (key == 'l')
        a->listen = arg;
    else if (key == 'a')
        a->announce = arg;
    else if (key == ARGP_KEY_ARG)
        argp_error(state, "doctor takes options only, not \"%s\"", arg);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static resbm_status hosting(const arguments *a, rb_err *err) {
    char host[256], announce[256];
    int port, announced = 0;
    bool everywhere;
    rb_buf out = {0};
    RB_TRY(rb_reach_split(a->listen ? a->listen : "0.0.0.0", "--listen", 4222, host, &port, err));
    snprintf(announce, sizeof announce, "%s", host);
    if (a->announce) RB_TRY(rb_reach_split(a->announce, "--announce", 0, announce, &announced, err));
    resbm_status st = rb_reach_check(host, port, announce, announced, 0, true, &out, &everywhere, err);
    if (!st) printf("A server can listen on %s port %d.\n%s", host, port, out.data);
    rb_buf_free(&out);
    return st;
}

int rb_cmd_doctor(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        NULL,
        "What this build and this machine can do: devices, kinds, tokenizers, speed "
        "of products, and of the links between processes here. With --listen or --announce: can "
        "other machines reach a run that is hosted here?",
        NULL,
        NULL,
        NULL};
    rb_err err = {0};
    arguments a = {0};
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    resbm_status st;
    if (a.listen || a.announce) {
        st = hosting(&a, &err);
        return st ? rb_cli_fail(st, &err) : 0;
    }
    rb_cli_print_version();
    registries();
    engines();
    st = devices(&err);
    if (!st) st = machine(&err);
    if (!st) st = links(&err);
    return st ? rb_cli_fail(st, &err) : 0;
}
