//! The names of results: one id for each thing said, derived from what it is about, and the text of a key inside it.
//!
//! `spc:{pipeline}:{chart}:{key}:{index}`, `limits:…:{version}`, `capability:…:{n}`; the key is `tag=value,tag=value` in order of the
//! tags' names, a null tag is its name alone. `%`, `:`, `=` and `,` inside a part are percent-encoded, so that no two keys share a text.

use std::fmt::Write;

use crate::model::Key;

/// `text` with the separators of ids percent-encoded.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            ':' => escaped.push_str("%3A"),
            '=' => escaped.push_str("%3D"),
            ',' => escaped.push_str("%2C"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The text of `key` inside ids.
pub fn key_text(key: &Key) -> String {
    let mut text = String::new();
    for (tag, value) in key.iter() {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&escape(tag));
        if let Some(value) = value {
            text.push('=');
            text.push_str(&escape(value));
        }
    }
    text
}

/// The middle of the ids of one chart and key: `pipeline:chart:key:`.
pub fn id_stem(pipeline: &str, chart: &str, key: &Key) -> String {
    format!("{}:{}:{}:", escape(pipeline), escape(chart), key_text(key))
}

/// The id of a result: `kind:pipeline:chart:key:number`.
pub fn result_id(kind: &str, stem: &str, number: u64) -> String {
    let mut id = String::with_capacity(kind.len() + 1 + stem.len() + 20);
    // Writing to a String cannot fail.
    let _ = write!(id, "{kind}:{stem}{number}");
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_never_share_a_text() {
        let key = |value: Option<&str>| Key::from([("part".into(), value.map(Into::into))]);
        assert_eq!(key_text(&key(Some("a=1,b:2%"))), "part=a%3D1%2Cb%3A2%25");
        assert_eq!(key_text(&key(None)), "part");
        assert_ne!(key_text(&key(Some(""))), key_text(&key(None)));
        assert_eq!(result_id("spc", &id_stem("p:q", "c", &Key::new()), 7), "spc:p%3Aq:c::7");
    }
}
