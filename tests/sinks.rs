//! Sinks against real servers: the contract's shapes, repeated parcels, servers that are killed and frozen, crashes in between.

mod servers;

#[path = "sinks/file.rs"]
mod file;
#[path = "sinks/kafka.rs"]
mod kafka;
#[path = "sinks/material.rs"]
mod material;
#[path = "sinks/mongo.rs"]
mod mongo;
#[path = "sinks/outage.rs"]
mod outage;
#[path = "sinks/redis.rs"]
mod redis;
