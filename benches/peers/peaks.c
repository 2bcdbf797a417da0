// What this machine can do at most, measured: prints JSON with bytes a second read from memory, and operations a second
// (two for a multiplication and an addition) in products of 8-bit integers and of floats, with as many threads as asked.
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CHAINS = 12, ROUNDS = 4000000, PASSES = 4 };
static const size_t SIZE = (size_t)1 << 29; // each thread's part: far more than any cache

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// Where results go, so that the compiler can't leave the work out.
static volatile uint64_t sink;

static void * read_memory(void * arg) {
    const char * part = arg;
#if defined(__AVX512F__)
    __m512i sum[4] = { 0 };
    for (size_t at = 0; at < SIZE; at += 256)
        for (int i = 0; i < 4; i++)
            sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512((const void *)(part + at + 64 * i)));
    sink += _mm512_reduce_add_epi64(sum[0]) + _mm512_reduce_add_epi64(sum[1]) + _mm512_reduce_add_epi64(sum[2])
          + _mm512_reduce_add_epi64(sum[3]);
#else
    __m256i sum[4] = { 0 };
    for (size_t at = 0; at < SIZE; at += 128)
        for (int i = 0; i < 4; i++)
            sum[i] = _mm256_xor_si256(sum[i], _mm256_load_si256((const void *)(part + at + 32 * i)));
    for (int i = 0; i < 4; i++) sink += _mm256_extract_epi64(sum[i], 0);
#endif
    return NULL;
}

// Twelve chains of independent products, whose latencies hide each other, in variables of their own so that they stay
// in registers. The empty assembly keeps the compiler from seeing through the loop.
#define EACH(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11)
#define BEGIN(i) s##i = start;
#define STEP(i) s##i = PRODUCT(s##i); __asm__("" : "+v"(s##i));
#define END(i) sink += s##i[0] != 0;
#define CHAINED(type)                                                                 \
    type s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11;                            \
    EACH(BEGIN)                                                                       \
    for (int round = 0; round < ROUNDS; round++) { EACH(STEP) }                       \
    EACH(END)

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define AMX
// Tiles of 16 rows of 64 bytes; a product takes as long as eight of vectors do at least.
enum { TILE_ROUNDS = ROUNDS / 8 };

static void shape_tiles(void) {
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = { .palette = 1 };
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    __asm__ volatile("" : "+m"(shape)); // gcc 12 takes it that only eight bytes are read
    _tile_loadconfig(&shape);
}
#define TILES(product)                                                                \
    shape_tiles();                                                                    \
    for (int round = 0; round < TILE_ROUNDS; round++) {                               \
        product(0, 4, 5); product(1, 4, 5); product(2, 4, 5); product(3, 4, 5);       \
        product(0, 6, 7); product(1, 6, 7); product(2, 6, 7); product(3, 6, 7);       \
        product(0, 4, 5); product(1, 4, 5); product(2, 4, 5); product(3, 4, 5);       \
    }                                                                                 \
    _tile_release();
#endif

static void * multiply_int8(void * arg) {
    (void)arg;
#if defined(AMX)
    TILES(_tile_dpbssd)
#elif defined(__AVX512VNNI__)
    __m512i start = _mm512_set1_epi8(1);
#define PRODUCT(sum) _mm512_dpbusd_epi32(sum, start, start)
    CHAINED(__m512i)
#elif defined(__AVXVNNI__)
    __m256i start = _mm256_set1_epi8(1);
#define PRODUCT(sum) _mm256_dpbusd_avx_epi32(sum, start, start)
    CHAINED(__m256i)
#else
    __m256i start = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
#define PRODUCT(sum) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(sum, start), ones))
    CHAINED(__m256i)
#endif
#undef PRODUCT
    return NULL;
}

static void * multiply_floats(void * arg) {
    (void)arg;
#if defined(AMX)
    TILES(_tile_dpbf16ps)
#elif defined(__AVX512BF16__)
    __m512 start = _mm512_set1_ps(0);
    __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
#define PRODUCT(sum) _mm512_dpbf16_ps(sum, one, one)
    CHAINED(__m512)
#elif defined(__AVX512F__)
    __m512 start = _mm512_set1_ps(0.5f);
#define PRODUCT(sum) _mm512_fmadd_ps(sum, start, start)
    CHAINED(__m512)
#else
    __m256 start = _mm256_set1_ps(0.5f);
#define PRODUCT(sum) _mm256_fmadd_ps(sum, start, start)
    CHAINED(__m256)
#endif
    return NULL;
}

#if defined(AMX)
enum { INT8_OPS = 2 * 16 * 16 * 64 / 8 };
static const char * const INT8 = "AMX";
#elif defined(__AVX512VNNI__)
enum { INT8_OPS = 128 };
static const char * const INT8 = "AVX-512 VNNI";
#elif defined(__AVXVNNI__)
enum { INT8_OPS = 64 };
static const char * const INT8 = "AVX-VNNI";
#else
enum { INT8_OPS = 64 };
static const char * const INT8 = "AVX2";
#endif
#if defined(AMX)
enum { FLOAT_OPS = 2 * 16 * 16 * 32 / 8 };
static const char * const FLOATS = "AMX BF16";
#elif defined(__AVX512BF16__)
enum { FLOAT_OPS = 64 };
static const char * const FLOATS = "AVX-512 BF16";
#elif defined(__AVX512F__)
enum { FLOAT_OPS = 32 };
static const char * const FLOATS = "AVX-512 FMA";
#else
enum { FLOAT_OPS = 16 };
static const char * const FLOATS = "AVX2 FMA";
#endif

// The least seconds that all threads together took, of several passes.
static double best(int threads, void * (*body)(void *), char * memory) {
    double least = 1e30;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_t ids[256];
        double begun = now();
        for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, body, memory ? memory + i * SIZE : NULL);
        for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
        double took = now() - begun;
        if (took < least) least = took;
    }
    return least;
}

int main(int argc, char ** argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > 256) return 1;
#if defined(AMX)
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */)) return 1;
#endif
    char * memory = mmap(NULL, threads * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    madvise(memory, threads * SIZE, MADV_HUGEPAGE);
    for (size_t at = 0; at < threads * SIZE; at += 4096) memory[at] = 1;
    double read = threads * (double)SIZE / best(threads, read_memory, memory);
    double rounds = (double)threads * CHAINS * ROUNDS;
    double int8 = rounds * INT8_OPS / best(threads, multiply_int8, NULL);
    double floats = rounds * FLOAT_OPS / best(threads, multiply_floats, NULL);
    printf("{\"threads\": %d, \"read_bytes\": %.4e, \"int8_ops\": %.4e, \"int8\": \"%s\", \"float_ops\": %.4e, "
           "\"floats\": \"%s\"}\n", threads, read, int8, INT8, floats, FLOATS);
    return 0;
}
