// Times the products of a decoding step of the 4B's shape as one graph of programmatically dependent launches, and each kind of
// them alone, by mm.cu and by many90.cu; then the output matrix in 8 bits:
//     nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I crates/kernels/cuda tools/cuda/chain.cu -o chain && ./chain [GB/s]
// The floor is bytes of weights over the bandwidth that is given. A norm of one block a row stands between products that wait for each other.
#include "weights.cuh"
namespace mm {
#include "mm.cu"
}
namespace many {
#include "many90.cu"
}
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(x) do { cudaError_t e = (x); if (e != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e)); exit(1); } } while (0)

__global__ void __launch_bounds__(256) norm(const float* y, bf16* out, int cols) {
    wait_for_former();
    launch_next();
    __shared__ float part[8];
    const float* row = y + size_t(blockIdx.x) * cols;
    float sum = 0, v[10];
    for (int i = 0; i < 10; i++) { int c = threadIdx.x + 256 * i; v[i] = c < cols ? __ldcg(row + c) : 0; sum += v[i] * v[i]; }
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < 8; i++) sum += part[i];
    float r = rsqrtf(sum / cols + 1e-6f);
    for (int i = 0; i < 10; i++) { int c = threadIdx.x + 256 * i; if (c < cols) out[size_t(blockIdx.x) * cols + c] = __float2bfloat16(v[i] * r); }
}
__global__ void fill(uint32_t* p, size_t n, uint32_t and_, uint32_t or_) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
        uint32_t h = uint32_t(i) * 2654435761u; h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
        p[i] = (h & and_) | or_;
    }
}

enum Type { BFLOAT, BITS4, BITS8 };
const double BYTES[] = {2, 0.5625, 1.0625};
struct Weight { void* w; void* s; int n, k; Type type; double bytes() const { return double(n) * k * BYTES[type]; } };
cudaStream_t stream;
int processors;

Weight make(int n, int k, Type type) {
    Weight r = {nullptr, nullptr, n, k, type};
    const size_t bytes = size_t(n) * k * (type == BFLOAT ? 4 : type == BITS8 ? 2 : 1) / 2;
    CHECK(cudaMalloc(&r.w, bytes));
    fill<<<1024, 256>>>((uint32_t*)r.w, bytes / 4, type == BFLOAT ? 0x80ff80ffu : ~0u, type == BFLOAT ? 0x3c003c00u : 0);
    if (type == BFLOAT) return r;
    CHECK(cudaMalloc(&r.s, size_t(n) * k / 16));
    fill<<<1024, 256>>>((uint32_t*)r.s, size_t(n) * k / 64, 0x03ff03ffu, 0x20002000u);
    return r;
}
template <class... P, class... A> void launch(void (*f)(P...), dim3 grid, size_t shared, A... args) {
    if (shared) CHECK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    cudaLaunchConfig_t c = {}; c.gridDim = grid; c.blockDim = 256; c.dynamicSmemBytes = shared; c.stream = stream;
    cudaLaunchAttribute a; a.id = cudaLaunchAttributeProgrammaticStreamSerialization; a.val.programmaticStreamSerializationAllowed = 1;
    c.attrs = &a; c.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&c, f, P(args)...));
}

/// By mm.cu, as product.rs launches it.
void by_mm(const Weight& w, bool gated, const bf16* x, void* out, int m) {
    using K = void (*)(const void*, const void*, const void*, const bf16*, void*, int, int, int);
    static const K table[3][2][3] = {
        {{mm::mm_bf16_f32_1, mm::mm_bf16_f32_2, mm::mm_bf16_f32_4}, {mm::mm_bf16_geglu_1, mm::mm_bf16_geglu_2, mm::mm_bf16_geglu_4}},
        {{mm::mm_q4_f32_1, mm::mm_q4_f32_2, mm::mm_q4_f32_4}, {mm::mm_q4_geglu_1, mm::mm_q4_geglu_2, mm::mm_q4_geglu_4}},
        {{mm::mm_q8_f32_1, mm::mm_q8_f32_2, mm::mm_q8_f32_4}, {mm::mm_q8_geglu_1, mm::mm_q8_geglu_2, mm::mm_q8_geglu_4}}};
    const int nt = m <= 8 ? 1 : m <= 16 ? 2 : 4, steps = (w.n / 16 + (nt == 1 && !gated ? 0 : 1)) / (nt == 1 && !gated ? 1 : 2);
    const int at_once = processors * (nt == 1 ? 2 : 1), each = (steps + at_once - 1) / at_once;
    const dim3 grid((steps + each - 1) / each, (m + 8 * nt - 1) / (8 * nt));
    launch(table[w.type][gated][nt / 2], grid, nt == 1 ? 102400 : 204800, (const void*)w.w, (const void*)w.s, (const void*)w.w, x, out, m, w.n, w.k);
}

/// By many90.cu, as many.rs launches it; `apart`: the sums of parts of k stay apart.
void by_many(const Weight& w, bool gated, bool apart, const bf16* x, void* out, int m) {
    using K = void (*)(const void*, const void*, const bf16*, void*, float*, int, int, int);
    static const K table[3][2][3] = {
        {{many::many90_bf16_f32_1, many::many90_bf16_f32_2, many::many90_bf16_f32_4}, {many::many90_bf16_geglu_1, many::many90_bf16_geglu_2, many::many90_bf16_geglu_4}},
        {{many::many90_q4_f32_1, many::many90_q4_f32_2, many::many90_q4_f32_4}, {many::many90_q4_geglu_1, many::many90_q4_geglu_2, many::many90_q4_geglu_4}},
        {{many::many90_q8_f32_1, many::many90_q8_f32_2, many::many90_q8_f32_4}, {many::many90_q8_geglu_1, many::many90_q8_geglu_2, many::many90_q8_geglu_4}}};
    int parts = 1, least = 1 << 30;
    for (int s = 1; s <= (apart ? 4 : 1); s++) {
        const int at_once = processors / s, work = (w.n / 16 + at_once - 1) / at_once * ((w.k / 64 + s - 1) / s + 6) + 2 * s;
        if (work < least) least = work, parts = s;
    }
    const int units = w.n / (gated ? 32 : 16), at_once = processors / parts, each = (units + at_once - 1) / at_once, nt = m <= 8 ? 1 : m <= 16 ? 2 : 4;
    const dim3 grid((units + each - 1) / each, (m + 8 * nt - 1) / (8 * nt), parts);
    const size_t ring = w.type == BFLOAT ? 2 * 5 * 2048 : w.type == BITS8 ? 3 * 5 * 1280 : 4 * 5 * 768;
    launch(table[w.type][gated][nt / 2], grid, 8 * (ring + 2 * nt * 512), (const void*)w.w, (const void*)w.s, x, out, (float*)out, m, w.n, w.k);
}

/// Median milliseconds of what `work` launches, as a graph.
template <class F> float milliseconds(F work) {
    cudaGraph_t g; cudaGraphExec_t x;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)); work(); CHECK(cudaStreamEndCapture(stream, &g));
    CHECK(cudaGraphInstantiate(&x, g, 0));
    cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1);
    std::vector<float> times;
    for (int i = 0; i < 25; i++) {
        float t;
        cudaEventRecord(e0, stream); CHECK(cudaGraphLaunch(x, stream)); cudaEventRecord(e1, stream); CHECK(cudaStreamSynchronize(stream));
        cudaEventElapsedTime(&t, e0, e1);
        if (i > 4) times.push_back(t);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

int main(int count, char** arguments) {
    const double rate = (count > 1 ? atof(arguments[1]) : 4200) * 1e6;  // bytes a millisecond
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    processors = properties.multiProcessorCount;
    CHECK(cudaStreamCreate(&stream));
    printf("%s; floors at %.0f GB/s\n", properties.name, rate / 1e6);
    bf16 *a, *b; float *c, *d;
    CHECK(cudaMalloc(&a, 64 * 10240 * 2)); CHECK(cudaMalloc(&b, 64 * 20480 * 2)); CHECK(cudaMalloc(&c, size_t(64) * 262144 * 4)); CHECK(cudaMalloc(&d, 64 * 20480 * 4));
    CHECK(cudaMemset(a, 0, 64 * 10240 * 2)); CHECK(cudaMemset(b, 0, 64 * 20480 * 2)); CHECK(cudaMemset(c, 0, size_t(64) * 262144 * 4));
    constexpr int LAYERS = 34;
    const int shapes[4][2] = {{4096, 2560}, {2560, 2048}, {20480, 2560}, {2560, 10240}};
    for (Type type : {BFLOAT, BITS4}) {
        std::vector<Weight> ws;
        double bytes = 0;
        for (int l = 0; l < LAYERS; l++) for (auto& s : shapes) ws.push_back(make(s[0], s[1], type)), bytes += ws.back().bytes();
        for (int m : {1, 8, 16, 32}) for (bool many : {false, true}) {
            auto product = [&](int i, const bf16* x, void* out) {
                const bool gated = i % 4 == 2, apart = i % 4 == 1 || i % 4 == 3;
                if (many) by_many(ws[i], gated, apart, x, out, m);
                else by_mm(ws[i], gated, x, out, m);
            };
            auto step = [&](int only) {
                for (int l = 0; l < LAYERS; l++) {
                    if (only < 0) launch(norm, dim3(m), 0, (const float*)c, a, 2560);
                    if (only < 0 || only == 0) product(4 * l, a, d);
                    if (only < 0 || only == 1) product(4 * l + 1, b, c);
                    if (only < 0) launch(norm, dim3(m), 0, (const float*)c, a, 2560);
                    if (only < 0 || only == 2) product(4 * l + 2, a, b);
                    if (only < 0 || only == 3) product(4 * l + 3, b, c);
                }
            };
            const float all = milliseconds([&] { step(-1); });
            printf("%s m=%2d by %s: %.3f ms, %.0f %% of the floor;", type == BFLOAT ? "bf16" : "q4", m, many ? "many90" : "mm", all, bytes / rate / all * 100);
            for (int i = 0; i < 4; i++) {
                const float one = milliseconds([&] { step(i); }) / LAYERS;
                printf(" %s %.2f us (%.0f %%)", (const char*[]){"qkv", "o", "gate_up", "down"}[i], one * 1e3, ws[i].bytes() / rate / one * 100);
            }
            printf("\n");
        }
        for (auto& w : ws) { cudaFree(w.w); if (w.s) cudaFree(w.s); }
    }
    const Weight head = make(262144, 2560, BITS8);
    for (int m : {1, 8, 16, 32}) for (bool many : {false, true}) {
        const float one = milliseconds([&] { if (many) by_many(head, false, false, a, c, m); else by_mm(head, false, a, c, m); });
        printf("the output matrix in 8 bits, m=%2d by %s: %.1f us (%.0f %%)\n", m, many ? "many90" : "mm", one * 1e3, head.bytes() / rate / one * 100);
    }
}
