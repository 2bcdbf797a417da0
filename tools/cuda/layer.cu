// Checks layer90.cu against plain sums in double on random inputs, and times it as one graph of a step's layers:
//     nvcc -O3 -std=c++17 -arch=sm_90a -I crates/kernels/cuda tools/cuda/layer.cu -o layer && ./layer
// Between the layers stands a kernel of attention's size that waits as long as it is told.
#include "layer90.cu"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(x) do { cudaError_t e = (x); if (e != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e)); exit(1); } } while (0)

cudaStream_t stream;
int SMS;

__global__ void fill(uint32_t* p, size_t n, uint32_t and_, uint32_t or_, uint32_t seed) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
        uint32_t h = (uint32_t(i) + seed * 977u) * 2654435761u; h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
        p[i] = (h & and_) | or_;
    }
}
__global__ void noise(float* p, size_t n, uint32_t seed) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
        uint32_t h = (uint32_t(i) + seed * 7919u) * 2654435761u; h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
        p[i] = float(h) / 2147483648.0f - 1.0f;
    }
}
__global__ void rounded(const float* from, bf16* to, size_t n) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) to[i] = __float2bfloat16(from[i]);
}
__global__ void pause(int ns) {
    launch_next();
    wait_for_former();
    unsigned long long a, b;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(a));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(b)); while (b - a < ns);
}
__device__ double element(const Product& p, int row, int col) {
    const size_t tile = size_t(row / 16) * (p.k / 64) + col / 64;
    const int half = (col / 32) % 2 * 2 + row % 16 / 8, e = col % 8;
    const uint32_t v = reinterpret_cast<const uint32_t*>(p.w)[tile * 128 + (4 * (row % 8) + col % 32 / 8) * 4 + half];
    const int q = (v >> (4 * (e / 2 + e % 2 * 4))) & 15;
    return (q - 8) * double(__half2float(reinterpret_cast<const __half*>(p.scales)[(tile * 8 + row % 8) * 4 + half]));
}
// A block an output row of w, for each row of x.
__global__ void plain_product(Product p, const bf16* x, double* out) {
    __shared__ double part[256];
    for (int token = 0; token < int(gridDim.y); token++) {
        if (token != int(blockIdx.y)) continue;
        double s = 0;
        for (int c = threadIdx.x; c < p.k; c += 256) s += element(p, blockIdx.x, c) * double(__bfloat162float(x[size_t(token) * p.k + c]));
        part[threadIdx.x] = s;
        __syncthreads();
        for (int d = 128; d; d /= 2) { if (threadIdx.x < d) part[threadIdx.x] += part[threadIdx.x + d]; __syncthreads(); }
        if (threadIdx.x == 0) out[size_t(token) * p.n + blockIdx.x] = part[0];
    }
}
template <class T> std::vector<T> host(const T* p, size_t n) { std::vector<T> v(n); CHECK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost)); return v; }
float* vector_of(size_t n, uint32_t seed) { float* p; CHECK(cudaMalloc(&p, n * 4)); noise<<<256, 256>>>(p, n, seed); return p; }
Product make(int n, int k, uint32_t seed) {
    char *w, *s = nullptr;
    size_t bytes = size_t(n) * k / 2;
    CHECK(cudaMalloc(&w, bytes));
    fill<<<1024, 256>>>((uint32_t*)w, bytes / 4, ~0u, 0, seed);
    CHECK(cudaMalloc(&s, size_t(n) * k / 16)); fill<<<1024, 256>>>((uint32_t*)s, size_t(n) * k / 64, 0x03ff03ffu, 0x20002000u, seed + 1);
    return {w, s, n, k};
}
template <class... P, class... A> void launch(void (*f)(P...), dim3 grid, int block, size_t shared, A... args) {
    CHECK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    CHECK(cudaFuncSetAttribute(f, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
    cudaLaunchConfig_t c = {}; c.gridDim = grid; c.blockDim = block; c.dynamicSmemBytes = shared; c.stream = stream;
    cudaLaunchAttribute a; a.id = cudaLaunchAttributeProgrammaticStreamSerialization; a.val.programmaticStreamSerializationAllowed = 1;
    c.attrs = &a; c.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&c, f, P(args)...));
}
size_t fit(Layer& l, size_t shared) {
    size_t widest = std::max({l.output.n, l.output.k, l.down.k / 4}), stage = 23040;
    size_t room = 17536 + 8 * size_t(l.output.n) + l.m * (2 * widest + 64);
    l.stages = std::min<size_t>(32, (shared - room) / stage / 2);
    if (shared < room || l.stages < 1) { printf("no room\n"); exit(1); }
    return room + 2 * l.stages * stage;
}
void run(Layer l, size_t shared) { size_t s = fit(l, shared); launch(layer90, dim3(SMS / 4 * 4), 544, s, l); }

struct Shape { int h, q, qkv, f; };
void check(Shape s, int m, bool last) {
    static uint32_t seed = 1; seed += 20;
    Layer l = {};
    l.output = make(s.h, s.q, seed), l.gate_up = make(2 * s.f, s.h, seed + 2), l.down = make(s.h, s.f, seed + 4), l.qkv = make(s.qkv, s.h, seed + 6);
    if (last) l.qkv.n = 0;
    l.post_attention = vector_of(s.h, seed + 8), l.ffn = vector_of(s.h, seed + 9), l.post_ffw = vector_of(s.h, seed + 10), l.next = vector_of(s.h, seed + 11);
    float* noise_of = vector_of(size_t(m) * s.q, seed + 12);
    bf16* attention; CHECK(cudaMalloc(&attention, size_t(m) * s.q * 2)); rounded<<<256, 256>>>(noise_of, attention, size_t(m) * s.q);
    l.attention = attention; l.x = vector_of(size_t(m) * s.h, seed + 13);
    auto poisoned = [&](size_t bytes) { void* p; CHECK(cudaMalloc(&p, bytes)); CHECK(cudaMemset(p, 0xff, bytes)); return p; };
    l.quarters = (float*)poisoned(size_t(4) * m * s.h * 4), l.normed = (bf16*)poisoned(size_t(m) * s.h * 2), l.activated = (bf16*)poisoned(size_t(m) * s.f * 2);
    l.out = (float*)poisoned(size_t(m) * s.qkv * 4);
    CHECK(cudaMalloc(&l.arrived, 4)); CHECK(cudaMemset(l.arrived, 0, 4));
    l.eps = 1e-6f, l.m = m;
    auto x0 = host(l.x, size_t(m) * s.h);
    // The reference, with operands rounded as the kernel rounds them.
    double* wide; CHECK(cudaMalloc(&wide, size_t(m) * 2 * s.f * 8));
    bf16* operand; CHECK(cudaMalloc(&operand, size_t(m) * s.f * 2));
    auto norms = [&](std::vector<double>& x, const std::vector<double>& y, const float* post, const float* next, std::vector<bf16>& out) {
        auto p = host(post, s.h), n = host(next, s.h);
        out.resize(x.size());
        for (int r = 0; r < m; r++) {
            double ss = 0, tt = 0;
            for (int c = 0; c < s.h; c++) ss += y[size_t(r) * s.h + c] * y[size_t(r) * s.h + c];
            for (int c = 0; c < s.h; c++) { double& v = x[size_t(r) * s.h + c]; v += y[size_t(r) * s.h + c] / std::sqrt(ss / s.h + 1e-6) * p[c]; tt += v * v; }
            for (int c = 0; c < s.h; c++) out[size_t(r) * s.h + c] = __float2bfloat16(float(x[size_t(r) * s.h + c] / std::sqrt(tt / s.h + 1e-6) * n[c]));
        }
    };
    std::vector<double> x(x0.begin(), x0.end()); std::vector<bf16> b;
    plain_product<<<dim3(s.h, m), 256>>>(l.output, attention, wide);
    norms(x, host(wide, size_t(m) * s.h), l.post_attention, l.ffn, b);
    CHECK(cudaMemcpy(operand, b.data(), b.size() * 2, cudaMemcpyHostToDevice));
    plain_product<<<dim3(2 * s.f, m), 256>>>(l.gate_up, operand, wide);
    auto gu = host(wide, size_t(m) * 2 * s.f); b.resize(size_t(m) * s.f);
    for (int r = 0; r < m; r++) for (int c = 0; c < s.f; c++) { double a = gu[size_t(r) * 2 * s.f + c]; b[size_t(r) * s.f + c] = __float2bfloat16(float(0.5 * a * (1 + std::tanh(0.7978845608028654 * (a + 0.044715 * a * a * a))) * gu[size_t(r) * 2 * s.f + s.f + c])); }
    CHECK(cudaMemcpy(operand, b.data(), b.size() * 2, cudaMemcpyHostToDevice));
    plain_product<<<dim3(s.h, m), 256>>>(l.down, operand, wide);
    norms(x, host(wide, size_t(m) * s.h), l.post_ffw, l.next, b);
    CHECK(cudaMemcpy(operand, b.data(), b.size() * 2, cudaMemcpyHostToDevice));
    if (!last) plain_product<<<dim3(s.qkv, m), 256>>>(l.qkv, operand, wide);
    auto expected = host(wide, size_t(m) * s.qkv);
    CHECK(cudaDeviceSynchronize());
    auto off = [](const auto& a, const auto& b) { double d = 0, n = 0; for (size_t i = 0; i < a.size(); i++) { d += (a[i] - b[i]) * (a[i] - b[i]); n += double(b[i]) * b[i]; } return std::sqrt(d / n); };
    double worst_x = 0, worst = 0; bool same = true; std::vector<float> first;
    for (int round = 0; round < 3; round++) {
        CHECK(cudaMemcpy(l.x, x0.data(), x0.size() * 4, cudaMemcpyHostToDevice));
        CHECK(cudaMemset(l.out, 0xff, size_t(m) * s.qkv * 4));
        run(l, round == 1 ? 225000 : 190000); CHECK(cudaStreamSynchronize(stream));
        auto fx = host(l.x, x0.size()); worst_x = std::max(worst_x, off(fx, x)); if (!(off(fx, x) < 1)) worst_x = NAN;
        if (!last) { auto fo = host(l.out, size_t(m) * s.qkv); double e = off(fo, expected); worst = e == e ? std::max(worst, e) : NAN; fx.insert(fx.end(), fo.begin(), fo.end()); }
        if (round == 0) first = fx; else same &= first == fx;
    }
    // The last row alone.
    Layer one = l; one.m = 1; one.attention = attention + size_t(m - 1) * s.q; one.x = l.x + size_t(m - 1) * s.h;
    CHECK(cudaMemcpy(l.x, x0.data(), x0.size() * 4, cudaMemcpyHostToDevice));
    run(one, 190000); CHECK(cudaStreamSynchronize(stream));
    auto ax = host(one.x, s.h); bool alone = std::equal(ax.begin(), ax.end(), first.begin() + size_t(m - 1) * s.h);
    if (!last) { auto ao = host(l.out, s.qkv); alone &= std::equal(ao.begin(), ao.end(), first.begin() + size_t(m) * s.h + size_t(m - 1) * s.qkv); }
    printf("%s h %d q %d qkv %d f %d m %d%s: x %.1e out %.1e %s%s%s\n", "q4", s.h, s.q, s.qkv, s.f, m, last ? " last" : "", worst_x, worst, worst_x < 3e-3 && (last || worst < 5e-3) ? "ok" : "WRONG", same ? "" : " (differs by run)", alone ? "" : " (differs alone)");
    fflush(stdout);
    for (void* p : {(void*)l.output.w, (void*)l.gate_up.w, (void*)l.down.w, (void*)l.qkv.w, (void*)l.x, (void*)l.quarters, (void*)l.activated, (void*)l.out, (void*)wide}) cudaFree(p);
}
int main(int argc, char** argv) {
    CHECK(cudaStreamCreate(&stream));
    cudaDeviceProp prop; CHECK(cudaGetDeviceProperties(&prop, 0)); SMS = prop.multiProcessorCount;
    uint4 *a, *b; size_t big = size_t(4) << 30; CHECK(cudaMalloc(&a, big)); CHECK(cudaMalloc(&b, big));
    cudaEvent_t e0, e1; cudaEventCreate(&e0); cudaEventCreate(&e1); float t, best = 1e9;
    for (int i = 0; i < 6; i++) { cudaEventRecord(e0, stream); CHECK(cudaMemcpyAsync(b, a, big, cudaMemcpyDeviceToDevice, stream)); cudaEventRecord(e1, stream); CHECK(cudaStreamSynchronize(stream)); cudaEventElapsedTime(&t, e0, e1); best = std::min(best, t); }
    double bandwidth = 2.0 * big / best * 1e3; printf("%s, copy %.0f GB/s\n", prop.name, bandwidth / 1e9); fflush(stdout);
    cudaFree(a); cudaFree(b);
    {
        for (int m : {1, 2, 8}) check({2560, 2048, 4096, 10240}, m, m == 2);
        for (int m : {1, 5}) check({5376, 4096, 8192, 21504}, m, false);
        for (int m : {1, 3, 7}) check({640, 1024, 1536, 2048}, m, false);
    }
    Shape s = {2560, 2048, 4096, 10240};
    {
        std::vector<Layer> ls; const int LAYERS = 34; double bytes = 0;
        for (int i = 0; i < LAYERS; i++) {
            Layer l = {};
            l.output = make(s.h, s.q, i), l.gate_up = make(2 * s.f, s.h, i + 100), l.down = make(s.h, s.f, i + 200), l.qkv = make(s.qkv, s.h, i + 300);
            bytes += (double(s.h) * (s.q + 3.0 * s.f + s.qkv)) * 0.5625;
            ls.push_back(l);
        }
        Layer o = {}; o.post_attention = vector_of(s.h, 1), o.ffn = vector_of(s.h, 2), o.post_ffw = vector_of(s.h, 3), o.next = vector_of(s.h, 4);
        o.attention = (bf16*)vector_of(8 * s.q, 5); fill<<<256, 256>>>((uint32_t*)o.attention, 4 * s.q, 0x80ff80ffu, 0x3c003c00u, 9);
        o.x = vector_of(8 * s.h, 6), o.quarters = vector_of(32 * s.h, 7), o.normed = (bf16*)vector_of(8 * s.h, 8), o.activated = (bf16*)vector_of(8 * s.f, 9), o.out = vector_of(8 * s.qkv, 10);
        CHECK(cudaMalloc(&o.arrived, 4)); CHECK(cudaMemset(o.arrived, 0, 4)); o.eps = 1e-6f;
        for (int m : {1, 2, 8}) for (int ns : {0, 3000, 6000}) for (size_t shared : {size_t(150000), size_t(225000)}) {
            auto step = [&] { for (auto l : ls) { Product a = l.output, g = l.gate_up, d = l.down, q = l.qkv; l = o; l.output = a, l.gate_up = g, l.down = d, l.qkv = q; l.m = m; if (ns) launch(pause, dim3(36 * m), 128, 72000, ns); run(l, shared); } };
            cudaGraph_t g; cudaGraphExec_t x;
            CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)); step(); CHECK(cudaStreamEndCapture(stream, &g));
            CHECK(cudaGraphInstantiate(&x, g, 0));
            std::vector<float> times;
            for (int i = 0; i < 25; i++) { cudaEventRecord(e0, stream); CHECK(cudaGraphLaunch(x, stream)); cudaEventRecord(e1, stream); CHECK(cudaStreamSynchronize(stream)); cudaEventElapsedTime(&t, e0, e1); if (i > 4) times.push_back(t); }
            std::sort(times.begin(), times.end());
            printf("%s m %d pause %d ns, %zu bytes: %.1f us a layer, floor %.1f\n", "q4", m, ns, shared, times[10] / LAYERS * 1e3, bytes / bandwidth / LAYERS * 1e6); fflush(stdout);
        }
        for (auto& l : ls) for (auto* p : {&l.output, &l.gate_up, &l.down, &l.qkv}) { cudaFree((void*)p->w); cudaFree((void*)p->scales); }
    }
}
