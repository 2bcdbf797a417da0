"""What machine this is, for results that are to be compared."""

import os
import platform
import re
from pathlib import Path

# Processors whose own name doesn't tell: vendor, family, model to what they are called.
ZEN = {25: "zen4", 26: "zen5"}
XEON = {143: "sapphirerapids", 207: "emeraldrapids", 173: "graniterapids"}


def cpu() -> dict:
    """The first processor's fields in /proc/cpuinfo; elsewhere nothing but a name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"model name": platform.processor() or platform.machine()}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def generation(cpu: dict) -> str | None:
    if cpu.get("vendor_id") == "AuthenticAMD":
        return ZEN.get(int(cpu["cpu family"]))
    if cpu.get("vendor_id") == "GenuineIntel" and cpu["cpu family"] == "6":
        return XEON.get(int(cpu["model"]))
    return None


def describe() -> dict:
    found = cpu()
    flags = found.get("flags", "").split()
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": slug(),
        "cpu": " ".join(filter(None, (found.get("model name"), generation(found)))),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "isa": [flag for flag in wanted if flag in flags],
        "hypervisor": "hypervisor" in flags,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": platform.release(),
    }


def read(file: str) -> str | None:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return None


def slug() -> str:
    """What results of this machine are called, such as epyc-zen5-2core."""
    found = cpu()
    model = re.sub(r"\(R\)|\(TM\)|AMD|Intel|CPU|Processor|@.*", " ", found.get("model name", "cpu"))
    parts = [*model.lower().split()[:3], generation(found), f"{len(os.sched_getaffinity(0))}core"]
    return "-".join(re.sub(r"[^a-z0-9]", "", part) for part in parts if part)
