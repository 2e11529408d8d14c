//! Every kind of good and bad row of the contract (section 3), through the decoders that users configure.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    ingest::decode::{Context, Csv, Decoded, Json, JsonLines, LINE_BYTES_MAX, MESSAGE_ROWS_MAX, Routes},
    model::{Batch, Flags, Input, MissingTime, Stream, TimeUnit, Timestamp},
};

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("melt", &["intensity", "power"], &["part"]))
}

fn context() -> Context {
    Context::new("floor".into(), "plant/a".into(), Timestamp(77))
}

fn json_with(stream: Stream, text: &[u8]) -> Decoded {
    let mut out = Decoded::default();
    Json::new(Routes::one(&Arc::new(stream)).unwrap()).message(text, &context(), &mut out);
    assert!(out.batches.iter().all(Batch::is_consistent));
    out
}

fn json(text: &str) -> Decoded {
    json_with((*stream()).clone(), text.as_bytes())
}

/// The rows as JSON, and the reasons with the refused bytes.
fn shown(out: &Decoded) -> (Vec<String>, Vec<(String, String)>) {
    let rows = out.batches.iter().flat_map(|batch| (0..batch.rows()).map(|row| serde_json::to_string(&batch.row(row)).unwrap()));
    let rejects = out.rejects.iter().map(|reject| (reject.reason.clone(), String::from_utf8_lossy(&reject.raw).into_owned()));
    (rows.collect(), rejects.collect())
}

/// One message of one bad row: refused for a reason that holds `reason`, with its bytes.
fn refused(text: &str, reason: &str) {
    let (rows, rejects) = shown(&json(text));
    assert_eq!(rows, Vec::<String>::new(), "{text}");
    assert_eq!(rejects.len(), 1, "{text}: {rejects:?}");
    assert!(rejects[0].0.contains(reason), "{text}: {}", rejects[0].0);
    assert_eq!(rejects[0].1, text);
}

#[test]
fn a_whole_row_arrives_whole() {
    let text = r#"{"time":"2026-01-31T12:00:00.5Z","x":1.0,"y":2,"z":0.03,"layer":1,"part":"A3","intensity":3.2,"power":null,"seq":7,"boot":2,"device":"d"}"#;
    let out = json(text);
    let (rows, rejects) = shown(&out);
    assert_eq!(
        rows,
        [r#"{"stream":"melt","time":"2026-01-31T12:00:00.5Z","x":1.0,"y":2.0,"z":0.03,"layer":1,"part":"A3","intensity":3.2}"#]
    );
    assert!(rejects.is_empty());
    let origin = out.batches[0].origin.as_ref().unwrap();
    assert_eq!((origin.seq[0], origin.boot[0], origin.device.get(0).map(|name| &**name)), (Some(7), Some(2), Some("d")));
    assert_eq!(&*out.batches[0].partition, "plant/a");
    assert_eq!(out.batches[0].arrival, Timestamp(77));
}

#[test]
fn what_is_missing_is_null() {
    let (rows, _) = shown(&json(r#" { "time" : 5 , "x":null,"layer":null,"seq":null,"part":null } "#));
    assert_eq!(rows, [r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000005Z","part":null}"#]);
    let out = json(r#"[{"time":1},{"time":2,"x":1,"y":1,"z":1,"layer":3,"seq":9},{"time":3}]"#);
    let batch = &out.batches[0];
    assert_eq!([batch.layer(0), batch.layer(1), batch.layer(2)], [None, Some(3), None]);
    assert_eq!([batch.position(0), batch.position(1), batch.position(2)], [None, Some([1.0; 3]), None]);
    assert_eq!(batch.origin.as_ref().unwrap().seq, [None, Some(9), None]);
}

#[test]
fn escapes_and_key_order_do_not_matter() {
    let out = json(r#"[{"time":1,"intensity":2,"part":"a\"b\u00e9"},{"part":"x","\u0069ntensity":3,"time":2}]"#);
    let (rows, rejects) = shown(&out);
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(rows[0], r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000001Z","part":"a\"bé","intensity":2.0}"#);
    assert_eq!(rows[1], r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000002Z","part":"x","intensity":3.0}"#);
}

#[test]
fn every_kind_of_bad_row_is_refused_with_its_bytes() {
    refused(r#"{"time":1,"oxygen":3}"#, "has no `oxygen`");
    refused(r#"{"time":1,"intensity":"3"}"#, "`intensity` must be a number");
    refused(r#"{"time":1,"intensity":true}"#, "`intensity` must be a number");
    refused(r#"{"time":1,"intensity":[3]}"#, "`intensity` must be a number");
    refused(r#"{"time":1,"intensity":NaN}"#, "not a finite number");
    refused(r#"{"time":1,"intensity":-Infinity}"#, "not a finite number");
    refused(r#"{"time":1,"intensity":1e999}"#, "not a finite number");
    refused(r#"{"time":1,"x":1e999,"y":1,"z":1}"#, "not a finite number");
    refused(r#"{"time":1,"part":3}"#, "`part` must be text");
    refused(r#"{"intensity":3}"#, "`time` is missing");
    refused(r#"{"time":null,"intensity":3}"#, "`time` is missing");
    refused(r#"{"time":1.5}"#, "integer number of nanoseconds");
    refused(r#"{"time":9223372036854775808}"#, "integer number of nanoseconds");
    refused(r#"{"time":true}"#, "RFC 3339");
    refused(r#"{"time":"yesterday"}"#, "RFC 3339");
    refused(r#"{"time":"9999-01-01T00:00:00Z"}"#, "between 1677 and 2262");
    refused(r#"{"time":1,"x":1}"#, "all three or none");
    refused(r#"{"time":1,"x":1,"y":2,"z":null}"#, "all three or none");
    refused(r#"{"time":1,"layer":1.5}"#, "`layer` must be");
    refused(r#"{"time":1,"layer":2147483648}"#, "`layer` is outside");
    refused(r#"{"time":1,"layer":-2147483648}"#, "`layer` is outside");
    refused(r#"{"time":1,"seq":"7"}"#, "`seq` must be");
    refused(r#"{"time":1,"seq":9223372036854775808}"#, "`seq` must be");
    refused(r#"{"time":1,"intensity":1,"intensity":1}"#, "`intensity` is given twice");
    refused(r#"{"time":1,"time":1}"#, "`time` is given twice");
    refused(r#"{"time":null,"time":1}"#, "`time` is given twice");
    refused(r#"{"time":1,"part":null,"part":null}"#, "`part` is given twice");
    refused(r#"{"time":1,"x":1,"x":1,"y":1,"z":1}"#, "`x` is given twice");
    refused(r#"{"time":1,"layer":1,"layer":1}"#, "`layer` is given twice");
    refused(r#"{"time":1,"seq":1,"seq":1}"#, "`seq` is given twice");
    refused(r#"{"time":1,"boot":1,"boot":1}"#, "`boot` is given twice");
    refused(r#"{"time":1,"device":"a","device":"a"}"#, "`device` is given twice");
    refused(r#"{"stream":"melt","stream":"melt","time":1}"#, "`stream` is given twice");
    refused(r#"{"time":1,"stream":"chamber"}"#, "this source carries `melt`");
}

#[test]
fn what_is_not_json_is_refused_with_its_bytes() {
    for text in [
        "",
        " ",
        "x",
        "null",
        "3",
        "\"text\"",
        "{",
        "}",
        "[",
        "{]",
        r#"{"time"}"#,
        r#"{"time":}"#,
        r#"{"time":1,}"#,
        r#"{"time":1"#,
        r#"{"time":1}}"#,
        r#"{"time":1} {"time":2}"#,
        r#"{"time":01}"#,
        r"{time:1}",
        r"{'time':1}",
        r#"{"time":1 "part":"a"}"#,
        "{\"time\":1,\"part\":\"a\nb\"}",
        r#"{"time":1,"part":"\ud800"}"#,
        r#"{"time":1,"part":"\x"}"#,
        r#"{"time":1,"intensity":.5}"#,
        r#"{"time":1,"intensity":+5}"#,
        r#"{"time":1,"intensity":0x10}"#,
    ] {
        let (rows, rejects) = shown(&json(text));
        assert_eq!((rows.len(), rejects.len()), (0, 1), "{text}: {rejects:?}");
    }
    let out = json_with((*stream()).clone(), b"{\"time\":1,\"part\":\"\xff\"}");
    assert_eq!(out.rejects[0].reason, "not UTF-8 at byte 18");
}

#[test]
fn good_rows_of_an_array_survive_bad_ones() {
    let out = json(
        r#"[{"time":1}, {"time":2,"intensity":NaN} ,7,{"time":3,"a":{"b":["]}"]}},"x,]",[{"time":9}],{"time":4,"part":"p\"}"},null,{"time":5 "x":1}, {"time":6}]"#,
    );
    let (_, rejects) = shown(&out);
    assert_eq!(out.batches[0].time, [1, 4, 6]);
    let raw: Vec<&str> = rejects.iter().map(|(_, raw)| &**raw).collect();
    assert_eq!(
        raw,
        [
            r#"{"time":2,"intensity":NaN}"#,
            "7",
            r#"{"time":3,"a":{"b":["]}"]}}"#,
            r#""x,]""#,
            r#"[{"time":9}]"#,
            "null",
            r#"{"time":5 "x":1}"#
        ]
    );
    assert_eq!(out.received(), 10);
}

#[test]
fn an_array_that_breaks_off_keeps_its_rows() {
    let out = json(r#"[{"time":1},{"time":2},{"ti"#);
    assert_eq!(out.batches[0].time, [1, 2]);
    assert_eq!(shown(&out).1[0].1, r#"{"ti"#);
    let out = json(r#"[{"time":1}] x"#);
    assert_eq!((out.rows(), out.rejects.len()), (1, 1));
    assert_eq!(json("[]"), Decoded::default());
}

#[test]
fn an_array_is_bounded() {
    let text = format!("[{}{{\"time\":1}}]", "{\"time\":1},".repeat(MESSAGE_ROWS_MAX));
    let out = json(&text);
    assert_eq!((out.rows(), out.rejects.len()), (MESSAGE_ROWS_MAX as u64, 1));
    assert!(out.rejects[0].reason.contains("more than 100000 rows"));
}

#[test]
fn integer_times_have_the_unit_of_the_stream() {
    let check = |unit, digits: &str, expected: Option<i64>| {
        let out = json_with(Stream { time_unit: unit, ..(*stream()).clone() }, format!("{{\"time\":{digits}}}").as_bytes());
        assert_eq!(out.batches[0].time.first().copied(), expected, "{digits}");
    };
    check(TimeUnit::Seconds, "3", Some(3_000_000_000));
    check(TimeUnit::Milliseconds, "-3", Some(-3_000_000));
    check(TimeUnit::Microseconds, "3", Some(3_000));
    check(TimeUnit::Seconds, "9223372037", None);
}

#[test]
fn a_device_without_a_clock_gets_the_time_of_arrival() {
    let stream = Stream { time_missing: MissingTime::Arrival, ..(*stream()).clone() };
    let out = json_with(stream, br#"[{"intensity":1},{"time":5},{"time":null}]"#);
    assert_eq!(out.batches[0].time, [77, 5, 77]);
    let flags = [0, 1, 2].map(|row| out.batches[0].flags(row).has(Flags::ARRIVAL_TIME));
    assert_eq!(flags, [true, false, true]);
}

#[test]
fn the_time_has_the_name_the_stream_gives_it() {
    let stream = Stream { time_field: "ts".into(), ..(*stream()).clone() };
    let out = json_with(stream, br#"[{"ts":5},{"time":5}]"#);
    assert_eq!((out.rows(), out.rejects.len()), (1, 1));
}

#[test]
fn a_bad_row_leaves_no_trace_in_the_columns() {
    let good = r#"{"time":1,"intensity":1}"#;
    let bad = r#"{"time":2,"x":1,"y":2,"z":3,"layer":4,"seq":5,"part":"a","intensity":1,"nonsense":0}"#;
    let out = json(&format!("[{good},{bad},{good}]"));
    let only = json(&format!("[{good},{good}]"));
    assert_eq!(out.batches[0].positions, None);
    assert_eq!(out.batches[0].row(1), only.batches[0].row(1));
    assert_eq!((out.batches[0].layer.is_none(), out.batches[0].origin.is_none()), (true, true));
}

#[test]
fn names_that_collide_are_refused_at_the_start() {
    for stream in [Stream::new("a", &["x"], &[]), Stream::new("a", &["time"], &[]), Stream::new("a", &["b"], &["b"])] {
        assert!(Routes::one(&Arc::new(stream)).is_err());
    }
    assert!(Routes::by_row(&[stream()], Some("chamber")).is_err());
}

fn two_streams() -> Routes {
    Routes::by_row(&[stream(), Arc::new(Stream::new("chamber", &["oxygen"], &["part"]))], None).unwrap()
}

fn json_lines(routes: Routes, text: &str) -> Decoded {
    let mut out = Decoded::default();
    let mut decoder = JsonLines::new(routes);
    decoder.feed(text.as_bytes(), &context(), &mut out);
    decoder.end(&context(), &mut out);
    assert!(out.batches.iter().all(Batch::is_consistent));
    out
}

#[test]
fn lines_name_their_stream() {
    let text = "{\"stream\":\"melt\",\"time\":1,\"intensity\":1}\r\n\n{\"time\":2,\"oxygen\":3,\"stream\":\"chamber\"}\n{\"time\":3}\n{\"stream\":\"x\",\"time\":4}\n{\"stream\":5,\"time\":4}\n[{\"stream\":\"melt\",\"time\":6}]";
    let out = json_lines(two_streams(), text);
    assert_eq!(
        out.batches.iter().map(|batch| (&*batch.stream.id, batch.time.clone())).collect::<Vec<_>>(),
        [("melt", vec![1, 6]), ("chamber", vec![2])]
    );
    let reasons: Vec<String> = shown(&out).1.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(
        reasons,
        ["the row does not say its `stream`, and there are several", "there is no stream `x`", "`stream` must be text"]
    );
}

#[test]
fn a_watermark_line_comes_between_the_rows_around_it() {
    let text =
        "{\"time\":1}\n{\"stream\":\"melt\",\"watermark\":\"1970-01-01T00:00:00.000000002Z\"}\n{\"watermark\":3}\n{\"time\":4}\n";
    let (inputs, rejects) = json_lines(Routes::one(&stream()).unwrap(), text).into_inputs();
    assert!(rejects.is_empty(), "{rejects:?}");
    let order: Vec<i64> = inputs
        .iter()
        .map(|input| match input {
            Input::Batch(batch) => batch.time[0],
            Input::Watermark { time, stream, .. } if &**stream == "melt" => -time.0,
            _ => 0,
        })
        .collect();
    assert_eq!(order, [1, -2, -3, 4]);
}

#[test]
fn a_bad_watermark_line_is_refused() {
    for text in [
        r#"{"stream":"melt","watermark":null}"#,
        r#"{"stream":"melt","watermark":"soon"}"#,
        r#"{"stream":"x","watermark":1}"#,
        r#"{"stream":"melt","watermark":1,"intensity":2}"#,
        r#"{"stream":"melt","watermark":1,"watermark":2}"#,
        r#"{"stream":"melt","watermark":1} 2"#,
        r#"{"stream":"melt","watermark":1"#,
        r#"{"stream":"melt","watermark":[1]}"#,
    ] {
        let out = json_lines(two_streams(), text);
        assert_eq!((out.watermarks.len(), out.rejects.len()), (0, 1), "{text}");
        assert_eq!(out.rejects[0].raw, text.as_bytes());
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_and_the_next_one_read() {
    let out = json_lines(Routes::one(&stream()).unwrap(), &format!("{}\n{{\"time\":1}}", "x".repeat(LINE_BYTES_MAX + 1)));
    assert_eq!((out.rows(), out.rejects.len()), (1, 1));
    assert!(out.rejects[0].reason.contains("262145 bytes"), "{}", out.rejects[0].reason);
}

fn csv(routes: Routes, text: &str) -> Decoded {
    let mut out = Decoded::default();
    let mut decoder = Csv::new(routes);
    decoder.feed(text.as_bytes(), &context(), &mut out);
    decoder.end(&context(), &mut out);
    assert!(out.batches.iter().all(Batch::is_consistent));
    out
}

#[test]
fn csv_rows_follow_their_header() {
    let text = "time,x,y,z,layer,part,intensity,seq\n2026-01-31T12:00:00Z,1,2,3,4,\"A,3\", 5.5 ,6\n7,,,,,,,\ntime,intensity\n8,1\n";
    let out = csv(Routes::one(&stream()).unwrap(), text);
    let (rows, rejects) = shown(&out);
    assert!(rejects.is_empty(), "{rejects:?}");
    assert_eq!(
        rows[0],
        r#"{"stream":"melt","time":"2026-01-31T12:00:00Z","x":1.0,"y":2.0,"z":3.0,"layer":4,"part":"A,3","intensity":5.5}"#
    );
    assert_eq!(rows[1], r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000007Z","part":null}"#);
    assert_eq!(rows[2], r#"{"stream":"melt","time":"1970-01-01T00:00:00.000000008Z","part":null,"intensity":1.0}"#);
    assert_eq!(out.batches[0].origin.as_ref().unwrap().seq, [Some(6), None, None]);
}

#[test]
fn every_kind_of_bad_csv_row_is_refused() {
    let check = |header: &str, row: &str, reason: &str| {
        let out = csv(Routes::one(&stream()).unwrap(), &format!("{header}\n{row}\n"));
        assert_eq!((out.rows(), out.rejects.len()), (0, 1), "{row}");
        assert!(out.rejects[0].reason.contains(reason), "{row}: {}", out.rejects[0].reason);
        assert_eq!(out.rejects[0].raw, row.as_bytes());
    };
    check("time,intensity", "1,NaN", "not a finite number");
    check("time,intensity", "1,inf", "not a finite number");
    check("time,intensity", "1,1e999", "not a finite number");
    check("time,intensity", "1,high", "`intensity` must be a number");
    check("time,intensity", ",1", "`time` is missing");
    check("time,intensity", "1.5,1", "is not a time");
    check("time,intensity", "99999999999999999999,1", "is not an integer number of nanoseconds");
    check("time,intensity", "1,1,1", "3 cells, but the header names 2");
    check("time,intensity", "1", "1 cells, but the header names 2");
    check("time,oxygen", "1,1", "has no `oxygen`");
    check("time,x,y,z", "1,1,1,", "all three or none");
    check("time,layer", "1,1.5", "`layer` must be an integer");
    check("time,part", "1,\"a", "does not end on its line");
    check("time,stream", "1,chamber", "chamber");
}

#[test]
fn csv_without_a_usable_header_is_refused_line_by_line() {
    let out = csv(Routes::one(&stream()).unwrap(), "1,2\ntime,time\nintensity\ntime,intensity\n1,2\n");
    assert_eq!((out.rows(), out.rejects.len()), (1, 3));
}

#[test]
fn csv_columns_that_a_stream_lacks_may_stay_empty() {
    let out = csv(two_streams(), "stream,time,intensity,oxygen\nmelt,1,2,\nchamber,2,,3\nchamber,3,4,\n,4,1,\n");
    assert_eq!((out.batches[0].time.clone(), out.batches[1].time.clone()), (vec![1], vec![2]));
    assert_eq!(out.rejects.len(), 2);
}

#[test]
fn columns_given_by_the_configuration_stand_for_a_header() {
    let names = ["time".to_owned(), "intensity".to_owned()];
    let mut out = Decoded::default();
    let mut decoder = Csv::with_columns(Routes::one(&stream()).unwrap(), &names).unwrap();
    decoder.feed(b"1,2\n", &context(), &mut out);
    assert_eq!(out.rows(), 1);
    assert!(Csv::with_columns(Routes::one(&stream()).unwrap(), &names[1..]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_accounted_for(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let out = json_with((*stream()).clone(), &bytes);
        prop_assert!(out.received() > 0 || bytes.trim_ascii().first() == Some(&b'['));
        let text = String::from_utf8_lossy(&bytes);
        json_lines(two_streams(), &text);
        csv(two_streams(), &format!("stream,time,intensity,part\n{text}"));
    }

    #[test]
    fn json_like_text_is_survived(text in r#"([\[\]{},:"\\0-9a.-]|"time":|"intensity":|"part":|NaN|\{"time":1\}|null){0,40}"#) {
        json_with((*stream()).clone(), text.as_bytes());
        json_lines(two_streams(), &text);
        csv(two_streams(), &format!("stream,time,intensity,part\n{text}"));
    }

    #[test]
    fn a_good_array_gives_what_serde_json_reads(values in prop::collection::vec((any::<i64>(), -1e300..1e300_f64, "\\PC{0,8}"), 1..20)) {
        let rows: Vec<_> = values.iter().map(|(time, value, part)| serde_json::json!({"time": time, "intensity": value, "part": part})).collect();
        let out = json(&serde_json::to_string(&rows).unwrap());
        prop_assert_eq!(out.rejects.len(), 0);
        let batch = &out.batches[0];
        for (row, (time, value, part)) in values.iter().enumerate() {
            prop_assert_eq!(batch.time[row], *time);
            prop_assert_eq!(batch.signals[0][row], *value);
            prop_assert_eq!(batch.tags[0].get(row).map(|text| &**text), Some(&**part));
        }
    }
}
