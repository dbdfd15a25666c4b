/* A program of its own around libresbm: makes shards of a text, trains over two stages, evaluates, writes a line.
 *
 *     cc -o train train.c $(pkg-config --cflags --libs resbm)
 *     ./train TEXT FOLDER [path of resbm; by default the one in PATH]
 */
#include <resbm.h>
#include <stdio.h>
#include <stdlib.h>

static resbm_error err;

static void need(resbm_status st, const char *what) {
    if (st == RESBM_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, resbm_status_text(st), err.text);
    exit(1);
}

static int show(void *ctx, const resbm_step *s) {
    (void)ctx;
    printf("step %lld  loss %.4f  %.0f tokens/s  %lld bytes over links\n", (long long)s->step, s->loss,
           s->tokens_per_s, (long long)(s->wire_bytes_fwd + s->wire_bytes_bwd));
    return 0; /* anything else ends the run with a snapshot */
}

static int write_token(void *ctx, int32_t id, const char *text, size_t n) {
    (void)ctx, (void)id;
    fwrite(text, 1, n, stdout);
    return 0;
}

static resbm_config *small_model(const char *folder) {
    static const char *const keys[] = {"model.d=64",
                                       "model.layers=2",
                                       "model.heads=2",
                                       "model.ffn=128",
                                       "model.vocab=256",
                                       "model.context=32",
                                       "model.segments=2",
                                       "boundary.ratio=8",
                                       "train.steps=6",
                                       "train.batch=4",
                                       "train.microbatches=2",
                                       "train.eval_every=0",
                                       "train.checkpoint_every=0",
                                       "optim.warmup=2",
                                       "pipeline.stages=2"};
    resbm_config *c;
    char data[2048];
    need(resbm_config_new(&c, &err), "configuration");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) need(resbm_config_set(c, keys[i], &err), keys[i]);
    snprintf(data, sizeof data, "data.train=%s/train-*.bin", folder);
    need(resbm_config_set(c, data, &err), data);
    snprintf(data, sizeof data, "data.val=%s/val-*.bin", folder);
    need(resbm_config_set(c, data, &err), data);
    return c;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: %s TEXT FOLDER [path of resbm]\n", argv[0]), 2;
    const char *text = argv[1], *folder = argv[2], *program = argc > 3 ? argv[3] : "resbm";
    char corpus[1024], run[1024];
    snprintf(corpus, sizeof corpus, "%s/corpus", folder);
    snprintf(run, sizeof run, "%s/run", folder);

    resbm_data_result made;
    need(resbm_data_prepare(&(resbm_data_options){.inputs = &text, .count = 1, .out = corpus}, &made, &err),
         "shards");
    printf("%lld training tokens\n", (long long)made.train_tokens);

    resbm_config *c = small_model(corpus);
    need(resbm_train(c, &(resbm_train_options){.program = program, .dir = run, .on_step = show}, &err),
         "training");
    resbm_config_free(c);

    resbm_eval_result r;
    need(resbm_config_of_checkpoint(run, &c, &err), "checkpoint");
    need(resbm_eval(c, program, 8, &r, &err), "evaluation");
    printf("step %lld: loss %.9g over %lld tokens\n", (long long)r.step, r.loss, (long long)r.tokens);
    resbm_generate_options g = {
        .program = program, .prompt = "The ", .tokens = 40, .top_p = 1, .seed = 1, .on_token = write_token};
    need(resbm_generate(c, &g, &err), "text");
    putchar('\n');
    resbm_config_free(c);
    return 0;
}
