//! The innermost part of products with integer weights: one group of k, for a few rows and panels.
#![allow(unsafe_code)]

use crate::cpu::simd::Simd;

/// The exact sums of products of `ROWS` rows of activations and `NP` panels over one group of `WIDTH` k, of weights as
/// they are meant: less 8 or 32 where they have no minimums. `quads` holds the group's activations, `minus8` -8 times
/// their sums.
///
/// # Safety
/// Each of `w` points to the `WIDTH * 16 * BITS / 8` bytes of the group's weights.
#[inline(always)]
pub(crate) unsafe fn products<
    S: Simd,
    const BITS: usize,
    const MINS: bool,
    const WIDTH: usize,
    const ROWS: usize,
    const NP: usize,
>(
    s: S,
    w: [*const u8; NP],
    quads: &[[i32; ROWS]],
    minus8: &[i32],
) -> [[S::I; NP]; ROWS] {
    let mut products = [[s.splat_i32(0); NP]; ROWS];
    match BITS {
        4 => {
            let mut small = [[s.start4(0); NP]; ROWS];
            if !MINS {
                for r in 0..ROWS {
                    small[r] = [s.start4(minus8[r]); NP];
                }
            }
            for (j, x) in quads.as_chunks::<2>().0.iter().enumerate() {
                // SAFETY: the j-th 8 k of the group.
                let first = s.load_w4(unsafe { &*w[0].add(j * 64).cast() });
                let mut held = [first; NP];
                for p in 1..NP {
                    // SAFETY: as above.
                    held[p] = s.load_w4(unsafe { &*w[p].add(j * 64).cast() });
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        small[r][p] = s.dot4(small[r][p], held[p].0, x[0][r]);
                    }
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        small[r][p] = s.dot4(small[r][p], held[p].1, x[1][r]);
                    }
                }
            }
            for r in 0..ROWS {
                for p in 0..NP {
                    products[r][p] = s.finish4(small[r][p], if MINS { 0 } else { minus8[r] });
                }
            }
        }
        6 => {
            if !MINS {
                for r in 0..ROWS {
                    products[r] = [s.splat_i32(minus8[r] * 4); NP];
                }
            }
            for (j, x) in quads.as_chunks::<4>().0.iter().enumerate() {
                // SAFETY: the j-th 16 k of the group, three vectors.
                let at = unsafe { &*w[0].add(j * 192).cast::<[[u8; 64]; 3]>() };
                let mut at = [at; NP];
                for p in 1..NP {
                    // SAFETY: as above.
                    at[p] = unsafe { &*w[p].add(j * 192).cast() };
                }
                let mut held = [s.load_w6::<0>(&at[0][0], &at[0][2]); NP];
                for p in 1..NP {
                    held[p] = s.load_w6::<0>(&at[p][0], &at[p][2]);
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        products[r][p] = s.dot6(products[r][p], held[p].0, x[0][r]);
                    }
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        products[r][p] = s.dot6(products[r][p], held[p].1, x[1][r]);
                    }
                }
                for p in 0..NP {
                    held[p] = s.load_w6::<1>(&at[p][1], &at[p][2]);
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        products[r][p] = s.dot6(products[r][p], held[p].0, x[2][r]);
                    }
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        products[r][p] = s.dot6(products[r][p], held[p].1, x[3][r]);
                    }
                }
            }
        }
        _ => {
            for r in 0..ROWS {
                products[r] = [s.start8(minus8[r] * 16); NP];
            }
            for (j, x) in quads.iter().enumerate() {
                // SAFETY: the j-th 4 k of the group.
                let first = s.load_w8(unsafe { &*w[0].add(j * 64).cast() });
                let mut held = [first; NP];
                for p in 1..NP {
                    // SAFETY: as above.
                    held[p] = s.load_w8(unsafe { &*w[p].add(j * 64).cast() });
                }
                for r in 0..ROWS {
                    for p in 0..NP {
                        products[r][p] = s.dot8(products[r][p], held[p], x[r]);
                    }
                }
            }
        }
    }
    products
}
