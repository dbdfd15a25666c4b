/* resbm_train, resbm_eval, resbm_generate, resbm_data_prepare: see resbm.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint/checkpoint.h"
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "run/api.h"
#include "run/record.h"
#include "run/run_folder.h"
#include "run/train.h"

typedef struct watched {
    const resbm_train_options *o;
    rb_train_hooks record; /* writes the folder's files */
    atomic_int stop;
} watched;

static resbm_status ready(void *ctx, const char *rules, int64_t params, int64_t from, rb_err *err) {
    watched *w = ctx;
    return w->record.ready(w->record.ctx, rules, params, from, err);
}

static resbm_status spans(void *ctx, int stage, const rb_stage_span *span, int n, rb_err *err) {
    watched *w = ctx;
    return w->record.spans(w->record.ctx, stage, span, n, err);
}

static void attention(void *ctx, int stage, const char *text) {
    watched *w = ctx;
    w->record.attention(w->record.ctx, stage, text);
}

static resbm_status step(void *ctx, const rb_step_record *r, rb_err *err) {
    watched *w = ctx;
    RB_TRY(w->record.step(w->record.ctx, r, err));
    if (!w->o->on_step) return RESBM_OK;
    resbm_step s = {r->step,
                    r->tokens,
                    r->loss,
                    r->evaluated ? r->val_loss : NAN,
                    r->lr,
                    r->grad_norm,
                    r->step_s,
                    r->tokens_per_s,
                    r->wire_bytes_fwd,
                    r->wire_bytes_bwd};
    if (w->o->on_step(w->o->ctx, &s)) atomic_store(&w->stop, 1);
    return RESBM_OK;
}

static resbm_status train(const rb_config *cfg, const resbm_train_options *o, rb_err *err) {
    rb_record *rec;
    rb_train_summary sum;
    RB_TRY(rb_make_dirs(o->dir, err));
    RB_TRY(rb_record_open(cfg, o->dir, NULL, true, &rec, err));
    watched w = {.o = o, .record = rb_record_hooks(rec)};
    rb_train_options t = {
        .cfg = cfg,
        .dir = o->dir,
        .program = o->program,
        .resume = o->resume != 0,
        .stop = &w.stop,
        .hooks = {.ctx = &w, .ready = ready, .step = step, .attention = attention, .spans = spans}};
    resbm_status st = rb_train(&t, &sum, err);
    rb_err late;
    bool whole = (st == RESBM_OK && !sum.nothing_left) || (st == RESBM_E_CANCELLED && sum.stopped_early);
    resbm_status closed = rb_record_close(rec, &sum, whole, st ? &late : err);
    return st ? st : closed;
}

resbm_status resbm_train(const resbm_config *c, const resbm_train_options *o, resbm_error *err) {
    rb_config *cfg;
    if (!o->program || !o->dir)
        return rb_fail(err, RESBM_E_ARG, "resbm_train: name the resbm program and a folder");
    RB_TRY(rb_api_validated(c, &cfg, err));
    resbm_status st = train(cfg, o, err);
    free(cfg);
    return st;
}

static resbm_status needs_checkpoint(const resbm_config *c, const char *program, const char *call,
                                     rb_err *err) {
    if (!program) return rb_fail(err, RESBM_E_ARG, "%s: name the resbm program", call);
    if (*c->folder) return RESBM_OK;
    return rb_fail(err, RESBM_E_STATE,
                   "%s: the configuration is of no checkpoint: use resbm_config_of_checkpoint", call);
}

resbm_status resbm_eval(const resbm_config *c, const char *program, int64_t sequences, resbm_eval_result *out,
                        resbm_error *err) {
    rb_config *cfg;
    rb_eval_result r;
    RB_TRY(needs_checkpoint(c, program, "resbm_eval", err));
    if (sequences < 0) return rb_fail(err, RESBM_E_ARG, "resbm_eval: %lld sequences", (long long)sequences);
    RB_TRY(rb_api_validated(c, &cfg, err));
    resbm_status st =
        rb_eval(cfg, program, c->folder, sequences ? sequences : cfg->train.eval_sequences, &r, err);
    free(cfg);
    if (!st) *out = (resbm_eval_result){r.step, r.tokens, r.loss};
    return st;
}

typedef struct telling {
    const resbm_generate_options *o;
    rb_tokenizer tok;
    bool enough; /* on_token asked for the end */
} telling;

static resbm_status emit(void *ctx, int32_t id, rb_err *err) {
    telling *t = ctx;
    rb_buf b = {0};
    resbm_status st = rb_tokenizer_decode(&t->tok, id, &b, err);
    if (!st) t->enough = t->o->on_token(t->o->ctx, id, b.data ? b.data : "", b.len) != 0;
    rb_buf_free(&b);
    return t->enough ? RESBM_E_CANCELLED : st;
}

static resbm_status generate(const rb_config *cfg, const char *folder, telling *t, rb_err *err) {
    rb_ids ids = {0};
    resbm_status st = rb_tokenizer_encode(&t->tok, t->o->prompt, strlen(t->o->prompt), &ids, err);
    rb_generate_options g = {.prompt = ids.data,
                             .prompt_len = ids.len,
                             .n = t->o->tokens,
                             .temperature = t->o->temperature,
                             .top_p = t->o->top_p,
                             .seed = t->o->seed,
                             .eos = t->tok.eos,
                             .emit = emit,
                             .ctx = t};
    if (!st) st = rb_generate(cfg, t->o->program, folder, &g, err);
    rb_ids_free(&ids);
    return t->enough ? RESBM_OK : st;
}

static resbm_status check_generate(const resbm_generate_options *o, rb_err *err) {
    if (!o->prompt || !o->on_token)
        return rb_fail(err, RESBM_E_ARG, "resbm_generate: prompt and on_token are needed");
    if (o->tokens < 1 || o->tokens > 1 << 24)
        return rb_fail(err, RESBM_E_ARG, "resbm_generate: %lld tokens; 1 to %d", (long long)o->tokens,
                       1 << 24);
    if (!(o->temperature >= 0 && isfinite(o->temperature)) || !(o->top_p >= 0 && o->top_p <= 1))
        return rb_fail(err, RESBM_E_ARG, "resbm_generate: temperature %g, top_p %g; from 0, and 0 to 1",
                       o->temperature, o->top_p);
    return RESBM_OK;
}

resbm_status resbm_generate(const resbm_config *c, const resbm_generate_options *o, resbm_error *err) {
    rb_config *cfg;
    telling t = {.o = o};
    RB_TRY(needs_checkpoint(c, o->program, "resbm_generate", err));
    RB_TRY(check_generate(o, err));
    RB_TRY(rb_api_validated(c, &cfg, err));
    resbm_status st = rb_tokenizer_open(cfg->data.tokenizer, &t.tok, err);
    if (!st) {
        st = generate(cfg, c->folder, &t, err);
        rb_tokenizer_close(&t.tok);
    }
    free(cfg);
    return st;
}

resbm_status resbm_data_prepare(const resbm_data_options *o, resbm_data_result *out, resbm_error *err) {
    rb_prepare_result r;
    if (!o->inputs || o->count < 1 || !o->out)
        return rb_fail(err, RESBM_E_ARG, "resbm_data_prepare: name at least one text and a folder");
    rb_prepare_options p = {.inputs = o->inputs,
                            .count = o->count,
                            .out = o->out,
                            .tokenizer = o->tokenizer ? o->tokenizer : "bytes",
                            .val_share = o->val_share,
                            .shard_tokens = o->shard_tokens};
    RB_TRY(rb_data_prepare(&p, &r, err));
    *out = (resbm_data_result){r.tokens[0], r.tokens[1], r.vocab};
    return RESBM_OK;
}
