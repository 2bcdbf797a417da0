//! A question about a picture.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example image -- google/medgemma-4b-it chest.png
//! ```
//! Without arguments it runs on the embedded toy and a grey square.

use medgemma_engine::{Pipeline, Request};
use medgemma_gemma::image::{Limits, RgbImage, decode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "demo".into());
    let picture = match arguments.next() {
        Some(path) => decode(&path, &std::fs::read(&path)?, &Limits::default())?,
        None => RgbImage::from_raw(64, 48, vec![128; 64 * 48 * 3]).ok_or("a grey square")?,
    };
    // The encoder takes squares: medical pictures are padded rather than stretched.
    let (square, _) = picture.pad_to_square()?;
    let mut pipeline = Pipeline::load(&model)?;
    let request = Request::from("Describe this X-ray.")
        .system("You are an expert radiologist.")
        .image(square)
        .greedy()
        .max_tokens(300);
    println!("{}", pipeline.chat(request)?.answer);
    Ok(())
}
