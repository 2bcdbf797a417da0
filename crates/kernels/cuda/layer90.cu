// What follows attention in a layer of 4-bit weights, of up to eight rows, in one kernel (Hopper): the output product, the norms around the
// residual, gate, up and GELU, down, the norms, and the next layer's q, k and v.
//
// Bound by reading the weights once. Nothing that a product waits for concerns its weights: one warp of each block copies
// the weights of all four products into a ring in shared memory, one after another, as the ring has room, and begins
// before the kernel waits for the one before it. So the memory is busy while blocks wait for each other. The grid is no
// larger than what the card holds at once; all of it waits between the products (`Meeting`).
//
// A block takes tiles of 16 rows of w. Where these are few and k is long (down), it takes a quarter of k of each, and who
// reads the result sums the quarters. Two groups of eight warps take a tile each, or its gate and its up; chunk c of 64 k
// belongs to warp c mod 8 of the group. What a row gives doesn't depend on how many there are, nor on the card's size.

#include "async.cuh"
#include "tiles.cuh"

namespace {

constexpr int GROUP = 8;                    // warps that share a tile
constexpr int WARPS = 2 * GROUP;            // that multiply; one more copies
constexpr int TEAM = WARPS * 32;
constexpr int CHUNK = 64;                   // k
constexpr int QUARTERS = 4;
constexpr int FOURS = 3;                    // of a row of the residual stream that a thread holds
constexpr int PAD = 64;                     // bytes between rows of x: no bank conflicts
constexpr int MOST_STAGES = 64;
constexpr int HELD_SUMS = 8;                // rows of x times tiles of a group whose sums wait to be joined
constexpr int SUMS = 17536;                 // bytes for two buffers of these, barriers, and sums of norms
constexpr int BARRIERS = 2 * HELD_SUMS * WARPS * 16 * 4, SCRATCH = BARRIERS + 2 * MOST_STAGES * 8;
static_assert(HELD_SUMS >= 8 && SCRATCH + 2 * WARPS * 4 <= SUMS, "sums");

struct Product {
    const char* w;
    const char* scales;
    int n, k;
};

}  // namespace

/// What the kernel takes (`Layer` in layer.rs).
struct Layer {
    Product output, gate_up, down, qkv;  // the last of no rows behind the last layer
    const float *post_attention, *ffn, *post_ffw, *next;
    const bf16* attention;  // [m][output.k]
    float* x;               // the residual stream, [m][h]
    float* quarters;        // room for sums: [4][m][h]
    bf16* normed;           // room: [m][h]
    bf16* activated;        // room: [m][down.k]
    float* out;             // [m][qkv.n]
    unsigned* arrived;      // zero before the first launch, and left to the kernel
    float eps;
    int m, stages;          // of each of two rings
};

namespace {

__device__ __forceinline__ uint4 load16(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}
__device__ __forceinline__ uint2 load8(uint32_t at) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}
__device__ __forceinline__ float load4(uint32_t at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at));
    return v;
}
__device__ __forceinline__ void store4(uint32_t at, float v) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory"); }

/// Waits for the warps that multiply.
__device__ __forceinline__ void team() { asm volatile("bar.sync 1, %0;" ::"n"(TEAM) : "memory"); }

/// Where the blocks of a grid wait for each other. Each adds one and the first block as much as makes it half a turn of the
/// counter in all, so it needs no setting back.
struct Meeting {
    unsigned* arrived;
    unsigned former;  // the counter's highest bit

    /// Before anyone of this grid arrives.
    __device__ __forceinline__ explicit Meeting(unsigned* at) : arrived(at), former(0) {
        if (threadIdx.x == 0) former = __ldcg(at) & 0x80000000u;
    }
    /// Waits until all blocks are here and what they wrote can be read.
    __device__ __forceinline__ void everyone() {
        team();
        if (threadIdx.x == 0) {
            const unsigned add = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1;
            unsigned now;
            asm volatile("red.add.release.gpu.global.u32 [%0], %1;" ::"l"(arrived), "r"(add) : "memory");
            do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
            while ((now & 0x80000000u) == former);
            asm volatile("fence.acq_rel.gpu;" ::: "memory");
            former ^= 0x80000000u;
        }
        team();
    }
};

/// 4-bit weights with an f16 scale for each 32. A stage: the nibbles of its chunks, then the scales.
struct Weights {
    static constexpr int DEPTH = 5, CHUNKS = DEPTH * GROUP, STAGE = CHUNKS * 576;
    static __device__ __forceinline__ void fetch(uint32_t to, const Product& p, int tile, int chunk, int count, uint32_t full,
                                                 uint64_t policy, int lane) {
        if (lane != 0) return;
        const size_t first = size_t(tile) * (p.k / CHUNK) + chunk;
        expect(full, count * 576);
        copy(to, p.w + first * 512, count * 512, full, policy);
        copy(to + CHUNKS * 512, p.scales + first * 64, count * 64, full, policy);
    }
    uint32_t quants, scales;  // where a lane's are in a stage
    uint32_t mask;
    __device__ __forceinline__ Weights(int member, int lane)
        : quants(member * 512 + lane * 16), scales(CHUNKS * 512 + member * 64 + lane / 4 * 8), mask(nibble_mask()) {}
    /// The nth of a warp's chunks of a stage.
    __device__ __forceinline__ void multiply(float acc[4], uint32_t stage, int nth, const uint4 x[2]) const {
        const uint4 q = load16(stage + quants + nth * GROUP * 512);
        const uint2 s = load8(stage + scales + nth * GROUP * 64);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint4 a = nibbles(j ? q.z : q.x, 0x43084308u, mask), b = nibbles(j ? q.w : q.y, 0x43084308u, mask);  // 136
            const float2 scale = half2_to_float2(j ? s.y : s.x);
            float part[4] = {0, 0, 0, 0};
            mma(part, a.x, b.x, a.y, b.y, x[j].x, x[j].y);
            mma(part, a.z, b.z, a.w, b.w, x[j].z, x[j].w);
            acc[0] += scale.x * part[0];
            acc[1] += scale.x * part[1];
            acc[2] += scale.y * part[2];
            acc[3] += scale.y * part[3];
        }
    }
};

/// What a block does of a product: tiles `first`, `first + step`, ..., `count` of them, and `chunks` chunks of each.
struct Share {
    int first, step, count, chunk0, chunks;
    int pair;  // from a tile of gate to that of up, or 0

    __device__ __forceinline__ int rounds() const { return pair ? count : (count + 1) / 2; }
    __device__ __forceinline__ bool both(int round) const { return pair || 2 * round + 1 < count; }
    __device__ __forceinline__ int tile(int round, int group) const {
        return pair ? first + round * step + group * pair : first + (2 * round + group) * step;
    }
    static __device__ __forceinline__ Share whole(const Product& p) {
        const int tiles = p.n / 16, b = blockIdx.x, step = gridDim.x;
        return {b, step, (tiles - b + step - 1) / step, 0, p.k / CHUNK, 0};
    }
    static __device__ __forceinline__ Share pairs(const Product& p) {
        const int tiles = p.n / 32, b = blockIdx.x, step = gridDim.x;
        return {b, step, (tiles - b + step - 1) / step, 0, p.k / CHUNK, tiles};
    }
    static __device__ __forceinline__ int quarter() { return blockIdx.x / (gridDim.x / QUARTERS); }
    static __device__ __forceinline__ Share quarters(const Product& p) {
        const int tiles = p.n / 16, step = gridDim.x / QUARTERS, b = blockIdx.x % step, chunks = p.k / CHUNK / QUARTERS;
        return {b, step, (tiles - b + step - 1) / step, quarter() * chunks, chunks, 0};
    }
};

/// A group's ring, and where in it a thread is. Parity is that of the turn.
struct Ring {
    uint32_t stages, full, behind;  // a stage, and its barrier: that of being empty lies MOST_STAGES behind
    uint32_t stage, barrier, parity = 0;

    __device__ __forceinline__ Ring(uint32_t at, uint32_t barriers, int count, int group)
        : stages(at + group * count * Weights::STAGE), full(barriers + group * count * 8), behind(full + count * 8), stage(stages), barrier(full) {}
    __device__ __forceinline__ void advance() {
        stage += Weights::STAGE, barrier += 8;
        if (barrier == behind) stage = stages, barrier = full, parity ^= 1;
    }
    __device__ __forceinline__ uint32_t empty() const { return barrier + 8 * MOST_STAGES; }
    /// The copying warp's part: waits for room, and asks for some chunks of a tile.
    __device__ __forceinline__ void fetch(const Product& p, int tile, int chunk, int chunks, uint64_t policy, int lane) {
        await(empty(), parity ^ 1);
        Weights::fetch(stage, p, tile, chunk, chunks, barrier, policy, lane);
        advance();
    }
};

/// Copies a block's share of a product, stage after stage.
__device__ __forceinline__ void fetch(Ring (&rings)[2], const Product& p, const Share& share, uint64_t policy, int lane) {
    for (int round = 0; round < share.rounds(); round++)
        for (int c = 0; c < share.chunks; c += Weights::CHUNKS) {
            const int chunks = min(Weights::CHUNKS, share.chunks - c);
            rings[0].fetch(p, share.tile(round, 0), share.chunk0 + c, chunks, policy, lane);
            if (share.both(round)) rings[1].fetch(p, share.tile(round, 1), share.chunk0 + c, chunks, policy, lane);
        }
}

/// Rows of x in shared memory, those of `length` elements from `first` on.
struct Operand {
    uint32_t at;
    int stride;  // bytes

    __device__ __forceinline__ void read(const bf16* x, int m, int k, int first, int length) {
        stride = length * 2 + PAD;
        constexpr int AT_ONCE = 4;
        for (int piece = threadIdx.x; piece < length / 8; piece += TEAM)
            for (int row = 0; row < m; row += AT_ONCE) {
                uint4 v[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    if (row + i < m) v[i] = load_cg16(x + size_t(row + i) * k + first + piece * 8);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    if (row + i < m)
                        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at + (row + i) * stride + piece * 16), "r"(v[i].x), "r"(v[i].y),
                                     "r"(v[i].z), "r"(v[i].w) : "memory");
            }
        team();
    }
};

/// Where a product's results go: gelu(gate) * up as bf16, or sums.
struct Target {
    void* at;
    int stride;  // elements of a row

    __device__ __forceinline__ void write(bool gated, int column, int row, float sum, float up) const {
        const size_t i = size_t(row) * stride + column;
        if (gated) static_cast<bf16*>(at)[i] = __float2bfloat16(gelu_tanh(sum) * up);
        else static_cast<float*>(at)[i] = sum;
    }
};

/// Multiplies a block's share.
__device__ __forceinline__ void multiply(Ring& ring, const Share& share, const Operand& x, int m, uint32_t sums, const Target& target) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / GROUP, member = warp % GROUP;
    const int g = lane / 4, t = lane % 4;
    const Weights weights(member, lane);
    // Columns beyond the last row of x are computed from it and forgotten.
    const uint32_t mine = x.at + min(g, m - 1) * x.stride + member * 128 + 16 * t;
    // Sums of several rounds are joined at once, of rows of x beside each other; two such buffers take turns.
    const int batch = m == 1 ? HELD_SUMS : max(1, HELD_SUMS / m), rounds = share.rounds(), tiles = share.pair ? 1 : 2;
    constexpr uint32_t BUFFER = HELD_SUMS * WARPS * 64;
    uint32_t held = sums;
    for (int round = 0, nth_held = 0; round < rounds; round++) {
        float acc[4] = {0, 0, 0, 0};
        if (group == 0 || share.both(round)) {
            uint32_t from = mine;
            for (int left = share.chunks - member; left > -member; left -= Weights::CHUNKS, from += Weights::CHUNKS * 128) {
                await(ring.barrier, ring.parity);
                if (left > (Weights::DEPTH - 1) * GROUP) {
#pragma unroll
                    for (int nth = 0; nth < Weights::DEPTH; nth++) {
                        const uint4 rows[2] = {load16(from + nth * GROUP * 128), load16(from + nth * GROUP * 128 + 64)};
                        weights.multiply(acc, ring.stage, nth, rows);
                    }
                } else {
#pragma unroll 1
                    for (int nth = 0; nth * GROUP < left; nth++) {
                        const uint4 rows[2] = {load16(from + nth * GROUP * 128), load16(from + nth * GROUP * 128 + 64)};
                        weights.multiply(acc, ring.stage, nth, rows);
                    }
                }
                __syncwarp();
                if (lane == 0) arrive(ring.empty());
                ring.advance();
            }
        }
        const uint32_t to = held + (nth_held * WARPS + warp) * m * 64;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = 2 * t + (e & 1);
            if (token < m) store4(to + (token * 16 + g + 8 * (e / 2)) * 4, acc[e]);
        }
        if (++nth_held < batch && round != rounds - 1) continue;
        team();
        const int first = round + 1 - nth_held, row = threadIdx.x % 16;
        for (int unit = threadIdx.x / 16; unit < nth_held * tiles * m; unit += TEAM / 16) {
            const int token = m == 1 ? 0 : unit % m, pair = m == 1 ? unit : unit / m, tile = tiles == 1 ? 0 : pair & 1, nth = tiles == 1 ? pair : pair >> 1;
            if (tile == 1 && !share.both(first + nth)) continue;
            auto total = [&](int of) {
                const uint32_t from = held + (((nth * WARPS + of * GROUP) * m + token) * 16 + row) * 4;
                float sum = 0;
#pragma unroll
                for (int i = 0; i < GROUP; i++) sum += load4(from + i * m * 64);
                return sum;
            };
            const float sum = total(tile), second = share.pair ? total(1) : 0;
            target.write(share.pair, share.tile(first + nth, tile) * 16 + row, token, sum, second);
        }
        held = held == sums ? sums + BUFFER : sums;
        nth_held = 0;
    }
}

/// A thread's part of a row of the residual stream.
struct Row {
    float4 v[FOURS];

    template <class F>
    __device__ __forceinline__ void each(int h, F f) {
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
            const int c = (threadIdx.x + i * TEAM) * 4;
            if (c < h) f(v[i], c);
        }
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < FOURS; i++) v[i] = make_float4(0, 0, 0, 0);
    }
    __device__ __forceinline__ float squares() const {
        float s = 0;
#pragma unroll
        for (int i = 0; i < FOURS; i++) s += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
        return s;
    }
};

/// The sum over the team. Who uses `scratch` (a float for each warp) again lets a `team()` pass.
__device__ __forceinline__ float team_sum(float v, float* scratch) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    team();
    v = scratch[threadIdx.x % WARPS];
#pragma unroll
    for (int d = WARPS / 2; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/// The weights of the two norms around a sum, in shared memory: each thread copies what it will read itself.
struct Norms {
    float* at;

    __device__ __forceinline__ void ask(const float* post, const float* next, int h) const {
        for (int c = threadIdx.x * 4; c < h; c += TEAM * 4) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at_shared(at + c)), "l"(post + c));
            if (next != nullptr) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at_shared(at + h + c)), "l"(next + c));
        }
        asm volatile("cp.async.commit_group;");
    }
    __device__ __forceinline__ void wait() const { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
    __device__ __forceinline__ float4 post(int c) const { return *reinterpret_cast<const float4*>(at + c); }
    __device__ __forceinline__ float4 next(int c, int h) const { return *reinterpret_cast<const float4*>(at + h + c); }
};

/// stream += y / rms(y) * post, y in `parts` addends; with `normed`, that is stream / rms(stream) * next, in shared memory or not.
__device__ __forceinline__ void residual(Row& stream, const float* y_row, size_t part, int parts, const Norms& norms, float eps, int h,
                                         bf16* normed, float* scratch) {
    Row y;
    y.clear();
    y.each(h, [&](float4& v, int c) {
        v = __ldcg(reinterpret_cast<const float4*>(y_row + c));
        if (parts == 1) return;
        float4 more[QUARTERS - 1];
#pragma unroll
        for (int q = 0; q < QUARTERS - 1; q++) more[q] = __ldcg(reinterpret_cast<const float4*>(y_row + (q + 1) * part + c));
        v.x = (v.x + more[0].x) + (more[1].x + more[2].x);
        v.y = (v.y + more[0].y) + (more[1].y + more[2].y);
        v.z = (v.z + more[0].z) + (more[1].z + more[2].z);
        v.w = (v.w + more[0].w) + (more[1].w + more[2].w);
    });
    norms.wait();
    const float share = 1.0f / h;
    float inverse = rsqrtf(team_sum(y.squares(), scratch) * share + eps);
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        const int c = (threadIdx.x + i * TEAM) * 4;
        if (c >= h) continue;
        const float4 w = norms.post(c);
        stream.v[i].x += y.v[i].x * inverse * w.x;
        stream.v[i].y += y.v[i].y * inverse * w.y;
        stream.v[i].z += y.v[i].z * inverse * w.z;
        stream.v[i].w += y.v[i].w * inverse * w.w;
    }
    if (normed == nullptr) return;
    inverse = rsqrtf(team_sum(stream.squares(), scratch + WARPS) * share + eps);
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
        const int c = (threadIdx.x + i * TEAM) * 4;
        if (c >= h) continue;
        const float4 v = stream.v[i], w = norms.next(c, h);
        *reinterpret_cast<uint2*>(normed + c) = make_uint2(pack_bf16(v.x * inverse * w.x, v.y * inverse * w.y),
                                                           pack_bf16(v.z * inverse * w.z, v.w * inverse * w.w));
    }
}

enum Phase { OUTPUT, GATE_UP, DOWN, QKV, PHASES };

__device__ __forceinline__ const Product& product_of(const Layer& l, int phase) {
    return phase == OUTPUT ? l.output : phase == GATE_UP ? l.gate_up : phase == DOWN ? l.down : l.qkv;
}
__device__ __forceinline__ Share share_of(const Product& p, int phase) {
    return phase == GATE_UP ? Share::pairs(p) : phase == DOWN ? Share::quarters(p) : Share::whole(p);
}

__device__ __forceinline__ void layer(const Layer& l) {
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m = l.m, h = l.output.n;
    const int phases = l.qkv.n > 0 ? PHASES : QKV;
    char* sums = shared + size_t(2 * l.stages) * Weights::STAGE;
    uint64_t* barriers = reinterpret_cast<uint64_t*>(sums + BARRIERS);
    float* scratch = reinterpret_cast<float*>(sums + SCRATCH);
    if (threadIdx.x < 2 * l.stages) {
        begin_barrier(at_shared(barriers + threadIdx.x), 1);
        begin_barrier(at_shared(barriers + MOST_STAGES + threadIdx.x), GROUP);
        barriers_begun();
    }
    __syncthreads();
    launch_next();
    if (warp == WARPS) {
        const uint64_t policy = read_once();
        Ring rings[2] = {Ring(at_shared(shared), at_shared(barriers), l.stages, 0), Ring(at_shared(shared), at_shared(barriers), l.stages, 1)};
        for (int phase = 0; phase < phases; phase++) fetch(rings, product_of(l, phase), share_of(product_of(l, phase), phase), policy, lane);
        return;
    }
    Ring ring(at_shared(shared), at_shared(barriers), l.stages, warp / GROUP);
    const Norms norms{reinterpret_cast<float*>(sums + SUMS)};
    char* rows_of_x = sums + SUMS + 2 * h * 4;
    Operand x{at_shared(rows_of_x), 0};
    // One row is normed by every block, several by a block each.
    const bool alone = m == 1, norming = alone || int(blockIdx.x) < m;
    const size_t row_of = alone ? 0 : size_t(blockIdx.x) * h, quarter = size_t(m) * h;
    if (norming) norms.ask(l.post_attention, l.ffn, h);
    wait_for_former();
    Meeting meeting(l.arrived);
    Row stream;
    stream.clear();
    if (norming) stream.each(h, [&](float4& v, int c) { v = __ldcg(reinterpret_cast<const float4*>(l.x + row_of + c)); });

#pragma unroll 1
    for (int phase = 0; phase < PHASES; phase++) {
        const Product& p = product_of(l, phase);
        const Share share = share_of(p, phase);
        if (phase > 0) meeting.everyone();
        if (phase == GATE_UP || phase == QKV) {
            const bool ends = phase == QKV && phases == QKV;
            bf16* normed = ends ? nullptr : alone ? reinterpret_cast<bf16*>(rows_of_x) : l.normed + row_of;
            if (norming) residual(stream, l.quarters + row_of, quarter, phase == QKV ? QUARTERS : 1, norms, l.eps, h, normed, scratch);
            if (phase == QKV && norming && (!alone || blockIdx.x == 0))
                stream.each(h, [&](float4& v, int c) { *reinterpret_cast<float4*>(l.x + row_of + c) = v; });
            if (ends) return;
            if (phase == GATE_UP && norming) norms.ask(l.post_ffw, l.next, h);
            if (alone) {
                x.stride = h * 2 + PAD;
                team();
            } else {
                meeting.everyone();
            }
        }
        if (phase == OUTPUT || phase == DOWN || !alone) {
            const bf16* from = phase == OUTPUT ? l.attention : phase == DOWN ? l.activated : l.normed;
            x.read(from, m, p.k, share.chunk0 * CHUNK, share.chunks * CHUNK);
        }
        Target target{l.quarters, h};
        if (phase == GATE_UP) target = {l.activated, l.down.k};
        if (phase == DOWN) target.at = l.quarters + Share::quarter() * quarter;
        if (phase == QKV) target = {l.out, p.n};
        multiply(ring, share, x, m, at_shared(sums), target);
    }
}

}  // namespace

// Launch: block 544, grid a multiple of 4 and at most the multiprocessors, m <= 8, h at most 6144, all n multiples of 16
// (gate_up of 32), output.k and h of 64, down.k of 256. Dynamic shared memory: 2 * stages (1 to 32) of 23040 bytes, 17536,
// 8 * h, and m * (2 * max(h, output.k, down.k / 4) + 64).
extern "C" __global__ void __launch_bounds__(544, 1) layer90(const __grid_constant__ Layer l) { layer(l); }
