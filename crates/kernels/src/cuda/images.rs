//! The compiled kernels that are part of the program.

/// The kernels for one card.
pub(super) struct Images {
    pub(super) binaries: Vec<&'static [u8]>,
    /// Whether they wait for the kernels before them by themselves (Hopper and later).
    pub(super) early: bool,
}

macro_rules! binaries {
    ($arch:literal: $($name:literal),*) => {
        vec![$(include_bytes!(concat!("../../cuda/bin/", $name, ".", $arch)) as &[u8]),*]
    };
}

/// The kernels for a card of this compute capability.
pub(super) fn of(capability: (i32, i32)) -> Images {
    match capability {
        (9, 0) => {
            Images { binaries: binaries!("sm_90a.cubin": "plain", "mm", "decode", "flash", "flash90"), early: true }
        }
        (10, _) => Images { binaries: binaries!("sm_100.cubin": "plain", "mm", "decode", "flash"), early: true },
        (8, _) => Images { binaries: binaries!("sm_80.cubin": "plain", "mm", "decode", "flash"), early: false },
        // The driver compiles them.
        _ => Images { binaries: binaries!("compute_80.ptx": "plain", "mm", "decode", "flash"), early: false },
    }
}
