//! How our pages look: title, logo and colours of whoever runs the gateway, on top of our own style.
//!
//! In: checked values from the configuration. Out: one style sheet and the Content-Security-Policy that allows it and
//! nothing else; and what is hard to read, as contrast ratios (WCAG 2.2 section 1.4.3).
//! Invariants: colours are numbers, so nothing that was written can leave its place in the sheet; a logo is an image in
//! the page itself, where browsers run none of its scripts and fetch nothing for it.

use std::fmt::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};

/// An sRGB colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Color([u8; 3]);

/// The colours that can be chosen, for light or for dark.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Colors {
    /// Buttons, links and what has the focus.
    pub accent: Option<Color>,
    /// Behind the card.
    pub background: Option<Color>,
    /// The card.
    pub card: Option<Color>,
    /// Text on the card.
    pub text: Option<Color>,
}

/// A small image.
#[derive(Clone, Debug)]
pub struct Logo {
    url: Box<str>,
}

/// Why a file is no logo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogoError {
    /// Neither PNG nor SVG by its content.
    UnknownKind,
    /// Larger than [`Logo::MAX_BYTES`].
    TooLarge,
}

/// Two colours that meet in a page and are too much alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoorContrast {
    /// Which.
    pub what: &'static str,
    /// From 1 to 21; [`Colors::READABLE`] is readable.
    pub ratio: f64,
}

impl Color {
    /// Reads `#rgb` or `#rrggbb`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#')?;
        let wide: String = match digits.len() {
            3 => digits.chars().flat_map(|digit| [digit, digit]).collect(),
            6 => digits.to_owned(),
            _ => return None,
        };
        let mut color = [0; 3];
        for (byte, pair) in color.iter_mut().zip(wide.as_bytes().chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Some(Self(color))
    }

    /// `self` with `share` percent of `other` in it.
    fn mixed(self, other: Self, share: u16) -> Self {
        let [a, b, c] = self.0;
        let [x, y, z] = other.0;
        let mix = |from: u8, to: u8| {
            let mixed = (u16::from(from) * (100 - share) + u16::from(to) * share) / 100;
            u8::try_from(mixed).unwrap_or(u8::MAX)
        };
        Self([mix(a, x), mix(b, y), mix(c, z)])
    }

    /// WCAG 2.2, "contrast ratio": 1 to 21.
    fn contrast(self, other: Self) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// WCAG 2.2, "relative luminance".
    fn luminance(self) -> f64 {
        let linear = |byte: u8| {
            let value = f64::from(byte) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let [r, g, b] = self.0.map(linear);
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// Black or white, whichever is easier to read on it.
    fn readable(self) -> Self {
        if self.contrast(WHITE) >= self.contrast(BLACK) { WHITE } else { BLACK }
    }

    /// As bright as it must be to be read on `ground`.
    fn lightened_for(self, ground: Self) -> Self {
        let steps = (0..=100).step_by(5).map(|share| self.mixed(WHITE, share));
        steps.into_iter().find(|color| color.contrast(ground) >= Colors::READABLE).unwrap_or(WHITE)
    }
}

impl Colors {
    /// The contrast that text needs.
    pub const READABLE: f64 = 4.5;

    /// What is hard to read with these colours, in light or (`dark`) in dark.
    pub fn poor_contrasts(&self, dark: bool) -> Vec<PoorContrast> {
        let base = if dark { DARK } else { LIGHT };
        let (card, text) = (self.card.unwrap_or(base.card), self.text.unwrap_or(base.text));
        let accent = self.accent.unwrap_or(base.accent);
        let pairs = [("the text on the card", text, card), ("the accent on the card", accent, card)];
        let ratios = pairs.map(|(what, one, two)| PoorContrast { what, ratio: one.contrast(two) });
        ratios.into_iter().filter(|found| found.ratio < Self::READABLE).collect()
    }

    /// Without colours of their own for the dark, those that suit the light ones: the accent, as bright as it must be.
    fn for_the_dark(&self) -> Self {
        let accent = self.accent.map(|accent| accent.lightened_for(DARK.card));
        Self { accent, ..Self::default() }
    }

    /// Declarations of the style sheet's variables.
    fn declarations(&self, base: Base) -> String {
        let mut css = String::new();
        let mut declare = |name: &str, color: Color| {
            // Writing to a string does not fail.
            let _ = write!(css, "--{name}:{color};");
        };
        let (card, text) = (self.card.unwrap_or(base.card), self.text.unwrap_or(base.text));
        if let Some(accent) = self.accent {
            declare("accent", accent);
            declare("accent-strong", accent.mixed(accent.readable(), 15).mixed(text, 10));
            declare("on-accent", accent.readable());
        }
        if let Some(background) = self.background {
            declare("back", background);
        }
        if self.card.is_some() || self.text.is_some() {
            for (name, share) in
                [("card", 0), ("field", 0), ("edge", 16), ("field-edge", 50), ("soft", 70), ("text", 100)]
            {
                declare(name, card.mixed(text, share));
            }
        }
        css
    }
}

/// What is appended to our own style; empty without colours.
pub(super) fn overrides(light: &Colors, dark: Option<&Colors>) -> String {
    let derived = light.for_the_dark();
    let (light, dark) = (light.declarations(LIGHT), dark.unwrap_or(&derived).declarations(DARK));
    let mut css = String::new();
    if !light.is_empty() {
        // Not for all: what is chosen for the light only must not stay in the dark.
        let _ = write!(css, "@media not all and (prefers-color-scheme:dark){{:root{{{light}}}}}");
    }
    if !dark.is_empty() {
        let _ = write!(css, "@media (prefers-color-scheme:dark){{:root{{{dark}}}}}");
    }
    css
}

impl Logo {
    /// Bytes of the largest file.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Takes the content of a file.
    ///
    /// # Errors
    /// [`LogoError`].
    pub fn new(bytes: &[u8]) -> Result<Self, LogoError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(LogoError::TooLarge);
        }
        let text = bytes.trim_ascii_start();
        let is_svg = (text.starts_with(b"<svg") || text.starts_with(b"<?xml"))
            && bytes.windows(4).any(|window| window == b"<svg");
        let kind = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            "image/png"
        } else if is_svg {
            "image/svg+xml"
        } else {
            return Err(LogoError::UnknownKind);
        };
        Ok(Self { url: format!("data:{kind};base64,{}", STANDARD.encode(bytes)).into() })
    }

    /// A `data:` URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

/// The colours of our own style, of which others are derived.
#[derive(Clone, Copy)]
struct Base {
    accent: Color,
    card: Color,
    text: Color,
}

const WHITE: Color = Color([0xff; 3]);
const BLACK: Color = Color([0; 3]);

/// As in `style.css`.
const LIGHT: Base = Base { accent: Color([0x1f, 0x5f, 0xbf]), card: WHITE, text: Color([0x17, 0x20, 0x2b]) };
const DARK: Base =
    Base { accent: Color([0x79, 0xae, 0xf9]), card: Color([0x16, 0x1c, 0x25]), text: Color([0xe6, 0xeb, 0xf2]) };

#[cfg(test)]
mod tests {
    use super::*;

    fn color(text: &str) -> Color {
        Color::parse(text).unwrap()
    }

    #[test]
    fn a_color_is_hexadecimal() {
        for (text, expect) in [
            ("#1f5fbf", Some("#1f5fbf")),
            ("#ABC", Some("#aabbcc")),
            ("1f5fbf", None),
            ("#1f5fb", None),
            ("#1f5fbg", None),
            ("#éa", None),
            ("#", None),
            ("red", None),
            ("#fff;}body{display:none", None),
        ] {
            assert_eq!(Color::parse(text).map(|color| color.to_string()).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn contrast_is_that_of_wcag() {
        assert!((BLACK.contrast(WHITE) - 21.0).abs() < 0.001);
        assert!((color("#777777").contrast(WHITE) - 4.478).abs() < 0.01);
        assert!(
            Colors::default().poor_contrasts(false).is_empty() && Colors::default().poor_contrasts(true).is_empty()
        );
        let pale = Colors { accent: Some(color("#ffcc00")), ..Colors::default() };
        assert_eq!(pale.poor_contrasts(false)[0].what, "the accent on the card");
    }

    #[test]
    fn the_base_colors_are_those_of_the_style() {
        let style = include_str!("style.css");
        let (light, dark) = style.split_once("@media (prefers-color-scheme: dark)").unwrap();
        for (base, part) in [(LIGHT, light), (DARK, dark)] {
            let wanted = [("accent", base.accent), ("card", base.card), ("text", base.text)];
            for (name, color) in wanted {
                assert!(part.contains(&format!("--{name}: {color};")), "{name} {color}");
            }
        }
    }

    #[test]
    fn whatever_the_accent_buttons_can_be_read_in_light_and_dark() {
        for text in ["#000", "#fff", "#ffcc00", "#1f5fbf", "#0b6e4f", "#800000", "#777"] {
            let accent = color(text);
            assert!(accent.contrast(accent.readable()) >= Colors::READABLE, "{text}");
            let dark = Colors { accent: Some(accent), ..Colors::default() }.for_the_dark();
            assert!(dark.poor_contrasts(true).is_empty(), "{text}");
        }
    }

    #[test]
    fn colors_for_the_light_do_not_stay_in_the_dark() {
        let light = Colors { card: Some(color("#fffff0")), ..Colors::default() };

        let css = overrides(&light, None);

        assert!(css.starts_with("@media not all and (prefers-color-scheme:dark){:root{--card:#fffff0;"), "{css}");
        assert_eq!(css.matches("@media").count(), 1, "{css}");
        assert_eq!(overrides(&Colors::default(), None), "");
    }

    #[test]
    fn a_logo_is_png_or_svg_by_its_content() {
        assert!(Logo::new(b"\x89PNG\r\n\x1a\nrest").unwrap().url().starts_with("data:image/png;base64,"));
        assert!(Logo::new(b"\n<svg xmlns=''/>").unwrap().url().starts_with("data:image/svg+xml;base64,"));
        assert!(Logo::new(b"<?xml version='1.0'?><svg/>").is_ok());
        assert_eq!(Logo::new(b"<html><svg/></html>").unwrap_err(), LogoError::UnknownKind);
        assert_eq!(Logo::new(b"GIF89a").unwrap_err(), LogoError::UnknownKind);
        assert_eq!(Logo::new(&[b' '; Logo::MAX_BYTES + 1]).unwrap_err(), LogoError::TooLarge);
    }
}
