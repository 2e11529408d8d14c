//! CEL syntax tree → checked tree: names become columns, types are checked, constants are folded, and what is not supported is
//! refused with its column.

use std::fmt::Write as _;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr as Syntax, LiteralValue, operators},
};

use super::{
    ExprError,
    node::{Binary, Column, Compare, Cond, Instant, Num, Order, Root, TextTest, Type, Unary},
    parse::{HAS, Tree, parse},
};
use crate::model::{Stream, Timestamp};

/// Deepest tree, so that walking it stays far from the end of a stack.
const DEPTH_MAX: usize = 200;

/// The functions there are, for suggestions.
const FUNCTIONS: [&str; 20] = [
    "abs",
    "ceil",
    "contains",
    "double",
    "endsWith",
    "exp",
    "floor",
    "has",
    "int",
    "isfinite",
    "ln",
    "log",
    "log10",
    "max",
    "min",
    "pow",
    "round",
    "size",
    "sqrt",
    "startsWith",
];

/// Compiles `text` for rows of `stream`.
pub(super) fn compile(text: &str, stream: &Stream, want: Type) -> Result<Root, ExprError> {
    let tree = parse(text)?;
    let compiler = Compiler { tree: &tree, stream };
    match (want, compiler.lower(&tree.root, 0)?) {
        (Type::Number, Typed::Number(number)) => Ok(Root::Number(number)),
        (Type::Bool, Typed::Bool(cond)) => Ok(Root::Bool(cond)),
        (Type::Number, Typed::Bool(_)) => {
            compiler.refuse(&tree.root, "a condition where a number is needed: write `condition ? 1 : 0`")
        }
        (Type::Number, other) => compiler.refuse(&tree.root, format!("{} where a number is needed", other.name())),
        (Type::Bool, other) => {
            compiler.refuse(&tree.root, format!("{} where a condition is needed: compare it, such as `… > 0`", other.name()))
        }
    }
}

/// A checked part with its type.
enum Typed {
    Number(Num),
    Bool(Cond),
    Text(Text),
    Time(Instant),
    Null,
}

enum Text {
    Tag(usize),
    Literal(Box<str>),
}

impl Typed {
    /// What it is, in words.
    fn name(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Bool(_) => "a condition",
            Self::Text(_) => "a text",
            Self::Time(_) => "a time",
            Self::Null => "null",
        }
    }
}

struct Compiler<'a> {
    tree: &'a Tree,
    stream: &'a Stream,
}

type Lowered<T = Typed> = Result<T, ExprError>;

impl Compiler<'_> {
    fn refuse<T>(&self, at: &IdedExpr, message: impl Into<String>) -> Lowered<T> {
        Err(ExprError::new(self.tree.column(at), message.into()))
    }

    fn lower(&self, node: &IdedExpr, depth: usize) -> Lowered {
        if depth > DEPTH_MAX {
            return self
                .refuse(node, format!("more than {DEPTH_MAX} operators within each other: use parentheses, or `derive` a part"));
        }
        match &node.expr {
            Syntax::Literal(value) => self.literal(node, value),
            Syntax::Ident(name) => self.name(node, name),
            Syntax::Select(_) => match dotted(&node.expr) {
                Some((root, name)) => self.name(root, &name),
                None => self.refuse(node, "rows have no fields within fields: write a signal's or tag's name"),
            },
            Syntax::Call(call) => self.call(node, call, depth),
            Syntax::List(_) => self.refuse(node, "a list stands only after `in`"),
            Syntax::Map(_) | Syntax::Struct(_) => self.refuse(node, "maps and messages are not supported"),
            Syntax::Comprehension(_) => self.refuse(node, "`all`, `exists`, `map` and `filter` over lists are not supported"),
            Syntax::Unspecified => self.refuse(node, "the expression is incomplete"),
        }
    }

    fn literal(&self, node: &IdedExpr, value: &LiteralValue) -> Lowered {
        Ok(match value {
            LiteralValue::Boolean(value) => Typed::Bool(Cond::Const(*value.inner())),
            LiteralValue::Double(value) => Typed::Number(Num::Const(*value.inner())),
            LiteralValue::Int(value) => Typed::Number(Num::Const(*value.inner() as f64)),
            LiteralValue::UInt(value) => Typed::Number(Num::Const(*value.inner() as f64)),
            LiteralValue::String(value) => Typed::Text(Text::Literal(value.inner().into())),
            LiteralValue::Null => Typed::Null,
            LiteralValue::Bytes(_) => return self.refuse(node, "bytes are not supported: write a text without `b`"),
        })
    }

    fn name(&self, node: &IdedExpr, name: &str) -> Lowered {
        if let Some(signal) = self.stream.signal(name) {
            return Ok(Typed::Number(Num::Column(Column::Signal(signal))));
        }
        if let Some(tag) = self.stream.tag(name) {
            return Ok(Typed::Text(Text::Tag(tag)));
        }
        match name {
            "x" => Ok(Typed::Number(Num::Column(Column::X))),
            "y" => Ok(Typed::Number(Num::Column(Column::Y))),
            "z" => Ok(Typed::Number(Num::Column(Column::Z))),
            "layer" => Ok(Typed::Number(Num::Column(Column::Layer))),
            "time" => Ok(Typed::Time(Instant::Row)),
            _ => self.refuse(node, self.unknown_name(name)),
        }
    }

    fn call(&self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Lowered {
        let name = call.func_name.as_str();
        if let Some(by) = arithmetic(name) {
            let [left, right] = self.args(node, call, depth)?;
            return self.binary(node, by, left, right);
        }
        if let Some(by) = comparison(name) {
            let [left, right] = self.args(node, call, depth)?;
            return self.compare(node, by, left, right);
        }
        match name {
            operators::LOGICAL_AND | operators::LOGICAL_OR => {
                let [left, right] = self.args(node, call, depth)?;
                self.logic(node, name, left, right)
            }
            operators::LOGICAL_NOT => {
                let [cond] = self.args(node, call, depth)?;
                Ok(Typed::Bool(Cond::Not(self.condition(node, "!", cond)?.into())))
            }
            operators::NEGATE => {
                let [number] = self.args(node, call, depth)?;
                Ok(Typed::Number(unary(Unary::Neg, self.number(node, "-", number)?)))
            }
            operators::CONDITIONAL => {
                let [cond, yes, no] = self.args(node, call, depth)?;
                self.choice(node, cond, yes, no)
            }
            operators::IN => self.among(node, call, depth),
            operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
                self.refuse(node, "`[ ]` and `.?` are not supported")
            }
            _ => self.function(node, call, depth),
        }
    }

    fn function(&self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Lowered {
        let name = self.plain_name(call);
        if let Some(by) = function_of_number(name) {
            let [number] = self.args(node, call, depth)?;
            return Ok(Typed::Number(unary(by, self.number(node, name, number)?)));
        }
        match name {
            "double" => {
                let [number] = self.args(node, call, depth)?;
                Ok(Typed::Number(self.number(node, name, number)?))
            }
            "pow" => {
                let [base, exponent] = self.args(node, call, depth)?;
                self.binary(node, Binary::Pow, base, exponent)
            }
            "min" => self.fold(node, Binary::Min, call, depth),
            "max" => self.fold(node, Binary::Max, call, depth),
            "isfinite" => {
                let [number] = self.args(node, call, depth)?;
                Ok(Typed::Bool(Cond::Finite(self.number(node, name, number)?.into())))
            }
            HAS => {
                let [column] = self.args(node, call, depth)?;
                self.has(node, &column)
            }
            "size" => {
                let [text] = self.args(node, call, depth)?;
                Ok(Typed::Number(match self.text(node, name, text)? {
                    Text::Tag(tag) => Num::Size(tag),
                    Text::Literal(text) => Num::Const(text.chars().count() as f64),
                }))
            }
            "startsWith" | "endsWith" | "contains" => {
                let [text, part] = self.args(node, call, depth)?;
                self.part_of_text(node, name, text, part)
            }
            "timestamp" => self.timestamp(node, call),
            _ => self.refuse(node, unknown_function(&call.func_name)),
        }
    }

    /// The function's name; `math.least(…)` and its like go by the short name.
    fn plain_name<'c>(&self, call: &'c CallExpr) -> &'c str {
        match (self.is_math(call), call.func_name.as_str()) {
            (true, "least") => "min",
            (true, "greatest") => "max",
            (true, "isFinite") => "isfinite",
            (true, "trunc") => "int",
            (_, name) => name,
        }
    }

    /// Whether the call is in CEL's namespace `math`, rather than on a column of that name.
    fn is_math(&self, call: &CallExpr) -> bool {
        let math = |name: &str| name == "math" && self.stream.signal(name).is_none() && self.stream.tag(name).is_none();
        call.target.as_ref().is_some_and(|target| matches!(&target.expr, Syntax::Ident(name) if math(name)))
    }

    /// All arguments, the one before the dot first.
    fn all_args(&self, call: &CallExpr, depth: usize) -> Lowered<Vec<(u64, Typed)>> {
        let target = call.target.as_deref().filter(|_| !self.is_math(call));
        target.into_iter().chain(&call.args).map(|arg| Ok((arg.id, self.lower(arg, depth + 1)?))).collect()
    }

    /// Exactly `N` arguments.
    fn args<const N: usize>(&self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Lowered<[Typed; N]> {
        let args: Vec<Typed> = self.all_args(call, depth)?.into_iter().map(|(_, arg)| arg).collect();
        let count = args.len();
        args.try_into().or_else(|_| {
            let plural = if N == 1 { "" } else { "s" };
            let name = if call.func_name == HAS { "has" } else { &call.func_name };
            self.refuse(node, format!("`{name}` takes {N} argument{plural}, not {count}"))
        })
    }

    fn number(&self, node: &IdedExpr, what: &str, value: Typed) -> Lowered<Num> {
        match value {
            Typed::Number(number) => Ok(number),
            Typed::Null => self.refuse(node, format!("`{what}` needs a number, not null: test with `has(name)` first")),
            Typed::Time(_) => self.refuse(node, format!("`{what}` needs a number: times can only be compared with each other")),
            other => self.refuse(node, format!("`{what}` needs a number, not {}", other.name())),
        }
    }

    fn condition(&self, node: &IdedExpr, what: &str, value: Typed) -> Lowered<Cond> {
        match value {
            Typed::Bool(cond) => Ok(cond),
            other => self.refuse(node, format!("`{what}` needs a condition, not {}: compare it, such as `… > 0`", other.name())),
        }
    }

    fn text(&self, node: &IdedExpr, what: &str, value: Typed) -> Lowered<Text> {
        match value {
            Typed::Text(text) => Ok(text),
            other => self.refuse(node, format!("`{what}` needs a text, not {}", other.name())),
        }
    }

    fn binary(&self, node: &IdedExpr, by: Binary, left: Typed, right: Typed) -> Lowered {
        if matches!((by, &left, &right), (Binary::Add, Typed::Text(_), Typed::Text(_))) {
            return self.refuse(node, "texts cannot be joined: compare each part on its own");
        }
        let sign = sign(by);
        let left = self.number(node, sign, left)?;
        let right = self.number(node, sign, right)?;
        Ok(Typed::Number(binary(by, left, right)))
    }

    fn fold(&self, node: &IdedExpr, by: Binary, call: &CallExpr, depth: usize) -> Lowered {
        let mut args = self.all_args(call, depth)?.into_iter();
        let Some((_, first)) = args.next() else {
            return self.refuse(node, format!("`{}` needs at least one number", sign(by)));
        };
        let first = self.number(node, sign(by), first)?;
        let count = args.len();
        if count > DEPTH_MAX {
            return self.refuse(node, format!("`{}` takes at most {} numbers", sign(by), DEPTH_MAX + 1));
        }
        args.try_fold(first, |so_far, (_, next)| Ok(binary(by, so_far, self.number(node, sign(by), next)?))).map(Typed::Number)
    }

    fn logic(&self, node: &IdedExpr, name: &str, left: Typed, right: Typed) -> Lowered {
        let sign = if name == operators::LOGICAL_AND { "&&" } else { "||" };
        let left = self.condition(node, sign, left)?.into();
        let right = self.condition(node, sign, right)?.into();
        Ok(Typed::Bool(if name == operators::LOGICAL_AND { Cond::And(left, right) } else { Cond::Or(left, right) }))
    }

    fn choice(&self, node: &IdedExpr, cond: Typed, yes: Typed, no: Typed) -> Lowered {
        let cond = Box::new(self.condition(node, "? :", cond)?);
        let number = |value| if let Typed::Null = value { Typed::Number(Num::Const(f64::NAN)) } else { value };
        let (yes, no) = match (&yes, &no) {
            (Typed::Number(_), _) | (_, Typed::Number(_)) => (number(yes), number(no)),
            _ => (yes, no),
        };
        match (yes, no) {
            (Typed::Number(yes), Typed::Number(no)) => Ok(Typed::Number(Num::Choice(cond, yes.into(), no.into()))),
            (Typed::Bool(yes), Typed::Bool(no)) => Ok(Typed::Bool(Cond::Choice(cond, yes.into(), no.into()))),
            (yes, no) => self.refuse(
                node,
                format!("`? :` chooses between two numbers or two conditions, not between {} and {}", yes.name(), no.name()),
            ),
        }
    }

    fn compare(&self, node: &IdedExpr, by: Compare, left: Typed, right: Typed) -> Lowered {
        let cond = match (left, right, by) {
            (Typed::Number(left), Typed::Number(right), Compare::Order(by)) => Cond::Order(by, left.into(), right.into()),
            (Typed::Number(left), Typed::Number(right), _) => {
                Cond::Equal { negate: by == Compare::NotEqual, left: left.into(), right: right.into() }
            }
            (Typed::Bool(left), Typed::Bool(right), Compare::Equal | Compare::NotEqual) => {
                Cond::Same { negate: by == Compare::NotEqual, left: left.into(), right: right.into() }
            }
            (Typed::Text(left), Typed::Text(right), by) => compare_texts(by, left, right),
            (Typed::Time(left), Typed::Time(right), by) => Cond::Time(by, left, right),
            (Typed::Null, value, Compare::Equal) | (value, Typed::Null, Compare::Equal) => self.is_null(node, &value)?,
            (Typed::Null, value, Compare::NotEqual) | (value, Typed::Null, Compare::NotEqual) => {
                Cond::Not(self.is_null(node, &value)?.into())
            }
            (Typed::Time(_), _, _) | (_, Typed::Time(_), _) => {
                return self.refuse(node, "`time` is compared with a time: write `timestamp(\"2026-01-31T12:00:00Z\")`");
            }
            (left, right, by) => {
                let message = format!("`{}` cannot compare {} with {}", compare_sign(by), left.name(), right.name());
                return self.refuse(node, message);
            }
        };
        Ok(Typed::Bool(cond))
    }

    fn is_null(&self, node: &IdedExpr, value: &Typed) -> Lowered<Cond> {
        match value {
            Typed::Null => Ok(Cond::Const(true)),
            Typed::Number(Num::Column(column)) => Ok(Cond::Not(Cond::Present(*column).into())),
            Typed::Text(Text::Tag(tag)) => Ok(Cond::Text(*tag, TextTest::In { texts: Vec::new(), null: true })),
            other => {
                self.refuse(node, format!("only a signal, a tag, x, y, z and layer can be null, not {} like this", other.name()))
            }
        }
    }

    fn has(&self, node: &IdedExpr, value: &Typed) -> Lowered {
        match value {
            Typed::Number(Num::Column(column)) => Ok(Typed::Bool(Cond::Present(*column))),
            Typed::Text(Text::Tag(tag)) => Ok(Typed::Bool(Cond::Text(*tag, TextTest::Present))),
            Typed::Time(Instant::Row) => Ok(Typed::Bool(Cond::Const(true))),
            _ => self.refuse(node, "`has` needs the name of a signal or tag: `isfinite(…)` tests a computed number"),
        }
    }

    fn part_of_text(&self, node: &IdedExpr, name: &str, text: Typed, part: Typed) -> Lowered {
        let Text::Literal(part) = self.text(node, name, part)? else {
            return self.refuse(node, format!("`{name}` looks for a text in quotes, not for another tag"));
        };
        let test = match name {
            "startsWith" => TextTest::StartsWith(part),
            "endsWith" => TextTest::EndsWith(part),
            _ => TextTest::Contains(part),
        };
        Ok(Typed::Bool(match self.text(node, name, text)? {
            Text::Tag(tag) => Cond::Text(tag, test),
            Text::Literal(text) => Cond::Const(test.answer(Some(&text)) == Some(true)),
        }))
    }

    /// `value in [literals]`.
    fn among(&self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Lowered {
        let [value, list] = call.args.as_slice() else {
            return self.refuse(node, "`in` needs a value before it and a list after it");
        };
        let Syntax::List(list) = &list.expr else {
            return self.refuse(list, "`in` needs a list of literals after it, such as `part in [\"A3\", \"B1\"]`");
        };
        let value = self.lower(value, depth + 1)?;
        let (mut numbers, mut texts, mut null) = (Vec::new(), Vec::new(), false);
        for element in &list.elements {
            match (self.lower(element, depth + 1)?, &value) {
                (Typed::Null, _) => null = true,
                (Typed::Number(Num::Const(number)), Typed::Number(_)) => numbers.push(number),
                (Typed::Text(Text::Literal(text)), Typed::Text(_)) => texts.push(text),
                (Typed::Number(Num::Const(_)) | Typed::Text(Text::Literal(_)), other) => {
                    let message = format!("{} is never in a list of other things: write literals of its type", other.name());
                    return self.refuse(element, message);
                }
                _ => return self.refuse(element, "a list after `in` holds literals: compare with `==` and join with `||`"),
            }
        }
        match value {
            Typed::Number(value) => Ok(Typed::Bool(Cond::Among { value: value.into(), numbers: numbers.into(), null })),
            Typed::Text(Text::Tag(tag)) => Ok(Typed::Bool(Cond::Text(tag, TextTest::In { texts, null }))),
            Typed::Text(Text::Literal(text)) => Ok(Typed::Bool(Cond::Const(texts.contains(&text)))),
            other => self.refuse(node, format!("`in` looks for a number or a text, not {}", other.name())),
        }
    }

    fn timestamp(&self, node: &IdedExpr, call: &CallExpr) -> Lowered {
        if let (None, [IdedExpr { expr: Syntax::Literal(LiteralValue::String(text)), .. }]) = (&call.target, call.args.as_slice()) {
            return match text.inner().parse::<Timestamp>() {
                Ok(time) => Ok(Typed::Time(Instant::Const(time.0))),
                Err(error) => self.refuse(node, error.to_string()),
            };
        }
        self.refuse(node, "`timestamp` takes one time in quotes: `timestamp(\"2026-01-31T12:00:00Z\")`")
    }

    fn unknown_name(&self, name: &str) -> String {
        let stream = self.stream;
        let signals = stream.signals.iter().map(|signal| &*signal.name);
        let known: Vec<&str> =
            signals.chain(stream.tags.iter().map(|tag| &**tag)).chain(["time", "x", "y", "z", "layer"]).collect();
        let mut message = format!("`{name}` is no signal or tag of stream `{}`", stream.id);
        if let Some(near) = nearest(name, known.iter().copied()) {
            let _ = write!(message, ": did you mean `{near}`?");
        } else if FUNCTIONS.contains(&name) {
            let _ = write!(message, ": `{name}` is a function and needs parentheses");
        } else {
            let more = if known.len() > NAMES_MAX { " …" } else { "" };
            let _ = write!(message, ": it has {}{more}; a text stands in quotes", known[..known.len().min(NAMES_MAX)].join(" "));
        }
        message
    }
}

/// That there is no function `name`, and which is meant.
fn unknown_function(name: &str) -> String {
    let mut message = format!("there is no function `{name}`");
    if let Some(near) = nearest(name, FUNCTIONS.iter().copied()) {
        let _ = write!(message, ": did you mean `{near}`?");
    } else {
        let _ = write!(message, ": there are {}", FUNCTIONS.join(" "));
    }
    message
}

/// So many known names are listed in a fault.
const NAMES_MAX: usize = 20;

/// The known name that `name` most likely stands for: at most a third of its letters, and at least one, differ.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let distance_max = (name.chars().count() / 3).max(1);
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    // A name of one letter is near every other.
    let candidates = known.filter(|other| other.len() > 1).map(|other| (distance(other), other));
    candidates.filter(|(distance, _)| *distance <= distance_max).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// `a.b.c` as the node of `a` and the whole name.
fn dotted(mut syntax: &Syntax) -> Option<(&IdedExpr, String)> {
    let mut fields = Vec::new();
    while let Syntax::Select(select) = syntax {
        if select.test {
            return None;
        }
        fields.push(select.field.as_str());
        match &select.operand.expr {
            Syntax::Ident(root) => {
                fields.push(root);
                fields.reverse();
                return Some((&select.operand, fields.join(".")));
            }
            inner => syntax = inner,
        }
    }
    None
}

fn arithmetic(name: &str) -> Option<Binary> {
    Some(match name {
        operators::ADD => Binary::Add,
        operators::SUBSTRACT => Binary::Sub,
        operators::MULTIPLY => Binary::Mul,
        operators::DIVIDE => Binary::Div,
        operators::MODULO => Binary::Rem,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Compare> {
    Some(match name {
        operators::EQUALS => Compare::Equal,
        operators::NOT_EQUALS => Compare::NotEqual,
        operators::LESS => Compare::Order(Order::Less),
        operators::LESS_EQUALS => Compare::Order(Order::LessOrEqual),
        operators::GREATER => Compare::Order(Order::Greater),
        operators::GREATER_EQUALS => Compare::Order(Order::GreaterOrEqual),
        _ => return None,
    })
}

fn function_of_number(name: &str) -> Option<Unary> {
    Some(match name {
        "abs" => Unary::Abs,
        "sqrt" => Unary::Sqrt,
        "floor" => Unary::Floor,
        "ceil" => Unary::Ceil,
        "round" => Unary::Round,
        "int" => Unary::Trunc,
        "log" | "ln" => Unary::Ln,
        "log10" => Unary::Log10,
        "exp" => Unary::Exp,
        _ => return None,
    })
}

fn sign(by: Binary) -> &'static str {
    match by {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Rem => "%",
        Binary::Pow => "pow",
        Binary::Min => "min",
        Binary::Max => "max",
    }
}

fn compare_sign(by: Compare) -> &'static str {
    match by {
        Compare::Equal => "==",
        Compare::NotEqual => "!=",
        Compare::Order(Order::Less) => "<",
        Compare::Order(Order::LessOrEqual) => "<=",
        Compare::Order(Order::Greater) => ">",
        Compare::Order(Order::GreaterOrEqual) => ">=",
    }
}

/// The operation, at once where its operand is constant.
fn unary(by: Unary, a: Num) -> Num {
    if let Num::Const(a) = a { Num::Const(by.apply(a)) } else { Num::Unary(by, a.into()) }
}

/// The operation, at once where its operands are constant.
fn binary(by: Binary, a: Num, b: Num) -> Num {
    match (a, b) {
        (Num::Const(a), Num::Const(b)) => Num::Const(by.apply(a, b)),
        (a, b) => Num::Binary(by, a.into(), b.into()),
    }
}

fn compare_texts(by: Compare, left: Text, right: Text) -> Cond {
    match (left, right) {
        (Text::Tag(tag), Text::Literal(text)) => Cond::Text(tag, TextTest::Compare(by, text)),
        (Text::Literal(text), Text::Tag(tag)) => Cond::Text(tag, TextTest::Compare(by.mirrored(), text)),
        (Text::Tag(left), Text::Tag(right)) => Cond::Tags(by, left, right),
        (Text::Literal(left), Text::Literal(right)) => Cond::Const(by.holds(left.cmp(&right))),
    }
}
