/* cudnn_plans DRIVER: does cuDNN make execution plans of our attention graphs for cards that are only described? DRIVER: a file
 * that stands in for libcuda.so.1 where there is none. Prints a line for each; exits 77 with the reason where there is no cuDNN. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include "device/cuda/sdpa.h"
#include "device/cuda/sdpa_room.h"

struct card {
    const char *name;
    int sm, sms, shared, threads, blocks, bits;
    long long bytes;
};
/* As CUDA's programming guide and the cards' data sheets have them. */
static const card cards[] = {{"A100", 80, 108, 166912, 2048, 32, 5120, 80LL << 30},
                             {"RTX 3090", 86, 82, 101376, 1536, 16, 384, 24LL << 30},
                             {"RTX 4090", 89, 128, 101376, 1536, 24, 384, 24LL << 30},
                             {"H100", 90, 132, 232448, 2048, 32, 5120, 80LL << 30},
                             {"RTX 5090", 120, 170, 101376, 1536, 24, 512, 32LL << 30}};

struct size {
    int64_t B, T, H, G, D;
};
static const size sizes[] = {{2, 64, 4, 2, 64},  {4, 1024, 12, 12, 64}, {1, 4096, 32, 8, 128},
                             {3, 37, 6, 2, 128}, {2, 100, 3, 1, 8},     {1, 49, 2, 2, 72}};

static void describe(const card &c, char *text, size_t room) {
    snprintf(text, room,
             "{\"deviceName\":\"%s\",\"cudaDeviceId\":0,\"deviceVer\":%d,\"multiProcessorCount\":%d,"
             "\"smCountOrigin\":0,"
             "\"driverVer\":13000,\"totalGlobalMem\":%lld,\"maxGridSize\":[2147483647,65535,65535],"
             "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"warpSize\":32,"
             "\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"oversizedSharedMemoryPerBlock\":0,"
             "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":%d,"
             "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
             "\"supportCoopLaunch\":1,\"smClockRateKHz\":1500000,\"memClockRateKHz\":1200000,"
             "\"memoryBusWidth\":%d,"
             "\"l2CacheSize\":41943040}",
             c.name, c.sm * 10, c.sms, c.bytes, c.shared, c.blocks, c.threads, c.bits);
}

/* As attention_sdpa.cu lays operands out: (B,T,H,D) without gaps; q, k and v with the gaps of one (B,T,(H+2G) D) buffer. */
static rb_sdpa_rows rows(const size &s, int64_t heads) {
    return {NULL, s.T * heads * s.D, heads * s.D, s.D};
}
static rb_sdpa_call call_of(const size &s, bool backward, bool gaps) {
    int64_t all = s.H + 2 * s.G;
    rb_sdpa_call c = {};
    c.backward = backward;
    c.B = s.B, c.T = s.T, c.H = s.H, c.G = s.G, c.D = s.D;
    c.scale = 0.125f;
    c.q = c.dq = rows(s, gaps ? all : s.H);
    c.k = c.v = c.dk = c.dv = rows(s, gaps ? all : s.G);
    c.out = c.dout = rows(s, s.H);
    return c;
}

static int faults;

static void expect(const card &c, const char *text, const size &s, bool backward, bool gaps) {
    rb_sdpa_call call = call_of(s, backward, gaps);
    rb_sdpa_cut cut = rb_sdpa_cut_for(s.B, s.T, s.H, s.G, RB_SDPA_MOST_DP);
    if (backward) call.B = cut.sequences, call.H = cut.groups * (s.H / s.G), call.G = cut.groups;
    size_t room = 0, most = rb_sdpa_room(s.B, s.T, s.H, s.G, s.D);
    rb_err err = {};
    resbm_status st = rb_sdpa_try(text, c.sm, &call, &room, &err);
    bool right = st == RESBM_OK && (room <= most);
    printf("%s %d.%d, %lld x %lld tokens, %lld heads of %lld, %lld of keys%s, %s: %s%s", right ? "  " : "NO",
           c.sm / 10, c.sm % 10, (long long)call.B, (long long)call.T, (long long)call.H, (long long)call.D,
           (long long)call.G, gaps ? ", with gaps" : "", backward ? "backward" : "forward",
           st ? "" : "a plan with ", st ? err.text : "");
    if (!st)
        printf("%.1f MB of working memory%s", (double)room * 1e-6, right ? "" : ", more than was counted");
    puts("");
    fflush(stdout);
    faults += !right;
}

/* What is refused, and with which words: a test that cannot fail would be none. */
static void refuse(const card &c, const char *text, const size &s, const char *words) {
    rb_sdpa_call call = call_of(s, false, false);
    size_t room;
    rb_err err = {};
    bool right =
        rb_sdpa_try(text, c.sm, &call, &room, &err) == RESBM_E_UNSUPPORTED && strstr(err.text, words);
    printf("%s refused: %s\n", right ? "  " : "NO", err.text);
    faults += !right;
}

int main(int argc, char **argv) {
    char text[1024];
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) &&
        (argc < 2 || !dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL))) {
        printf("skipped: no libcuda.so.1, and no stand-in for it: %s\n", dlerror());
        return 77;
    }
    if (*RB_CUBLASLT_PATH)
        dlopen(RB_CUBLASLT_PATH,
               RTLD_NOW | RTLD_LOCAL); /* as a device does; cuDNN ends the program without */
    rb_sdpa_describe(text, sizeof text);
    if (strncmp(text, "cuDNN ", 6) || text[6] < '0' || text[6] > '9') {
        printf("skipped: %s\n", text);
        return 77;
    }
    puts(text);
    for (const card &c : cards) {
        describe(c, text, sizeof text);
        for (const size &s : sizes)
            for (int way = 0; way < 2; way++) expect(c, text, s, way == 1, false);
        expect(c, text, sizes[1], false, true);
        expect(c, text, sizes[1], true, true);
    }
    describe(cards[0], text, sizeof text);
    refuse(cards[0], text, {2, 64, 4, 2, 20}, "multiple of 8");
    refuse(cards[0], text, {2, 64, 4, 3, 64}, "head");
    card old = {"GTX 1660", 75, 22, 65536, 1024, 16, 192, 6LL << 30};
    describe(old, text, sizeof text);
    refuse(old, text, sizes[0], "SM80");
    refuse(cards[0], "{}", sizes[0], "maxGridSize");
    printf("%d faults\n", faults);
    return faults != 0;
}
