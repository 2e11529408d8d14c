//! The whole appliance as its users run it: the `qadf-edge` process between a simulated machine on a real pseudo-terminal, real brokers and
//! real databases. What is promised is looked for at the far ends, after crashes, outages, bad input and reloads.

mod servers;

#[path = "appliance/alerts.rs"]
mod alerts;
#[path = "appliance/api.rs"]
mod api;
#[path = "appliance/budget.rs"]
mod budget;
#[path = "appliance/checkpoints.rs"]
mod checkpoints;
#[path = "appliance/commands.rs"]
mod commands;
#[path = "appliance/ends.rs"]
mod ends;
#[path = "crash/mqtt.rs"]
mod mqtt;
#[path = "appliance/outages.rs"]
mod outages;
#[path = "appliance/plant.rs"]
mod plant;
#[path = "appliance/process.rs"]
mod process;
#[path = "appliance/reload.rs"]
mod reload;
#[path = "appliance/restarts.rs"]
mod restarts;
#[path = "appliance/secured.rs"]
mod secured;
#[path = "appliance/whole.rs"]
mod whole;
