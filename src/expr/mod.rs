//! Configured expressions, compiled once, evaluated a column at a time.
//!
//! `filter`, `derive`, `check` and the conditions of patterns are texts in the syntax of CEL, the Common Expression Language:
//! [`Expr::compile`] parses (`parse`), resolves names against a stream and checks types (`compile`) into a tree (`node`), which
//! [`Expr::eval_bool`] and [`Expr::eval_number`] walk once per 1,024 rows, each operator a loop over columns (`eval`).
//!
//! **Values.** Numbers are `f64`; integer literals are numbers too, so `7 / 2` is 3.5. Tags are texts. `time` compares with
//! `timestamp("2026-01-31T12:00:00Z")`, in exact nanoseconds. `x`, `y`, `z` (mm) and `layer` are the row's position; a signal or tag
//! of that name goes first. A signal whose name has dots is written with them.
//!
//! **Operators**, from tight to loose: `! -` · `* / %` · `+ -` · `== != < <= > >= in` · `&&` · `||` · `? :`. Lists of literals stand after
//! `in`. Functions: `abs sqrt min max floor ceil round int double log ln log10 exp pow isfinite has size`, also as `math.abs(x)`,
//! `math.least`, `math.greatest`, `math.isFinite`; of texts `startsWith endsWith contains size`. `log` is the natural logarithm,
//! `round` goes half away from zero, `%` has the sign of the dividend. Anything else of CEL is refused when compiled.
//!
//! **Null and errors**, CEL's rules. A signal without a value, a null tag and a missing position are *null*: null equals null and
//! nothing else, so `part == "A3"` is false and `part != "A3"` true where `part` is null; `has(a)` is `a != null`. Arithmetic, order
//! (`<` …), functions and tests of text with a null are an *error* of that row. An error spreads, but `false && error` and
//! `error && false` are false, `true || error` and `error || true` are true, and `c ? a : b` looks at the chosen branch alone.
//! A filter or check whose result is an error is not passed. A column chosen by `? :` counts as computed: its null is an error.
//! Division by zero gives an infinity as in IEEE 754; a result that is not a number (`0.0 / 0.0`, `sqrt(-1.0)`) is an error, where CEL
//! has a NaN that compares false: a check must not pass by `!(ratio > limit)` without a ratio. A derived number that is not finite is
//! no value.
//!
//! Evaluation has no side effects, allocates nothing once its [`Scratch`] is warm, and gives the same for every split of the rows.

mod compile;
mod eval;
mod node;
mod parse;

use std::ops::Range;

use crate::model::{Batch, Stream};

pub use eval::Scratch;
pub use node::Type;
pub use parse::TEXT_CHARS_MAX;

/// Why a text is no expression over its stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ExprError {
    /// Where in the text, 1-based, in characters.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl ExprError {
    fn new(column: usize, message: String) -> Self {
        Self { column, message }
    }
}

/// A checked expression over the rows of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    text: Box<str>,
    root: node::Root,
}

impl Expr {
    /// Compiles `text` for rows of `stream` to something that yields `want`.
    ///
    /// # Errors
    /// The first fault of the text, with its column: syntax, an unknown name (with the nearest known one), a function or type that
    /// does not fit.
    pub fn compile(text: &str, stream: &Stream, want: Type) -> Result<Self, ExprError> {
        Ok(Self { text: text.into(), root: compile::compile(text, stream, want)? })
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it yields.
    pub fn yields(&self) -> Type {
        match self.root {
            node::Root::Number(_) => Type::Number,
            node::Root::Bool(_) => Type::Bool,
        }
    }

    /// Evaluates a condition for `rows` of `batch` (clipped to what it has) into `out`, which it replaces.
    ///
    /// `batch` has the columns of the stream it was compiled for; one that is missing has no values. An expression that yields
    /// numbers is an error in every row.
    pub fn eval_bool(&self, batch: &Batch, rows: Range<usize>, scratch: &mut Scratch, out: &mut Bools) {
        let rows = clip(batch, rows);
        out.values.clear();
        out.values.resize(rows.len(), ERROR);
        if let node::Root::Bool(cond) = &self.root {
            eval::bools(cond, batch, rows, scratch, &mut out.values);
        }
    }

    /// Evaluates a number for `rows` of `batch` (clipped to what it has); `NaN` = no value, all others are finite.
    ///
    /// `batch` has the columns of the stream it was compiled for; one that is missing has no values. A condition has no number.
    pub fn eval_number<'s>(&self, batch: &Batch, rows: Range<usize>, scratch: &'s mut Scratch) -> &'s [f64] {
        let number = match &self.root {
            node::Root::Number(number) => number,
            node::Root::Bool(_) => &node::Num::Const(f64::NAN),
        };
        eval::numbers(number, batch, clip(batch, rows), scratch)
    }
}

fn clip(batch: &Batch, rows: Range<usize>) -> Range<usize> {
    let end = rows.end.min(batch.rows());
    rows.start.min(end)..end
}

/// A condition that is false, as in [`Bools::as_slice`].
pub const FALSE: u8 = 0;
/// A condition that could not be evaluated, as in [`Bools::as_slice`]. Between the other two, so that `&&` is the minimum, `||` the
/// maximum and `!` the difference from [`TRUE`].
pub const ERROR: u8 = 1;
/// A condition that holds, as in [`Bools::as_slice`].
pub const TRUE: u8 = 2;

/// The results of a condition, one of [`FALSE`], [`ERROR`], [`TRUE`] a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bools {
    values: Vec<u8>,
}

impl Bools {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One byte a row.
    pub fn as_slice(&self) -> &[u8] {
        &self.values
    }

    /// The result for the `row`-th evaluated row; `None` = error, or no such row.
    pub fn get(&self, row: usize) -> Option<bool> {
        match self.values.get(row) {
            Some(&TRUE) => Some(true),
            Some(&FALSE) => Some(false),
            _ => None,
        }
    }

    /// Whether the condition holds for the `row`-th evaluated row; an error does not.
    pub fn holds(&self, row: usize) -> bool {
        self.values.get(row) == Some(&TRUE)
    }

    /// How many rows the condition holds for.
    pub fn count_true(&self) -> usize {
        self.count(TRUE)
    }

    /// How many rows it could not be evaluated for.
    pub fn count_errors(&self) -> usize {
        self.count(ERROR)
    }

    fn count(&self, value: u8) -> usize {
        // Sums of 255 stay in a byte, which keeps the inner loop in bytes.
        self.values.chunks(255).map(|some| usize::from(some.iter().map(|one| u8::from(*one == value)).sum::<u8>())).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{NO_LAYER, Positions, Timestamp};

    const NAN: f64 = f64::NAN;

    fn stream() -> Stream {
        Stream::new("melt", &["intensity", "laser_power", "plc.temp"], &["part", "recipe"])
    }

    /// Row 0 has everything, row 1 no intensity, part, position or layer, row 2 another part and zeros.
    fn rows() -> Batch {
        let mut batch = Batch::new(Arc::new(stream()), "s".into(), "s".into(), Timestamp(0));
        batch.time = vec![1_000_000_000, 2_000_000_000, 2_000_000_001];
        batch.signals = vec![vec![3.0, NAN, 0.0], vec![200.0, 200.0, 0.0], vec![1.0, 2.0, -7.5]];
        for (part, recipe) in [(Some("A3"), Some("A3")), (None, Some("steel")), (Some("Bé1"), None)] {
            batch.tags[0].push(part);
            batch.tags[1].push(recipe);
        }
        batch.positions = Some(Positions { x: vec![1.0, NAN, 2.0], y: vec![0.5, NAN, 0.0], z: vec![0.0, NAN, 0.1] });
        batch.layer = Some(vec![4, NO_LAYER, 5]);
        batch
    }

    /// `expected`: a letter a row: t, f, or e for error.
    fn check(text: &str, expected: &str) {
        let expr = Expr::compile(text, &stream(), Type::Bool).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut out = Bools::default();
        expr.eval_bool(&rows(), 0..3, &mut Scratch::default(), &mut out);
        let letters: String = out.as_slice().iter().map(|one| ['f', 'e', 't'][usize::from(*one)]).collect();
        assert_eq!(letters, expected, "{text}");
    }

    fn check_number(text: &str, expected: [f64; 3]) {
        let expr = Expr::compile(text, &stream(), Type::Number).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut scratch = Scratch::default();
        let got = expr.eval_number(&rows(), 0..3, &mut scratch);
        assert!(got.iter().zip(expected).all(|(a, b)| *a == b || a.is_nan() && b.is_nan()), "{text}: {got:?}");
    }

    #[test]
    fn comparisons_with_no_value_are_errors() {
        check("intensity > 1.0", "tef");
        check("!(intensity > 1.0)", "fet");
        check("1.0 < intensity", "tef");
        check("intensity + 1.0 == 4.0", "tef");
        check("intensity >= laser_power", "fet");
    }

    #[test]
    fn and_and_or_absorb_errors_from_both_sides() {
        check("intensity > 1.0 && laser_power < 100.0", "fff");
        check("laser_power < 100.0 && intensity > 1.0", "fff");
        check("intensity > 1.0 || laser_power > 100.0", "ttf");
        check("laser_power > 100.0 || intensity > 1.0", "ttf");
        check("intensity > 1.0 && laser_power > 100.0", "tef");
        check("intensity > 1.0 || laser_power < 0.0", "tef");
    }

    #[test]
    fn null_equals_null_and_nothing_else() {
        check("intensity == 3.0", "tff");
        check("intensity != 3.0", "ftt");
        check("intensity == null", "ftf");
        check("null != intensity", "tft");
        check("has(intensity)", "tft");
        check("has(part) && has(x) && has(layer)", "tft");
        check("part == null", "ftf");
        check("part != null", "tft");
        check("part == 'A3'", "tff");
        check("part != 'A3'", "ftt");
        check("part < 'B'", "tef");
        check("'B' < part", "fet");
        check("part == recipe", "tff");
        check("part != recipe", "ftt");
        check("part <= recipe", "tee");
        check("layer == x", "ftf");
        check("intensity == x", "ftf");
        check("intensity == x + 0.0", "fef");
    }

    #[test]
    fn lists_hold_literals_and_null() {
        check("part in ['A3', 'C']", "tff");
        check("part in ['A3', null]", "ttf");
        check("!(part in ['A3'])", "ftt");
        check("part in ['A3', 'Bé1']", "tft");
        check("layer in [4, 5.0, -1]", "tft");
        check("layer in [4, null]", "ttf");
        check("layer + 1 in [5]", "tef");
        check("layer in []", "fff");
        check("'A' in ['A']", "ttt");
        check("2 in [1, 2]", "ttt");
    }

    #[test]
    fn texts_are_tested_by_their_characters() {
        check("part.startsWith('A')", "tef");
        check("part.endsWith('1')", "fet");
        check("part.contains('é')", "fet");
        check("size(part) == 3", "fet");
        check("part.size() == 2", "tef");
        check("'abc'.startsWith(\"ab\")", "ttt");
        check("r'a\\b' == 'a\\\\b'", "ttt");
    }

    #[test]
    fn precedence_is_that_of_cel() {
        check_number("1 + 2 * 3", [7.0; 3]);
        check_number("-2 * -(3 - 5)", [-4.0; 3]);
        check_number("7 - 2 - 1", [4.0; 3]);
        check_number("8 / 2 / 2 % 3", [2.0; 3]);
        check("true || false && false", "ttt");
        check("!false == true", "ttt");
        check("1 + 1 == 2 && 3 < 4", "ttt");
        check_number("1 > 2 ? 3 : 4 > 5 ? 6 : 7", [7.0; 3]);
        check("(1 < 2) == (3 < 4)", "ttt");
        check("(1 < 2) != (intensity < 4)", "fef");
    }

    #[test]
    fn a_choice_looks_at_the_chosen_branch_alone() {
        check_number("has(intensity) ? intensity : -1", [3.0, -1.0, 0.0]);
        check_number("intensity > 1 ? 1 : 2", [1.0, NAN, 2.0]);
        check_number("laser_power > 0 ? intensity : null", [3.0, NAN, NAN]);
        check("has(intensity) ? intensity > 1 : true", "ttf");
        check("intensity > 1 ? true : true", "tet");
    }

    #[test]
    fn numbers_follow_ieee_and_what_is_not_finite_is_no_value() {
        check_number("intensity / laser_power", [0.015, NAN, NAN]);
        check("1.0 / intensity > 1e308", "fet");
        check("intensity / laser_power == intensity / laser_power", "tee");
        check("isfinite(1.0 / intensity)", "tff");
        check_number("7 / 2", [3.5; 3]);
        check_number("-7 % 4", [-3.0; 3]);
        check_number("plc.temp % 4", [1.0, 2.0, -3.5]);
        check_number("math.abs(plc.temp) + math.least(1, 2) + math.greatest(1, 2)", [4.0, 5.0, 10.5]);
        check_number("min(intensity, laser_power)", [3.0, NAN, 0.0]);
        check_number("max(laser_power, intensity, 1)", [200.0, NAN, 1.0]);
        check_number("round(-7.5) + floor(1.5) + ceil(1.5) + int(-1.9)", [-6.0; 3]);
        check_number("pow(2, 10) + sqrt(16) + exp(0) + log(1) + log10(100)", [1031.0; 3]);
        check_number("pow(intensity, 0)", [1.0, NAN, 1.0]);
        check_number("sqrt(plc.temp - 1)", [0.0, 1.0, NAN]);
        check_number("0x10 + 1u + double(layer)", [21.0, NAN, 22.0]);
    }

    #[test]
    fn times_compare_to_the_nanosecond() {
        check("time > timestamp('1970-01-01T00:00:02Z')", "fft");
        check("timestamp('1970-01-01T01:00:02+01:00') == time", "ftf");
        check("has(time)", "ttt");
    }

    #[test]
    fn a_part_of_the_rows_gives_the_same_as_all() {
        let expr = Expr::compile("intensity > 1.0 || part == 'Bé1'", &stream(), Type::Bool).expect("compiles");
        let (mut scratch, mut out) = (Scratch::default(), Bools::default());
        expr.eval_bool(&rows(), 1..9, &mut scratch, &mut out);
        assert_eq!((out.get(0), out.get(1), out.get(2)), (None, Some(true), None));
        assert_eq!((out.len(), out.count_true(), out.count_errors()), (2, 1, 1));
    }

    #[test]
    fn more_rows_than_a_chunk_give_what_each_row_gives_alone() {
        let some: Vec<usize> = (0..2500).map(|row| row * 7 % 3).collect();
        let many = rows().take(&some);
        let expr = Expr::compile("intensity + 1 > 1 && part != 'A3' || layer in [5]", &stream(), Type::Bool).expect("compiles");
        let (mut scratch, mut all, mut one) = (Scratch::default(), Bools::default(), Bools::default());
        expr.eval_bool(&many, 0..2500, &mut scratch, &mut all);
        for row in 0..2500 {
            expr.eval_bool(&many, row..row + 1, &mut scratch, &mut one);
            assert_eq!(one.get(0), all.get(row), "{row}");
        }
    }

    #[test]
    fn a_batch_without_the_columns_has_no_values() {
        let narrow =
            Batch { time: vec![1, 2], ..Batch::new(Arc::new(Stream::new("n", &[], &[])), "".into(), "".into(), Timestamp(0)) };
        let expr = Expr::compile("x > 1 || intensity == null && part == null", &stream(), Type::Bool).expect("compiles");
        let mut out = Bools::default();
        expr.eval_bool(&narrow, 0..2, &mut Scratch::default(), &mut out);
        assert_eq!(out.count_true(), 2);
    }

    #[test]
    fn faults_name_their_column_and_the_remedy() {
        let check = |text: &str, want: Type, column: usize, part: &str| {
            let error = Expr::compile(text, &stream(), want).expect_err(text);
            assert!(error.message.contains(part), "{text}: {error}");
            assert_eq!(error.column, column, "{text}: {error}");
        };
        check("1 < intensty", Type::Bool, 5, "did you mean `intensity`?");
        check("part == A3", Type::Bool, 9, "a text stands in quotes");
        check("1 + sqt(x)", Type::Number, 5, "did you mean `sqrt`?");
        check("part.matches('A.*')", Type::Bool, 6, "no function `matches`");
        check("intensity", Type::Bool, 1, "a number where a condition is needed");
        check("intensity > 1", Type::Number, 11, "? 1 : 0");
        check("part", Type::Number, 1, "a text where a number is needed");
        check("part > 1", Type::Bool, 6, "`>` cannot compare a text with a number");
        check("intensity > 1 && part", Type::Bool, 15, "`&&` needs a condition, not a text");
        check("part + 'x' == 'y'", Type::Bool, 6, "cannot be joined");
        check("-part == 1", Type::Bool, 1, "`-` needs a number");
        check("!intensity", Type::Bool, 1, "`!` needs a condition");
        check("abs(1, 2)", Type::Number, 1, "takes 1 argument, not 2");
        check("pow(1)", Type::Number, 1, "takes 2 arguments, not 1");
        check("time > 5", Type::Bool, 6, "timestamp(");
        check("time - time", Type::Number, 6, "times can only be compared");
        check("time > timestamp('yesterday')", Type::Bool, 8, "RFC 3339");
        check("layer in 5", Type::Bool, 10, "needs a list");
        check("layer in ['a']", Type::Bool, 11, "a number is never in");
        check("part in [recipe]", Type::Bool, 10, "holds literals");
        check("[1, 2].exists(i, i > 1)", Type::Bool, 14, "not supported");
        check("{'a': 1} == {'a': 1}", Type::Bool, 1, "not supported");
        check("1 < 2 && has (x + 1)", Type::Bool, 10, "the name of a signal or tag");
        check("x + 1 == null", Type::Bool, 7, "can be null");
        check("abs > 1", Type::Bool, 1, "needs parentheses");
        check("intensity[0] > 1", Type::Bool, 10, "not supported");
        check(&format!("1{} > 0", " + 1".repeat(300)), Type::Bool, 399, "operators within each other");
    }
}
