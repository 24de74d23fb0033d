//! Reads HTML as browsers split it into tags, text and raw text (HTML, "Tokenization"), to tell in which of them a
//! blank stands, which styles there are, and what our policy will block.
//!
//! Where this reading is coarser than a browser's, it errs towards places where a blank is refused.

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Markup<'a> {
    /// Everything in double braces, in order.
    pub(super) pieces: Vec<Piece>,
    /// What is in `<style>` elements.
    pub(super) styles: Vec<&'a str>,
    /// Where something stands that browsers will block, and what.
    pub(super) blocked: Vec<(usize, String)>,
}

/// Something in double braces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Of the first brace.
    pub(super) start: usize,
    /// After the last brace.
    pub(super) end: usize,
    pub(super) spot: Spot,
}

/// What a piece stands in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// A quoted attribute that is, or could become, an address.
    Address,
    /// Where values do not stay text, and braces mean something else; says where.
    Code(&'static str),
    /// Where values do not stay text; says where.
    Forbidden(&'static str),
    /// Text, or a quoted attribute that is nothing but text.
    Text,
    /// Nothing closes the braces.
    Unclosed,
}

impl<'a> Markup<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, found: Self::default() };
        reader.read();
        reader.found
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    found: Markup<'a>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1), self.peek(2)) {
                (b'<', Some(b'!'), _) if self.starts_with(b"<!--") => self.comment(),
                (b'<', Some(b'!' | b'?'), _) => self.until(b">", "in a declaration"),
                (b'<', Some(b'/'), Some(next)) if next.is_ascii_alphabetic() => {
                    self.at += 2;
                    self.tag(false);
                }
                (b'<', Some(b'/'), Some(_)) => self.until(b">", "in a declaration"),
                (b'<', Some(next), _) if next.is_ascii_alphabetic() => {
                    self.at += 1;
                    self.tag(true);
                }
                (b'<', Some(b'{'), _) if self.starts_with(b"<{{") => {
                    self.at += 1;
                    self.piece(Spot::Forbidden("behind a `<`"));
                }
                (b'{', Some(b'{'), _) => self.piece(Spot::Text),
                _ => self.at += 1,
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn starts_with(&self, wanted: &[u8]) -> bool {
        self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(wanted))
    }

    /// Takes what stands in double braces, which begin here.
    fn piece(&mut self, spot: Spot) {
        let start = self.at;
        let near = self.bytes.get(start..).unwrap_or_default();
        let near = near.get(..MAX_PIECE).unwrap_or(near);
        let close = near.windows(2).position(|pair| pair == b"}}");
        // Braces that are closed by those of the next are not closed.
        let inner = close.and_then(|close| near.get(2..close)).filter(|inner| !inner.contains(&b'{'));
        match (close, inner, spot) {
            (Some(close), Some(_), _) => {
                self.at = start + close + 2;
                self.found.pieces.push(Piece { start, end: self.at, spot });
            }
            (_, _, Spot::Code(_)) => self.at = start + 1,
            (_, _, Spot::Address | Spot::Forbidden(_) | Spot::Text | Spot::Unclosed) => {
                self.at = start + 2;
                self.found.pieces.push(Piece { start, end: self.at, spot: Spot::Unclosed });
            }
        }
    }

    /// Goes on behind `end`; what stands in braces before is in `spot`.
    fn until(&mut self, end: &[u8], spot: &'static str) {
        while self.at < self.bytes.len() {
            if self.starts_with(end) {
                self.at += end.len();
                return;
            }
            self.step(Spot::Forbidden(spot));
        }
    }

    fn step(&mut self, spot: Spot) {
        if self.starts_with(b"{{") { self.piece(spot) } else { self.at += 1 }
    }

    fn comment(&mut self) {
        self.at += 4;
        // `<!-->` and `<!--->` are whole comments.
        for whole in [&b">"[..], b"->"] {
            if self.starts_with(whole) {
                self.at += whole.len();
                return;
            }
        }
        while self.at < self.bytes.len() {
            for end in [&b"-->"[..], b"--!>"] {
                if self.starts_with(end) {
                    self.at += end.len();
                    return;
                }
            }
            self.step(Spot::Code("in a comment"));
        }
    }

    /// A tag, from its name on; then what only its end tag ends.
    fn tag(&mut self, opens: bool) {
        let start = self.at;
        while self.peek(0).is_some_and(|byte| !is_space(byte) && !b"/>".contains(&byte)) {
            self.step(Spot::Forbidden(IN_TAG));
        }
        let name = self.text.get(start..self.at).unwrap_or_default().to_ascii_lowercase();
        if opens {
            self.judge_element(start, &name);
        }
        loop {
            match self.peek(0) {
                None => return,
                Some(b'>') => {
                    self.at += 1;
                    break;
                }
                Some(byte) if is_space(byte) || byte == b'/' => self.at += 1,
                Some(_) => self.attribute(&name),
            }
        }
        if opens {
            self.raw(&name);
        }
    }

    fn attribute(&mut self, element: &str) {
        let start = self.at;
        // A `=` in front belongs to the name.
        self.step(Spot::Forbidden(IN_TAG));
        while self.peek(0).is_some_and(|byte| !is_space(byte) && !b"/>=".contains(&byte)) {
            self.step(Spot::Forbidden(IN_TAG));
        }
        let name = self.text.get(start..self.at).unwrap_or_default().to_ascii_lowercase();
        self.skip_space();
        if self.peek(0) != Some(b'=') {
            self.judge_attribute(start, element, &name, "");
            return;
        }
        self.at += 1;
        self.skip_space();
        let spot = spot_in(&name);
        let value = match self.peek(0) {
            Some(quote @ (b'"' | b'\'')) => {
                self.at += 1;
                let begin = self.at;
                while self.peek(0).is_some_and(|byte| byte != quote) {
                    self.step(spot);
                }
                let value = self.text.get(begin..self.at);
                self.at = self.bytes.len().min(self.at + 1);
                value
            }
            _ => {
                let begin = self.at;
                while self.peek(0).is_some_and(|byte| !is_space(byte) && byte != b'>') {
                    self.step(Spot::Forbidden("in an attribute without quotes"));
                }
                self.text.get(begin..self.at)
            }
        };
        self.judge_attribute(start, element, &name, value.unwrap_or_default().trim());
    }

    fn skip_space(&mut self) {
        while self.peek(0).is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// The content of an element that holds no tags, up to its end tag.
    fn raw(&mut self, name: &str) {
        let spot = match name {
            // What is escaped there is read as text.
            "title" | "textarea" => Spot::Text,
            "style" => Spot::Code("in a style"),
            "script" => Spot::Code("in a script"),
            "xmp" | "iframe" | "noembed" | "noframes" | "noscript" | "plaintext" => {
                Spot::Code("in an element that browsers do not read")
            }
            _ => return,
        };
        let (start, mut begun) = (self.at, false);
        while self.at < self.bytes.len() && !self.ends(name) {
            // A value must not complete an end tag, and in SVG these elements do hold tags.
            let clear = !matches!(spot, Spot::Text) || !begun;
            begun |= self.peek(0) == Some(b'<');
            self.step(if clear { spot } else { Spot::Forbidden("behind a `<`") });
        }
        if name == "style" {
            let style = self.text.get(start..self.at).unwrap_or_default();
            self.judge_style(start, style);
            self.found.styles.push(style);
        }
    }

    /// Whether the end tag of this element begins here.
    fn ends(&self, name: &str) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        name != "plaintext"
            && rest.starts_with(b"</")
            && rest.get(2..2 + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
            && rest.get(2 + name.len()).is_none_or(|byte| is_space(*byte) || b"/>".contains(byte))
    }

    fn judge_element(&mut self, at: usize, name: &str) {
        if matches!(name, "script" | "iframe" | "frame" | "object" | "embed" | "audio" | "video" | "base") {
            self.block(at, format!("`<{name}>`"));
        }
    }

    fn judge_attribute(&mut self, at: usize, element: &str, name: &str, value: &str) {
        let starts = |prefix: &str| value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let is_outside = || ["http:", "https:", "//"].into_iter().any(starts);
        let is_loaded = match name {
            "src" | "srcset" | "poster" | "background" => !matches!(element, "script" | "iframe" | "frame" | "embed"),
            "href" | "xlink:href" => matches!(element, "link" | "image" | "use" | "feimage"),
            _ => false,
        };
        if name.len() > 2 && name.starts_with("on") {
            self.block(at, format!("the handler `{name}`"));
        } else if name == "style" {
            self.block(at, "the attribute `style` (a `<style>` is allowed)".to_owned());
        } else if starts("javascript:") {
            self.block(at, "an address that is a script".to_owned());
        } else if is_loaded && !value.is_empty() && !starts("data:image/") && !value.starts_with('#') {
            self.block(at, format!("what `{name}` loads (an image can be a data: URL)"));
        } else if matches!(name, "action" | "formaction") && is_outside() {
            self.block(at, "a form that is sent to another site".to_owned());
        }
    }

    fn judge_style(&mut self, start: usize, style: &str) {
        let lower = style.to_ascii_lowercase();
        if let Some(at) = lower.find("@import") {
            self.block(start + at, "`@import`".to_owned());
        }
        for (at, _) in lower.match_indices("url(") {
            let address = lower.get(at + 4..).unwrap_or_default().trim_start().trim_start_matches(['"', '\'']);
            if !address.starts_with("data:image/") && !address.starts_with('#') {
                self.block(start + at, "what `url(…)` loads (an image can be a data: URL)".to_owned());
                return;
            }
        }
    }

    fn block(&mut self, at: usize, what: String) {
        if self.found.blocked.len() >= MAX_BLOCKED {
            return;
        }
        self.found.blocked.push((at, what));
    }
}

/// What a value in this attribute could become.
fn spot_in(attribute: &str) -> Spot {
    match attribute {
        "style" | "srcdoc" => Spot::Code("in an attribute that is code"),
        name if name.starts_with("on") => Spot::Code("in an attribute that is code"),
        "action" | "background" | "by" | "cite" | "content" | "data" | "formaction" | "from" | "href"
        | "http-equiv" | "manifest" | "ping" | "poster" | "src" | "srcset" | "to" | "values" | "xlink:href" => {
            Spot::Address
        }
        _ => Spot::Text,
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

/// Bytes of a blank with its braces.
const MAX_PIECE: usize = 64;
/// What a browser will block is told so often; then it is clear.
const MAX_BLOCKED: usize = 20;
const IN_TAG: &str = "within a tag, outside of quotes";
