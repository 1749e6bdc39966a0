//! Constant expressions, as PTX allows them wherever it wants a number: 64-bit integers with C's
//! operators, or a single floating-point literal. Nesting is bounded, so that no text overflows the stack.

use super::PtxError;
use super::lex::Token;
use super::parse::Parser;

/// Parentheses and operators that may nest in one expression.
const MAX_DEPTH: u32 = 64;

/// An expression's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Double(f64),
    Single(f32),
}

/// A binary operator's precedence (higher binds tighter) and its tokens.
const OPERATORS: [(&str, u32); 18] = [
    ("||", 1),
    ("&&", 2),
    ("|", 3),
    ("^", 4),
    ("&", 5),
    ("==", 6),
    ("!=", 6),
    ("<=", 7),
    (">=", 7),
    ("<<", 8),
    (">>", 8),
    ("<", 7),
    (">", 7),
    ("+", 9),
    ("-", 9),
    ("*", 10),
    ("/", 10),
    ("%", 10),
];

impl Parser<'_> {
    /// A constant expression.
    pub(super) fn number(&mut self) -> Result<Number, PtxError> {
        let line = self.line();
        let (negative, token) = match self.peek() {
            Token::Mark(b'-') => (true, self.peek_at(1)),
            token => (false, token),
        };
        let literal = match token {
            Token::Float(value) => Number::Double(if negative { -value } else { value }),
            Token::Double(bits) => {
                let value = f64::from_bits(bits);
                Number::Double(if negative { -value } else { value })
            }
            Token::Single(bits) => {
                let value = f32::from_bits(bits);
                Number::Single(if negative { -value } else { value })
            }
            _ => return self.binary(0, 0).map(Number::Int),
        };
        self.advance();
        if negative {
            self.advance();
        }
        if self.operator().is_some() {
            return Err(PtxError::unsupported(
                line,
                "arithmetic on floating-point constants",
            ));
        }
        Ok(literal)
    }

    /// A constant expression that must be an integer.
    pub(super) fn integer(&mut self) -> Result<i64, PtxError> {
        let line = self.line();
        match self.number()? {
            Number::Int(value) => Ok(value),
            _ => Err(PtxError::invalid(line, "an integer is needed here")),
        }
    }

    /// The operator that comes next, if any.
    fn operator(&self) -> Option<(&'static str, u32)> {
        let mark = |ahead| match self.peek_at(ahead) {
            Token::Mark(byte) => byte,
            _ => 0,
        };
        let (first, second) = (mark(0), mark(1));
        let two = OPERATORS
            .iter()
            .find(|(text, _)| text.as_bytes() == [first, second]);
        // A lone `|` is PTX's pair of destinations, never arithmetic on an operand.
        two.or_else(|| {
            OPERATORS
                .iter()
                .find(|(text, _)| text.as_bytes() == [first])
        })
        .copied()
    }

    fn binary(&mut self, lowest: u32, depth: u32) -> Result<i64, PtxError> {
        let mut left = self.unary(depth)?;
        while let Some((operator, precedence)) = self.operator() {
            if precedence <= lowest {
                break;
            }
            let line = self.line();
            for _ in 0..operator.len() {
                self.advance();
            }
            let right = self.binary(precedence, depth + 1)?;
            left = match operator {
                "+" => left.wrapping_add(right),
                "-" => left.wrapping_sub(right),
                "*" => left.wrapping_mul(right),
                "/" | "%" if right == 0 => {
                    return Err(PtxError::invalid(line, "division by zero in a constant"));
                }
                "/" => left.wrapping_div(right),
                "%" => left.wrapping_rem(right),
                "<<" => left
                    .checked_shl(u32::try_from(right).unwrap_or(u32::MAX))
                    .unwrap_or(0),
                ">>" => left >> right.clamp(0, 63),
                "&" => left & right,
                "|" => left | right,
                "^" => left ^ right,
                "&&" => i64::from(left != 0 && right != 0),
                "||" => i64::from(left != 0 || right != 0),
                "==" => i64::from(left == right),
                "!=" => i64::from(left != right),
                "<" => i64::from(left < right),
                ">" => i64::from(left > right),
                "<=" => i64::from(left <= right),
                _ => i64::from(left >= right),
            };
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Result<i64, PtxError> {
        let line = self.line();
        if depth > MAX_DEPTH {
            return Err(PtxError::limit(
                line,
                "a constant expression nests too deeply",
            ));
        }
        let token = self.peek();
        self.advance();
        match token {
            Token::Int(bits) => Ok(bits.cast_signed()),
            Token::Name("WARP_SZ") => Ok(32),
            Token::Mark(b'+') => self.unary(depth + 1),
            Token::Mark(b'-') => Ok(self.unary(depth + 1)?.wrapping_neg()),
            Token::Mark(b'~') => Ok(!self.unary(depth + 1)?),
            Token::Mark(b'!') => Ok(i64::from(self.unary(depth + 1)? == 0)),
            Token::Mark(b'(') => {
                // A cast to .s64 or .u64 changes nothing: all arithmetic here is 64 bits wide.
                if matches!(self.peek(), Token::Dot("s64" | "u64")) {
                    self.advance();
                    self.expect(b')')?;
                    return self.unary(depth + 1);
                }
                let value = self.binary(0, depth + 1)?;
                self.expect(b')')?;
                Ok(value)
            }
            token => Err(PtxError::invalid(
                line,
                format!("a number is needed, not {}", Self::shown(token)),
            )),
        }
    }
}
