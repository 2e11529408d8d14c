//! Text → CEL syntax tree with the place of every node.
//!
//! The grammar and precedence are CEL's, by the `cel` crate's parser; its evaluator is not used. What this file adds: a bound on the
//! length (the parser's visitor recurses once per operator of a chain such as `a + a + …`: 4,096 characters stay below half of a
//! 2 MiB stack), faults as one column with advice instead of the parser generator's token sets, and `has(name)` for a plain name
//! (CEL knows it only for `message.field`; a row is the message here).

use cel::{
    IdedExpr,
    common::ast::{Expr, SourceInfo},
    parser::{ParseError, Parser},
};

use super::ExprError;

/// Longest expression, characters.
pub const TEXT_CHARS_MAX: usize = 4096;

/// What `has(` is called between here and the compiler, of the same length so that columns stay right.
pub(super) const HAS: &str = "Has";

/// A parsed expression and where its nodes stand.
pub(super) struct Tree {
    pub root: IdedExpr,
    source: SourceInfo,
}

impl Tree {
    /// The 1-based column, in characters, of `node`: an operator's sign, a function's name.
    pub fn column(&self, node: &IdedExpr) -> usize {
        let Some((start, _)) = self.source.offset_for(node.id) else { return 1 };
        let mut column = start as usize + 1;
        if let Expr::Call(call) = &node.expr {
            // The parser places a call at its parenthesis.
            let before: Vec<char> = self.source.source.chars().take(start as usize).collect();
            let spaces = before.iter().rev().take_while(|sign| sign.is_whitespace()).count();
            let name: Vec<char> = call.func_name.chars().collect();
            if before[..before.len() - spaces].ends_with(&name) {
                column -= spaces + name.len();
            }
        }
        column
    }
}

/// Parses `text`.
pub(super) fn parse(text: &str) -> Result<Tree, ExprError> {
    if text.chars().count() > TEXT_CHARS_MAX {
        let message = format!("the expression is longer than {TEXT_CHARS_MAX} characters: split it, for instance with `derive`");
        return Err(ExprError::new(TEXT_CHARS_MAX + 1, message));
    }
    if let Some(start) = calls(text, HAS).first() {
        let column = text[..*start].chars().count() + 1;
        return Err(ExprError::new(column, format!("there is no function `{HAS}`: write `has`")));
    }
    match Parser::new().parse_with_source_info(&plain_has(text)) {
        Ok((root, source)) => Ok(Tree { root, source }),
        Err(errors) => Err(first(text, &errors.errors)),
    }
}

/// The fault to show: the first that the grammar found, since those of the tree builder follow from it.
fn first(text: &str, errors: &[ParseError]) -> ExprError {
    let of_grammar = |error: &&ParseError| error.msg.starts_with("Syntax error");
    let Some(error) = errors.iter().find(of_grammar).or(errors.first()) else {
        return ExprError::new(1, "this is no expression".to_owned());
    };
    if error.msg.contains("Recursion limit") {
        return ExprError::new(1, "the expression is nested more than 96 levels deep: simplify it".to_owned());
    }
    let column = column_of(text, error.pos);
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    ExprError::new(column, advice(text, column, message))
}

/// Line and column as one column over the whole text.
fn column_of(text: &str, (line, column): (isize, isize)) -> usize {
    let lines_before = usize::try_from(line - 1).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(lines_before).map(|line| line.chars().count()).sum();
    (before + usize::try_from(column).unwrap_or(1)).clamp(1, text.chars().count() + 1)
}

/// What is wrong at `column` and what to write, from the parser generator's message.
fn advice(text: &str, column: usize, message: &str) -> String {
    let rest: String = text.chars().skip(column - 1).collect();
    let start = rest.trim_start();
    if start.is_empty() {
        return if text.trim().is_empty() {
            "the expression is empty"
        } else {
            "the expression ends too early: an operand is missing"
        }
        .to_owned();
    }
    let known = [
        ("=", "`=` is no operator: write `==` to compare"),
        ("&", "`&` is no operator: write `&&`"),
        ("|", "`|` is no operator: write `||`"),
        ("^", "`^` is no operator: write `pow(a, b)`"),
        ("<>", "`<>` is no operator: write `!=`"),
    ];
    if let Some((_, advice)) = known.iter().find(|(sign, _)| start.starts_with(sign)) {
        return (*advice).to_owned();
    }
    let word: String = start.chars().take_while(|sign| sign.is_alphanumeric() || *sign == '_').collect();
    match word.as_str() {
        "and" | "AND" => return "`and` is no operator: write `&&`".to_owned(),
        "or" | "OR" => return "`or` is no operator: write `||`".to_owned(),
        "not" | "NOT" => return "`not` is no operator: write `!`".to_owned(),
        _ => {}
    }
    if let Some(name) = message.strip_prefix("reserved identifier: ") {
        return format!("`{name}` is a reserved word of CEL: give the signal or tag another name");
    }
    if start.starts_with(['"', '\'']) && message.starts_with("token recognition") {
        return "a text that does not end, or an escape that CEL does not know: close the quote, write `\\\\` for a backslash"
            .to_owned();
    }
    if message.starts_with("invalid ") {
        return format!("{message}: numbers are 64-bit integers or doubles");
    }
    if !start.is_ascii() && !start.starts_with(|sign: char| sign.is_ascii()) {
        return format!(
            "`{}` cannot stand here: names are ASCII letters, digits and `_`",
            start.chars().take(1).collect::<String>()
        );
    }
    let shown = if word.is_empty() { start.chars().take(1).collect() } else { word };
    format!("did not expect `{shown}` here: an operator, a comma or a parenthesis is missing or too many")
}

/// `text` with every call of `has` under its plain name.
fn plain_has(text: &str) -> String {
    let mut plain = text.to_owned();
    for start in calls(text, "has") {
        plain.replace_range(start..start + "has".len(), HAS);
    }
    plain
}

/// Where the function `name` is called in `text` (byte offsets).
fn calls(text: &str, name: &str) -> Vec<usize> {
    words(text, name).into_iter().filter(|start| text[start + name.len()..].trim_start().starts_with('(')).collect()
}

/// Where `word` stands in `text` as an identifier of its own (byte offsets), outside of literals and comments.
fn words(text: &str, word: &str) -> Vec<usize> {
    let (bytes, mut found, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest[0].is_ascii_alphabetic() || rest[0] == b'_' {
            let length = rest.iter().take_while(|sign| sign.is_ascii_alphanumeric() || **sign == b'_').count();
            let name = &rest[..length];
            if name == word.as_bytes() {
                found.push(at);
            }
            let raw = matches!(name, b"r" | b"R" | b"br" | b"bR" | b"Br" | b"BR" | b"rb" | b"rB" | b"Rb" | b"RB");
            at += length;
            if raw && matches!(bytes.get(at), Some(b'"' | b'\'')) {
                at += literal(&bytes[at..], true);
            }
        } else if matches!(rest[0], b'"' | b'\'') {
            at += literal(rest, false);
        } else if rest.starts_with(b"//") {
            at += rest.iter().take_while(|sign| **sign != b'\n').count();
        } else {
            at += 1;
        }
    }
    found
}

/// How many bytes the text literal at the start of `bytes` takes, up to the end where it is not closed.
fn literal(bytes: &[u8], raw: bool) -> usize {
    let quote = bytes[0];
    let triple = bytes.len() >= 3 && bytes[1] == quote && bytes[2] == quote;
    let closing = if triple { vec![quote; 3] } else { vec![quote] };
    let mut at = closing.len();
    while at < bytes.len() {
        if bytes[at..].starts_with(&closing) {
            return at + closing.len();
        }
        at += if bytes[at] == b'\\' && !raw { 2 } else { 1 };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_is_found_outside_of_literals_only() {
        assert_eq!(plain_has("has(a) && 'has(b)' == c"), "Has(a) && 'has(b)' == c");
        assert_eq!(plain_has(r#"r"\" == has (a) // has(x)"#), r#"r"\" == Has (a) // has(x)"#);
        assert_eq!(plain_has("hash(a) + has_b + has"), "hash(a) + has_b + has");
    }

    #[test]
    fn faults_name_their_column_and_the_remedy() {
        let check = |text: &str, column: usize, part: &str| match parse(text) {
            Ok(_) => panic!("{text} parsed"),
            Err(error) => {
                assert_eq!(error.column, column, "{text}: {error}");
                assert!(error.message.contains(part), "{text}: {error}");
            }
        };
        check("a = b", 3, "write `==`");
        check("a & b", 3, "write `&&`");
        check("a | b", 3, "write `||`");
        check("a and b", 3, "write `&&`");
        check("a ^ 2", 3, "pow");
        check("a >", 4, "ends too early");
        check("", 1, "empty");
        check("(a > 1", 7, "ends too early");
        check("a > 1)", 6, "`)`");
        check("laser power > 3", 7, "`power`");
        check("'ü' == b c", 10, "`c`");
        check("a &&\n b c", 9, "`c`");
        check("part == 'A3", 9, "close the quote");
        check("if > 3", 1, "reserved");
        check("99999999999999999999 < a", 1, "64-bit");
        check("température > 3", 5, "ASCII");
        check("b && Has(a)", 6, "write `has`");
        check(&format!("{}a{}", "(".repeat(200), ")".repeat(200)), 1, "nested");
        check(&"a".repeat(5000), 4097, "longer than");
    }
}
