#include <argp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/cli.h"
#include "cli/number.h"
#include "codec/bench_codec.h"
#include "core/buf.h"
#include "device/bench_kernels.h"
#include "device/bench_peak.h"
#include "link/bench_link.h"

typedef struct arguments {
    const char *what, *device;
    rb_attention attention;
    int threads;
    double seconds;
    rb_bench_sizes sizes;
} arguments;

enum { key_T = 300, key_B, key_d, key_heads, key_ffn, key_vocab, key_kv_heads, key_attention, key_only };

static const struct argp_option options[] = {
    {"threads", 't', "N", 0, "threads (default: this machine's processors)", 0},
    {"device", 'D', "NAME", 0, "device (default cpu)", 0},
    {"seconds", 's', "S", 0, "codec and links: time per line (default 0.2)", 0},
    {"only", key_only, "PART", 0,
     "kernels: products, attention, rows, swiglu, ends (embedding and loss), squares or optimizers", 0},
    {"B", key_B, "N", 0, "kernels: sequences (default 16)", 0},
    {"T", key_T, "N", 0, "kernels: positions (default 256)", 0},
    {"d", key_d, "N", 0, "kernels: width (default 256)", 0},
    {"heads", key_heads, "N", 0, "kernels: heads (default 4)", 0},
    {"kv-heads", key_kv_heads, "N", 0, "kernels: heads of keys and values (default: --heads)", 0},
    {"attention", key_attention, "NAME", 0, "kernels, on a GPU: own, cudnn or auto (default own)", 0},
    {"ffn", key_ffn, "N", 0, "kernels: feed-forward width (default 704)", 0},
    {"vocab", key_vocab, "N", 0, "kernels: vocabulary (default 256)", 0},
    {0},
};

static rb_attention attention_of(const char *name, struct argp_state *state) {
    static const char *const names[] = {"own", "cudnn", "auto"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) return (rb_attention)i;
    argp_error(state, "--attention %s: there are own, cudnn and auto", name);
    return RB_ATTENTION_OWN;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 't':
        a->threads = (int)rb_cli_int("threads", arg, 1, 1024, state);
        break;
    case 'D':
        a->device = arg;
        break;
    case 's':
        a->seconds = rb_cli_real("seconds", arg, 0.001, 3600, state);
        break;
    case key_B:
        a->sizes.batch = rb_cli_int("B", arg, 1, 1 << 16, state);
        break;
    case key_T:
        a->sizes.context = rb_cli_int("T", arg, 1, 1 << 20, state);
        break;
    case key_d:
        a->sizes.d = rb_cli_int("d", arg, 1, 1 << 16, state);
        break;
    case key_heads:
        a->sizes.heads = rb_cli_int("heads", arg, 1, 1 << 12, state);
        break;
    case key_kv_heads:
        a->sizes.kv_heads = rb_cli_int("kv-heads", arg, 1, 1 << 12, state);
        break;
    case key_attention:
        a->attention = attention_of(arg, state);
        break;
    case key_only:
        a->sizes.only = arg;
        break;
    case key_ffn:
        a->sizes.ffn = rb_cli_int("ffn", arg, 1, 1 << 18, state);
        break;
    case key_vocab:
        a->sizes.vocab = rb_cli_int("vocab", arg, 2, 1 << 20, state);
        break;
    case ARGP_KEY_ARG:
        if (a->what) argp_error(state, "one at a time: %s or %s", a->what, arg);
        a->what = arg;
        break;
    case ARGP_KEY_END:
        if (!a->what) argp_error(state, "name what to measure: kernels, codec, links or flops");
        if (a->what && a->sizes.d % a->sizes.heads)
            argp_error(state, "--heads %lld does not divide --d %lld", (long long)a->sizes.heads,
                       (long long)a->sizes.d);
        if (!a->sizes.kv_heads) a->sizes.kv_heads = a->sizes.heads;
        if (a->sizes.heads % a->sizes.kv_heads)
            argp_error(state, "--kv-heads %lld does not divide --heads %lld", (long long)a->sizes.kv_heads,
                       (long long)a->sizes.heads);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static resbm_status kernels(const arguments *a, rb_buf *out, rb_err *err) {
    rb_device_options o = {.threads = a->threads, .attention = a->attention};
    char chosen[1024];
    rb_device *d;
    RB_TRY(rb_device_open(a->device, &o, &d, err));
    bool only_own = d->table->host_memory && a->attention;
    resbm_status st =
        only_own ? rb_fail(err, RESBM_E_ARG, "--attention is for GPUs; device %s has its own", a->device)
                 : rb_bench_kernels(d, &a->sizes, out, err);
    rb_choices(d, chosen, sizeof chosen);
    if (*chosen) rb_buf_printf(out, "%s\n", chosen);
    rb_device_close(d);
    return st;
}

/* Sustained FLOP/s of matrix products, one number for scripts. */
static resbm_status flops(const arguments *a, rb_buf *out, rb_err *err) {
    double g;
    RB_TRY(rb_bench_sgemm_peak(a->threads, &g, err));
    rb_buf_printf(out, "%.4g\n", g * 1e9);
    return RESBM_OK;
}

int rb_cmd_bench(int argc, char **argv) {
    const struct argp argp = {options, parse, "kernels|codec|links|flops", "Measures this machine.", NULL,
                              NULL,    NULL};
    arguments a = {.device = "cpu",
                   .threads = (int)sysconf(_SC_NPROCESSORS_ONLN),
                   .seconds = 0.2,
                   .sizes = {.batch = 16, .context = 256, .d = 256, .heads = 4, .ffn = 704, .vocab = 256}};
    rb_err err = {0};
    rb_buf out = {0};
    resbm_status st;
    if (argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    if (!strcmp(a.what, "kernels"))
        st = kernels(&a, &out, &err);
    else if (!strcmp(a.what, "codec"))
        st = rb_bench_codec(&out, a.device, a.seconds, &err);
    else if (!strcmp(a.what, "links"))
        st = rb_bench_link(&out, a.seconds, &err);
    else if (!strcmp(a.what, "flops"))
        st = flops(&a, &out, &err);
    else
        st = rb_fail(&err, RESBM_E_ARG, "there is no benchmark \"%s\": kernels, codec, links or flops",
                     a.what);
    if (out.data) fputs(out.data, stdout);
    rb_buf_free(&out);
    return st ? rb_cli_fail(st, &err) : 0;
}
