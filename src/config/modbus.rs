//! What is asked over a Modbus RTU line: the keys of a serial source with `codec = "modbus_rtu"`.

use std::{sync::Arc, time::Duration};

use super::{
    reader::{Section, Value},
    sources::chosen,
};
use crate::{
    ingest::{
        ModbusConfig,
        decode::{ModbusFunction, ModbusPoll, ModbusRegister, ModbusType, ModbusWordOrder},
    },
    model::{MissingTime, Stream},
};

/// From one round of questions to the next, unless `every` says otherwise, ns.
const EVERY_NS: i64 = 1_000_000_000;
/// For an answer, unless `timeout` says otherwise, ns.
const TIMEOUT_NS: i64 = 500_000_000;

/// Reads `every`, `timeout` and `polls`.
pub(super) fn read(section: &Section<'_>, streams: &[Arc<Stream>]) -> Option<ModbusConfig> {
    let every = duration(section, "every", EVERY_NS);
    let timeout = duration(section, "timeout", TIMEOUT_NS);
    let wanted = section.required("polls")?.items();
    let polls: Vec<_> = wanted.iter().filter_map(|value| poll(value, streams)).collect();
    if wanted.is_empty() {
        section.fault_at("polls", "a line on which nobody is asked brings nothing: add { unit = 1, registers = [ … ] }");
    }
    (!polls.is_empty() && polls.len() == wanted.len()).then_some(ModbusConfig { polls, every, timeout })
}

fn duration(section: &Section<'_>, key: &str, default_ns: i64) -> Duration {
    let ns = section.duration_or(key, default_ns);
    if ns < 1_000_000 {
        section.fault_at(key, format!("`{key}` must be at least 1ms"));
    }
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0).max(1_000_000))
}

fn poll(value: &Value<'_>, streams: &[Arc<Stream>]) -> Option<ModbusPoll> {
    let section = value.section()?;
    let unit = section.required("unit").and_then(|unit| unit.integer(1..248));
    let functions = [(3, ModbusFunction::Holding), (4, ModbusFunction::Input)];
    let code = section.integer_or("function", 3, 3..5);
    let function = functions.into_iter().find(|(known, _)| *known == code).map(|(_, function)| function);
    let orders = [("big", ModbusWordOrder::Big), ("little", ModbusWordOrder::Little)];
    let order = section.choice_or("word_order", &orders, ModbusWordOrder::Big);
    let stream = chosen(&section, streams);
    let wanted = section.required("registers").map_or_else(Vec::new, |registers| registers.items());
    let registers: Vec<_> = wanted.iter().filter_map(register).collect();
    if registers.len() < wanted.len() {
        return None;
    }
    let stream = match &stream?[..] {
        [only] => Arc::clone(only),
        _ => {
            section.fault_at("streams", "the rows of a poll belong to one stream: write `stream`");
            return None;
        }
    };
    if stream.time_missing == MissingTime::Reject {
        let text = "registers carry no time: say time = { missing = \"arrival\" } for stream";
        section.fault(format!("{text} `{}`", stream.id));
    }
    let poll = ModbusPoll::new(u8::try_from(unit?).ok()?, function?, order, &stream, &registers);
    poll.map_err(|error| section.fault(error.to_string())).ok()
}

fn register(value: &Value<'_>) -> Option<ModbusRegister> {
    let section = value.section()?;
    let address = section.required("address").and_then(|address| address.integer(0..65_536));
    let types = [
        ("i16", ModbusType::I16),
        ("u16", ModbusType::U16),
        ("i32", ModbusType::I32),
        ("u32", ModbusType::U32),
        ("f32", ModbusType::F32),
    ];
    let kind = section.required("type").and_then(|kind| kind.choice(&types));
    let signal = section.required_string("signal");
    let (scale, offset) = (section.number_or("scale", 1.0), section.number_or("offset", 0.0));
    Some(ModbusRegister { signal: signal?, address: u16::try_from(address?).ok()?, kind: kind?, scale, offset })
}

#[cfg(test)]
mod tests {
    use crate::{
        config::parse,
        ingest::{SerialCodec, SourceKind},
    };

    const STREAMS: &str = "[appliance]\nid = \"lpbf-07\"\n[streams.chamber]\nsignals = { oxygen = \"[ppm]\" }\n\
        time = { missing = \"arrival\" }\n[streams.melt]\nsignals = { intensity = \"V\" }\n";

    fn read(line: &str) -> Result<crate::config::Config, Vec<String>> {
        let source = "[sources.plc]\ntype = \"serial\"\ndevice = \"/dev/ttyUSB0\"\ncodec = \"modbus_rtu\"\n";
        parse(&format!("{STREAMS}{source}{line}")).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn polls_are_read_with_their_defaults() {
        let registers = "[ { address = 10, type = \"f32\", signal = \"oxygen\" } ]";
        let config = read(&format!("polls = [ {{ unit = 3, stream = \"chamber\", registers = {registers} }} ]")).unwrap();
        let SourceKind::Serial(serial) = &config.sources[0].source.kind else { panic!("serial") };
        let SerialCodec::ModbusRtu(modbus) = &serial.codec else { panic!("Modbus") };
        assert_eq!((modbus.every.as_millis(), modbus.timeout.as_millis()), (1000, 500));
        assert_eq!(modbus.polls[0].requests()[0].describe(), "unit 3, holding registers 10 to 11");
    }

    #[test]
    fn polls_that_make_no_sense_are_told() {
        let check = |poll: &str, fault: &str| {
            let faults = read(&format!("polls = [ {poll} ]")).unwrap_err();
            assert!(faults.iter().any(|known| known.contains(fault)), "{poll}: {faults:?}");
        };
        let oxygen = "registers = [ { address = 10, type = \"f32\", signal = \"oxygen\" } ]";
        check("", "nobody is asked");
        check(&format!("{{ unit = 0, stream = \"chamber\", {oxygen} }}"), "write a whole number from 1 to 247");
        check(&format!("{{ unit = 1, function = 6, stream = \"chamber\", {oxygen} }}"), "from 3 to 4");
        check(&format!("{{ unit = 1, {oxygen} }}"), "needs `stream`");
        check(&format!("{{ unit = 1, stream = \"melt\", {oxygen} }}"), "missing = \"arrival\"");
        check("{ unit = 1, stream = \"chamber\" }", "`registers`");
        check("{ unit = 1, stream = \"chamber\", registers = [] }", "no registers");
        check("{ unit = 1, stream = \"chamber\", registers = [ { address = 1, type = \"f64\", signal = \"oxygen\" } ] }", "i16");
        check(
            "{ unit = 1, stream = \"chamber\", registers = [ { address = 1, type = \"u16\", signal = \"power\" } ] }",
            "no signal",
        );
        let faults = read(&format!("every = \"0s\"\npolls = [ {{ unit = 1, stream = \"chamber\", {oxygen} }} ]")).unwrap_err();
        assert!(faults[0].contains("at least 1ms") || faults[0].contains("every"), "{faults:?}");
    }
}
