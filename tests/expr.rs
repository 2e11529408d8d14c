//! Expressions against a row-by-row interpreter of the same random trees, and against arbitrary text.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    expr::{Bools, Expr, Scratch, Type},
    model::{Batch, NO_LAYER, Positions, Stream, Timestamp},
};

const SIGNALS: [&str; 3] = ["a", "b", "plc.c"];
const TAGS: [&str; 2] = ["part", "recipe"];
const TEXTS: [&str; 4] = ["A3", "A", "é", ""];

fn stream() -> Stream {
    Stream::new("s", &SIGNALS, &TAGS)
}

/// A number as written, and its value for a row: `Null` and `Error` apart.
#[derive(Debug, Clone)]
enum Number {
    Literal(f64),
    Signal(usize),
    X,
    Layer,
    Size(usize),
    Negative(Box<Number>),
    Call(&'static str, Box<Number>),
    Infix(&'static str, Box<Number>, Box<Number>),
    Call2(&'static str, Box<Number>, Box<Number>),
    Choice(Box<Truth>, Box<Number>, Box<Number>),
}

#[derive(Debug, Clone)]
enum Truth {
    Literal(bool),
    Compare(&'static str, Box<Number>, Box<Number>),
    In(Box<Number>, Vec<i8>, bool),
    Has(usize),
    Finite(Box<Number>),
    Text(&'static str, usize, &'static str),
    Texts(&'static str, usize, usize),
    TextIn(usize, Vec<&'static str>, bool),
    Part(&'static str, usize, &'static str),
    TagNull(&'static str, usize),
    Time(&'static str, i64),
    Not(Box<Truth>),
    Infix(&'static str, Box<Truth>, Box<Truth>),
    Choice(Box<Truth>, Box<Truth>, Box<Truth>),
}

/// `Err` = CEL's error, `Ok(None)` = null.
type Value<T> = Result<Option<T>, ()>;

/// A row as plain values.
#[derive(Debug, Clone)]
struct Row {
    time: i64,
    signals: [Option<f64>; 3],
    x: Option<f64>,
    layer: Option<i32>,
    tags: [Option<&'static str>; 2],
}

impl Number {
    fn text(&self) -> String {
        match self {
            Self::Literal(value) => format!("{value:?}"),
            Self::Signal(signal) => SIGNALS[*signal].to_owned(),
            Self::X => "x".to_owned(),
            Self::Layer => "layer".to_owned(),
            Self::Size(tag) => format!("size({})", TAGS[*tag]),
            Self::Negative(a) => format!("-({})", a.text()),
            Self::Call(name, a) => format!("{name}({})", a.text()),
            Self::Infix(sign, a, b) => format!("({}) {sign} ({})", a.text(), b.text()),
            Self::Call2(name, a, b) => format!("{name}({}, {})", a.text(), b.text()),
            Self::Choice(c, a, b) => format!("({}) ? ({}) : ({})", c.text(), a.text(), b.text()),
        }
    }

    fn value(&self, row: &Row) -> Value<f64> {
        let computed = |value: f64| if value.is_nan() { Err(()) } else { Ok(Some(value)) };
        let needed = |number: &Self| number.value(row)?.ok_or(());
        match self {
            Self::Literal(value) => Ok(Some(*value)),
            Self::Signal(signal) => Ok(row.signals[*signal]),
            Self::X => Ok(row.x),
            Self::Layer => Ok(row.layer.map(f64::from)),
            Self::Size(tag) => row.tags[*tag].map(|text| Some(text.chars().count() as f64)).ok_or(()),
            Self::Negative(a) => computed(-needed(a)?),
            Self::Call(name, a) => {
                let a = needed(a)?;
                computed(match *name {
                    "abs" => a.abs(),
                    "sqrt" => a.sqrt(),
                    "floor" => a.floor(),
                    "ceil" => a.ceil(),
                    "round" => a.round(),
                    "int" => a.trunc(),
                    "log" => a.ln(),
                    "log10" => a.log10(),
                    "exp" => a.exp(),
                    other => unreachable!("{other}"),
                })
            }
            Self::Infix(sign, a, b) | Self::Call2(sign, a, b) => {
                let (a, b) = (needed(a)?, needed(b)?);
                computed(match *sign {
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    "/" => a / b,
                    "%" => a % b,
                    "pow" => a.powf(b),
                    // Of two zeros the second.
                    "min" => {
                        if a < b || a.is_nan() {
                            a
                        } else {
                            b
                        }
                    }
                    "max" => {
                        if a > b || a.is_nan() {
                            a
                        } else {
                            b
                        }
                    }
                    other => unreachable!("{other}"),
                })
            }
            // The documented exception: a chosen null is an error.
            Self::Choice(c, a, b) => Ok(Some(if c.value(row)? { needed(a)? } else { needed(b)? })),
        }
    }
}

fn holds(sign: &str, order: std::cmp::Ordering) -> bool {
    match sign {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        other => unreachable!("{other}"),
    }
}

fn compare<T: PartialOrd>(sign: &str, a: Option<T>, b: Option<T>) -> Result<bool, ()> {
    match (a, b) {
        (Some(a), Some(b)) => a.partial_cmp(&b).map(|order| holds(sign, order)).ok_or(()),
        (a, b) if sign == "==" => Ok(a.is_none() == b.is_none()),
        (a, b) if sign == "!=" => Ok(a.is_none() != b.is_none()),
        _ => Err(()),
    }
}

impl Truth {
    fn text(&self) -> String {
        let null = |null: bool, empty: bool| match (null, empty) {
            (true, true) => "null",
            (true, false) => ", null",
            _ => "",
        };
        match self {
            Self::Literal(value) => value.to_string(),
            Self::Compare(sign, a, b) => format!("({}) {sign} ({})", a.text(), b.text()),
            Self::In(a, list, with_null) => {
                let list_text: Vec<String> = list.iter().map(ToString::to_string).collect();
                format!("({}) in [{}{}]", a.text(), list_text.join(", "), null(*with_null, list.is_empty()))
            }
            Self::Has(signal) => format!("has({})", SIGNALS[*signal]),
            Self::Finite(a) => format!("isfinite({})", a.text()),
            Self::Text(sign, tag, text) => format!("{} {sign} '{text}'", TAGS[*tag]),
            Self::Texts(sign, a, b) => format!("{} {sign} {}", TAGS[*a], TAGS[*b]),
            Self::TextIn(tag, list, with_null) => {
                let list_text: Vec<String> = list.iter().map(|text| format!("'{text}'")).collect();
                format!("{} in [{}{}]", TAGS[*tag], list_text.join(", "), null(*with_null, list.is_empty()))
            }
            Self::Part(name, tag, text) => format!("{}.{name}('{text}')", TAGS[*tag]),
            Self::TagNull(sign, tag) => format!("{} {sign} null", TAGS[*tag]),
            Self::Time(sign, ns) => format!("time {sign} timestamp('{}')", Timestamp(*ns)),
            Self::Not(a) => format!("!({})", a.text()),
            Self::Infix(sign, a, b) => format!("({}) {sign} ({})", a.text(), b.text()),
            Self::Choice(c, a, b) => format!("({}) ? ({}) : ({})", c.text(), a.text(), b.text()),
        }
    }

    fn value(&self, row: &Row) -> Result<bool, ()> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::Compare(sign, a, b) => compare(sign, a.value(row)?, b.value(row)?),
            Self::In(a, list, with_null) => Ok(a.value(row)?.map_or(*with_null, |a| list.iter().any(|one| f64::from(*one) == a))),
            Self::Has(signal) => Ok(row.signals[*signal].is_some()),
            Self::Finite(a) => Ok(matches!(a.value(row), Ok(Some(a)) if a.is_finite())),
            Self::Text(sign, tag, text) => compare(sign, row.tags[*tag], Some(*text)),
            Self::Texts(sign, a, b) => compare(sign, row.tags[*a], row.tags[*b]),
            Self::TextIn(tag, list, with_null) => Ok(row.tags[*tag].map_or(*with_null, |text| list.contains(&text))),
            Self::Part(name, tag, part) => row.tags[*tag].ok_or(()).map(|text| match *name {
                "startsWith" => text.starts_with(part),
                "endsWith" => text.ends_with(part),
                _ => text.contains(part),
            }),
            Self::TagNull(sign, tag) => Ok(row.tags[*tag].is_none() == (*sign == "==")),
            Self::Time(sign, ns) => Ok(holds(sign, row.time.cmp(ns))),
            Self::Not(a) => a.value(row).map(|value| !value),
            Self::Infix("&&", a, b) => match (a.value(row), b.value(row)) {
                (Ok(false), _) | (_, Ok(false)) => Ok(false),
                (a, b) => Ok(a? && b?),
            },
            Self::Infix("||", a, b) => match (a.value(row), b.value(row)) {
                (Ok(true), _) | (_, Ok(true)) => Ok(true),
                (a, b) => Ok(a? || b?),
            },
            Self::Infix(sign, a, b) => Ok((a.value(row)? == b.value(row)?) == (*sign == "==")),
            Self::Choice(c, a, b) => {
                if c.value(row)? {
                    a.value(row)
                } else {
                    b.value(row)
                }
            }
        }
    }
}

fn sign() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="])
}

fn equality() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["==", "!="])
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(TEXTS.to_vec())
}

fn leaf_number() -> impl Strategy<Value = Number> {
    prop_oneof![
        (0..5i8).prop_map(|value| Number::Literal(f64::from(value) / 2.0)),
        (0..3usize).prop_map(Number::Signal),
        Just(Number::X),
        Just(Number::Layer),
        (0..2usize).prop_map(Number::Size),
    ]
}

fn leaf_truth() -> impl Strategy<Value = Truth> {
    let number = || leaf_number().prop_map(Box::new);
    prop_oneof![
        any::<bool>().prop_map(Truth::Literal),
        (sign(), number(), number()).prop_map(|(sign, a, b)| Truth::Compare(sign, a, b)),
        (0..3usize).prop_map(Truth::Has),
        (sign(), 0..2usize, text()).prop_map(|(sign, tag, text)| Truth::Text(sign, tag, text)),
        (sign(), 0..2usize, 0..2usize).prop_map(|(sign, a, b)| Truth::Texts(sign, a, b)),
        (0..2usize, prop::collection::vec(text(), 0..3), any::<bool>())
            .prop_map(|(tag, list, null)| Truth::TextIn(tag, list, null)),
        (prop::sample::select(vec!["startsWith", "endsWith", "contains"]), 0..2usize, text())
            .prop_map(|(name, tag, text)| Truth::Part(name, tag, text)),
        (equality(), 0..2usize).prop_map(|(sign, tag)| Truth::TagNull(sign, tag)),
        (sign(), 0..4i64).prop_map(|(sign, ns)| Truth::Time(sign, ns)),
    ]
}

/// Trees of both kinds, nested in each other.
fn trees() -> impl Strategy<Value = (Number, Truth)> {
    let leaf = (leaf_number(), leaf_truth());
    leaf.prop_recursive(4, 40, 3, |inner| {
        let number = inner.clone().prop_map(|(number, _)| Box::new(number)).boxed();
        let truth = inner.prop_map(|(_, truth)| Box::new(truth)).boxed();
        let call = prop::sample::select(vec!["abs", "sqrt", "floor", "ceil", "round", "int", "log", "log10", "exp"]);
        let infix = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
        let call2 = prop::sample::select(vec!["min", "max", "pow"]);
        let numbers = prop_oneof![
            number.clone().prop_map(Number::Negative),
            (call, number.clone()).prop_map(|(name, a)| Number::Call(name, a)),
            (infix, number.clone(), number.clone()).prop_map(|(sign, a, b)| Number::Infix(sign, a, b)),
            (call2, number.clone(), number.clone()).prop_map(|(name, a, b)| Number::Call2(name, a, b)),
            (truth.clone(), number.clone(), number.clone()).prop_map(|(c, a, b)| Number::Choice(c, a, b)),
        ];
        let logic = prop::sample::select(vec!["&&", "||", "==", "!="]);
        let truths = prop_oneof![
            (sign(), number.clone(), number.clone()).prop_map(|(sign, a, b)| Truth::Compare(sign, a, b)),
            (number.clone(), prop::collection::vec(-2..3i8, 0..4), any::<bool>())
                .prop_map(|(a, list, null)| Truth::In(a, list, null)),
            number.prop_map(Truth::Finite),
            truth.clone().prop_map(Truth::Not),
            (logic, truth.clone(), truth.clone()).prop_map(|(sign, a, b)| Truth::Infix(sign, a, b)),
            (truth.clone(), truth.clone(), truth).prop_map(|(c, a, b)| Truth::Choice(c, a, b)),
        ];
        (numbers, truths)
    })
}

fn value() -> impl Strategy<Value = Option<f64>> {
    prop::option::weighted(0.8, (-4..5i8).prop_map(|value| f64::from(value) / 2.0))
}

fn row() -> impl Strategy<Value = Row> {
    let tag = || prop::option::weighted(0.8, text());
    (0..4i64, [value(), value(), value()], value(), prop::option::of(-2..3i32), [tag(), tag()])
        .prop_map(|(time, signals, x, layer, tags)| Row { time, signals, x, layer, tags })
}

fn batch(rows: &[Row]) -> Batch {
    let mut batch = Batch::new(Arc::new(stream()), "s".into(), "s".into(), Timestamp(0));
    let mut at = Positions::default();
    for row in rows {
        batch.time.push(row.time);
        for (column, value) in batch.signals.iter_mut().zip(row.signals) {
            column.push(value.unwrap_or(f64::NAN));
        }
        for (column, text) in batch.tags.iter_mut().zip(row.tags) {
            column.push(text);
        }
        for (axis, value) in [(&mut at.x, row.x), (&mut at.y, row.x), (&mut at.z, row.x)] {
            axis.push(value.unwrap_or(f64::NAN));
        }
    }
    batch.positions = rows.iter().any(|row| row.x.is_some()).then_some(at);
    let layers = || rows.iter().map(|row| row.layer.unwrap_or(NO_LAYER)).collect();
    batch.layer = rows.iter().any(|row| row.layer.is_some()).then(layers);
    assert!(batch.is_consistent());
    batch
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn columns_give_what_a_row_by_row_interpreter_gives(
        (number, truth) in trees(),
        rows in prop::collection::vec(row(), 0..20),
        cut in 0..20usize,
    ) {
        let (stream, batch) = (stream(), batch(&rows));
        let condition = Expr::compile(&truth.text(), &stream, Type::Bool).unwrap_or_else(|error| panic!("{}: {error}", truth.text()));
        let computed = Expr::compile(&number.text(), &stream, Type::Number).unwrap_or_else(|error| panic!("{}: {error}", number.text()));
        let (mut scratch, mut out) = (Scratch::default(), Bools::default());
        for range in [0..cut.min(rows.len()), cut.min(rows.len())..rows.len()] {
            condition.eval_bool(&batch, range.clone(), &mut scratch, &mut out);
            for (place, row) in rows[range.clone()].iter().enumerate() {
                prop_assert_eq!(out.get(place), truth.value(row).ok(), "{} of {:?}", truth.text(), row);
            }
            let values = computed.eval_number(&batch, range.clone(), &mut scratch);
            for (value, row) in values.iter().zip(&rows[range]) {
                let expected = number.value(row).ok().flatten().filter(|value| value.is_finite());
                prop_assert_eq!(Some(*value).filter(|value| !value.is_nan()), expected, "{} of {:?}", number.text(), row);
            }
        }
    }

    #[test]
    fn arbitrary_text_compiles_or_names_a_column(text in "\\PC{0,40}") {
        check_fault(&text);
    }

    #[test]
    fn text_of_the_language_s_pieces_compiles_or_names_a_column(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "b", "plc.c", "part", "time", "x", "1", "2.5", "'A3'", "\"é", "r'", "b'x'", "null", "true", "has", "(", ")", "[", "]", "{",
            "}", ",", ".", "?", ":", "+", "-", "*", "/", "%", "<", "==", "!=", "!", "&&", "||", " in ", "size", "min", "exists", "all", "=", "@",
            " ", "\n", "//", "\\", "math", "timestamp", "`", "0x", "1e999", "9999999999999999999", "if", "startsWith",
        ]), 0..16),
    ) {
        check_fault(&pieces.concat());
    }
}

fn check_fault(text: &str) {
    for want in [Type::Bool, Type::Number] {
        if let Err(error) = Expr::compile(text, &stream(), want) {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
            assert!(!error.message.is_empty() && !error.message.contains("ANTLR"), "{text:?}: {error}");
        }
    }
}

#[test]
fn the_longest_chains_and_the_deepest_nesting_end_in_a_fault() {
    for (open, close) in [
        ("a+", "a"),
        ("!", "true"),
        ("a.", "a"),
        ("true&&", "true"),
        ("- ", "a"),
        ("1<", "1"),
        ("a?b:", "c"),
        ("(", "a"),
        ("f(", "a"),
        ("[", "a"),
    ] {
        let text = format!("{}{close}", open.repeat(4000 / open.len()));
        check_fault(&text);
    }
    check_fault(&format!("a{}", "[0]".repeat(1300)));
}
