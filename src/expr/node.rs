//! A checked expression as a tree with types: what the compiler makes and the evaluator walks.
//!
//! Numbers are `f64`, `NaN` = error (no value). Conditions are three-valued, see [`super::Bools`]. Texts never become values: every
//! use of one is a test that is answered once per distinct text of a batch ([`TextTest`]).

use std::cmp::Ordering;

/// What an expression yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A number (`f64`).
    Number,
    /// A condition.
    Bool,
}

/// A whole expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Root {
    Number(Num),
    Bool(Cond),
}

/// A number for each row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Num {
    Const(f64),
    /// A column; `NaN` = null.
    Column(Column),
    /// How many characters the tag's text has; null gives an error.
    Size(usize),
    Unary(Unary, Box<Num>),
    Binary(Binary, Box<Num>, Box<Num>),
    Choice(Box<Cond>, Box<Num>, Box<Num>),
}

/// A column of numbers that a row may have no value in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Signal(usize),
    X,
    Y,
    Z,
    Layer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Neg,
    Abs,
    Sqrt,
    Floor,
    Ceil,
    Round,
    Trunc,
    Ln,
    Log10,
    Exp,
}

impl Unary {
    pub fn apply(self, a: f64) -> f64 {
        match self {
            Self::Neg => -a,
            Self::Abs => a.abs(),
            Self::Sqrt => a.sqrt(),
            Self::Floor => a.floor(),
            Self::Ceil => a.ceil(),
            Self::Round => a.round(),
            Self::Trunc => a.trunc(),
            Self::Ln => a.ln(),
            Self::Log10 => a.log10(),
            Self::Exp => a.exp(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Min,
    Max,
}

impl Binary {
    /// The result; an operand without a value gives none, also in `min`, `max` and `pow`, where IEEE 754 would ignore it.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Rem => a % b,
            Self::Pow => pow(a, b),
            Self::Min => min(a, b),
            Self::Max => max(a, b),
        }
    }
}

#[inline]
pub(super) fn min(a: f64, b: f64) -> f64 {
    if a < b || a.is_nan() { a } else { b }
}

#[inline]
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

#[inline]
pub(super) fn pow(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.powf(b) }
}

/// A condition for each row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cond {
    Const(bool),
    /// Ordered comparison: null and error give an error.
    Order(Order, Box<Num>, Box<Num>),
    /// `==`, or `!=` with `negate`: a null column equals null and nothing else; an error gives an error.
    Equal {
        negate: bool,
        left: Box<Num>,
        right: Box<Num>,
    },
    /// Whether the number is one of these, or null and `null` is; an error gives an error.
    Among {
        value: Box<Num>,
        numbers: Box<[f64]>,
        null: bool,
    },
    /// Whether the column has a value.
    Present(Column),
    /// Whether there is a finite number; never an error.
    Finite(Box<Num>),
    /// A question about the text of a tag.
    Text(usize, TextTest),
    /// A comparison of two tags.
    Tags(Compare, usize, usize),
    /// A comparison of times, nanoseconds.
    Time(Compare, Instant, Instant),
    Not(Box<Cond>),
    And(Box<Cond>, Box<Cond>),
    Or(Box<Cond>, Box<Cond>),
    /// `==` of two conditions, or `!=` with `negate`.
    Same {
        negate: bool,
        left: Box<Cond>,
        right: Box<Cond>,
    },
    Choice(Box<Cond>, Box<Cond>, Box<Cond>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same comparison with the sides exchanged.
    pub fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }
}

/// `==`, `!=` or an order, between texts (by code point, as in CEL) or times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Order(Order),
}

impl Compare {
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Order(by) => by.holds(order),
        }
    }

    pub fn mirrored(self) -> Self {
        match self {
            Self::Order(by) => Self::Order(by.mirrored()),
            same => same,
        }
    }
}

/// A time for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instant {
    /// The row's event time.
    Row,
    /// Nanoseconds since 1970.
    Const(i64),
}

/// A question that a tag's text answers alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextTest {
    Compare(Compare, Box<str>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// Whether the text is one of these, or null and `null` is.
    In {
        texts: Vec<Box<str>>,
        null: bool,
    },
    /// Whether there is a text.
    Present,
}

impl TextTest {
    /// The answer for a text, or for null; `None` = error.
    pub fn answer(&self, text: Option<&str>) -> Option<bool> {
        match (self, text) {
            (Self::Present, text) => Some(text.is_some()),
            (Self::In { null, .. }, None) => Some(*null),
            (Self::In { texts, .. }, Some(text)) => Some(texts.iter().any(|one| &**one == text)),
            (Self::Compare(Compare::Equal, _), None) => Some(false),
            (Self::Compare(Compare::NotEqual, _), None) => Some(true),
            (_, None) => None,
            (Self::Compare(by, other), Some(text)) => Some(by.holds(text.cmp(other))),
            (Self::StartsWith(part), Some(text)) => Some(text.starts_with(&**part)),
            (Self::EndsWith(part), Some(text)) => Some(text.ends_with(&**part)),
            (Self::Contains(part), Some(text)) => Some(text.contains(&**part)),
        }
    }
}
