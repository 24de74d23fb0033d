//! Fuzzes `entry::client_certificate`.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::client_certificate(data));
