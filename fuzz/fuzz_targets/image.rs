//! A picture file of any format: decoded, padded, cut, resized.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_gemma::image::{Limits, Preprocessor, decode_with_info, resize_bilinear};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { pixels: 1 << 20, bytes: 16 << 20 };
    let Ok((image, info)) = decode_with_info("fuzz", data, &limits) else { return };
    assert_eq!(image.width() * image.height(), info.width * info.height);
    assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
    assert!((1..=8).contains(&info.orientation));
    let resized = resize_bilinear(&image, 1 + data.len() % 40, 1 + data.len() % 37);
    assert_eq!(resized.pixels().len(), resized.width() * resized.height() * 3);
    Preprocessor::gemma3().crops(&image);
});
