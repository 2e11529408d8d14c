//! Outside to batches: serial, MQTT, Kafka, files; `decode` is pure.

pub mod decode;
