//! Fuzzes `entry::proxy_protocol`.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::proxy_protocol(data));
