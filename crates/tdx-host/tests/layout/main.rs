//! Tests of `tdx_host::layout`, judged by a checker of TDH.SYS.CONFIG's rules and by set arithmetic
//! that share no code with it.

mod fit;
mod generate;
#[allow(dead_code, reason = "the tests of tdx-operator use more of it")]
mod hosts;
mod inputs;
mod optimal;
mod pressure;
mod support;
mod sys_config;
