//! Boxes in an answer, and drawing them on the picture they speak of.

use medgemma_gemma::image::RgbImage;
use serde_json::Value;

/// Red, as annotations on grey pictures usually are.
const COLOUR: [u8; 3] = [255, 60, 60];

/// The boxes of the last JSON list in an answer: `[y0, x0, y1, x1]` in thousandths of the picture, with their labels.
pub(super) fn boxes(answer: &str) -> Vec<([usize; 4], String)> {
    let lists = answer.match_indices('[').filter_map(|(at, _)| {
        let list = serde_json::Deserializer::from_str(&answer[at..]).into_iter::<Vec<Value>>().next()?.ok()?;
        list.iter().map(one).collect::<Option<Vec<_>>>()
    });
    lists.rev().find(|list| !list.is_empty()).unwrap_or_default()
}

fn one(value: &Value) -> Option<([usize; 4], String)> {
    let corners: Vec<usize> =
        value.get("box_2d")?.as_array()?.iter().map(|n| Some(n.as_u64()?.min(1000) as usize)).collect::<Option<_>>()?;
    let label = value.get("label").and_then(Value::as_str).unwrap_or_default();
    Some((corners.try_into().ok()?, label.to_owned()))
}

/// The picture with the outlines of the boxes on it.
pub(super) fn draw(picture: &RgbImage, boxes: &[([usize; 4], String)]) -> Option<RgbImage> {
    let (width, height) = (picture.width(), picture.height());
    let mut pixels = picture.pixels().to_vec();
    let thick = (width.max(height) / 150).max(1);
    for ([y0, x0, y1, x1], _) in boxes {
        let (top, bottom) = (y0 * height / 1000, (y1 * height / 1000).min(height));
        let (left, right) = (x0 * width / 1000, (x1 * width / 1000).min(width));
        for y in top..bottom {
            for x in left..right {
                let inside = y >= top + thick && y + thick < bottom && x >= left + thick && x + thick < right;
                if !inside {
                    let at = (y * width + x) * 3;
                    pixels[at..at + 3].copy_from_slice(&COLOUR);
                }
            }
        }
    }
    RgbImage::from_raw(width, height, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_draws_boxes() {
        let answer = "Here [a list]: ```json[{\"box_2d\": [100, 200, 500, 2000], \"label\": \"nodule\"}]```";
        let found = boxes(answer);
        assert_eq!(found, [([100, 200, 500, 1000], "nodule".to_owned())]);
        assert!(boxes("none: []").is_empty() && boxes("[{\"box_2d\": [1, 2]}]").is_empty());
        let drawn = draw(&RgbImage::from_raw(10, 10, vec![0; 300]).unwrap(), &found).unwrap();
        let red = |x: usize, y: usize| drawn.pixels()[(y * 10 + x) * 3..][..3] == COLOUR;
        assert!(red(2, 1) && red(9, 4) && !red(5, 3) && !red(1, 1));
    }
}
