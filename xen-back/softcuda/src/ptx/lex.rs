//! Bytes to tokens. Comments and white space go; every token knows its line.
//! Must take any text: what is no token is an error with its line.

use super::PtxError;

/// One token; text is borrowed from the source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// A name: `%r1`, `LBB0_2`, `add`.
    Name(&'a str),
    /// A dotted word without its dot: `global` of `.global`, `shared::cta` of `.shared::cta`.
    Dot(&'a str),
    /// An integer literal's 64 bits.
    Int(u64),
    /// A decimal floating-point literal.
    Float(f64),
    /// `0f3F800000`: the bits.
    Single(u32),
    /// `0d3FF0000000000000`: the bits.
    Double(u64),
    /// A string's text between its quotes, escapes untouched.
    Text(&'a str),
    /// One character of punctuation, or `<`/`>` for the shifts `<<` and `>>` (the parser joins them).
    Mark(u8),
    /// The text's end.
    End,
}

/// A token and the line it stands on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// All tokens of a text, the last of them [`Token::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Located<'_>>, PtxError> {
    let mut lexer = Lexer {
        source,
        bytes: source.as_bytes(),
        at: 0,
        line: 1,
    };
    let mut out = Vec::with_capacity(source.len() / 4);
    loop {
        let token = lexer.next()?;
        out.push(Located {
            token,
            line: lexer.line,
        });
        if token == Token::End {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

const fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

const fn continues_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes
            .get(self.at.saturating_add(ahead))
            .copied()
            .unwrap_or(0)
    }

    fn slice(&self, start: usize) -> &'a str {
        // Both ends stand beside ASCII bytes, hence on character boundaries.
        self.source.get(start..self.at).unwrap_or_default()
    }

    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && accept(self.peek(0)) {
            self.at += 1;
        }
    }

    fn skip_blank(&mut self) -> Result<(), PtxError> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => self.skip_while(|byte| byte != b'\n'),
                b'/' if self.peek(1) == b'*' => {
                    let opened = self.line;
                    self.at += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(PtxError::invalid(opened, "a comment is not closed"));
                        }
                        if self.peek(0) == b'\n' {
                            self.line = self.line.saturating_add(1);
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn next(&mut self) -> Result<Token<'a>, PtxError> {
        self.skip_blank()?;
        let start = self.at;
        // A NUL ends the text: callers hand over C strings with what follows them.
        if self.at >= self.bytes.len() || self.peek(0) == 0 {
            return Ok(Token::End);
        }
        let byte = self.peek(0);
        if starts_name(byte) {
            self.at += 1;
            self.skip_while(continues_name);
            return Ok(Token::Name(self.slice(start)));
        }
        if byte.is_ascii_digit()
            || (byte == b'.' && self.peek(1).is_ascii_digit() && !self.dotted_word())
        {
            return self.number();
        }
        match byte {
            b'.' if continues_name(self.peek(1)) => {
                self.at += 1;
                self.skip_while(continues_name);
                while self.peek(0) == b':' && self.peek(1) == b':' && continues_name(self.peek(2)) {
                    self.at += 2;
                    self.skip_while(continues_name);
                }
                Ok(Token::Dot(self.slice(start + 1)))
            }
            b'"' => {
                self.at += 1;
                let text = self.at;
                while self.peek(0) != b'"' {
                    if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                        return Err(PtxError::invalid(self.line, "a string is not closed"));
                    }
                    self.at += if self.peek(0) == b'\\' { 2 } else { 1 };
                }
                let slice = self.slice(text);
                self.at += 1;
                Ok(Token::Text(slice))
            }
            b'!'..=b'~' => {
                self.at += 1;
                Ok(Token::Mark(byte))
            }
            _ => Err(PtxError::invalid(
                self.line,
                format!("byte {byte:#04x} does not belong in PTX"),
            )),
        }
    }

    /// Whether a dot and a digit start a modifier (`.1d`, `.128B`, `.2x`) and not a number (`.5`).
    fn dotted_word(&self) -> bool {
        let mut end = self.at + 1;
        while self.bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        self.bytes
            .get(end)
            .is_some_and(|&byte| continues_name(byte) && !matches!(byte, b'e' | b'E'))
    }

    fn number(&mut self) -> Result<Token<'a>, PtxError> {
        let start = self.at;
        let bad = |lexer: &Self| {
            PtxError::invalid(
                lexer.line,
                format!("{:?} is not a number", lexer.slice(start)),
            )
        };
        if self.peek(0) == b'0' && matches!(self.peek(1), b'f' | b'F' | b'd' | b'D') {
            let single = matches!(self.peek(1), b'f' | b'F');
            self.at += 2;
            let digits = self.at;
            self.skip_while(continues_name);
            let text = self.slice(digits);
            return match single {
                true if text.len() == 8 => u32::from_str_radix(text, 16)
                    .map(Token::Single)
                    .map_err(|_| bad(self)),
                false if text.len() == 16 => u64::from_str_radix(text, 16)
                    .map(Token::Double)
                    .map_err(|_| bad(self)),
                _ => Err(bad(self)),
            };
        }
        let (radix, skip) = match (self.peek(0), self.peek(1)) {
            (b'0', b'x' | b'X') => (16, 2),
            (b'0', b'b' | b'B') => (2, 2),
            _ => (10, 0),
        };
        self.at += skip;
        let digits = self.at;
        if radix != 10 {
            self.skip_while(continues_name);
            let text = self.slice(digits);
            let text = text.strip_suffix('U').unwrap_or(text);
            return u64::from_str_radix(text, radix)
                .map(Token::Int)
                .map_err(|_| bad(self));
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        let exponent = matches!(self.peek(0), b'e' | b'E')
            && (self.peek(1).is_ascii_digit()
                || (matches!(self.peek(1), b'+' | b'-') && self.peek(2).is_ascii_digit()));
        if self.peek(0) == b'.' || exponent {
            if self.peek(0) == b'.' {
                self.at += 1;
                self.skip_while(|byte| byte.is_ascii_digit());
            }
            if matches!(self.peek(0), b'e' | b'E') {
                self.at += 1;
                if matches!(self.peek(0), b'+' | b'-') {
                    self.at += 1;
                }
                self.skip_while(|byte| byte.is_ascii_digit());
            }
            return self
                .slice(start)
                .parse()
                .map(Token::Float)
                .map_err(|_| bad(self));
        }
        let text = self.slice(digits);
        if self.peek(0) == b'U' {
            self.at += 1;
        }
        if self.at < self.bytes.len() && continues_name(self.peek(0)) {
            self.skip_while(continues_name);
            return Err(bad(self));
        }
        let radix = if text.len() > 1 && text.starts_with('0') {
            8
        } else {
            10
        };
        u64::from_str_radix(text, radix)
            .map(Token::Int)
            .map_err(|_| bad(self))
    }
}
