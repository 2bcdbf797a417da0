// Times llama.cpp through its C API, so that no other language's start or overhead is in the figures. Speaks the
// protocol of `medgemma bench --turns`: prints a line of JSON when it is ready, then waits for a line on stdin before
// each run and prints a line of JSON after it; ends at the end of stdin. measure.py compiles and drives it.
//
//   llama MODEL.gguf [-t THREADS] [-d DEPTH] [-p PROMPT] [-n GENERATE] [-b SEQUENCES] [-fa 0|1] [-ub UBATCH]
//                    [-repack 0|1] [-mmap 0|1] [-mmproj FILE] [-first TEXT]
//
// As in llama-bench, a run reads PROMPT tokens after DEPTH others, and generates GENERATE tokens after them; generated
// tokens are arbitrary, the logits are computed and not looked at. -first answers TEXT with one greedy token and exits.
#include "llama.h"
#include "mtmd.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char * what) {
    fprintf(stderr, "llama: %s\n", what);
    exit(1);
}

static void quiet(enum ggml_log_level level, const char * text, void * data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

// Bytes of memory at most held, as Linux counts them.
static long peak_memory(void) {
    FILE * file = fopen("/proc/self/status", "r");
    char line[256];
    long kib = 0;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %ld", &kib);
    if (file) fclose(file);
    return kib * 1024;
}

static int vocab;
static unsigned salt;

static llama_token any_token(void) {
    salt = salt * 1664525u + 1013904223u;
    return 1000 + (salt >> 8) % (vocab - 2000);
}

// Reads `count` arbitrary tokens at `from` for one sequence, in batches; logits of the last only.
static void read_prompt(struct llama_context * ctx, int seq, int from, int count) {
    int most = llama_n_batch(ctx);
    struct llama_batch batch = llama_batch_init(most, 0, 1);
    for (int done = 0; done < count; done += batch.n_tokens) {
        batch.n_tokens = count - done < most ? count - done : most;
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = any_token();
            batch.pos[i] = from + done + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = seq;
            batch.logits[i] = done + i == count - 1;
        }
        if (llama_decode(ctx, batch)) fail("llama_decode failed on a prompt");
    }
    llama_synchronize(ctx);
    llama_batch_free(batch);
}

// Generates `count` tokens for each of `seqs` sequences together.
static void generate(struct llama_context * ctx, int seqs, int from, int count) {
    struct llama_batch batch = llama_batch_init(seqs, 0, 1);
    batch.n_tokens = seqs;
    for (int at = 0; at < count; at++) {
        for (int seq = 0; seq < seqs; seq++) {
            batch.token[seq] = any_token();
            batch.pos[seq] = from + at;
            batch.n_seq_id[seq] = 1;
            batch.seq_id[seq][0] = seq;
            batch.logits[seq] = true;
        }
        if (llama_decode(ctx, batch)) fail("llama_decode failed on a token");
        llama_synchronize(ctx);
    }
    llama_batch_free(batch);
}

// One greedy token in answer to a text, then out.
static void first_token(struct llama_model * model, struct llama_context * ctx, const char * text) {
    const struct llama_vocab * words = llama_model_get_vocab(model);
    llama_token tokens[4096];
    int count = llama_tokenize(words, text, strlen(text), tokens, 4096, true, true);
    if (count <= 0) fail("the text can't be tokenized");
    if (llama_decode(ctx, llama_batch_get_one(tokens, count))) fail("llama_decode failed");
    const float * logits = llama_get_logits_ith(ctx, -1);
    llama_token best = 0;
    for (int i = 1; i < vocab; i++) if (logits[i] > logits[best]) best = i;
    char piece[256];
    int length = llama_token_to_piece(words, best, piece, sizeof piece, 0, true);
    printf("%.*s\n", length < 0 ? 0 : length, piece);
    fprintf(stderr, "%d tokens of prompt\n", count);
    fflush(NULL);
    _exit(0); // nothing of the tear-down is counted
}

static double encode_image(mtmd_context * mtmd, const mtmd_input_chunk * chunk) {
    double begun = now();
    if (mtmd_encode_chunk(mtmd, chunk)) fail("mtmd_encode_chunk failed");
    return now() - begun;
}

// The chunk of tokens that an arbitrary picture of the tower's own size becomes.
static const mtmd_input_chunk * picture(mtmd_context * mtmd) {
    enum { SIDE = 896 };
    unsigned char * pixels = malloc(3 * SIDE * SIDE);
    for (int i = 0; i < 3 * SIDE * SIDE; i++) pixels[i] = i % 255;
    const mtmd_bitmap * bitmap = mtmd_bitmap_init(SIDE, SIDE, pixels);
    const char * marker = mtmd_default_marker();
    mtmd_input_text text = { .text = marker, .text_len = strlen(marker), .add_special = true, .parse_special = true };
    mtmd_input_chunks * chunks = mtmd_input_chunks_init();
    if (mtmd_tokenize(mtmd, chunks, &text, &bitmap, 1)) fail("mtmd_tokenize failed");
    for (size_t i = 0; i < mtmd_input_chunks_size(chunks); i++) {
        const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks, i);
        if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_IMAGE) return chunk;
    }
    fail("no image among the chunks");
    return NULL;
}

int main(int argc, char ** argv) {
    int threads = 2, depth = 0, prompt = 0, tokens = 0, seqs = 1, fa = 1, ubatch = 512, repack = 1, mmap = 1;
    const char * mmproj = NULL, * first = NULL;
    if (argc < 2) fail("usage: see the top of llama.c");
    for (int i = 2; i + 1 < argc; i += 2) {
        const char * name = argv[i], * value = argv[i + 1];
        int number = atoi(value);
        if (!strcmp(name, "-t")) threads = number;
        else if (!strcmp(name, "-d")) depth = number;
        else if (!strcmp(name, "-p")) prompt = number;
        else if (!strcmp(name, "-n")) tokens = number;
        else if (!strcmp(name, "-b")) seqs = number;
        else if (!strcmp(name, "-fa")) fa = number;
        else if (!strcmp(name, "-ub")) ubatch = number;
        else if (!strcmp(name, "-repack")) repack = number;
        else if (!strcmp(name, "-mmap")) mmap = number;
        else if (!strcmp(name, "-mmproj")) mmproj = value;
        else if (!strcmp(name, "-first")) first = value;
        else fail("unknown option");
    }
    llama_log_set(quiet, NULL);
    mtmd_log_set(quiet, NULL);
    llama_backend_init();

    double begun = now();
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    mp.use_extra_bufts = repack;
    mp.load_mode = mmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    mp.vocab_only = mmproj != NULL; // the tower alone is timed then
    struct llama_model * model = llama_model_load_from_file(argv[1], mp);
    if (!model) fail("the model can't be loaded");
    vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));

    mtmd_context * mtmd = NULL;
    const mtmd_input_chunk * chunk = NULL;
    struct llama_context * ctx = NULL;
    int context = depth + prompt + tokens + 8;
    if (mmproj) {
        struct mtmd_context_params vp = mtmd_context_params_default();
        vp.use_gpu = false;
        vp.n_threads = threads;
        vp.warmup = false;
        vp.flash_attn_type = fa ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        if (!(mtmd = mtmd_init_from_file(mmproj, model, vp))) fail("the mmproj can't be loaded");
        chunk = picture(mtmd);
    } else {
        struct llama_context_params cp = llama_context_default_params();
        cp.n_ctx = first ? 4096 : context * seqs;
        cp.n_batch = 2048;
        cp.n_ubatch = ubatch;
        cp.n_seq_max = seqs;
        cp.n_threads = cp.n_threads_batch = threads;
        cp.flash_attn_type = fa ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        cp.swa_full = false;
        cp.no_perf = true;
        if (!(ctx = llama_init_from_model(model, cp))) fail("no context can be made");
        if (first) first_token(model, ctx, first);
    }
    double loaded = now() - begun;

    if (ctx) {
        // Touches all weights once, as llama-bench's warm-up does.
        int warm = prompt == 0 ? 1 : prompt < 32 ? prompt : 32;
        read_prompt(ctx, 0, 0, warm);
        if (tokens) generate(ctx, 1, warm, 1);
        llama_memory_clear(llama_get_memory(ctx), true);
        for (int seq = 0; seq < seqs && depth; seq++) read_prompt(ctx, seq, 0, depth);
    } else {
        encode_image(mtmd, chunk);
    }
    printf("{\"ready\": true, \"load_seconds\": %.4f}\n", loaded);
    fflush(stdout);

    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (mtmd) {
            printf("{\"image_seconds\": %.6f, \"peak_memory_bytes\": %ld}\n", encode_image(mtmd, chunk), peak_memory());
        } else {
            double start = now();
            for (int seq = 0; seq < seqs && prompt; seq++) read_prompt(ctx, seq, depth, prompt);
            double read = now();
            if (tokens) generate(ctx, seqs, depth + prompt, tokens);
            double end = now();
            printf("{\"prompt_seconds\": %.6f, \"generate_seconds\": %.6f, \"peak_memory_bytes\": %ld}\n",
                   read - start, end - read, peak_memory());
            for (int seq = 0; seq < seqs; seq++) {
                if (!llama_memory_seq_rm(llama_get_memory(ctx), seq, depth, -1)) fail("the cache can't go back");
            }
        }
        fflush(stdout);
    }
    fflush(NULL);
    _exit(0);
}
