//! A cursor over JSON text (RFC 8259) that hands out keys and scalars without building values.
//!
//! Strict on what a row may hold; and able to find the end of an element that is not JSON at all, so that the elements after it survive
//! (`NaN`, which Python's `json` writes, is the usual case). Nothing recurses, so depth needs no limit.

use std::borrow::Cow;

use super::{Reason, clip};

/// A scalar as it stands in the text.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool,
    /// The digits; RFC 8259 grammar holds.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An array or object begins here; the cursor has not moved.
    Nested,
}

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn move_to(&mut self, at: usize) {
        self.at = at.min(self.text.len());
    }

    /// The byte under the cursor.
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves over white space and gives the byte after it.
    pub fn peek_token(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Moves over `byte` if it is the next token.
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek_token() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Moves over the key `name` if it is what stands here, without escapes.
    pub fn eat_key(&mut self, name: &str) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        let found = rest.len() > name.len() + 1
            && rest[0] == b'"'
            && rest[name.len() + 1] == b'"'
            && rest[1..=name.len()] == *name.as_bytes();
        self.at += if found { name.len() + 2 } else { 0 };
        found
    }

    /// What does not belong here, for a reason.
    pub fn unexpected(&self, wanted: &str) -> Reason {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => format!("not JSON: {wanted} expected at byte {}, found {found:?}", self.at).into(),
            None => format!("not JSON: {wanted} expected, but the text ends").into(),
        }
    }

    /// A string.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Reason> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        let start = self.at + 1;
        let rest = &self.text.as_bytes()[start..];
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
        let plain = length.and_then(|length| self.text.get(start..start + length)).ok_or("not JSON: a string does not end")?;
        self.at = start + plain.len();
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Cow::Borrowed(plain))
            }
            Some(b'\\') => self.escaped(plain.to_owned()).map(Cow::Owned),
            _ => Err(self.unexpected("no control character in a string")),
        }
    }

    /// A scalar, or word that something nested begins.
    pub fn value(&mut self) -> Result<Value<'a>, Reason> {
        match self.peek_token() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'{' | b'[') => Ok(Value::Nested),
            _ => self.word(),
        }
    }

    /// Moves from the start of an array's element to its end, whether it is JSON or not: to the bracket that closes it, or to the comma
    /// or bracket after a scalar. `false` = the text ends before.
    pub fn skip_element(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let nested = matches!(self.peek(), Some(b'{' | b'['));
        let mut depth = 0_usize;
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    if !self.skip_string() {
                        return false;
                    }
                    continue;
                }
                b',' | b']' | b'}' if depth == 0 => return true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if nested && depth == 0 {
                return true;
            }
        }
        false
    }

    /// Moves over a string, escapes included, without looking closely.
    fn skip_string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(&byte) = bytes.get(self.at) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return true;
            }
        }
        self.at = bytes.len();
        false
    }

    fn number(&mut self) -> Result<&'a str, Reason> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut at = start + usize::from(bytes[start] == b'-');
        let whole = digits(at);
        let leading_zero = whole > 1 && bytes[at] == b'0';
        at += whole;
        let mut valid = whole > 0 && !leading_zero;
        if bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            valid &= fraction > 0;
            at += 1 + fraction;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits(at);
            valid &= exponent > 0;
            at += exponent;
        }
        valid &= !bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-'));
        if !valid {
            return self.word().map(|_| "");
        }
        self.at = at;
        Ok(&self.text[start..at])
    }

    /// `null`, `true`, `false`, or the reason why not.
    fn word(&mut self) -> Result<Value<'a>, Reason> {
        let rest = &self.text[self.at..];
        let end = rest.find(|letter: char| letter.is_whitespace() || matches!(letter, ',' | ']' | '}' | ':' | '"'));
        let word = &rest[..end.unwrap_or(rest.len())];
        let value = match word {
            "null" => Value::Null,
            "true" | "false" => Value::Bool,
            "" => return Err(self.unexpected("a value")),
            "NaN" | "Infinity" | "-Infinity" | "nan" | "inf" | "-inf" => {
                return Err(format!("`{word}` is not a finite number: leave it out or send null").into());
            }
            _ => return Err(format!("not JSON: `{}` is no value", clip(word)).into()),
        };
        self.at += word.len();
        Ok(value)
    }

    /// The rest of a string from its first backslash.
    fn escaped(&mut self, mut text: String) -> Result<String, Reason> {
        const ENDLESS: Reason = Cow::Borrowed("not JSON: a string does not end");
        loop {
            let rest = self.text.get(self.at..).ok_or(ENDLESS)?;
            let plain = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).ok_or(ENDLESS)?;
            text.push_str(&rest[..plain]);
            self.at += plain;
            match rest.as_bytes()[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => text.push(self.escape()?),
                _ => return Err(self.unexpected("no control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Reason> {
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match letter {
            Some(letter @ (b'"' | b'\\' | b'/')) => letter as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.escaped_code(),
            _ => return Err("not JSON: an unknown escape in a string".into()),
        };
        self.at += 2;
        Ok(plain)
    }

    /// `\u` and four hexadecimal digits, or two of them for a character above U+FFFF.
    fn escaped_code(&mut self) -> Result<char, Reason> {
        const LONE: Reason = Cow::Borrowed("not JSON: half of a surrogate pair in a string");
        let first = self.hex_unit().ok_or("not JSON: `\\u` needs four hexadecimal digits")?;
        let code = match first {
            0xD800..0xDC00 => {
                let second = self.hex_unit().filter(|unit| (0xDC00..0xE000).contains(unit)).ok_or(LONE)?;
                0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
            }
            _ => first,
        };
        char::from_u32(code).ok_or(LONE)
    }

    fn hex_unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 6)?.strip_prefix("\\u")?;
        let unit = digits.bytes().try_fold(0, |unit, digit| Some(unit << 4 | char::from(digit).to_digit(16)?))?;
        self.at += 6;
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `serde_json` makes of the same scalar.
    fn reference(text: &str) -> Option<Value<'static>> {
        match serde_json::from_str(text).ok()? {
            serde_json::Value::Null => Some(Value::Null),
            serde_json::Value::Bool(_) => Some(Value::Bool),
            serde_json::Value::String(text) => Some(Value::Text(text.into())),
            serde_json::Value::Number(_) => Some(Value::Number("")),
            _ => Some(Value::Nested),
        }
    }

    fn ours(text: &str) -> Option<Value<'static>> {
        let mut cursor = Cursor::new(text);
        let value = match cursor.value().ok()? {
            Value::Nested => return Some(Value::Nested),
            Value::Number(_) => Value::Number(""),
            Value::Text(text) => Value::Text(text.into_owned().into()),
            Value::Null => Value::Null,
            Value::Bool => Value::Bool,
        };
        cursor.peek_token().is_none().then_some(value)
    }

    fn check(text: &str) {
        assert_eq!(ours(text), reference(text), "{text}");
    }

    #[test]
    fn scalars_follow_rfc_8259() {
        let numbers =
            ["0", "-0", "01", "-", "1.", ".5", "1.5e", "1e5", "1E+5", "1e-05", "+1", "0x1", "1_0", "1.5.2", "00", "-01", "1e5x"];
        let strings =
            [r#""a""#, r#""\u0041""#, r#""\ud83d\ude00""#, r#""\ud83d""#, r#""\ud83dx""#, r#""\udc00""#, r#""\x""#, r#""a"#];
        let others = ["null", "true", "nul", "NaN", "", " 1 ", "\"a\nb\"", r#""\"#, r#""\u00"#, r#""\n\t\/\\\"é""#];
        numbers.iter().chain(&strings).chain(&others).for_each(|text| check(text));
    }

    #[test]
    fn the_end_of_a_broken_element_is_found() {
        let check = |text: &str, rest: Option<&str>| {
            let mut cursor = Cursor::new(text);
            assert_eq!(cursor.skip_element().then(|| &text[cursor.at()..]), rest, "{text}");
        };
        check(r#"{"a":NaN},2"#, Some(",2"));
        check(r#"{"a":"}]\"",{[}]},2]"#, Some(",2]"));
        check("nonsense ,2", Some(",2"));
        check("nonsense]", Some("]"));
        check(r#"{"a":1"#, None);
        check(r#""a\"#, None);
        check("", None);
    }

    proptest! {
        #[test]
        fn scalars_agree_with_serde_json(text in "[-+0-9.]{1,6}([eE][-+]?[0-9]{0,2})?|\"([a-z\\\\\"/u0-9dDcC]|\\\\u[dD][89c-fC]0[0-9]){0,12}\"|null|true|\\PC{0,6}") {
            prop_assume!(!text.starts_with(['{', '[', ' ']) && !text.starts_with(char::is_whitespace));
            check(&text);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,40}|[\\[\\]{}\",:\\\\u0-9a]{0,40}") {
            for start in 0..text.len() {
                let mut cursor = Cursor::new(&text);
                cursor.move_to(start);
                if text.is_char_boundary(start) {
                    let _ = cursor.clone().value();
                    let _ = cursor.clone().string();
                    let _ = cursor.unexpected("x");
                }
                cursor.skip_element();
            }
        }
    }
}
