// Products of few rows (a step of decoding): out = x * w^T with x bf16 [m][k], w [n][k] in bf16 or quantized tiles.
//
// Bound by reading w once. A warp takes tiles of 16 rows of w and 64 of k in the order that mma.m16n8k16 wants: the order
// of k inside a dot product is free, so a lane's 16 bytes are eight consecutive k of one row, and the lane takes the same
// eight of x. Each lane copies what it will need itself into a ring in shared memory, several chunks ahead, so that no
// thread waits for another. The eight warps of a block share k (chunk c belongs to warp c mod 8) and are summed in a
// fixed order, so a row of x has the same bits whatever stands beside it. A block goes through several tiles, and the
// next one's weights are on their way while it sums this one.
//
// The first chunks of w are asked for before the kernel waits for the one before it (programmatic dependent launch):
// while that one ends, the memory is busy.

#include "weights.cuh"

namespace {

enum Finish { F32, BF16, GEGLU };

/// Shared memory of a block: two blocks fit on a multiprocessor with 8 rows of x, one with more.
template <int NT>
constexpr int SHARED = NT == 1 ? 102400 : 204800;

/// MT tiles of 16 rows of w, NT tiles of 8 rows of x.
template <class W, bool MINS, Finish FINISH, int NT, int MT>
__device__ __forceinline__ void product(const void* w, const void* scales, const void* mins, const bf16* x, void* out, int m,
                                        int n, int k) {
    constexpr int SUMS = MT * NT * 4 * 32;                    // floats of a warp
    constexpr int STAGE = MT * W::BYTES + NT * 1024;          // bytes of a warp's chunk
    constexpr int MOST = (SHARED<NT> - WARPS * SUMS * 4) / (WARPS * STAGE), STAGES = MOST < 8 ? MOST : 8;
    static_assert(STAGES >= 2, "a ring needs two stages");
    extern __shared__ __align__(16) char shared[];
    float* sums_of = reinterpret_cast<float*>(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    char* ring = shared + WARPS * SUMS * 4 + warp * STAGES * STAGE;
    const int token0 = blockIdx.y * NT * 8, chunks = k / CHUNK;
    const int tiles = (n + 15) / 16, steps = FINISH == GEGLU ? tiles / 2 : (tiles + MT - 1) / MT;
    const int mine = (steps - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);  // steps of MT tiles
    const int each = (chunks + WARPS - 1) / WARPS;                                       // chunks of a warp in each
    // What the ring takes in next.
    typename W::Source source[MT];
    int in_step = 0, in_chunk = each, stage_in = 0;
    auto take = [&](bool weights, bool rows) {
        if (in_chunk == each) {
            in_chunk = 0;
            const int step = int(blockIdx.x) + in_step++ * int(gridDim.x);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int tile = FINISH == GEGLU ? step + i * (tiles / 2) : step * MT + i;
                source[i] = W::source(w, scales, mins, min(tile, tiles - 1), n, k, g, t);
            }
        }
        const int chunk = warp + in_chunk++ * WARPS;
        char* to = ring + stage_in * STAGE;
        stage_in = stage_in + 1 == STAGES ? 0 : stage_in + 1;
        if (chunk < chunks) {
            if (weights) {
#pragma unroll
                for (int i = 0; i < MT; i++) W::copy(to + i * W::BYTES, source[i], chunk, lane);
            }
            if (rows) {
#pragma unroll
                for (int i = 0; i < NT; i++) {
                    const int token = token0 + 8 * i + g;
                    const char* from = reinterpret_cast<const char*>(x + size_t(min(token, m - 1)) * k + chunk * CHUNK) + 16 * t;
                    char* at = to + MT * W::BYTES + i * 1024 + g * 64 + t * 16;
                    copy16_or_zero(at, from, token < m);
                    copy16_or_zero(at + 512, from + 64, token < m);
                }
            }
        }
    };
    const int total = mine * each;
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++)
        if (i < total) take(true, false);
    wait_for_former();
    launch_next();
    // The same chunks' rows of x, each with its weights' group: one group holds all that was asked for before.
    in_step = 0, in_chunk = each, stage_in = 0;
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < total) take(false, true);
        asm volatile("cp.async.commit_group;");
    }
    int stage = 0;
    for (int step = 0; step < mine; step++) {
        float acc[MT][NT][4] = {};
        // An element of the step's results, of which a thread has OWN: tile of rows i, tile of tokens j, element e of lane l.
        // Neighbouring threads take neighbouring rows of w, so that they write side by side.
        constexpr int RESULTS = (FINISH == GEGLU ? 1 : MT) * NT * 4 * 32, OWN = (RESULTS + WARPS * 32 - 1) / (WARPS * 32);
        const int tile0 = int(blockIdx.x) + step * int(gridDim.x);
        auto row_of = [&](int at) { return (FINISH == GEGLU ? tile0 : tile0 * MT + at / 128 / NT) * 16 + at % 8 + at / 8 % 2 * 8; };
        float scale[OWN], up_scale[OWN];
        if (W::ROWS) {
#pragma unroll
            for (int o = 0; o < OWN; o++) {
                const int row = row_of(threadIdx.x + o * WARPS * 32);
                scale[o] = scale_of<W>(scales, min(row, n - 1));
                if (FINISH == GEGLU) up_scale[o] = scale_of<W>(scales, min(n / 2 + row, n - 1));
            }
        }
#pragma unroll 1
        for (int c = 0; c < each; c++) {
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            if (W::HALVES) __syncwarp();
            if (warp + c * WARPS < chunks) {
                const char* from = ring + stage * STAGE;
                Operand b[NT];
                float sums[NT][2][4];
#pragma unroll
                for (int i = 0; i < NT; i++) {
                    const char* at = from + MT * W::BYTES + i * 1024 + g * 64;
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        if (W::HALVES) {
                            uint2 a = read8(at + 512 * j + 8 * t), d = read8(at + 512 * j + 32 + 8 * t);
                            b[i].group[j] = make_uint4(a.x, a.y, d.x, d.y);
                        } else {
                            b[i].group[j] = read16(at + 512 * j + 16 * t);
                        }
                        if (MINS) {
                            constexpr uint32_t ONE = 0x3f803f80u;
                            float* sum = sums[i][j];
                            sum[0] = sum[1] = sum[2] = sum[3] = 0;
                            mma(sum, ONE, ONE, ONE, ONE, b[i].group[j].x, b[i].group[j].y);
                            mma(sum, ONE, ONE, ONE, ONE, b[i].group[j].z, b[i].group[j].w);
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < MT; i++) W::template multiply<NT>(acc[i], W::read(from + i * W::BYTES, lane), b, sums);
            }
            if (W::HALVES) __syncwarp();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            if (step * each + c + STAGES - 1 < total) take(true, true);
            asm volatile("cp.async.commit_group;");
        }
        if (step > 0) __syncthreads();
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums_of[warp * SUMS + ((i * NT + j) * 4 + e) * 32 + lane] = acc[i][j][e];
        __syncthreads();
        auto total_of = [&](int tile, int e, int l) {
            float sum = 0;
#pragma unroll
            for (int from = 0; from < WARPS; from++) sum += sums_of[from * SUMS + (tile * 4 + e) * 32 + l];
            return sum;
        };
#pragma unroll
        for (int o = 0; o < OWN; o++) {
            const int at = threadIdx.x + o * WARPS * 32;
            if (at >= RESULTS) break;
            int l = (at % 8) * 4 + (at / 16) % 4, half = (at / 8) % 2, odd = (at / 64) % 2, tile = at / 128;
            int j = tile % NT, e = 2 * half + odd, column = row_of(at), token = token0 + 8 * j + 2 * (l % 4) + odd;
            if (token >= m) continue;
            if (FINISH == GEGLU) {
                float gate = total_of(j, e, l), up = total_of(NT + j, e, l);
                if (W::ROWS) gate *= scale[o], up *= up_scale[o];
                static_cast<bf16*>(out)[size_t(token) * (n / 2) + column] = __float2bfloat16(gelu_tanh(gate) * up);
            } else {
                if (column >= n) continue;
                float sum = total_of(tile, e, l);
                if (W::ROWS) sum *= scale[o];
                if (FINISH == BF16) static_cast<bf16*>(out)[size_t(token) * n + column] = __float2bfloat16(sum);
                else static_cast<float*>(out)[size_t(token) * n + column] = sum;
            }
        }
    }
}

}  // namespace

// Launch: block 256; grid (b, ceil(m / (8 * nt))) with any b up to the steps: ceil(n / 16) for nt 1 (f32, bf16),
// ceil(n / 32) otherwise (geglu: n / 32); best is steps / ceil(steps / (2 * multiprocessors, 1 * for nt 2 and 4)), rounded up.
// Dynamic shared memory 102400 bytes for nt 1, else 204800.
#define MM(NAME, W, MINS, FINISH, NT, MT)                                                                             \
    extern "C" __global__ void __launch_bounds__(256, NT == 1 ? 2 : 1)                                                  \
        mm_##NAME##_##NT(const void* w, const void* scales, const void* mins, const bf16* x, void* out, int m, int n,   \
                           int k) {                                                                                     \
        product<W, MINS, FINISH, NT, MT>(w, scales, mins, x, out, m, n, k);                                             \
    }
#define MM_ALL(NAME, W, MINS)                                                                                         \
    MM(NAME##_f32, W, MINS, F32, 1, 1)                                                                                \
    MM(NAME##_f32, W, MINS, F32, 2, 2)                                                                                \
    MM(NAME##_f32, W, MINS, F32, 4, 2)                                                                                \
    MM(NAME##_bf16, W, MINS, BF16, 1, 1)                                                                              \
    MM(NAME##_bf16, W, MINS, BF16, 2, 2)                                                                              \
    MM(NAME##_bf16, W, MINS, BF16, 4, 2)                                                                              \
    MM(NAME##_geglu, W, MINS, GEGLU, 1, 2)                                                                            \
    MM(NAME##_geglu, W, MINS, GEGLU, 2, 2)                                                                            \
    MM(NAME##_geglu, W, MINS, GEGLU, 4, 2)

MM_ALL(bf16, Bf16, false)
MM_ALL(q4, Q4<false>, false)
MM_ALL(q4m, Q4<true>, true)
MM_ALL(q8, Q8<false>, false)
MM_ALL(q8h, Q8<true>, false)
MM_ALL(f8, F8, false)
