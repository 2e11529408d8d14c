//! The store as the rest of the program meets it: what it acknowledged is there, whatever happens.

mod store {
    mod appending;
    mod crash;
    mod earlier;
    mod fixture;
    mod history;
    mod retention;
    mod salvage;
    mod sinks;
    mod waiting;
}
