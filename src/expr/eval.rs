//! Checked tree × columns → a column.
//!
//! The tree is walked once per [`CHUNK`] rows, so that intermediate columns stay in the first-level cache; each node is one loop over
//! slices without a branch on the data, which the compiler vectorises. Leaves are views of the batch's own columns. Intermediate
//! columns come from the [`Scratch`]'s pool and go back to it.

use std::ops::Range;

use super::{
    ERROR, FALSE, TRUE,
    node::{Binary, Column, Compare, Cond, Instant, Num, Order, TextTest, Unary, max, min, pow},
};
use crate::model::{Batch, NO_LAYER, TagColumn};

/// Rows per walk of the tree.
const CHUNK: usize = 1024;

/// Buffers that evaluations use again; one serves any number of expressions.
#[derive(Debug, Default)]
pub struct Scratch {
    numbers: Vec<Vec<f64>>,
    truths: Vec<Vec<u8>>,
    table: Vec<u8>,
    out: Vec<f64>,
}

/// Evaluates `cond` for `rows` of `batch` into `out`, which has as many places.
pub(super) fn bools(cond: &Cond, batch: &Batch, rows: Range<usize>, scratch: &mut Scratch, out: &mut [u8]) {
    for (start, out) in rows.step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
        scratch.cond(cond, &Chunk { batch, start, len: out.len() }, out);
    }
}

/// Evaluates `number` for `rows` of `batch`; what is not finite becomes `NaN`.
pub(super) fn numbers<'s>(number: &Num, batch: &Batch, rows: Range<usize>, scratch: &'s mut Scratch) -> &'s [f64] {
    let mut out = std::mem::take(&mut scratch.out);
    out.clear();
    out.resize(rows.len(), f64::NAN);
    for (start, out) in rows.step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
        scratch.number(number, &Chunk { batch, start, len: out.len() }, out);
        for value in out {
            *value = if value.is_finite() { *value } else { f64::NAN };
        }
    }
    scratch.out = out;
    &scratch.out
}

/// The rows of one walk.
struct Chunk<'a> {
    batch: &'a Batch,
    start: usize,
    len: usize,
}

impl<'a> Chunk<'a> {
    /// This chunk's part of a column of the batch.
    fn part<T>(&self, column: &'a [T]) -> &'a [T] {
        &column[self.start..self.start + self.len]
    }

    /// What needs no computing.
    fn leaf(&self, number: &Num) -> Option<View<'a>> {
        let column = match number {
            Num::Const(value) => return Some(View::Const(*value)),
            Num::Column(Column::Signal(signal)) => self.batch.signals.get(*signal),
            Num::Column(Column::X) => self.batch.positions.as_ref().map(|at| &at.x),
            Num::Column(Column::Y) => self.batch.positions.as_ref().map(|at| &at.y),
            Num::Column(Column::Z) => self.batch.positions.as_ref().map(|at| &at.z),
            Num::Column(Column::Layer) if self.batch.layer.is_some() => return None,
            Num::Column(Column::Layer) => None,
            _ => return None,
        };
        Some(column.map_or(View::Const(f64::NAN), |column| View::Slice(self.part(column))))
    }

    fn instants(&self, instant: Instant) -> View<'a, i64> {
        match instant {
            Instant::Row => View::Slice(self.part(&self.batch.time)),
            Instant::Const(ns) => View::Const(ns),
        }
    }

    fn tag(&self, tag: usize) -> Option<(&'a TagColumn, &'a [u32])> {
        self.batch.tags.get(tag).map(|column| (column, self.part(&column.codes)))
    }
}

/// An operand: a column, or the same for every row.
#[derive(Clone, Copy)]
enum View<'a, T = f64> {
    Slice(&'a [T]),
    Const(T),
}

impl Scratch {
    fn take_numbers(&mut self) -> Vec<f64> {
        self.numbers.pop().unwrap_or_else(|| vec![0.0; CHUNK])
    }

    fn take_truths(&mut self) -> Vec<u8> {
        self.truths.pop().unwrap_or_else(|| vec![ERROR; CHUNK])
    }

    /// `number` as an operand, computed into `buffer` where it is no leaf.
    fn operand<'v>(&mut self, number: &Num, at: &Chunk<'v>, buffer: &'v mut [f64]) -> View<'v> {
        at.leaf(number).unwrap_or_else(|| {
            let buffer = &mut buffer[..at.len];
            self.number(number, at, buffer);
            View::Slice(buffer)
        })
    }

    fn number(&mut self, number: &Num, at: &Chunk<'_>, out: &mut [f64]) {
        match number {
            Num::Const(_) | Num::Column(_) => match at.leaf(number) {
                Some(View::Const(value)) => out.fill(value),
                Some(View::Slice(column)) => out.copy_from_slice(column),
                None => layers(at, out),
            },
            Num::Size(tag) => sizes(*tag, at, out),
            Num::Unary(by, a) => {
                self.number(a, at, out);
                unary(*by, out);
            }
            Num::Binary(by, a, b) => {
                let mut buffer = self.take_numbers();
                let left = at.leaf(a);
                if left.is_none() {
                    self.number(a, at, out);
                }
                let right = self.operand(b, at, &mut buffer);
                binary(*by, out, left, right);
                self.numbers.push(buffer);
            }
            Num::Choice(cond, yes, no) => {
                let (mut buffer, mut truths) = (self.take_numbers(), self.take_truths());
                self.cond(cond, at, &mut truths[..at.len]);
                self.number(yes, at, out);
                self.number(no, at, &mut buffer[..at.len]);
                for ((out, no), truth) in out.iter_mut().zip(&buffer).zip(&truths) {
                    let other = if *truth == FALSE { *no } else { f64::NAN };
                    *out = if *truth == TRUE { *out } else { other };
                }
                self.numbers.push(buffer);
                self.truths.push(truths);
            }
        }
    }

    fn cond(&mut self, cond: &Cond, at: &Chunk<'_>, out: &mut [u8]) {
        match cond {
            Cond::Const(value) => out.fill(truth(*value)),
            Cond::Order(by, a, b) => self.with_operands(a, b, at, |left, right| order(*by, out, left, right)),
            Cond::Equal { negate, left, right } => {
                let null = [left, right].map(|side| matches!(**side, Num::Column(_)));
                self.with_operands(left, right, at, |left, right| equal(out, left, right, null));
                if *negate {
                    not(out);
                }
            }
            Cond::Among { value, numbers, null } => {
                let nullable = matches!(**value, Num::Column(_));
                self.with_operands(value, &Num::Const(0.0), at, |value, _| among(out, value, numbers, nullable.then_some(*null)));
            }
            Cond::Present(column) => {
                self.with_operands(&Num::Column(*column), &Num::Const(0.0), at, |value, _| {
                    each(out, value, |a| truth(!a.is_nan()));
                });
            }
            Cond::Finite(number) => {
                self.with_operands(number, &Num::Const(0.0), at, |value, _| each(out, value, |a| truth(a.is_finite())));
            }
            Cond::Text(tag, test) => text(*tag, test, at, &mut self.table, out),
            Cond::Tags(by, left, right) => tags(*by, *left, *right, at, out),
            Cond::Time(by, left, right) => {
                pair(out, at.instants(*left), at.instants(*right), |a, b| truth(by.holds(a.cmp(&b))));
            }
            Cond::Not(cond) => {
                self.cond(cond, at, out);
                not(out);
            }
            Cond::And(left, right) => {
                self.cond(left, at, out);
                if out.iter().fold(FALSE, |any, one| any | one) != FALSE {
                    self.with_cond(right, at, |right| zip(out, right, u8::min));
                }
            }
            Cond::Or(left, right) => {
                self.cond(left, at, out);
                if out.iter().fold(TRUE, |least, one| least.min(*one)) != TRUE {
                    self.with_cond(right, at, |right| zip(out, right, u8::max));
                }
            }
            Cond::Same { negate, left, right } => {
                self.cond(left, at, out);
                self.with_cond(right, at, |right| zip(out, right, same));
                if *negate {
                    not(out);
                }
            }
            Cond::Choice(cond, yes, no) => self.choose(cond, yes, no, at, out),
        }
    }

    fn choose(&mut self, cond: &Cond, yes: &Cond, no: &Cond, at: &Chunk<'_>, out: &mut [u8]) {
        let mut truths = self.take_truths();
        self.cond(cond, at, &mut truths[..at.len]);
        self.cond(yes, at, out);
        self.with_cond(no, at, |no| {
            for ((out, no), truth) in out.iter_mut().zip(no).zip(&truths) {
                let other = if *truth == FALSE { *no } else { ERROR };
                *out = if *truth == TRUE { *out } else { other };
            }
        });
        self.truths.push(truths);
    }

    /// Computes a second condition and hands it to `then`.
    fn with_cond(&mut self, cond: &Cond, at: &Chunk<'_>, then: impl FnOnce(&[u8])) {
        let mut buffer = self.take_truths();
        self.cond(cond, at, &mut buffer[..at.len]);
        then(&buffer[..at.len]);
        self.truths.push(buffer);
    }

    /// Computes two operands and hands them to `then`.
    fn with_operands(&mut self, a: &Num, b: &Num, at: &Chunk<'_>, then: impl FnOnce(View, View)) {
        let (mut left, mut right) = (self.take_numbers(), self.take_numbers());
        let a = self.operand(a, at, &mut left);
        let b = self.operand(b, at, &mut right);
        then(a, b);
        self.numbers.push(left);
        self.numbers.push(right);
    }
}

const fn truth(value: bool) -> u8 {
    (value as u8) << 1
}

/// `!`: the middle stays.
fn not(out: &mut [u8]) {
    for one in out {
        *one = TRUE - *one;
    }
}

/// `==` of conditions.
fn same(a: u8, b: u8) -> u8 {
    if a == ERROR || b == ERROR { ERROR } else { truth(a == b) }
}

fn zip(out: &mut [u8], right: &[u8], by: impl Fn(u8, u8) -> u8) {
    for (out, right) in out.iter_mut().zip(right) {
        *out = by(*out, *right);
    }
}

fn each<T: Copy>(out: &mut [u8], a: View<T>, by: impl Fn(T) -> u8) {
    match a {
        View::Const(a) => out.fill(by(a)),
        View::Slice(a) => out.iter_mut().zip(a).for_each(|(out, a)| *out = by(*a)),
    }
}

fn pair<T: Copy>(out: &mut [u8], a: View<T>, b: View<T>, by: impl Fn(T, T) -> u8) {
    match (a, b) {
        (a, View::Const(b)) => each(out, a, |a| by(a, b)),
        (View::Const(a), b) => each(out, b, |b| by(a, b)),
        (View::Slice(a), View::Slice(b)) => {
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = by(*a, *b));
        }
    }
}

fn order(by: Order, out: &mut [u8], a: View, b: View) {
    // No number is in order with NaN: a comparison that holds is never an error too.
    let error = |a: f64, b: f64| u8::from(a.is_nan() | b.is_nan());
    match by {
        Order::Less => pair(out, a, b, |a, b| truth(a < b) | error(a, b)),
        Order::LessOrEqual => pair(out, a, b, |a, b| truth(a <= b) | error(a, b)),
        Order::Greater => pair(out, a, b, |a, b| truth(a > b) | error(a, b)),
        Order::GreaterOrEqual => pair(out, a, b, |a, b| truth(a >= b) | error(a, b)),
    }
}

/// `==`; `null` tells of which side NaN means null rather than an error.
fn equal(out: &mut [u8], a: View, b: View, null: [bool; 2]) {
    match null {
        [true, true] => pair(out, a, b, |a, b| truth((a == b) | (a.is_nan() & b.is_nan()))),
        [true, false] => pair(out, a, b, |a, b| truth(a == b) | u8::from(b.is_nan())),
        [false, true] => pair(out, a, b, |a, b| truth(a == b) | u8::from(a.is_nan())),
        [false, false] => pair(out, a, b, |a, b| truth(a == b) | u8::from(a.is_nan() | b.is_nan())),
    }
}

/// `in`; `null` is the answer for null, where the value can be null rather than an error.
fn among(out: &mut [u8], value: View, numbers: &[f64], null: Option<bool>) {
    let missing = null.map_or(ERROR, truth);
    let start = |a: f64| if a.is_nan() { missing } else { FALSE };
    match value {
        View::Const(a) => out.fill(start(a) | truth(numbers.contains(&a))),
        View::Slice(column) => {
            each(out, value, start);
            for number in numbers {
                out.iter_mut().zip(column).for_each(|(out, a)| *out |= truth(a == number));
            }
        }
    }
}

fn unary(by: Unary, out: &mut [f64]) {
    fn every(out: &mut [f64], by: impl Fn(f64) -> f64) {
        for a in out {
            *a = by(*a);
        }
    }
    match by {
        Unary::Neg => every(out, |a| -a),
        Unary::Abs => every(out, f64::abs),
        Unary::Sqrt => every(out, f64::sqrt),
        rest => every(out, |a| rest.apply(a)),
    }
}

/// `a by b` into `out`; without `a`, what is there is the left operand.
fn binary(by: Binary, out: &mut [f64], a: Option<View>, b: View) {
    fn every(out: &mut [f64], a: Option<View>, b: View, by: impl Fn(f64, f64) -> f64) {
        match (a, b) {
            (None, View::Slice(b)) => out.iter_mut().zip(b).for_each(|(a, b)| *a = by(*a, *b)),
            (None, View::Const(b)) => out.iter_mut().for_each(|a| *a = by(*a, b)),
            (Some(View::Slice(a)), View::Slice(b)) => {
                out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = by(*a, *b));
            }
            (Some(View::Slice(a)), View::Const(b)) => out.iter_mut().zip(a).for_each(|(out, a)| *out = by(*a, b)),
            (Some(View::Const(a)), View::Slice(b)) => out.iter_mut().zip(b).for_each(|(out, b)| *out = by(a, *b)),
            (Some(View::Const(a)), View::Const(b)) => out.fill(by(a, b)),
        }
    }
    match by {
        Binary::Add => every(out, a, b, |a, b| a + b),
        Binary::Sub => every(out, a, b, |a, b| a - b),
        Binary::Mul => every(out, a, b, |a, b| a * b),
        Binary::Div => every(out, a, b, |a, b| a / b),
        Binary::Rem => every(out, a, b, |a, b| a % b),
        Binary::Pow => every(out, a, b, pow),
        Binary::Min => every(out, a, b, min),
        Binary::Max => every(out, a, b, max),
    }
}

fn layers(at: &Chunk<'_>, out: &mut [f64]) {
    let Some(layer) = &at.batch.layer else { return out.fill(f64::NAN) };
    for (out, layer) in out.iter_mut().zip(at.part(layer)) {
        *out = if *layer == NO_LAYER { f64::NAN } else { f64::from(*layer) };
    }
}

fn sizes(tag: usize, at: &Chunk<'_>, out: &mut [f64]) {
    let Some((column, codes)) = at.tag(tag) else { return out.fill(f64::NAN) };
    let size = |code: u32| column.names.get(code as usize).map_or(f64::NAN, |name| name.chars().count() as f64);
    let mut last = codes.first().map(|code| (*code, size(*code)));
    for (out, code) in out.iter_mut().zip(codes) {
        let (_, size) = *last.insert(match last {
            Some((known, size)) if known == *code => (known, size),
            _ => (*code, size(*code)),
        });
        *out = size;
    }
}

/// The answer to `test` for each row: asked once per distinct text, then looked up by code.
fn text(tag: usize, test: &TextTest, at: &Chunk<'_>, table: &mut Vec<u8>, out: &mut [u8]) {
    let answer = |text: Option<&str>| test.answer(text).map_or(ERROR, truth);
    let Some((column, codes)) = at.tag(tag) else { return out.fill(answer(None)) };
    let names = &column.names;
    if names.len() > codes.len() {
        let of_code = |code: &u32| answer(names.get(*code as usize).map(|name| &**name));
        return out.iter_mut().zip(codes).for_each(|(out, code)| *out = of_code(code));
    }
    table.clear();
    table.extend(names.iter().map(|name| answer(Some(name))));
    table.push(answer(None));
    // Nearly always one text is looked for: a comparison of codes, which vectorises.
    let odd = |usual: u8| {
        let mut others = table.iter().enumerate().filter(move |(_, one)| **one != usual);
        (others.next(), others.next())
    };
    let usual = table[names.len()];
    match odd(usual) {
        (None, _) => out.fill(usual),
        (Some((code, &answer)), None) => {
            each(out, View::Slice(codes), |one| if one == code as u32 { answer } else { usual });
        }
        _ => each(out, View::Slice(codes), |code| table[(code as usize).min(names.len())]),
    }
}

fn tags(by: Compare, left: usize, right: usize, at: &Chunk<'_>, out: &mut [u8]) {
    let text = |tag: usize, row: usize| at.batch.tags.get(tag).and_then(|column| column.get(at.start + row));
    for (row, out) in out.iter_mut().enumerate() {
        *out = match (text(left, row), text(right, row)) {
            (Some(left), Some(right)) => truth(by.holds(left.cmp(right))),
            (left, right) => match by {
                Compare::Order(_) => ERROR,
                equality => truth(equality.holds(left.is_some().cmp(&right.is_some()))),
            },
        };
    }
}
