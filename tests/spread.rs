//! Keys of windows in shards against one operator, whatever the windows, rows, batches and restarts.

use std::sync::Arc;

use proptest::prelude::*;
use qadf_edge::{
    dataflow::{Accumulation, Aggregate, SpreadWindows, WatermarkConfig, Watermarks, WindowConfig, WindowKind, WindowState},
    model::{Batch, Flags, NO_TAG, Seq, Stream, TagColumn, Timestamp},
};

const AGGREGATES: [&str; 8] =
    ["count()", "mean(v)", "max(v)", "variance(v)", "first(v)", "last(v)", "quantile(v, 0.9)", "distinct(side)"];
const DELAY: i64 = 40;

/// Part, side, time, value, and what is odd about the row: filtered away, or too far in the future.
type Sample = (u32, u32, i64, f64, u8);

/// What happens before the row at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// A batch begins.
    Cut,
    /// The state is saved, and gone on with in so many shards.
    Restart(usize),
    /// Nothing comes for a while: open windows fire.
    Fire,
    /// The watermark moves without a row.
    Advance(i64),
    /// The rows up to the next event pass the windows by.
    Pause,
}

fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("s", &["v"], &["part", "side"]))
}

fn config(kind: WindowKind, offset: i64, lateness: i64, accumulation: Accumulation, group_by: &[&str]) -> WindowConfig {
    let parse = |text: &str| Aggregate::parse(text, &stream()).expect("the aggregate is right");
    WindowConfig {
        id: "w".into(),
        kind,
        offset_ns: offset,
        allowed_lateness_ns: lateness,
        accumulation,
        timezone: None,
        group_by: group_by.iter().map(|name| (*name).into()).collect(),
        aggregates: AGGREGATES.iter().map(|text| ((*text).into(), parse(text))).collect(),
    }
}

/// Texts of 0 to 17 bytes.
fn names() -> [Vec<Arc<str>>; 2] {
    let parts = (0..18).map(|length| "p".repeat(length).into()).collect();
    [parts, ["", "l", "\0", "ränder"].map(Into::into).to_vec()]
}

fn batch(first: usize, samples: &[Sample], names: &[Vec<Arc<str>>; 2], flags: bool) -> Batch {
    let mut batch = Batch::new(stream(), "s".into(), "s".into(), Timestamp(0));
    batch.first_seq = Seq(first as u64 + 1);
    let code = |code: u32, names: &[Arc<str>]| if (code as usize) < names.len() { code } else { NO_TAG };
    batch.time = samples.iter().map(|sample| sample.2).collect();
    batch.signals[0] = samples.iter().map(|sample| sample.3).collect();
    batch.tags[0] = TagColumn { codes: samples.iter().map(|sample| code(sample.0, &names[0])).collect(), names: names[0].clone() };
    batch.tags[1] = TagColumn { codes: samples.iter().map(|sample| code(sample.1, &names[1])).collect(), names: names[1].clone() };
    if flags {
        let flag = |sample: &Sample| if sample.4 == 1 { Flags::FUTURE } else { Flags::NONE };
        batch.flags = Some(samples.iter().map(flag).collect());
    }
    batch
}

/// How rows get to the windows, all without consequence.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a manner of its own")]
struct Manner {
    shards: usize,
    restarts: bool,
    one_by_one: bool,
    /// Rows say that nothing is known of them, which takes them one by one.
    flags: bool,
    /// Texts are made anew for each batch.
    own_names: bool,
}

/// What was put out, and what was kept at each event.
fn run(config: &WindowConfig, samples: &[Sample], events: &[(usize, Event)], manner: Manner) -> (Vec<String>, Vec<Vec<u8>>) {
    let make = |shards| SpreadWindows::new(&"p".into(), config, &stream(), shards).expect("the configuration is right");
    let mut windows = make(manner.shards);
    let marks = WatermarkConfig { delay_ns: DELAY, ..WatermarkConfig::default() };
    let (mut watermarks, mut names) = (Watermarks::new(marks, false), names());
    let (mut told, mut kept) = (Vec::new(), Vec::new());
    let any_flag = samples.iter().any(|sample| sample.4 == 1);
    let mut at = 0;
    let mut paused = false;
    let ends = events.iter().copied().chain([(samples.len(), Event::Cut)]);
    for (place, event) in ends {
        while at < place {
            let end = if manner.one_by_one { at + 1 } else { place };
            let whole = batch(at, &samples[at..end], &names, any_flag || manner.flags);
            let (flow, _) = watermarks.observe(&whole);
            let flow = Arc::new(flow);
            let passing: Vec<usize> = (0..whole.rows()).filter(|row| samples[at + row].4 != 2).collect();
            let mut out = Vec::new();
            if paused {
            } else if passing.len() == whole.rows() {
                windows.drive(&Arc::new(whole), None, &flow, &mut out);
            } else {
                windows.drive(&Arc::new(whole.take(&passing)), Some(&Arc::new(passing)), &flow, &mut out);
            }
            told.extend(out.iter().map(|output| format!("{} {}", output.at.0, serde_json::to_string(output).expect("it is JSON"))));
            if manner.own_names {
                names = self::names();
            }
            at = end;
        }
        paused = event == Event::Pause;
        let mut out = Vec::new();
        match event {
            Event::Restart(shards) if manner.restarts => {
                let state: WindowState =
                    postcard::from_bytes(&postcard::to_stdvec(&windows.snapshot()).expect("it is saved")).expect("it is read");
                windows = make(shards);
                windows.restore(state).expect("it fits");
            }
            Event::Fire => windows.fire_open(&mut out),
            Event::Advance(by) => {
                let to = Timestamp(watermarks.combined().0.saturating_add(by));
                watermarks.punctuate(&"s".into(), to, Timestamp(0));
                windows.advance(watermarks.combined(), &mut out);
            }
            Event::Cut | Event::Pause | Event::Restart(_) => {}
        }
        told.extend(out.iter().map(|output| serde_json::to_string(output).expect("it is JSON")));
        told.push(format!(
            "{} open, {} late, {} fired, {}",
            windows.open_count(),
            windows.late_count(),
            windows.fired_count(),
            serde_json::to_string(&windows.open_windows(5)).expect("it is JSON")
        ));
        kept.push(postcard::to_stdvec(&windows.snapshot()).expect("it is saved"));
    }
    let mut out = Vec::new();
    windows.advance(Timestamp::MAX, &mut out);
    told.extend(out.iter().map(|output| serde_json::to_string(output).expect("it is JSON")));
    assert_eq!(windows.open_count(), 0);
    (told, kept)
}

fn kinds() -> impl Strategy<Value = WindowKind> {
    let tumbling = (1..60_i64).prop_map(|size_ns| WindowKind::Tumbling { size_ns, calendar_days: None });
    let sliding = (1..200_i64, 1..90_i64).prop_map(|(size_ns, slide_ns)| WindowKind::Sliding { size_ns, slide_ns });
    let session = (1..15_i64, proptest::option::of(1..60_i64))
        .prop_map(|(gap_ns, max_duration_ns)| WindowKind::Session { gap_ns, max_duration_ns });
    prop_oneof![tumbling, sliding, session]
}

fn specifications() -> impl Strategy<Value = WindowConfig> {
    let groups = proptest::sample::select(vec![vec![], vec!["part"], vec!["side"], vec!["part", "side"], vec!["side", "part"]]);
    let lateness = prop_oneof![Just(0_i64), 0..200_i64];
    (kinds(), -50..50_i64, lateness, any::<bool>(), groups).prop_map(|(kind, offset, lateness, discarding, groups)| {
        let accumulation = if discarding { Accumulation::Discarding } else { Accumulation::Accumulating };
        config(kind, offset, lateness, accumulation, &groups)
    })
}

/// Rows whose times mostly rise; some far too late, some at the ends of time.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let back = prop_oneof![8 => 0..DELAY, 1 => 0..300_i64];
    let odd = prop_oneof![12 => Just(0_u8), 1 => Just(1_u8), 1 => Just(2_u8)];
    let row = (0..20_u32, 0..5_u32, prop_oneof![5 => 0..4_i64, 1 => 0..60_i64], back, -20..80_i32, odd);
    let start =
        prop_oneof![6 => Just(0_i64), 1 => Just(i64::MIN), 1 => Just(i64::MAX - 20_000), 1 => Just(1_700_000_000_000_000_000)];
    (proptest::collection::vec(row, 1..160), 0..3_u8, start).prop_map(|(rows, oddities, start)| {
        let mut now = start;
        let row = |(part, side, step, back, value, odd): (u32, u32, i64, i64, i32, u8)| {
            now = now.saturating_add(step);
            (part, side, now.saturating_sub(back), f64::from(value) / 8.0, if odd == oddities { odd } else { 0 })
        };
        rows.into_iter().map(row).collect()
    })
}

fn events(rows: usize) -> impl Strategy<Value = Vec<(usize, Event)>> {
    let event = prop_oneof![
        4 => Just(Event::Cut),
        3 => (1..6_usize).prop_map(Event::Restart),
        1 => Just(Event::Fire),
        1 => (0..120_i64).prop_map(Event::Advance),
        1 => Just(Event::Pause),
    ];
    proptest::collection::vec((0..rows, event), 0..10).prop_map(|mut events| {
        events.sort_by_key(|(place, _)| *place);
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn shards_change_nothing_of_what_is_put_out_or_kept(
        config in specifications(),
        samples in samples(),
        events in events(160),
        shards in 2..7_usize,
        own_names: bool,
    ) {
        let one = Manner { shards: 1, restarts: false, one_by_one: false, flags: false, own_names: false };
        let expected = run(&config, &samples, &clamped(&events, samples.len()), one);
        let events = clamped(&events, samples.len());
        for manner in [Manner { shards, own_names, ..one }, Manner { shards, own_names, restarts: true, ..one }] {
            let (told, kept) = run(&config, &samples, &events, manner);
            prop_assert_eq!(&told, &expected.0, "{:?}", manner);
            prop_assert!(kept == expected.1, "{:?}", manner);
        }
    }

    #[test]
    fn rows_together_and_one_by_one_are_the_same(
        config in specifications(),
        samples in samples(),
        events in events(160),
        shards in 1..4_usize,
        own_names: bool,
    ) {
        let together = Manner { shards: 1, restarts: false, one_by_one: false, flags: false, own_names };
        let events = clamped(&events, samples.len());
        let (expected, kept) = run(&config, &samples, &events, together);
        for manner in [
            Manner { flags: true, ..together },
            Manner { one_by_one: true, ..together },
            Manner { shards, one_by_one: true, flags: true, restarts: true, ..together },
        ] {
            let (told, kept_then) = run(&config, &samples, &events, manner);
            prop_assert_eq!(&told, &expected, "{:?}", manner);
            prop_assert!(kept_then == kept, "{:?}", manner);
        }
    }
}

/// Half a slide is the finest piece of time, and there are as many of those as there are numbers.
#[test]
fn rows_at_the_ends_of_time_are_in_few_windows() {
    for time in [i64::MIN, i64::MIN + 1, i64::MIN + 2, i64::MAX - 1, i64::MAX] {
        for (size_ns, slide_ns, offset) in [(185, 2, -5), (185, 2, 0), (3, 2, 1), (2, 1, 0), (7, 3, 1), (1, 2, 1)] {
            let sliding = WindowKind::Sliding { size_ns, slide_ns };
            let config = config(sliding, offset, 0, Accumulation::Accumulating, &[]);
            for end in [Event::Cut, Event::Fire] {
                let once = Manner { shards: 1, restarts: false, one_by_one: false, flags: false, own_names: false };
                let (told, _) = run(&config, &[(0, 0, time, 1.0, 0)], &[(1, end)], once);
                assert!(told.len() as i64 <= size_ns / slide_ns + 3, "{} of {time} {size_ns} {slide_ns} {offset}", told.len());
            }
        }
    }
}

/// Events at places within the rows.
fn clamped(events: &[(usize, Event)], rows: usize) -> Vec<(usize, Event)> {
    events.iter().map(|(place, event)| ((*place).min(rows), *event)).collect()
}
