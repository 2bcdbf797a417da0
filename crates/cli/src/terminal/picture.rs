//! Pictures in the terminal: with kitty's or iTerm2's graphics protocol, else with half blocks in colour.
//!
//! The terminal is told from the environment, never asked: its answer would arrive on stdin, where a chat or a pipe is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use console::Term;
use medgemma_gemma::image::{RgbImage, resize_bilinear};
use std::fmt::Write;
use std::io::IsTerminal;

/// How a terminal shows a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// kitty's graphics protocol, with a PNG.
    Kitty,
    /// iTerm2's inline images, with a PNG.
    Iterm,
    /// Half blocks of 24-bit colour.
    TrueColor,
    /// Half blocks of the 256 colours of xterm.
    Palette,
}

/// Columns and rows that a picture takes at most.
const MOST: (usize, usize) = (60, 30);

/// Pixels of a column, when the terminal is sent a PNG: more than most fonts have.
const COLUMN_PIXELS: usize = 14;

/// Bytes of one piece of kitty's protocol.
const KITTY_PIECE: usize = 4096;

/// Shows a picture on stderr, if that and stdout are a terminal that can.
pub(crate) fn show(image: &RgbImage) {
    let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
    let Some(protocol) = protocol(terminal, |name| std::env::var(name).ok()) else { return };
    let (rows, columns) = Term::stderr().size();
    // A row for the prompt stays free.
    let room = (usize::from(columns).min(MOST.0), usize::from(rows).saturating_sub(1).min(MOST.1));
    super::to_stderr(&render(image, protocol, room));
}

/// What the terminal understands, by the environment's variables; `None` when it should get no picture.
fn protocol(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Option<Protocol> {
    let get = |name| variable(name).unwrap_or_default();
    let (term, program) = (get("TERM"), get("TERM_PROGRAM"));
    if !terminal || !get("NO_COLOR").is_empty() || term == "dumb" {
        return None;
    }
    // A multiplexer passes no graphics on.
    let multiplexer = term.starts_with("screen") || term.starts_with("tmux") || !get("TMUX").is_empty();
    if !multiplexer {
        if !get("KITTY_WINDOW_ID").is_empty() || term.contains("kitty") || term.contains("ghostty") {
            return Some(Protocol::Kitty);
        }
        if ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) || get("LC_TERMINAL") == "iTerm2" {
            return Some(Protocol::Iterm);
        }
    }
    match get("COLORTERM").as_str() {
        "truecolor" | "24bit" => Some(Protocol::TrueColor),
        _ if term.contains("256color") => Some(Protocol::Palette),
        _ => None,
    }
}

/// The picture as what a terminal is sent, in at most `room` columns and rows of it.
fn render(image: &RgbImage, protocol: Protocol, room: (usize, usize)) -> String {
    let (columns, rows) = cells(image, room);
    match protocol {
        Protocol::TrueColor | Protocol::Palette => blocks(&resize_bilinear(image, columns, rows * 2), protocol),
        Protocol::Kitty | Protocol::Iterm => {
            // A picture that is thinner than a column is one wide and still no longer than its rows.
            let width = (columns * COLUMN_PIXELS).min(image.width());
            let height = (image.height() * width / image.width()).clamp(1, rows * 2 * COLUMN_PIXELS);
            let png = resize_bilinear(image, width, height).to_png();
            if protocol == Protocol::Kitty { kitty(&png, columns, rows) } else { iterm(&png, columns, rows) }
        }
    }
}

/// Columns and rows of a picture; a cell is twice as high as wide.
fn cells(image: &RgbImage, (columns, rows): (usize, usize)) -> (usize, usize) {
    let (width, height) = (image.width() as f64, image.height() as f64);
    let scale = (columns as f64 / width).min(rows as f64 * 2.0 / height);
    let whole = |cells: f64| (cells.round() as usize).max(1);
    (whole(width * scale), whole(height * scale / 2.0))
}

/// Two rows of pixels a line: the upper one is the character's colour, the lower one its ground.
fn blocks(image: &RgbImage, protocol: Protocol) -> String {
    let mut out = String::new();
    for pair in image.pixels().chunks_exact(image.width() * 6) {
        let (upper, lower) = pair.split_at(image.width() * 3);
        let mut last = None;
        for (over, under) in upper.as_chunks::<3>().0.iter().zip(lower.as_chunks::<3>().0) {
            if last != Some((over, under)) {
                out.push_str("\x1b[");
                color(&mut out, 38, *over, protocol);
                out.push(';');
                color(&mut out, 48, *under, protocol);
                out.push('m');
                last = Some((over, under));
            }
            out.push('▀');
        }
        out.push_str("\x1b[0m\n");
    }
    out
}

/// The parameters that set the foreground (38) or the background (48).
fn color(out: &mut String, ground: u8, [r, g, b]: [u8; 3], protocol: Protocol) {
    let _ = match protocol {
        Protocol::Palette => write!(out, "{ground};5;{}", palette_index([r, g, b])),
        _ => write!(out, "{ground};2;{r};{g};{b}"),
    };
}

/// The nearest of xterm's 6×6×6 cube (16…231) and its 24 greys (232…255).
fn palette_index(rgb: [u8; 3]) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let distance =
        |other: [u8; 3]| -> u32 { rgb.iter().zip(other).map(|(&a, b)| u32::from(a.abs_diff(b)).pow(2)).sum() };
    let steps = rgb.map(|value| (0..6_u8).min_by_key(|&i| LEVELS[usize::from(i)].abs_diff(value)).unwrap_or(0));
    let cube = distance(steps.map(|i| LEVELS[usize::from(i)]));
    let mean = rgb.iter().map(|&value| u16::from(value)).sum::<u16>() / 3;
    let grey = (mean.saturating_sub(3) / 10).min(23) as u8;
    if distance([8 + 10 * grey; 3]) < cube { 232 + grey } else { 16 + 36 * steps[0] + 6 * steps[1] + steps[2] }
}

/// Sends and shows a PNG (`a=T`, `f=100`) in pieces, and asks for no answer (`q=2`).
fn kitty(png: &[u8], columns: usize, rows: usize) -> String {
    let data = STANDARD.encode(png);
    let mut rest = data.as_str();
    let mut out = String::new();
    let mut keys = format!("a=T,f=100,q=2,c={columns},r={rows},");
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(KITTY_PIECE));
        let _ = write!(out, "\x1b_G{keys}m={};{piece}\x1b\\", u8::from(!after.is_empty()));
        (rest, keys) = (after, String::new());
    }
    out + "\n"
}

fn iterm(png: &[u8], columns: usize, rows: usize) -> String {
    format!("\x1b]1337;File=inline=1;size={};width={columns};height={rows}:{}\x07\n", png.len(), STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(terminal: bool, variables: &[(&str, &str)]) -> Option<Protocol> {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        protocol(terminal, get)
    }

    #[test]
    fn terminals_are_told_apart() {
        let xterm = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor")];
        assert_eq!(found(true, &xterm), Some(Protocol::TrueColor));
        assert_eq!(found(true, &xterm[..1]), Some(Protocol::Palette));
        assert_eq!(found(true, &[("TERM", "xterm")]), None);
        assert_eq!(found(true, &[]), None);
        assert_eq!(found(false, &xterm), None);
        assert_eq!(found(true, &[xterm[0], xterm[1], ("NO_COLOR", "1")]), None);
        assert_eq!(found(true, &[("TERM", "dumb"), xterm[1]]), None);
        assert_eq!(found(true, &[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(found(true, &[("TERM_PROGRAM", "iTerm.app"), xterm[0]]), Some(Protocol::Iterm));
        let inside = [("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")];
        assert_eq!(found(true, &inside), Some(Protocol::Palette));
    }

    #[test]
    fn the_shape_is_kept_within_the_room() {
        let image = |width, height| RgbImage::from_raw(width, height, vec![0; width * height * 3]).unwrap();
        assert_eq!(cells(&image(100, 100), (60, 30)), (60, 30));
        assert_eq!(cells(&image(400, 100), (60, 30)), (60, 8));
        assert_eq!(cells(&image(100, 400), (60, 30)), (15, 30));
        assert_eq!(cells(&image(3000, 1), (60, 30)), (60, 1));
        assert_eq!(cells(&image(1, 3000), (0, 0)), (1, 1));
    }

    #[test]
    fn what_is_sent_is_no_larger_than_what_is_shown() {
        for (width, height) in [(1, 200_000), (200_000, 1), (3, 90_000)] {
            let image = RgbImage::from_raw(width, height, (0..width * height * 3).map(|i| (i * 31) as u8).collect());
            for protocol in [Protocol::Kitty, Protocol::Iterm] {
                let sent = render(image.as_ref().unwrap(), protocol, (60, 30)).len();
                assert!(sent < 16_000, "{width} × {height}: {sent} bytes");
            }
        }
    }

    #[test]
    fn blocks_hold_two_rows() {
        let image = RgbImage::from_raw(2, 2, vec![255, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 255]).unwrap();
        assert_eq!(blocks(&image, Protocol::TrueColor), "\x1b[38;2;255;0;0;48;2;0;0;255m▀▀\x1b[0m\n");
        assert_eq!(blocks(&image, Protocol::Palette), "\x1b[38;5;196;48;5;21m▀▀\x1b[0m\n");
    }

    #[test]
    fn the_palette_has_greys_of_its_own() {
        assert_eq!(palette_index([0, 0, 0]), 16);
        assert_eq!(palette_index([128, 128, 128]), 244);
        assert_eq!(palette_index([255, 255, 255]), 231);
        assert_eq!(palette_index([95, 135, 175]), 67);
    }

    #[test]
    fn kitty_gets_pieces() {
        let sent = kitty(&[7; 5000], 20, 10);
        let pieces: Vec<&str> = sent.trim_end().split_terminator("\x1b\\").collect();
        assert_eq!(pieces.len(), 2);
        assert!(pieces[0].starts_with("\x1b_Ga=T,f=100,q=2,c=20,r=10,m=1;") && pieces[1].starts_with("\x1b_Gm=0;"));
        assert!(render(&RgbImage::from_raw(1, 1, vec![0; 3]).unwrap(), Protocol::Iterm, (9, 9)).ends_with("\x07\n"));
    }
}
