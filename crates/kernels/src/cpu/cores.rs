//! How many threads the machine runs well.

/// Threads to use when nobody says: one for each core this process may use. A second thread on a core shares its
/// arithmetic, which the kernels keep busy already.
pub(crate) fn count() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    physical().map_or(available, |cores| available.min(cores))
}

/// Cores of the machine, where the system says it.
fn physical() -> Option<usize> {
    let mut cores = Vec::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()? {
        let siblings = cpu.ok()?.path().join("topology/thread_siblings_list");
        // Entries that aren't processors have no such file.
        if let Ok(siblings) = std::fs::read_to_string(siblings) {
            cores.push(siblings);
        }
    }
    cores.sort_unstable();
    cores.dedup();
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_a_core() {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=available).contains(&super::count()));
    }
}
