// Times the products of a decoding step of the 4B's shape as one graph of programmatically dependent launches:
//     nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I crates/kernels/cuda tools/cuda/chain.cu -o chain && ./chain
// What it adds to them: a norm of one block a row between, so that each waits for the one before.
#include "mm.cu"
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <algorithm>

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
struct Weight { void* w; void* s; int n, k; };
bool QUANT; int M;
cudaStream_t stream;
template <class... P, class... A> void launch(void (*f)(P...), dim3 grid, size_t shared, A... args) {
    if (shared) CHECK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    cudaLaunchConfig_t c = {}; c.gridDim = grid; c.blockDim = 256; c.dynamicSmemBytes = shared; c.stream = stream;
    cudaLaunchAttribute a; a.id = cudaLaunchAttributeProgrammaticStreamSerialization; a.val.programmaticStreamSerializationAllowed = 1;
    c.attrs = &a; c.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&c, f, P(args)...));
}
Weight make(int n, int k) {
    Weight r = {nullptr, nullptr, n, k};
    size_t bytes = QUANT ? size_t(n) * k / 2 : size_t(n) * k * 2;
    CHECK(cudaMalloc(&r.w, bytes));
    fill<<<1024, 256>>>((uint32_t*)r.w, bytes / 4, QUANT ? ~0u : 0x80ff80ffu, QUANT ? 0 : 0x3c003c00u);
    if (QUANT) { CHECK(cudaMalloc(&r.s, size_t(n) * k / 16)); fill<<<1024, 256>>>((uint32_t*)r.s, size_t(n) * k / 64, 0x03ff03ffu, 0x20002000u); }
    return r;
}
template <int F> void mm(const Weight& w, const bf16* x, void* out) {
    int nt = M <= 8 ? 1 : M <= 16 ? 2 : 4, mt = nt == 1 ? 1 : 2;
    int steps = F == 2 ? w.n / 32 : (w.n + 16 * mt - 1) / (16 * mt), resident = nt == 1 ? 264 : 132, each = (steps + resident - 1) / resident;
    dim3 grid((steps + each - 1) / each, (M + 8 * nt - 1) / (8 * nt));
    using K = void (*)(const void*, const void*, const void*, const bf16*, void*, int, int, int);
    static const K table[2][3][3] = {
        {{mm_bf16_f32_1, mm_bf16_f32_2, mm_bf16_f32_4}, {mm_bf16_bf16_1, mm_bf16_bf16_2, mm_bf16_bf16_4}, {mm_bf16_geglu_1, mm_bf16_geglu_2, mm_bf16_geglu_4}},
        {{mm_q4_f32_1, mm_q4_f32_2, mm_q4_f32_4}, {mm_q4_bf16_1, mm_q4_bf16_2, mm_q4_bf16_4}, {mm_q4_geglu_1, mm_q4_geglu_2, mm_q4_geglu_4}}};
    launch(table[QUANT][F][nt / 2], grid, nt == 1 ? 102400 : 204800, (const void*)w.w, (const void*)w.s, (const void*)w.w, x, out, M, w.n, w.k);
}
int main() {
    CHECK(cudaStreamCreate(&stream));
    for (int quant = 0; quant < 2; quant++) {
        QUANT = quant;
        std::vector<Weight> ws; double bytes = 0;
        for (int l = 0; l < 34; l++) for (auto s : {std::pair<int,int>{4096, 2560}, {2560, 2048}, {20480, 2560}, {2560, 10240}}) ws.push_back(make(s.first, s.second)), bytes += double(s.first) * s.second * (quant ? 0.5625 : 2);
        for (int m : {1, 8, 32}) {
            M = m;
            bf16 *a, *b; float* c;
            CHECK(cudaMalloc(&a, 64 * 10240 * 2)); CHECK(cudaMalloc(&b, 64 * 20480 * 2)); CHECK(cudaMalloc(&c, 64 * 20480 * 4));
            CHECK(cudaMemset(c, 0, 64 * 20480 * 4)); CHECK(cudaMemset(a, 0, 64 * 20480)); CHECK(cudaMemset(b, 0, 64 * 20480 * 2));
            for (int only = -1; only < 4; only++) {
                auto step = [&] { for (int l = 0; l < 34; l++) {
                    if (only < 0) launch(norm, dim3(m), 0, (const float*)c, a, 2560);
                    if (only < 0 || only == 0) mm<1>(ws[4 * l], a, b);
                    if (only < 0 || only == 1) mm<0>(ws[4 * l + 1], b, c);
                    if (only < 0) launch(norm, dim3(m), 0, (const float*)c, a, 2560);
                    if (only < 0 || only == 2) mm<2>(ws[4 * l + 2], a, b);
                    if (only < 0 || only == 3) mm<0>(ws[4 * l + 3], b, c);
                } };
                cudaGraph_t g; cudaGraphExec_t x;
                CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)); step(); CHECK(cudaStreamEndCapture(stream, &g));
                CHECK(cudaGraphInstantiate(&x, g, 0));
                cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1);
                std::vector<float> times;
                for (int i = 0; i < 25; i++) { cudaEventRecord(e0, stream); CHECK(cudaGraphLaunch(x, stream)); cudaEventRecord(e1, stream); CHECK(cudaStreamSynchronize(stream)); float t; cudaEventElapsedTime(&t, e0, e1); if (i > 4) times.push_back(t); }
                std::sort(times.begin(), times.end());
                if (only < 0) printf("%s m=%2d: %.3f ms, floor %.3f ms at 3.0 TB/s = %.0f %%; ", quant ? "q4  " : "bf16", m, times[10], bytes / 3.0e9, bytes / 3.0e9 / times[10] * 100);
                else printf(" %s %.2f us (%.0f %%)", (const char*[]){"qkv", "o", "gate_up", "down"}[only], times[10] / 34 * 1e3, double(ws[only].n) * ws[only].k * (quant ? 0.5625 : 2) / 3.0e12 / (times[10] / 34e3) * 100);
            }
            printf("\n");
        }
        for (auto& w : ws) { cudaFree(w.w); if (w.s) cudaFree(w.s); }
    }
}
