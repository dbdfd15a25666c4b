/* resbm: training transformer language models as a pipeline of stages over slow networks.
 *
 * The public C interface. Handles are opaque, there are no globals, and the library neither prints nor
 * exits: every call that can fail returns a resbm_status and, where the caller passes a resbm_error, a
 * sentence that says what went wrong, where, and what to do about it.
 */
#ifndef RESBM_H
#define RESBM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) || !defined(__GNUC__)
#define RESBM_API
#else
#define RESBM_API __attribute__((visibility("default")))
#endif

/* Status codes. 0 is success; resbm_status_text() gives each one's short text. */
typedef enum resbm_status {
    RESBM_OK = 0,
    RESBM_E_ARG = 1,          /* an argument or a shape is out of range */
    RESBM_E_CONFIG = 2,       /* the run configuration is wrong */
    RESBM_E_IO = 3,           /* a file or a socket failed (errno in the text) */
    RESBM_E_MEMORY = 4,       /* memory could not be had */
    RESBM_E_FORMAT = 5,       /* bytes that are not of the expected format or version */
    RESBM_E_CORRUPT = 6,      /* right format, wrong checksum or length */
    RESBM_E_PEER = 7,         /* another stage died, closed or reported a fault */
    RESBM_E_TIMEOUT = 8,      /* a deadline passed; the text says who waited for what from whom */
    RESBM_E_CANCELLED = 9,    /* stopped on request (Ctrl-C) */
    RESBM_E_NUMERIC = 10,     /* a loss or tensor is NaN or infinite */
    RESBM_E_UNSUPPORTED = 11, /* this build or machine cannot do it */
    RESBM_E_STATE = 12,       /* the call does not fit the object's state */
    RESBM_E_INTERNAL = 13     /* a broken invariant of the library itself */
} resbm_status;

/* One fault. The library fills it on the first failure; text is NUL-terminated UTF-8, possibly cut. */
typedef struct resbm_error {
    resbm_status code;
    char text[1020];
} resbm_error;

/* Short constant text of a status, never NULL. */
RESBM_API const char *resbm_status_text(resbm_status s);

/* Version of the library, "major.minor.patch". */
RESBM_API const char *resbm_version(void);

/* ---- Configuration of a run: every key of docs/configuration.md, from defaults, a file, or a checkpoint ---- */

typedef struct resbm_config resbm_config;

/* All defaults. The caller frees it. */
RESBM_API resbm_status resbm_config_new(resbm_config **out, resbm_error *err);
/* Lays a YAML file over what is there. RESBM_E_IO: it cannot be read. RESBM_E_CONFIG names file, line, key, value and
 * what is allowed; after a fault the configuration may be half changed and is only good for resbm_config_free. */
RESBM_API resbm_status resbm_config_load(resbm_config *c, const char *path, resbm_error *err);
/* "section.key=value", as on the command line. */
RESBM_API resbm_status resbm_config_set(resbm_config *c, const char *assignment, resbm_error *err);
/* The configuration a checkpoint was trained with, links unshaped. path: a run's folder (its newest whole snapshot is
 * taken) or a step-N in it, whose hashes are checked. For resbm_eval and resbm_generate. */
RESBM_API resbm_status resbm_config_of_checkpoint(const char *path, resbm_config **out, resbm_error *err);
/* The whole as YAML that loads back, NUL-terminated, for the caller to free(). */
RESBM_API resbm_status resbm_config_print(const resbm_config *c, char **out, resbm_error *err);
RESBM_API void resbm_config_free(resbm_config *c); /* NULL is fine */

/* ---- Running: these start one process per stage from the program `resbm` and block until all have ended ----
 *
 * program: path of the resbm program (build/resbm, /usr/local/bin/resbm) of this library's own version.
 * The calling process reaps its stages by their process ids; a handler of SIGCHLD must not reap them first. One
 * of these calls at a time in a process: the first may set GOMP_SPINCOUNT in its environment for the stages. */

/* One committed training step. */
typedef struct resbm_step {
    int64_t step, tokens; /* done so far, this one included */
    double loss;          /* mean over the step's tokens, natural logarithm */
    double val_loss;      /* NaN when this step was not evaluated */
    double lr, grad_norm;
    double step_s, tokens_per_s;
    int64_t wire_bytes_fwd, wire_bytes_bwd; /* that left the stages in this step, headers included */
} resbm_step;

typedef struct resbm_train_options {
    const char *program;
    const char *dir; /* of snapshots, metrics.jsonl, summary.json, trace.json, report.html; made if missing */
    int resume;      /* non-zero: go on from the newest whole snapshot in dir */
    /* Called on the calling thread after every step, or NULL. Another value than 0 ends the run with a snapshot: so
     * may a signal handler or another thread, through a flag that this function reads. */
    int (*on_step)(void *ctx, const resbm_step *step);
    void *ctx;
} resbm_train_options;

/* RESBM_E_CANCELLED: on_step asked for the end, and the snapshot is whole. RESBM_E_STATE: dir holds a run and resume is 0, or
 * another run is writing to it. Other faults name the last snapshot. */
RESBM_API resbm_status resbm_train(const resbm_config *c, const resbm_train_options *o, resbm_error *err);

typedef struct resbm_eval_result {
    int64_t step, tokens; /* of the snapshot; evaluated */
    double loss;          /* mean per token, natural logarithm */
} resbm_eval_result;

/* Loss of a checkpoint on data.val. c is from resbm_config_of_checkpoint (else RESBM_E_STATE). sequences: how many of
 * model.context tokens; 0 takes train.eval_sequences. */
RESBM_API resbm_status resbm_eval(const resbm_config *c, const char *program, int64_t sequences,
                                  resbm_eval_result *out, resbm_error *err);

typedef struct resbm_generate_options {
    const char *program;
    const char *prompt;        /* text; at least one token */
    int64_t tokens;            /* how many to add, 1 or more; fewer when the text ends */
    double temperature, top_p; /* 0 takes the likeliest; probability to draw from, up to 1 */
    uint64_t seed;
    /* Each token as it comes, on the calling thread: its id and its n bytes of text, which may hold a part of a UTF-8
     * character. Another value than 0 ends the text (RESBM_OK). */
    int (*on_token)(void *ctx, int32_t id, const char *text, size_t n);
    void *ctx;
} resbm_generate_options;

RESBM_API resbm_status resbm_generate(const resbm_config *c, const resbm_generate_options *o,
                                      resbm_error *err);

/* ---- Text to token shards ---- */

typedef struct resbm_data_options {
    const char *const *inputs; /* (count) text files, plain or gzip */
    int count;
    const char
        *out; /* folder: train-*.bin, val-*.bin, meta.json; an older set is replaced when all is whole */
    const char *tokenizer; /* NULL or "bytes", a SentencePiece .model, a tokenizer.json */
    double val_share;      /* (0, 0.5]; 0 = 0.02 */
    int64_t shard_tokens;  /* at most; 0 = 100 million */
} resbm_data_options;

typedef struct resbm_data_result {
    int64_t train_tokens, val_tokens, vocab;
} resbm_data_result;

RESBM_API resbm_status resbm_data_prepare(const resbm_data_options *o, resbm_data_result *out,
                                          resbm_error *err);

/* ---- The transport codec on host memory, for other programs and languages ----
 *
 * B sequences, T positions, k coordinates; x is (B,T,k) f32 without gaps. Same bytes as on the wire between stages. */

typedef struct resbm_codec resbm_codec;

/* name: f32, bf16, int8, int4, int2, int1. direction 0 (forward): to nearest, one scale per token; 1 (backward): stochastically,
 * one scale per 64 values, random bits from (seed, step, sequence, position, coordinate, boundary). A handle is for one
 * thread at a time. */
RESBM_API resbm_status resbm_codec_open(const char *name, int direction, uint64_t seed, uint32_t boundary,
                                        resbm_codec **out, resbm_error *err);
RESBM_API void resbm_codec_close(resbm_codec *c); /* NULL is fine */
/* Learned steps, one per coordinate (k), for int8 and int4 going forward: they take the place of the scales per token
 * and cost no bytes; both ends must hold the same. They are copied. NULL goes back to scales. RESBM_E_ARG where the
 * codec takes none or k is out of range; pack and unpack then want this k, and RESBM_E_NUMERIC names a step outside
 * [2^-100, 2^100]. */
RESBM_API resbm_status resbm_codec_steps(resbm_codec *c, const float *steps, int64_t k, resbm_error *err);
/* Exact length of a packed (B,T,k); -1 where a size is below 1 or too large. */
RESBM_API int64_t resbm_packed_bytes(const resbm_codec *c, int64_t B, int64_t T, int64_t k);
/* bytes: room for n = resbm_packed_bytes, else RESBM_E_ARG. step and sequence (number of x's first one in the run's
 * order) key the random bits. Values that are not finite unpack to NaN. */
RESBM_API resbm_status resbm_pack(resbm_codec *c, const float *x, int64_t B, int64_t T, int64_t k,
                                  uint64_t step, uint64_t sequence, uint8_t *bytes, int64_t n,
                                  resbm_error *err);
/* Any n bytes of the right length give some x: they are not trusted. */
RESBM_API resbm_status resbm_unpack(resbm_codec *c, const uint8_t *bytes, int64_t n, int64_t B, int64_t T,
                                    int64_t k, float *x, resbm_error *err);

/* sums (k) += squares of the codes of each coordinate, from packed bytes with learned steps: what both ends see alike.
 * RESBM_E_STATE without learned steps. */
RESBM_API resbm_status resbm_code_sums(resbm_codec *c, const uint8_t *bytes, int64_t n, int64_t B, int64_t T,
                                       int64_t k, int64_t *sums, resbm_error *err);
/* After a training step: new steps (k), in place, from the sums over `tokens` tokens; updates: how many came before.
 * Same bits on every machine; without tokens nothing changes. The handle's own copy is not touched. */
RESBM_API resbm_status resbm_steps_update(const resbm_codec *c, float *steps, const int64_t *sums, int64_t k,
                                          int64_t tokens, uint64_t updates, resbm_error *err);

#ifdef __cplusplus
}
#endif
#endif
