//! Apache Kafka as one node: broker and controller in one process.

use std::{fs, path::Path, process::Command};

use super::installed;

/// Writes the node's settings and formats its log directory, once, before the first start.
pub fn format(port: u16, controller_port: u16, dir: &Path) {
    fs::write(dir.join("server.properties"), properties(port, controller_port, dir)).expect("the directory was made for it");
    let mut command = java();
    command.arg("kafka.tools.StorageTool").args(["format", "--standalone", "-t", &cluster_id(port)]);
    command.arg("-c").arg(dir.join("server.properties"));
    let output = command.output().unwrap_or_else(|error| {
        panic!("Kafka cannot be started ({error}: java): run tests/setup, which installs what the tests need")
    });
    assert!(
        output.status.success(),
        "Kafka's storage cannot be formatted; if classes are missing, run tests/setup, which installs what the tests need:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The broker itself; [`format`] came before.
pub fn command(_port: u16, dir: &Path) -> Command {
    let mut command = java();
    command.arg("kafka.Kafka").arg(dir.join("server.properties"));
    command
}

/// 512 MB of heap, and the quick compiler only: a short-lived node is up sooner. A benchmark of what a broker reaches that has been up for a
/// while says otherwise: `QADF_TEST_JAVA_OPTIONS`.
fn java() -> Command {
    let options = std::env::var("QADF_TEST_JAVA_OPTIONS");
    let mut command = Command::new("java");
    command.args(options.as_deref().unwrap_or("-Xmx512m -XX:TieredStopAtLevel=1").split_whitespace());
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(installed("kafka/libs/*"));
    command
}

/// Any 16 bytes in URL-safe base64 will do.
fn cluster_id(port: u16) -> String {
    format!("qadf-edge-test-{port:0>5}Aw")
}

fn properties(port: u16, controller_port: u16, dir: &Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         log.dirs={}\n\
         num.partitions=1\n\
         offsets.topic.num.partitions=1\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         log.cleaner.dedupe.buffer.size=8388608\n",
        dir.join("data").display()
    )
}
