//! The serial source on a real pseudo-terminal.

use std::{fs::File, io::Write, os::unix::fs::symlink, path::Path};

use qadf_edge::ingest::{SerialCodec, SerialConfig, SerialParity, SerialStopBits, SourceKind};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Running, routes};

/// The machine's end of a line, whose other end is the device at a path.
pub struct Machine(pub File);

impl Machine {
    /// Plugs a machine in at `link`.
    pub fn plug_in(link: &Path) -> Self {
        let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("pseudo-terminals are there");
        grantpt(&end).expect("it is ours");
        unlockpt(&end).expect("it is ours");
        let device = ptsname(&end, Vec::new()).expect("it has a name").into_string().expect("the name is ASCII");
        let _ = std::fs::remove_file(link);
        symlink(device, link).expect("the directory is ours");
        Self(File::from(end))
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the line is open");
    }
}

fn config(device: &Path, codec: SerialCodec) -> SourceKind {
    SourceKind::Serial(SerialConfig {
        device: device.display().to_string(),
        baud: 921_600,
        parity: SerialParity::None,
        stop_bits: SerialStopBits::One,
        codec,
        routes: routes(),
    })
}

#[tokio::test]
async fn rows_come_in_over_a_line_that_is_unplugged_and_plugged_in_again() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("scan-head");
    let mut source = Running::start(config(&link, SerialCodec::JsonLines));
    source.until_down("cannot open").await;

    let mut machine = Machine::plug_in(&link);
    source.until_up().await;
    machine.send("{\"time\":1,\"intensity\":2.5}\nrubbish\n{\"time\":2}\n{\"ti");
    machine.send("me\":3}\n{\"time\":4");
    let (times, reasons) = source.sync(4).await;
    assert_eq!(times, [1, 2, 3]);
    assert!(reasons[0].contains("not JSON"), "{reasons:?}");

    drop(machine);
    let (_, reasons) = source.sync(1).await;
    assert_eq!(reasons, ["the line broke off"]);
    source.until_down("scan-head").await;

    let mut machine = Machine::plug_in(&link);
    source.until_up().await;
    machine.send("{\"time\":5}\n");
    assert_eq!(source.sync(1).await.0, [5]);
    source.until(|status| status.counts().accepted == 4 && status.counts().rejected == 2).await;
    source.end().await;
}

#[tokio::test]
async fn csv_comes_in_with_columns_from_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("meter");
    let mut machine = Machine::plug_in(&link);
    let columns = Some(vec!["time".to_owned(), "intensity".to_owned()]);
    let mut source = Running::start(config(&link, SerialCodec::Csv { columns }));
    source.until_up().await;
    machine.send("7,1.5\r\n8,x\r\n9,\r\n");
    let (times, reasons) = source.sync(3).await;
    assert_eq!((times, reasons.len()), (vec![7, 9], 1));
    source.end().await;
}
