//! What this machine has: memory, disk, processor.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Memory {
    /// What the machine, or the container around this process, has.
    pub(crate) total: u64,
    /// What could be taken without swapping.
    pub(crate) available: u64,
}

/// Bytes that may still be written to the disk under `path`, which need not exist yet; none when the system doesn't
/// say.
pub(crate) fn free_disk(path: &Path) -> Option<u64> {
    let path = existing(path)?;
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage()).ok()?;
    let under = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let disk = under.max_by_key(|disk| disk.mount_point().components().count())?;
    Some(disk.available_space())
}

/// The nearest folder above `path` (or itself) that exists, in full.
fn existing(path: &Path) -> Option<PathBuf> {
    // The parent of a bare name is the empty path.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let full = std::path::absolute(path).ok()?;
    full.ancestors().find_map(|path| path.canonicalize().ok())
}

/// Memory, as far as a container lets this process have it.
///
/// # Errors
/// When the system doesn't say.
pub(crate) fn memory() -> Result<Memory> {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind).context("this system doesn't say how much memory it has")?;
    let (mut total, mut available) = (system.total_memory(), system.available_memory());
    if let Some(limits) = system.cgroup_limits() {
        total = total.min(limits.total_memory);
        available = available.min(limits.free_memory);
    }
    Ok(Memory { total, available })
}

/// Most memory that this process has held, in bytes; none where the system doesn't say.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The processor's name.
pub(crate) fn cpu_name() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing())).ok();
    let name = system.as_ref().and_then(|system| system.cpus().first()).map(|cpu| cpu.brand().trim());
    name.filter(|name| !name.is_empty()).unwrap_or(std::env::consts::ARCH).to_owned()
}

/// Threads that run at once.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Instruction sets that the kernels can use, the ones that matter most for speed last.
pub(crate) fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let sets = [
            ("AVX2", std::is_x86_feature_detected!("avx2")),
            ("FMA", std::is_x86_feature_detected!("fma")),
            ("F16C", std::is_x86_feature_detected!("f16c")),
            ("AVX-VNNI", std::is_x86_feature_detected!("avxvnni")),
            ("AVX-512", std::is_x86_feature_detected!("avx512f")),
            ("AVX-512 BW", std::is_x86_feature_detected!("avx512bw")),
            ("AVX-512 VNNI", std::is_x86_feature_detected!("avx512vnni")),
            ("AVX-512 BF16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        sets.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let sets = [("NEON", std::arch::is_aarch64_feature_detected!("neon"))];
        sets.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_disk(&folder.path().join("a/b/c")).is_some_and(|free| free > 0));
        let beside = Path::new("out.gguf").parent().unwrap();
        assert!(free_disk(beside).is_some_and(|free| free > 0));
    }

    #[test]
    fn memory_that_is_available_is_part_of_all() {
        let memory = memory().unwrap();
        assert!(0 < memory.available && memory.available <= memory.total, "{memory:?}");
    }
}
