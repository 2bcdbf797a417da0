"""Checks the CUDA kernels against torch in float64 on fresh random inputs, and times them beside their floors.

    python3 check.py FOLDER [mm decode decode90 flash flash90]     (FOLDER holds NAME.cubin of each; needs torch and cupy)
"""

import ctypes
import struct
import sys
import cupy
import torch

torch.manual_seed(torch.seed())
DEV = "cuda"
DRIVER = ctypes.CDLL("libcuda.so.1")
FOLDER = sys.argv[1]
MODULES = {name: cupy.RawModule(path=f"{FOLDER}/{name}.cubin") for name in ("mm", "decode", "decode90", "flash", "flash90")}
BANDWIDTH = None


def arg(a):
    if isinstance(a, torch.Tensor):
        return cupy.uint64(a.data_ptr())
    return cupy.float32(a) if isinstance(a, float) else cupy.int32(a)


def clustered(f, grid, block, args, shared, cluster):
    """Launches in clusters, which cupy can't: by the driver."""
    types = [ctypes.c_void_p if isinstance(a, torch.Tensor) else ctypes.c_float if isinstance(a, float) else ctypes.c_int for a in args]
    values = [t(a.data_ptr() if isinstance(a, torch.Tensor) else a) for t, a in zip(types, args)]
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
    attribute = (ctypes.c_uint * 18)(4, 0, cluster, 1, 1)  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    grid, block = tuple(grid) + (1,) * (3 - len(grid)), tuple(block) + (1,) * (3 - len(block))
    config = ctypes.create_string_buffer(56)
    struct.pack_into("7I4xQQI", config, 0, *grid, *block, shared, torch.cuda.current_stream().cuda_stream, ctypes.addressof(attribute), 1)

    def call():
        assert DRIVER.cuLaunchKernelEx(config, ctypes.c_void_p(f.kernel.ptr), pointers, None) == 0, "launch"

    call.kept = (values, attribute, args)
    return call


def launch(module, name, grid, block, args, shared=0, cluster=1):
    f = MODULES[module].get_function(name)
    if shared:
        f.max_dynamic_shared_size_bytes = shared
    if name.startswith("decode90"):
        cupy.cuda.driver.funcSetAttribute(f.kernel.ptr, 14, 1)  # clusters of 16
    if cluster > 1:
        return clustered(f, grid, block, args, shared, cluster)
    values = tuple(arg(a) for a in args)
    return lambda: f(grid, block, values, shared_mem=shared)


def seconds(calls, repeat=20):
    """Median seconds of one call; `calls` are rotated so that none finds its data in the cache."""
    for c in calls:
        c()
    times = []
    for _ in range(7):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        for i in range(repeat):
            calls[i % len(calls)]()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) / 1e3 / repeat)
    return sorted(times)[3]


def bandwidth():
    x = torch.empty(1 << 30, dtype=torch.int32, device=DEV)
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds([lambda: y.copy_(x)], 5)


def error(out, ref):
    out, ref = out.double(), ref.double()
    assert not torch.isnan(out).any(), "unwritten"
    return ((out - ref).norm() / ref.norm()).item()


def k_order(halves):
    """k of (lane t, element e) in a group of 32."""
    t, e = torch.meshgrid(torch.arange(4), torch.arange(8), indexing="ij")
    return (16 * (e // 4) + 4 * t + e % 4) if halves else (8 * t + e)


def tiles(q, halves):
    """[n, k] -> [n/16, k/64, g, t, group, half (g or g + 8), e]."""
    n, k = q.shape
    q = q.view(n // 16, 2, 8, k // 64, 2, 32)[..., k_order(halves).to(q.device)]  # [T, half, g, K, j, t, e]
    return q.permute(0, 3, 2, 5, 4, 1, 6).contiguous()


def scale_tiles(s, per):
    """[n, k / (32 / per)] -> [n/16, k/64, g, group, half, per]."""
    n = s.shape[0]
    return s.view(n // 16, 2, 8, -1, 2, per).permute(0, 3, 2, 4, 1, 5).contiguous()


def weights(kind, n, k):
    """(w, scales, mins, dequantized float64 [n, k], bytes)."""
    none = torch.zeros(1, device=DEV)
    if kind == "bf16":
        w = (torch.randn(n, k, device=DEV) * 0.05).bfloat16()
        return w, none, none, w, w.nbytes
    if kind in ("q4", "q4m"):
        q = torch.randint(0, 16, (n, k), device=DEV)
        t = tiles(q, False)
        place = torch.tensor([e // 2 + (4 if e % 2 else 0) for e in range(8)], device=DEV) * 4
        packed = (t << place).sum(-1)
        packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int().contiguous()
        s = torch.rand(n, k // 32, device=DEV) * 0.02 + 0.001
        if kind == "q4":
            s = s.half()
            value = s.repeat_interleave(32, 1).double() * (q - 8)
            st = scale_tiles(s, 1)
            return packed, st, none, value, packed.nbytes + st.nbytes
        m = torch.rand(n, k // 32, device=DEV) * 0.1
        value = s.repeat_interleave(32, 1).double() * q - m.repeat_interleave(32, 1).double()
        st, mt = scale_tiles(s, 1), scale_tiles(m, 1)
        return packed, st, mt, value, packed.nbytes + st.nbytes + mt.nbytes
    half = kind == "q8h"
    q = torch.randint(-128, 128, (n, k), device=DEV)
    t = tiles(q, half).to(torch.int8)  # [T, K, g, t, j, half, e]
    t = t.permute(0, 1, 4, 2, 3, 5, 6).contiguous()
    per = 2 if half else 1
    s = torch.rand(n, k * per // 32, device=DEV) * 0.002 + 0.0001
    s = s if half else s.half()
    value = s.repeat_interleave(32 // per, 1).double() * q
    st = scale_tiles(s, per)
    return t, st, none, value, t.nbytes + st.nbytes


def mm(kind, finish, m, n, k, time=True):
    nt = 1 if m <= 8 else 2 if m <= 16 else 4
    mt = 1 if nt == 1 else 2
    sets = [weights(kind, n, k)]
    copies = max(1, min(8, int(200e6 // sets[0][4]) + 1)) if time else 1
    sets += [tuple(a.clone() if isinstance(a, torch.Tensor) and i < 3 else a for i, a in enumerate(sets[0])) for _ in range(copies - 1)]
    x = torch.randn(m, k, device=DEV).bfloat16()
    geglu = finish == "geglu"
    out = torch.full((m, n // 2 if geglu else n), float("nan"), device=DEV, dtype=torch.float32 if finish == "f32" else torch.bfloat16)
    steps = -(-(n // 2) // 16) if geglu else -(-n // (16 * mt))
    resident = (2 if nt == 1 else 1) * torch.cuda.get_device_properties(0).multi_processor_count
    blocks = -(-steps // -(-steps // (resident if time else 7)))
    shared = 102400 if nt == 1 else 204800
    calls = [launch("mm", f"mm_{kind}_{finish}_{nt}", (blocks, -(-m // (8 * nt))), (256,), (w, s, z, x, out, m, n, k), shared) for w, s, z, _, _ in sets]
    calls[0]()
    ref = x.double() @ sets[0][3].double().T
    if geglu:
        gate, up = ref.chunk(2, 1)
        ref = torch.nn.functional.gelu(gate, approximate="tanh") * up
    e = error(out, ref)
    one = out[:1].clone()
    alone = torch.full_like(one, float("nan"))
    n1 = -(-(n // 2) // 16) if geglu else -(-n // 16)
    launch("mm", f"mm_{kind}_{finish}_1", (n1, 1), (256,), (sets[0][0], sets[0][1], sets[0][2], x[:1].contiguous(), alone, 1, n, k), 102400)()
    same = torch.equal(one, alone)
    line = f"mm {kind:5} {finish:5} m={m:3} n={n:6} k={k:6} error {e:.1e} {'ok' if e < (1e-5 if finish == 'f32' else 5e-3) and same else 'WRONG'}{'' if same else ' (differs alone)'}"
    if time:
        s = seconds(calls, 4 * len(calls))
        line += f"  {s * 1e6:7.1f} us  floor {sets[0][4] / BANDWIDTH * 1e6:7.1f} us  {sets[0][4] / BANDWIDTH / s * 100:.0f} %"
    print(line, flush=True)


def paged(length, kv, dim, sequences):
    pages = -(-length // 32) * sequences
    k = torch.randn(pages, kv, 32, dim, device=DEV).bfloat16()
    v = torch.randn(pages, kv, 32, dim, device=DEV).bfloat16()
    table = torch.randperm(pages, device=DEV).int().view(sequences, -1).contiguous()
    return k, v, table


def reference(q, k, v, table, position, end, window, scale, heads, kv):
    """float64 attention of rows [rows, heads, dim] of one sequence."""
    dim = q.shape[-1]
    flat = lambda c: c[table.long()].permute(1, 0, 2, 3).reshape(kv, -1, dim).float()
    keys, values = flat(k).repeat_interleave(heads // kv, 0), flat(v).repeat_interleave(heads // kv, 0)
    s = torch.einsum("rhd,hkd->hrk", q.float(), keys) * scale
    at = torch.arange(keys.shape[1], device=DEV)
    low = (position + 1 - window).clamp(min=0) if window else torch.zeros_like(position)
    seen = (at >= low[:, None]) & (at < end[:, None])
    s = s.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hrk,hkd->rhd", s, values)


def decode(dim, heads, kv, rows, length, window, time=True):
    g, scale = heads // kv, dim**-0.5
    k, v, table = paged(length, kv, dim, rows)
    q = torch.randn(rows, heads, dim, device=DEV).bfloat16()
    lengths = torch.full((rows,), length, device=DEV).int()
    if rows > 1:
        lengths -= torch.randint(0, min(length, 100), (rows,), device=DEV).int()
    position, sequence = lengths - 1, torch.arange(rows, device=DEV).int()
    longest = min(length, window + 511) if window else length
    spans = max(-(-min(longest, 8192) // 64), -(-longest // 512)) + (1 if window else 0)
    partial = torch.empty(rows, kv, spans, g, dim, device=DEV)
    weight = torch.empty(rows, kv, spans, g, 2, device=DEV)
    arrived = torch.zeros(rows, kv, device=DEV, dtype=torch.int32)
    out = torch.full_like(q, float("nan"))
    call = launch("decode", f"decode_{dim}_{g}", (spans, kv, rows), (128,), (q, k, v, position, lengths, sequence, table, table.shape[1], window, float(scale), partial, weight, arrived, out))
    call()
    torch.cuda.synchronize()
    call()
    ref = torch.stack([reference(q[r : r + 1], k, v, table[r], position[r : r + 1], lengths[r : r + 1], window, scale, heads, kv)[0] for r in range(rows)])
    e = error(out, ref)
    seen = min(length, window) if window else length
    floor = rows * seen * kv * dim * 4 / BANDWIDTH
    s = seconds([call])
    print(f"decode {dim} {heads}/{kv} rows {rows} keys {length} window {window}: error {e:.1e} {'ok' if e < 5e-3 else 'WRONG'}  {s * 1e6:.1f} us  floor {floor * 1e6:.1f} us", flush=True)


def decode90(dim, heads, kv, rows, length, window):
    """A row's q, k and v normed, rotated and stored, and attention over all keys of its sequence."""
    g, scale, eps = heads // kv, dim**-0.5, 1e-6
    k, v, table = paged(length, kv, dim, rows)
    qkv = torch.randn(rows, heads + 2 * kv, dim, device=DEV)
    q_norm, k_norm = torch.rand(dim, device=DEV) + 0.5, torch.rand(dim, device=DEV) + 0.5
    angle = torch.rand(rows, dim // 2, device=DEV) * 6
    rope = torch.cat([angle.cos(), angle.sin()], 1).contiguous()
    lengths = torch.full((rows,), length, device=DEV).int()
    if rows > 1:
        lengths -= torch.randint(0, min(length, 100), (rows,), device=DEV).int()
    position, sequence = lengths - 1, torch.arange(rows, device=DEV).int()
    tiles = -(-(min(length, window) if window else length) // 64)
    spans = -(-tiles // -(-tiles // 64))
    fit = 132 * (3 if dim == 256 else 6) // (rows * kv)
    ways = sorted({max(1, min(spans, fit)), min(spans, 3), spans})  # the first is how it is used
    ways.sort(key=lambda b: b != max(1, min(spans, fit)))

    def poison():
        """The rows' own places, and what lies behind them."""
        for r in range(rows):
            at = int(position[r])
            for c in (k, v):
                c[table[r, at // 32].long(), :, at % 32 :] = float("nan")

    def launched(first, count, blocks):
        some = slice(first, first + count)
        out = torch.full((count, heads, dim), float("nan"), device=DEV, dtype=torch.bfloat16)
        partial = torch.full((count, kv, 64, g, dim), float("nan"), device=DEV)
        weight = torch.full((count, kv, 64, g, 2), float("nan"), device=DEV)
        arrived = torch.zeros(count, kv, device=DEV, dtype=torch.int32)
        args = (qkv[some].contiguous(), q_norm, k_norm, eps, rope[some].contiguous(), position[some].contiguous(), lengths[some].contiguous(), torch.arange(count, device=DEV).int(), table[some].contiguous(), table.shape[1], k, v, window, float(scale), partial, weight, arrived, out)
        shared = -(-(2 * 64 * (dim + 8) * 2 + g * (dim + 8) * 2 + 8 * 72 * 2 + g * (dim // 128 * 64 + dim + 2) * 4 + 4) // 16) * 16
        return launch("decode90", f"decode90_{dim}_{g}", (blocks, kv, count), (dim,), args, shared, blocks if blocks <= 16 else 1), out, args

    def turned(x, w):
        x = x.double() * (x.double().pow(2).mean(-1, keepdim=True) + eps).rsqrt() * w.double()
        c, s = angle.double().cos()[:, None], angle.double().sin()[:, None]
        a, b = x.chunk(2, -1)
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    poison()
    call, out, keep = launched(0, rows, ways[0])
    call()
    torch.cuda.synchronize()
    q, own_k, own_v = turned(qkv[:, :heads], q_norm).bfloat16(), turned(qkv[:, heads : heads + kv], k_norm).bfloat16(), qkv[:, heads + kv :].bfloat16()
    stored = True
    for r in range(rows):
        at = int(position[r])
        page = table[r, at // 32].long()
        stored &= error(k[page, :, at % 32], own_k[r]) < 3e-3 and torch.equal(v[page, :, at % 32], own_v[r])
    finite = lambda c: torch.nan_to_num(c, 0)
    ref = torch.stack([reference(q[r : r + 1], finite(k), finite(v), table[r], position[r : r + 1], lengths[r : r + 1], window, scale, heads, kv)[0] for r in range(rows)])
    e = error(out, ref)
    same = True
    for blocks in ways[1:] + [min(16, spans)]:
        alone, one, keep2 = launched(rows - 1, 1, blocks)
        for _ in range(2):
            alone()
            torch.cuda.synchronize()
            same &= torch.equal(one[0], out[-1])
            one.fill_(float("nan"))
    seen = min(length, window) if window else length
    floor = rows * seen * kv * dim * 4 / BANDWIDTH
    s = seconds([call])
    print(f"decode90 {dim} {heads}/{kv} rows {rows} keys {length} window {window} by {ways[0]}: error {e:.1e} {'ok' if e < 5e-3 and stored and same else 'WRONG'}{'' if stored else ' (not stored)'}{'' if same else ' (differs alone)'}  {s * 1e6:.1f} us  floor {floor * 1e6:.1f} us", flush=True)


def flash(module, dim, heads, kv, rows, before, window, image=None, both=False):
    """rows queries behind `before` keys; `image`: a span of rows that see each other; `both`: all see all."""
    length, scale = rows + before, dim**-0.5
    k, v, table = paged(length, kv, dim, 1)
    q = torch.randn(rows, heads, dim, device=DEV).bfloat16()
    position = (torch.arange(rows, device=DEV) + before).int()
    end = (position + 1).int()
    if image:
        end[image[0] : image[1]] = before + image[1]
    if both:
        end[:] = length
    sequence = torch.zeros(rows, device=DEV, dtype=torch.int32)
    size = 128 if module == "flash90" else 64
    work = torch.tensor([(r, min(size, rows - r)) for r in range(0, rows, size)], device=DEV, dtype=torch.int32)
    shared = ({256: 197632, 128: 99328, 72: 62464, 64: 50176} if size == 128 else {256: 101376, 128: 87040, 72: 56320, 64: 46080})[dim]
    out = torch.full_like(q, float("nan"))
    call = launch(module, f"{module}_{dim}", (len(work), heads), (2 * size,), (q, k, v, position, end, sequence, table, table.shape[1], work, heads, kv, window, float(scale), out), shared)
    call()
    some = torch.randperm(rows, device=DEV)[:256]
    e = error(out[some], reference(q[some], k, v, table[0], position[some], end[some], window, scale, heads, kv))
    low = (position + 1 - window).clamp(min=0) if window else 0
    flops = (end - low).double().sum().item() * heads * dim * 4
    s = seconds([call], 5)
    print(f"{module} {dim} {heads}/{kv} rows {rows} before {before} window {window} image {image} both {both}: error {e:.1e} {'ok' if e < 1e-2 else 'WRONG'}  {s * 1e6:.0f} us  {flops / s / 1e12:.0f} TFLOP/s", flush=True)


BANDWIDTH = bandwidth()
print(torch.cuda.get_device_name(), f"copy {BANDWIDTH / 1e9:.0f} GB/s")
WANTED = sys.argv[2:] or list(MODULES)
KINDS = ("bf16", "q4", "q4m", "q8", "q8h")
if "mm" in WANTED:
    for kind in KINDS:
        for finish in ("f32", "bf16", "geglu"):
            for m in (1, 5, 8, 13, 32, 45):
                mm(kind, finish, m, 608, 320, time=False)
    for kind in KINDS:
        for m in (1, 8, 32):
            mm(kind, "bf16", m, 4096, 2560)
            mm(kind, "f32", m, 2560, 2048)
            mm(kind, "geglu", m, 20480, 2560)
            mm(kind, "f32", m, 2560, 10240)
            if kind in ("bf16", "q8h"):
                mm(kind, "f32", m, 262144, 2560)
if "decode" in WANTED:
    for args in (
        (256, 8, 4, 1, 512, 0),
        (256, 8, 4, 1, 600, 1024),
        (256, 8, 4, 1, 3000, 1024),
        (256, 8, 4, 32, 512, 0),
        (256, 8, 4, 3, 20000, 1024),
        (256, 8, 4, 1, 32768, 0),
        (256, 4, 1, 5, 700, 512),
        (128, 32, 16, 2, 1500, 1024),
        (128, 32, 16, 1, 131072, 0),
        (256, 8, 4, 1, 1, 0),
    ):
        decode(*args)
if "decode90" in WANTED:
    for args in (
        (256, 8, 4, 1, 512, 0),
        (256, 8, 4, 1, 1, 0),
        (256, 8, 4, 1, 65, 0),
        (256, 8, 4, 1, 600, 1024),
        (256, 8, 4, 1, 3000, 1024),
        (256, 8, 4, 8, 576, 1024),
        (256, 8, 4, 32, 576, 0),
        (256, 8, 4, 3, 20000, 1024),
        (256, 8, 4, 2, 1500, 0),
        (256, 8, 4, 1, 32768, 0),
        (256, 4, 1, 5, 700, 512),
        (256, 4, 4, 5, 700, 0),
        (128, 32, 16, 2, 1500, 1024),
        (128, 32, 16, 32, 576, 1024),
        (128, 32, 16, 1, 131072, 0),
        (128, 4, 1, 3, 2500, 0),
    ):
        decode90(*args)
for module in [m for m in ("flash", "flash90") if m in WANTED]:
    flash(module, 256, 8, 4, 200, 77, 0, image=(30, 150))
    flash(module, 256, 8, 4, 200, 1500, 1024, image=(30, 150))
    flash(module, 256, 4, 1, 100, 600, 512)
    flash(module, 128, 32, 16, 300, 33, 128, image=(3, 130))
    flash(module, 64, 4, 2, 70, 5, 0)
    flash(module, 72, 16, 16, 130, 0, 0, both=True)
    flash(module, 256, 8, 4, 8192, 0, 0)
    flash(module, 256, 8, 4, 8192, 0, 1024)
    flash(module, 128, 32, 16, 8192, 0, 0)
    flash(module, 128, 32, 16, 8192, 0, 1024)
    flash(module, 72, 16, 16, 4096, 0, 0, both=True)
