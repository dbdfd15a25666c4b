/* Runs from and to checkpoints of Hugging Face: a folder with config.json, model.safetensors (or the shards that
 * model.safetensors.index.json lists) and a tokenizer's files.
 *
 * Tensors have the same names on both sides, so weights are copied by name, piece by piece; f16 and bf16 become f32.
 *
 *     import   Llama, Mistral, Qwen2, Qwen3  ->  OUT/step-0 and OUT/config.yaml, with boundaries put at chosen layers
 *     export   a checkpoint  ->  config.json of Llama, Qwen2 or Qwen3 where the model is one of them, else of model_type
 *              resbm, which the Python package's resbm.hf registers
 *
 * What a configuration asks for that this program has not is RESBM_E_CONFIG with its name and what to do. */
#ifndef RB_RUN_HF_H
#define RB_RUN_HF_H

#include <jansson.h>
#include <limits.h>
#include "checkpoint/safetensors.h"
#include "run/config.h"

/* ---- config.json (hf_config.c) */

/* model.* of c from config.json's object; name is for messages. Keys of the whole section are set, model.context to
 * the smaller of 1024 and what the checkpoint can. */
resbm_status rb_hf_read_config(const json_t *j, const char *name, rb_config *c, rb_err *err);
/* Can Hugging Face's own classes compute what this run does? */
bool rb_hf_is_plain(const rb_config *c);
/* config.json of a run at a step; a new reference, NULL without memory. c is validated; yaml is its whole text. */
json_t *rb_hf_write_config(const rb_config *c, int64_t step, const char *yaml);

/* ---- weights (hf_weights.c) */

typedef struct rb_hf_weights rb_hf_weights;
/* Opens what lies in the folder. RESBM_E_IO names what is missing, and what there is instead (pytorch_model.bin). */
resbm_status rb_hf_open(const char *dir, rb_hf_weights **out, rb_err *err);
void rb_hf_close(rb_hf_weights *w); /* NULL is fine */
/* RESBM_E_FORMAT: missing, of another shape, or of a type that is no float. Borrowed until close. */
resbm_status rb_hf_find(const rb_hf_weights *w, const char *name, int rank, const int64_t *shape,
                        const rb_tensor_in **out, rb_err *err);
/* A name of the folder that is not among the n given (sorted by strcmp), rotary frequencies aside; NULL: none. */
const char *rb_hf_stranger(const rb_hf_weights *w, const char *const *names, int n);
/* Elements [from, from + n) of a float tensor as f32. */
void rb_hf_values(const rb_tensor_in *t, int64_t from, int64_t n, float *out);

/* ---- files of the tokenizer (hf_files.c) */

/* Copies what belongs to a tokenizer and to generation from one folder to another; *count: how many there were. */
resbm_status rb_hf_copy_files(const char *from, const char *to, int *count, rb_err *err);
/* The tokenizer's own file, whatever it is called, where transformers look for it, and beside it how they are to read
 * it. Does nothing where spec cannot be read or `to` holds a tokenizer_config.json; *count goes up by the files put. */
resbm_status rb_hf_put_tokenizer(const char *spec, const char *to, int *count, rb_err *err);
/* tokenizer.json and tokenizer_config.json of tokenizer: bytes, where id = byte. */
resbm_status rb_hf_write_bytes_tokenizer(const char *to, rb_err *err);

/* ---- the two ways */

typedef struct rb_hf_import {
    const char *from, *out, *config; /* config: a run's YAML on top of the checkpoint's model, or NULL */
    const char *at;                  /* "4,8": boundaries before these layers; NULL: four segments alike */
    const char *const *set;          /* (sets) overrides section.key=value, on top of all */
    int sets;
    const char *program; /* the resbm program, to measure and calibrate with */
    int calibrate;       /* steps without learning in which the codec's steps find their sizes */
    void (*note)(void *ctx, const char *line);
    void *ctx;
} rb_hf_import;
/* Blocks while it measures. out must not hold a run. */
resbm_status rb_hf_import_run(const rb_hf_import *o, rb_err *err);
/* run: a run's folder or a step-N. out is made; an export in it is replaced. bf16: weights take 2 bytes. */
resbm_status rb_hf_export_run(const char *run, const char *out, bool bf16,
                              void (*note)(void *ctx, const char *line), void *ctx, rb_err *err);

#endif
