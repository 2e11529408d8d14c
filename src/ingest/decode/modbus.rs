//! Modbus RTU: what a master asks a unit for, and the answer into a row. Pure; the line is [`serial`](super::super)'s.
//!
//! ```text
//! request    unit  function (3 | 4)         address hi lo   count hi lo   CRC lo hi
//! answer     unit  function                 2 × count       registers hi lo …   CRC lo hi
//! exception  unit  function | 0x80          code            CRC lo hi
//! ```
//! (Modbus Application Protocol V1.1b3, sections 6.3, 6.4 and 7; Modbus over Serial Line V1.02, section 2.5.1.)
//!
//! An answer carries no number that ties it to its request, and a line may carry noise, or our own request as an echo. So an answer is whatever
//! part of what was heard has the unit, the function, the length and the checksum of the one that is due.
//!
//! Registers that lie side by side are asked for together, up to [`REGISTERS_MAX`]; others never, for a unit may refuse addresses it does not have.

use std::{ops::Range, sync::Arc};

use super::{
    Context, Decoded, Reason, Routes,
    columns::{Columns, Field, RowWriter},
};
use crate::model::Stream;

/// Most registers of one request.
pub const REGISTERS_MAX: u16 = 125;
/// Most bytes that are listened to after a request: an answer is 255, the rest is noise and echo.
pub const HEARD_BYTES_MAX: usize = 1024;

/// Which registers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModbusFunction {
    /// 3: holding registers.
    Holding,
    /// 4: input registers.
    Input,
}

/// What one or two registers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModbusType {
    /// 16 bits, signed.
    I16,
    /// 16 bits, unsigned.
    U16,
    /// 32 bits, signed.
    I32,
    /// 32 bits, unsigned.
    U32,
    /// IEEE 754 single.
    F32,
}

/// Which of two registers comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModbusWordOrder {
    /// The one with the higher bits.
    Big,
    /// The one with the lower bits.
    Little,
}

/// Where a value is, and where it goes: `value = number · scale + offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModbusRegister {
    /// A signal of the stream, or `layer`.
    pub signal: String,
    /// Counted from 0, as on the wire.
    pub address: u16,
    /// What is there.
    pub kind: ModbusType,
    /// In units of the signal.
    pub scale: f64,
    /// In units of the signal.
    pub offset: f64,
}

/// What is asked of one unit, and the stream of the rows that come of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModbusPoll {
    unit: u8,
    routes: Routes,
    values: Vec<Value>,
    requests: Vec<ModbusRequest>,
}

/// A poll that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModbusError {
    /// Not a unit that answers.
    #[error("{0} is no unit: they are 1 to 247 (0 is for all, who never answer)")]
    Unit(u8),
    /// Nothing to ask for.
    #[error("no registers: say which to read")]
    Empty,
    /// The stream has no such column.
    #[error("stream `{stream}` has no signal `{signal}`: add it to `signals`, or correct the name")]
    NoSignal {
        /// The stream.
        stream: String,
        /// The name.
        signal: String,
    },
    /// Two registers for one column.
    #[error("signal `{0}` has two registers: keep one")]
    Twice(String),
    /// Two registers at the end of the address space.
    #[error("the register of `{0}` ends beyond 65535")]
    Beyond(String),
    /// The stream cannot be decoded into.
    #[error("{0}")]
    Stream(String),
}

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModbusRequest {
    unit: u8,
    function: ModbusFunction,
    address: u16,
    count: u16,
}

/// What was heard after a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModbusAnswer {
    /// No answer yet.
    Incomplete,
    /// The registers.
    Registers(Vec<u16>),
    /// The unit says why not.
    Exception(u8),
}

/// A value, in the registers of all requests one after the other.
#[derive(Debug, Clone, PartialEq)]
struct Value {
    field: Field,
    place: usize,
    kind: ModbusType,
    order: ModbusWordOrder,
    scale: f64,
    offset: f64,
}

impl ModbusPoll {
    /// Asks `unit` for `registers`; their values make one row of `stream`.
    ///
    /// # Errors
    /// If there is no such unit, signal or address.
    pub fn new(
        unit: u8,
        function: ModbusFunction,
        order: ModbusWordOrder,
        stream: &Arc<Stream>,
        registers: &[ModbusRegister],
    ) -> Result<Self, ModbusError> {
        if !(1..=247).contains(&unit) {
            return Err(ModbusError::Unit(unit));
        }
        if registers.is_empty() {
            return Err(ModbusError::Empty);
        }
        let routes = Routes::one(stream).map_err(|error| ModbusError::Stream(error.to_string()))?;
        let ranges = registers.iter().map(ModbusRegister::range).collect::<Result<Vec<_>, _>>()?;
        let requests = requests(unit, function, ranges.clone());
        let mut values: Vec<Value> = Vec::new();
        for (register, range) in registers.iter().zip(&ranges) {
            let field = field(routes.get(0), &register.signal)?;
            if values.iter().any(|value| value.field == field) {
                return Err(ModbusError::Twice(register.signal.clone()));
            }
            let place = place(&requests, range).ok_or_else(|| ModbusError::Beyond(register.signal.clone()))?;
            let (kind, scale, offset) = (register.kind, register.scale, register.offset);
            values.push(Value { field, place, kind, order, scale, offset });
        }
        Ok(Self { unit, routes, values, requests })
    }

    /// Who is asked.
    pub const fn unit(&self) -> u8 {
        self.unit
    }

    /// The stream of the rows.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.routes.get(0).stream
    }

    /// To be asked one after the other.
    pub fn requests(&self) -> &[ModbusRequest] {
        &self.requests
    }

    /// A row of the answers to all requests, one after the other, which came with the bytes `raw`.
    pub fn row(&self, registers: &[u16], raw: &[u8], context: &Context, out: &mut Decoded) {
        let mut writer = RowWriter::new(out.batch(context, self.stream()));
        if let Err(reason) = self.write(&mut writer, registers).and_then(|()| writer.finish(context)) {
            writer.abandon();
            out.reject(context, reason, raw);
        }
    }

    /// There is no row, for `reason`; `raw` is what was heard.
    pub fn refuse(reason: String, raw: &[u8], context: &Context, out: &mut Decoded) {
        out.reject(context, reason.into(), raw);
    }

    fn write(&self, writer: &mut RowWriter<'_>, registers: &[u16]) -> Result<(), Reason> {
        for value in &self.values {
            let words = registers.get(value.place..).ok_or("registers are missing")?;
            let number = value.read(words).ok_or("registers are missing")?;
            match value.field {
                Field::Signal(column) => writer.signal(column, Some(number))?,
                _ => writer.layer(Some(layer(number)?))?,
            }
        }
        if let Some(column) = self.stream().tag("unit") {
            writer.tag(column, Some(&self.unit.to_string()))?;
        }
        Ok(())
    }
}

impl ModbusRegister {
    fn range(&self) -> Result<Range<u32>, ModbusError> {
        let (first, count) = (u32::from(self.address), u32::from(self.kind.registers()));
        if first + count > 1 << 16 { Err(ModbusError::Beyond(self.signal.clone())) } else { Ok(first..first + count) }
    }
}

/// The fewest questions that cover `ranges` and nothing else, with no range in two.
fn requests(unit: u8, function: ModbusFunction, mut ranges: Vec<Range<u32>>) -> Vec<ModbusRequest> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut together: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match together.last_mut() {
            Some(last) if range.start <= last.end && range.end.max(last.end) - last.start <= u32::from(REGISTERS_MAX) => {
                last.end = last.end.max(range.end);
            }
            _ => together.push(range),
        }
    }
    let request =
        |range: Range<u32>| ModbusRequest { unit, function, address: range.start as u16, count: (range.end - range.start) as u16 };
    together.into_iter().map(request).collect()
}

/// Where `range` begins in the answers to `requests`.
fn place(requests: &[ModbusRequest], range: &Range<u32>) -> Option<usize> {
    let mut before = 0;
    for request in requests {
        let first = u32::from(request.address);
        if range.start >= first && range.end <= first + u32::from(request.count) {
            return Some(before + (range.start - first) as usize);
        }
        before += usize::from(request.count);
    }
    None
}

fn field(columns: &Columns, name: &str) -> Result<Field, ModbusError> {
    let found = columns.field(name).filter(|field| matches!(field, Field::Signal(_) | Field::Layer));
    found.ok_or_else(|| ModbusError::NoSignal { stream: columns.stream.id.to_string(), signal: name.to_owned() })
}

fn layer(number: f64) -> Result<i64, Reason> {
    let whole = number.fract() == 0.0 && number.abs() < f64::from(i32::MAX);
    if whole { Ok(number as i64) } else { Err("`layer` must be an integer".into()) }
}

impl ModbusType {
    /// How many registers it takes.
    pub const fn registers(self) -> u16 {
        match self {
            Self::I16 | Self::U16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
        }
    }
}

impl Value {
    /// The number at the beginning of `words`.
    fn read(&self, words: &[u16]) -> Option<f64> {
        let two = || {
            let (first, second) = (u32::from(*words.first()?), u32::from(*words.get(1)?));
            Some(match self.order {
                ModbusWordOrder::Big => first << 16 | second,
                ModbusWordOrder::Little => second << 16 | first,
            })
        };
        let number = match self.kind {
            ModbusType::I16 => f64::from(words.first()?.cast_signed()),
            ModbusType::U16 => f64::from(*words.first()?),
            ModbusType::I32 => f64::from(two()?.cast_signed()),
            ModbusType::U32 => f64::from(two()?),
            ModbusType::F32 => f64::from(f32::from_bits(two()?)),
        };
        Some(number * self.scale + self.offset)
    }
}

impl ModbusRequest {
    /// As it goes over the line.
    pub fn frame(&self) -> [u8; 8] {
        let ([address_hi, address_lo], [count_hi, count_lo]) = (self.address.to_be_bytes(), self.count.to_be_bytes());
        let body = [self.unit, self.function.code(), address_hi, address_lo, count_hi, count_lo];
        let [crc_lo, crc_hi] = crc(&body).to_le_bytes();
        let [unit, function, ..] = body;
        [unit, function, address_hi, address_lo, count_hi, count_lo, crc_lo, crc_hi]
    }

    /// Looks for the answer in everything that was heard since.
    pub fn answer(&self, heard: &[u8]) -> ModbusAnswer {
        let answers = (0..heard.len()).filter_map(|start| self.answer_at(&heard[start..]));
        answers.into_iter().next().unwrap_or(ModbusAnswer::Incomplete)
    }

    fn answer_at(self, heard: &[u8]) -> Option<ModbusAnswer> {
        let code = self.function.code();
        match *heard {
            [unit, function, bytes, ..] if unit == self.unit && function == code && u16::from(bytes) == 2 * self.count => {
                let registers = checked(heard, 3 + usize::from(bytes))?.get(3..)?;
                let word = |pair: &[u8]| pair.iter().fold(0, |word, byte| word << 8 | u16::from(*byte));
                Some(ModbusAnswer::Registers(registers.chunks_exact(2).map(word).collect()))
            }
            [unit, function, exception, ..] if unit == self.unit && function == code | 0x80 => {
                checked(heard, 3).map(|_| ModbusAnswer::Exception(exception))
            }
            _ => None,
        }
    }

    /// What was asked, for people.
    pub fn describe(&self) -> String {
        let (kind, last) = (self.function.describe(), u32::from(self.address) + u32::from(self.count) - 1);
        format!("unit {}, {kind} registers {} to {last}", self.unit, self.address)
    }
}

impl ModbusFunction {
    const fn code(self) -> u8 {
        match self {
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::Input => "input",
        }
    }
}

/// What an exception code means.
pub fn exception_meaning(code: u8) -> &'static str {
    match code {
        1 => "it does not have this function",
        2 => "it does not have these registers",
        3 => "it does not take this number of registers",
        4 => "it failed",
        5 | 6 => "it is busy",
        8 => "its memory failed",
        10 => "the gateway has no way to it",
        11 => "it did not answer the gateway",
        _ => "it does not say why in the standard's words",
    }
}

/// The first `length` bytes, if the checksum behind them is theirs.
fn checked(heard: &[u8], length: usize) -> Option<&[u8]> {
    let (body, rest) = heard.split_at_checked(length)?;
    let (stated, _) = rest.split_first_chunk::<2>()?;
    (u16::from_le_bytes(*stated) == crc(body)).then_some(body)
}

/// CRC-16/MODBUS: polynomial 0x8005 reflected, initial value all ones.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use ModbusType::{F32, I16, I32, U16, U32};
    use ModbusWordOrder::{Big, Little};

    use super::*;
    use crate::model::{MissingTime, Timestamp};

    fn stream() -> Arc<Stream> {
        let mut stream = Stream::new("chamber", &["a", "b", "c"], &["unit"]);
        stream.time_missing = MissingTime::Arrival;
        Arc::new(stream)
    }

    fn register(signal: &str, address: u16, kind: ModbusType) -> ModbusRegister {
        ModbusRegister { signal: signal.into(), address, kind, scale: 1.0, offset: 0.0 }
    }

    fn poll(order: ModbusWordOrder, registers: &[ModbusRegister]) -> Result<ModbusPoll, ModbusError> {
        ModbusPoll::new(17, ModbusFunction::Holding, order, &stream(), registers)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &crc(body).to_le_bytes()].concat()
    }

    #[test]
    fn the_checksum_is_the_catalogued_one() {
        // CRC-16/MODBUS of "123456789" in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc(b"123456789"), 0x4b37);
    }

    #[test]
    fn the_standards_example_is_asked_and_answered() {
        // Modbus Application Protocol V1.1b3, section 6.3: registers 108 to 110 hold 0x022b, 0x0000, 0x0064.
        let registers: Vec<_> = (0..3).map(|n| register(["a", "b", "c"][usize::from(n)], 0x6b + n, U16)).collect();
        let poll = poll(Big, &registers).unwrap();
        let [request] = poll.requests() else { panic!("one question: {:?}", poll.requests()) };
        assert_eq!(request.frame(), [0x11, 0x03, 0x00, 0x6b, 0x00, 0x03, 0x76, 0x87]);
        let answer = framed(&[0x11, 0x03, 0x06, 0x02, 0x2b, 0x00, 0x00, 0x00, 0x64]);
        for end in 0..answer.len() {
            assert_eq!(request.answer(&answer[..end]), ModbusAnswer::Incomplete, "{end}");
        }
        assert_eq!(request.answer(&answer), ModbusAnswer::Registers(vec![0x022b, 0, 0x64]));
        assert_eq!(request.answer(&framed(&[0x11, 0x83, 0x02])), ModbusAnswer::Exception(2));
        assert_eq!(request.describe(), "unit 17, holding registers 107 to 109");
    }

    #[test]
    fn an_answer_is_found_behind_noise_and_echo_and_only_its_own() {
        let poll = poll(Big, &[register("a", 0, U16)]).unwrap();
        let request = poll.requests()[0];
        let answer = framed(&[0x11, 0x03, 0x02, 0x12, 0x34]);
        let is = |heard: &[&[u8]]| request.answer(&heard.concat());
        let good = ModbusAnswer::Registers(vec![0x1234]);
        assert_eq!(is(&[&[0x00], &answer]), good);
        assert_eq!(is(&[&request.frame(), &answer, &[0xff]]), good);
        assert_eq!(is(&[&framed(&[0x12, 0x03, 0x02, 0x12, 0x34])]), ModbusAnswer::Incomplete, "another unit");
        assert_eq!(is(&[&framed(&[0x11, 0x04, 0x02, 0x12, 0x34])]), ModbusAnswer::Incomplete, "another function");
        assert_eq!(is(&[&framed(&[0x11, 0x03, 0x04, 0x12, 0x34, 0, 0])]), ModbusAnswer::Incomplete, "another length");
        let mut damaged = answer.clone();
        damaged[3] ^= 1;
        assert_eq!(is(&[&damaged]), ModbusAnswer::Incomplete);
        assert_eq!(is(&[&damaged, &answer]), good);
    }

    #[test]
    fn registers_side_by_side_are_asked_for_together_and_others_are_not() {
        let asked = |registers: &[(u16, ModbusType)]| {
            let mut ranges: Vec<_> =
                registers.iter().map(|(address, kind)| register("a", *address, *kind).range().unwrap()).collect();
            ranges.reverse();
            let requests = requests(1, ModbusFunction::Input, ranges);
            requests.iter().map(|request| (request.address, request.count)).collect::<Vec<_>>()
        };
        assert_eq!(asked(&[(0, F32), (2, U16), (4, U16)]), [(0, 3), (4, 1)]);
        assert_eq!(asked(&[(0, F32), (1, U16)]), [(0, 2)]);
        let many: Vec<_> = (0..100).map(|n| (2 * n, F32)).collect();
        assert_eq!(asked(&many), [(0, 124), (124, 76)], "no value is cut in two");
        assert_eq!(asked(&[(65_534, F32)]), [(65_534, 2)]);
    }

    #[test]
    fn every_type_is_read_in_both_orders() {
        let check = |kind, order, words: &[u16], expected: f64| {
            let value = Value { field: Field::Layer, place: 0, kind, order, scale: 1.0, offset: 0.0 };
            assert_eq!(value.read(words), Some(expected), "{kind:?} {order:?}");
        };
        check(I16, Big, &[0xfffe], -2.0);
        check(U16, Little, &[0xfffe], 65_534.0);
        check(I32, Big, &[0xffff, 0xfffd], -3.0);
        check(I32, Little, &[0xfffd, 0xffff], -3.0);
        check(U32, Big, &[0x0001, 0x0002], 65_538.0);
        check(U32, Little, &[0x0001, 0x0002], 131_073.0);
        check(F32, Big, &[0x4148, 0x0000], 12.5);
        check(F32, Little, &[0x0000, 0x4148], 12.5);
    }

    #[test]
    fn a_row_is_scaled_and_says_its_unit_and_a_bad_one_is_refused_with_its_bytes() {
        let mut scaled = register("a", 10, I16);
        (scaled.scale, scaled.offset) = (0.5, -40.0);
        let registers = [register("c", 20, F32), scaled, register("layer", 11, U16)];
        let poll = poll(Big, &registers).unwrap();
        assert_eq!(poll.requests().len(), 2);
        let context = Context::new("s".into(), "p".into(), Timestamp(7));
        let mut out = Decoded::default();
        poll.row(&[100, 3, 0x4148, 0], b"raw", &context, &mut out);
        poll.row(&[100, 3, 0x7fc0, 0], b"raw", &context, &mut out);
        poll.row(&[100], b"short", &context, &mut out);
        assert!(out.batches[0].is_consistent());
        assert_eq!(
            serde_json::to_string(&out.batches[0].row(0)).unwrap(),
            r#"{"stream":"chamber","time":"1970-01-01T00:00:00.000000007Z","layer":3,"unit":"17","a":10.0,"c":12.5,"arrival_time":true}"#
        );
        let refused: Vec<_> = out.rejects.iter().map(|reject| (&*reject.reason, &*reject.raw)).collect();
        assert_eq!(
            refused,
            [("`c` is not a finite number: leave it out or send null", &b"raw"[..]), ("registers are missing", &b"short"[..])]
        );
    }

    #[test]
    fn polls_that_make_no_sense_are_refused() {
        let check = |unit: u8, registers: &[ModbusRegister], reason: &str| {
            let poll = ModbusPoll::new(unit, ModbusFunction::Input, Big, &stream(), registers);
            let error = poll.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        check(0, &[register("a", 0, U16)], "0 is no unit");
        check(248, &[register("a", 0, U16)], "248 is no unit");
        check(1, &[], "no registers");
        check(1, &[register("d", 0, U16)], "has no signal `d`");
        check(1, &[register("unit", 0, U16)], "has no signal `unit`");
        check(1, &[register("a", 0, U16), register("a", 1, U16)], "`a` has two registers");
        check(1, &[register("a", 65_535, U32)], "ends beyond 65535");
    }
}
