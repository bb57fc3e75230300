#![no_main]
#![allow(missing_docs, unsafe_code, reason = "what libFuzzer calls is exported under its name")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::k3s_tokens(data));
